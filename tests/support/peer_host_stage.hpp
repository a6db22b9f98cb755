#pragma once

/// @file
/// Peer stories on CPU threads: all ranks of a world in the memory of one process, one thread for
/// each block of each rank.

#include "peer_story.hpp"
#include "random_cases.hpp"

#include <dpgather/device/host_block.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <variant>
#include <vector>

namespace test_support {

/// A host block that counts wrong bytes.
template <class Rules>
struct telling_block : dg::host_block<Rules> {
  using dg::host_block<Rules>::host_block;
  telling_block(const dg::host_block<Rules>& other) : dg::host_block<Rules>{other} {}
  [[nodiscard]] telling_block narrowed(std::uint32_t count) const {
    return dg::host_block<Rules>::narrowed(count);
  }
  static std::uint64_t count_wrong(std::uint64_t* wrong) {
    return std::atomic_ref{*wrong}.fetch_add(1);
  }
};

/// Aligned memory of one rank, all of it a pattern.
class aligned_memory {
public:
  aligned_memory() = default;
  explicit aligned_memory(std::size_t bytes)
      : data_{static_cast<std::byte*>(::operator new (bytes, std::align_val_t{256}))}, size_{
                                                                                           bytes} {
    std::memset(data_.get(), untouched, bytes);
  }
  [[nodiscard]] std::byte* get() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

private:
  struct free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{256}); }
  };
  std::unique_ptr<std::byte, free> data_;
  std::size_t size_ = 0;
};

/// All ranks of a world in the memory of this process.
struct host_stage {
  host_stage(const story_options& with, random_source& random, std::uint64_t start) {
    const auto made = dg::peer_layout::of(limits_of(with));
    REQUIRE(made.ok());
    layout = *made;
    const auto ranks = static_cast<std::size_t>(layout.ranks);
    arenas.resize(ranks);
    controls.resize(ranks);
    live.resize(ranks);
    wrong.resize(ranks);
    first_wrong.resize(ranks * 5);
    dg::peer_pointers pointers;
    pointers.size = layout.ranks;
    pointers.bytes = layout.bytes;
    for (std::size_t r = 0; r < ranks; ++r) {
      arenas[r] = aligned_memory{layout.bytes + 64};
      pointers.base[r] = arenas[r].get();
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      story_rank rank;
      pointers.rank = static_cast<std::int32_t>(r);
      rank.lane = dg::peer_lane::of(pointers, layout, &controls[r]);
      rank.live = &live[r];
      for (std::int32_t t = 0; t < layout.tensors; ++t) {
        const story_place place = story_place::draw(random, with, t);
        rank.local_stride[t] = place.stride;
        locals.emplace_back(place.stride * static_cast<std::size_t>(with.rank_rows) + 80);
        rank.local[t] = locals.back().get() + place.first;
      }
      const auto rows = static_cast<std::size_t>(layout.view_rows) + 1;
      locals.emplace_back(rows * sizeof(dg::row_source));
      rank.sources = reinterpret_cast<dg::row_source*>(locals.back().get());
      locals.emplace_back(rows / 8 + 8);
      rank.pad_bits = reinterpret_cast<std::uint32_t*>(locals.back().get());
      locals.emplace_back(rows * 2 * sizeof(std::int32_t));
      rank.experts = reinterpret_cast<std::int32_t*>(locals.back().get());
      locals.emplace_back(layout.row_bytes[0] * static_cast<std::size_t>(with.rank_rows + 2));
      rank.output = locals.back().get(); // the last one
      rank.wrong = &wrong[r];
      rank.first_wrong = &first_wrong[r * 5];
      story_ranks.push_back(rank);
    }
    clear_words(start);
    begin(start);
  }

  /// Every word and line holds the epoch before the first.
  void clear_words(std::uint64_t start) {
    for (const aligned_memory& arena : arenas) {
      for (std::uint64_t at = 0; at < layout.words_end(); at += 8)
        std::memcpy(arena.get() + at, &start, 8);
    }
  }
  /// A new generation: no calls yet, no errors.
  void begin(std::uint64_t start) {
    const dg::peer_state state = dg::first_state(start);
    for (std::size_t r = 0; r < arenas.size(); ++r) {
      std::memcpy(arenas[r].get() + layout.state, &state, sizeof state);
      controls[r] = dg::peer_control{};
    }
  }
  void set_budget(std::uint64_t ns) {
    for (dg::peer_control& each : controls) each.budget_ns = ns;
  }
  [[nodiscard]] std::int32_t ranks() const { return layout.ranks; }

  dg::peer_layout layout{};
  std::vector<aligned_memory> arenas, locals;
  std::vector<dg::peer_control> controls;
  std::vector<dg::count_set> live;
  std::vector<std::uint64_t> wrong, first_wrong;
  std::vector<story_rank> story_ranks;
};

/// Runs `body(teller, block, meet)` as every block of every rank; `meet` brings the blocks of one
/// rank together. `clock_of(rank, block)` is what a block waits by, `rules_of(rank)` its rules, or
/// a variant of rules.
template <class Sum, template <class> class BlockOf = telling_block, class ClockOf, class RulesOf,
          class Body>
void on_host_threads(host_stage& stage, std::int32_t blocks, ClockOf clock_of, RulesOf rules_of,
                     Body body) {
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<std::barrier<>>> meetings;
  for (std::int32_t r = 0; r < stage.ranks(); ++r) {
    meetings.push_back(std::make_unique<std::barrier<>>(blocks));
    for (std::int32_t b = 0; b < blocks; ++b) {
      threads.emplace_back([&, r, b, meeting = meetings.back().get()] {
        const auto run = [&]<class Rules>(const Rules& rules) {
          dg::peer_table table{};
          BlockOf<Rules> block{static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(blocks),
                               clock_of(r, b), table, rules};
          const auto meet = [meeting] { meeting->arrive_and_wait(); };
          story_teller<Sum, BlockOf<Rules>, decltype(meet)> teller{
              block, stage.story_ranks[static_cast<std::size_t>(r)], meet};
          body(r, block, teller);
        };
        const auto rules = rules_of(r);
        if constexpr (requires { std::variant_size<decltype(rules_of(r))>::value; })
          std::visit(run, rules);
        else
          run(rules);
      });
    }
  }
  for (std::thread& t : threads) t.join();
}

/// Wrong bytes and errors of a story that has been told; `says`: what and where.
inline std::uint64_t wrong_on_host(const host_stage& stage, bool says) {
  std::uint64_t wrong = 0;
  for (std::size_t r = 0; r < stage.wrong.size(); ++r) {
    wrong += stage.wrong[r];
    if (says && stage.wrong[r] != 0)
      MESSAGE("rank ", r, ": ", stage.wrong[r], " wrong, first in call ",
              stage.first_wrong[r * 5] % 1'000'000, " what ", stage.first_wrong[r * 5 + 1], " row ",
              stage.first_wrong[r * 5 + 2], " column ", stage.first_wrong[r * 5 + 3]);
    const dg::peer_record& first = stage.controls[r].first;
    if (first.written == 0) continue;
    ++wrong;
    if (says)
      MESSAGE("rank ", r, ": ", dg::name_of(static_cast<dg::errc>(first.code)), " about ",
              dg::name_of(static_cast<dg::subject>(first.about)), " rank ", first.rank, " peer ",
              first.peer, " value ", first.value, " limit ", first.limit, " call ", first.epoch,
              " phase ", first.phase);
  }
  return wrong;
}

/// Tells a story in real time; answers what went wrong, in bytes and errors.
template <class Sum, class RulesOf>
std::uint64_t tell_on_host(host_stage& stage, const story_options& with,
                           const std::vector<story_call>& calls, RulesOf rules_of,
                           bool says = true) {
  dg::steady_wait_clock clock;
  on_host_threads<Sum>(
      stage, with.blocks, [&](std::int32_t, std::int32_t) -> dg::wait_clock& { return clock; },
      rules_of,
      [&](std::int32_t, auto&, auto& teller) {
        for (const story_call& call : calls) teller.tell(call);
      });
  return wrong_on_host(stage, says);
}
template <class Sum>
std::uint64_t tell_on_host(host_stage& stage, const story_options& with,
                           const std::vector<story_call>& calls) {
  return tell_on_host<Sum>(stage, with, calls, [](std::int32_t) { return dg::peer_rules{}; });
}

} // namespace test_support
