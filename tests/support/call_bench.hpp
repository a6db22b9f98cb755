#pragma once

/// @file
/// One gather, combine or scatter of every rank of a small world, with views that a test may break
/// before the call, and answers to look at after it.

#include "gather_world.hpp"
#include "payload.hpp"

#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace test_support {

enum class call_kind : std::uint8_t { gather, gather_partial, combine, scatter };

[[nodiscard]] inline const char* name_of(call_kind k) {
  return k == call_kind::gather           ? "gather"
         : k == call_kind::gather_partial ? "gather of partial rows"
         : k == call_kind::combine        ? "combine"
                                          : "scatter";
}

/// A view as plain numbers, to be broken.
struct view_numbers {
  std::byte* data = nullptr;
  std::int64_t rows = 0;
  dg::element type = dg::element::f32;
  std::size_t row_bytes = 0;
  std::size_t stride = 0;

  template <class View>
  [[nodiscard]] View as() const {
    return {data, rows, type, row_bytes, stride};
  }
};

/// One rank's side of one call.
struct rank_call {
  call_kind kind = call_kind::gather;
  dg::step_plan plan;
  std::int32_t dp_rank = 0;
  view_numbers local, global;
  guarded_bytes local_memory, global_memory;
  std::vector<std::byte> local_before, global_before;
  dg::status got;

  [[nodiscard]] std::int64_t real() const { return plan.real[dp_rank]; }
  [[nodiscard]] bool nothing_written() {
    return local_memory.intact() && global_memory.intact() && local_memory.equals(local_before) &&
           global_memory.equals(global_before);
  }
};

/// Room behind every buffer, so that a view shifted by a few bytes stays inside.
inline constexpr std::size_t bench_slack = 4096;

class call_bench {
public:
  explicit call_bench(gather_world& world) : world_{world} {}

  /// A correct call of `kind` on every rank; payloads follow from `step`.
  void prepare(call_kind kind, const std::vector<std::int32_t>& rows, std::uint64_t step,
               bool graph = false, dg::element type = dg::element::f32,
               std::size_t row_bytes = 32) {
    calls_.clear();
    rows_ = rows;
    step_ = step;
    for (std::int32_t rank = 0; rank < world_.size(); ++rank) {
      rank_call& call = calls_.emplace_back();
      call.kind = kind;
      call.plan = world_.plan(rank, rows, step, graph);
      call.dp_rank = world_.topology(rank).dp_rank;
      const std::int64_t n = call.real();
      call.local_memory.reset(static_cast<std::size_t>(n) * row_bytes + bench_slack, 0xcd);
      call.global_memory.reset(
          static_cast<std::size_t>(call.plan.global_rows) * row_bytes + bench_slack, 0xcd);
      call.local = {call.local_memory.data(), n, type, row_bytes, row_bytes};
      call.global = {call.global_memory.data(), call.plan.global_rows, type, row_bytes, row_bytes};
      for (std::int32_t d = 0; d < call.plan.dp_size; ++d) {
        for (std::int64_t i = 0; i < rows[static_cast<std::size_t>(d)]; ++i) {
          const bool to_global = kind == call_kind::combine || kind == call_kind::scatter;
          if (!to_global && d != call.dp_rank) continue;
          const view_numbers& to = to_global ? call.global : call.local;
          const std::int64_t at = to_global ? offset(call.plan, d) + i : i;
          input_row(kind, rank, d, i, to, to.data + static_cast<std::size_t>(at) * row_bytes);
        }
      }
      call.local_before = call.local_memory.snapshot();
      call.global_before = call.global_memory.snapshot();
    }
  }

  [[nodiscard]] rank_call& operator[](std::int32_t rank) {
    return calls_[static_cast<std::size_t>(rank)];
  }

  /// Every rank enters its call.
  void run() {
    world_.run([&](std::int32_t rank) { enter(rank); });
  }
  void enter(std::int32_t rank) { (*this)[rank].got = make_call(world_[rank], (*this)[rank]); }

  [[nodiscard]] static dg::status make_call(gather_engine& engine, const rank_call& call) {
    const auto local = call.local.as<dg::token_rows<dg::replicated>>();
    const auto global = call.global.as<dg::token_rows<dg::replicated>>();
    switch (call.kind) {
    case call_kind::gather:
      return engine.gather(call.local.as<gather_engine::replicated_rows>(), global, call.plan)
          .status();
    case call_kind::gather_partial:
      return engine.gather(call.local.as<gather_engine::partial_rows>(), global, call.plan)
          .status();
    case call_kind::combine:
      return engine.combine(call.global.as<gather_engine::partial_rows>(), local, call.plan);
    case call_kind::scatter:
      return engine.scatter(call.global.as<gather_engine::replicated_rows>(), local, call.plan);
    }
    return {};
  }

  /// All ranks were ok, and every real row is right on every rank.
  void check_done() {
    for (std::int32_t rank = 0; rank < world_.size(); ++rank) {
      rank_call& call = (*this)[rank];
      CAPTURE(rank);
      CHECK_MESSAGE(call.got.ok(), std::string{call.got.message().view()});
      if (!call.got.ok()) continue;
      CHECK(call.local_memory.intact());
      CHECK(call.global_memory.intact());
      const bool gathers = call.kind == call_kind::gather || call.kind == call_kind::gather_partial;
      const view_numbers& to = gathers ? call.global : call.local;
      int wrong = 0;
      for (std::int32_t d = 0; d < call.plan.dp_size; ++d) {
        if (!gathers && d != call.dp_rank) continue;
        for (std::int64_t i = 0; i < rows_[static_cast<std::size_t>(d)]; ++i) {
          std::vector<std::byte> expected(to.row_bytes);
          output_row(call.kind, d, i, to, expected.data());
          const std::int64_t at = gathers ? offset(call.plan, d) + i : i;
          wrong += std::memcmp(expected.data(), to.data + static_cast<std::size_t>(at) * to.stride,
                               to.row_bytes) != 0;
        }
      }
      CHECK(wrong == 0);
    }
    CHECK(world_.workspaces_intact());
  }

  /// The next call, and it is right.
  void check_next_call_works(call_kind kind) {
    prepare(kind, rows_, step_ + 1);
    run();
    check_done();
  }

private:
  /// First global row of rank `d`, also where the plan does not know the others' counts.
  [[nodiscard]] std::int64_t offset(const dg::step_plan& plan, std::int32_t d) const {
    if (plan.layout == dg::layout_kind::slots) return d * plan.stride;
    std::int64_t out = 0;
    for (std::int32_t r = 0; r < d; ++r) out += rows_[static_cast<std::size_t>(r)];
    return out;
  }
  [[nodiscard]] std::uint64_t key(std::int32_t who, std::int32_t d, std::int64_t i) const {
    return mixed(step_, static_cast<std::uint64_t>(who), static_cast<std::uint64_t>(d),
                 static_cast<std::uint64_t>(i));
  }
  void input_row(call_kind kind, std::int32_t rank, std::int32_t d, std::int64_t i,
                 const view_numbers& view, std::byte* out) const {
    if (kind == call_kind::gather || kind == call_kind::scatter)
      return random_row(out, view.row_bytes, key(1000, d, i));
    const std::int32_t who = kind == call_kind::combine ? rank : world_.topology(rank).tp_rank;
    for (std::size_t at = 0; at < view.row_bytes; at += dg::size_of(view.type))
      store_element(out + at, view.type, addend(view.type, key(who, d, i), at, world_.size()));
  }
  void output_row(call_kind kind, std::int32_t d, std::int64_t i, const view_numbers& view,
                  std::byte* out) const {
    if (kind == call_kind::gather || kind == call_kind::scatter)
      return random_row(out, view.row_bytes, key(1000, d, i));
    const std::int32_t addends =
        kind == call_kind::combine ? world_.size() : world_.topology(0).tp_size;
    for (std::size_t at = 0; at < view.row_bytes; at += dg::size_of(view.type)) {
      std::uint64_t sum = 0;
      for (std::int32_t who = 0; who < addends; ++who)
        sum += addend(view.type, key(who, d, i), at, world_.size());
      store_element(out + at, view.type, sum);
    }
  }

  gather_world& world_;
  std::deque<rank_call> calls_;
  std::vector<std::int32_t> rows_;
  std::uint64_t step_ = 0;
};

/// A policy under a name, for tables.
template <class Policy>
gather_variant named(const char* name) {
  return variant_of<Policy>(name, {}, tail_option::zero, false);
}
inline std::vector<gather_variant> one_of_each_mode() {
  std::vector<gather_variant> out;
  out.push_back(named<dg::max_always>("all_gather"));
  out.push_back(named<dg::sum_always>("all_reduce"));
  out.push_back(named<dg::exact_graph>("exact"));
  return out;
}

/// True when the text of a status has all parts.
inline bool message_has(const dg::status& said, std::initializer_list<std::string> parts) {
  const dg::status_message message = said.message();
  for (const std::string& part : parts) {
    if (message.view().find(part) == std::string_view::npos) {
      MESSAGE("no '", part, "' in: ", std::string{message.view()});
      return false;
    }
  }
  return true;
}

} // namespace test_support
