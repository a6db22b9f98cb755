#pragma once

/// @file
/// A small world of `DpGather`s that lives through several phases of one test, for tests about one
/// call. Ranks write into slots of their own; the test looks at them when all threads have ended.

#include "gather_engine.hpp"
#include "guarded_bytes.hpp"

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/comm/host_world.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace test_support {

/// Sizes and limits that most tests of one call can live with.
inline dg::gather_config small_config(dg::element type = dg::element::f32,
                                      std::size_t row_bytes = 32, std::int32_t max_rows = 16) {
  dg::gather_config out;
  out.element = type;
  out.row_bytes = row_bytes;
  out.max_rows_per_rank = max_rows;
  for (const std::int32_t size : {4, 8, 16, 32, 64, 128, 256, 512, 1024})
    if (size <= max_rows) out.ladder.append(size);
  return out;
}

class gather_world {
public:
  static constexpr std::int64_t timeout_ns = 20'000'000'000;

  /// All ranks' engines of one policy. `config.topology` says the sizes.
  template <class Policy>
  static gather_world of(dg::topology shape, dg::gather_config config) {
    return gather_world{shape, config, variant_of<Policy>("", {}, tail_option::zero, false)};
  }

  gather_world(dg::topology shape, const dg::gather_config& config, const gather_variant& variant)
      : parts_{std::make_unique<parts>(shape)}, config_{config} {
    for (std::int32_t rank = 0; rank < size(); ++rank) {
      dg::gather_config own = config_;
      own.topology = shape.at(rank);
      const auto bytes = variant.workspace_bytes(own);
      REQUIRE(bytes.ok());
      guarded_bytes& work = parts_->workspaces.emplace_back(*bytes);
      parts_->engines.push_back(variant.make(dg::host_communicator{parts_->world, rank}, own,
                                             {work.data(), work.size()}));
      REQUIRE(parts_->engines.back()->check().ok());
    }
  }

  [[nodiscard]] std::int32_t size() const { return parts_->world.size(); }
  [[nodiscard]] dg::topology topology(std::int32_t rank) const {
    return parts_->world.shape().at(rank);
  }
  [[nodiscard]] const dg::gather_config& config() const { return config_; }
  [[nodiscard]] dg::host_world& world() { return parts_->world; }
  [[nodiscard]] gather_engine& operator[](std::int32_t rank) {
    return *parts_->engines[static_cast<std::size_t>(rank)];
  }
  [[nodiscard]] dg::host_communicator comm(std::int32_t rank) { return {parts_->world, rank}; }

  /// Runs `body(rank)` on a thread each, to the end. Nobody leaves the world.
  template <class Body>
  void run(Body body) {
    std::vector<std::thread> threads;
    for (std::int32_t rank = 0; rank < size(); ++rank) threads.emplace_back(body, rank);
    for (std::thread& thread : threads) thread.join();
  }

  /// The records of a decode step in which rank d holds `rows[d]` rows, requests of width 1.
  [[nodiscard]] std::vector<dg::step_record> records(std::span<const std::int32_t> rows,
                                                     std::uint64_t step, bool graph) {
    std::vector<dg::step_record> out;
    for (std::int32_t rank = 0; rank < size(); ++rank) {
      dg::step_record& r = out.emplace_back((*this)[rank].record(step));
      r.tokens = r.requests = r.logits_tokens = r.draft_tokens =
          rows[static_cast<std::size_t>(topology(rank).dp_rank)];
      r.votes = graph ? dg::step_record::graph_vote : std::uint8_t{0};
      r.phase = r.tokens == 0 ? dg::phase::idle : dg::phase::decode;
    }
    return out;
  }
  /// What rank `rank` plans for such a step.
  [[nodiscard]] dg::step_plan plan(std::int32_t rank, std::span<const std::int32_t> rows,
                                   std::uint64_t step = 1, bool graph = false,
                                   dg::row_kind kind = dg::row_kind::hidden) {
    const auto all = records(rows, step, graph);
    const auto agreed = dg::merge(all, topology(rank));
    REQUIRE(agreed.ok());
    const auto planned = (*this)[rank].plan(*agreed, all[static_cast<std::size_t>(rank)], kind);
    REQUIRE_MESSAGE(planned.ok(), std::string{planned.status().message().view()});
    return *planned;
  }
  [[nodiscard]] bool workspaces_intact() {
    bool good = true;
    for (guarded_bytes& work : parts_->workspaces) good = work.intact() && good;
    return good;
  }

private:
  struct parts {
    explicit parts(dg::topology shape) : world{shape, clock, timeout_ns} {}
    dg::steady_wait_clock clock;
    dg::host_world world;
    std::deque<guarded_bytes> workspaces;
    std::vector<std::unique_ptr<gather_engine>> engines;
  };
  std::unique_ptr<parts> parts_;
  dg::gather_config config_;
};

} // namespace test_support
