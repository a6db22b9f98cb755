#pragma once

/// @file
/// Random end-to-end cases: records, agreement, plan, gather, combine and scatter on thread ranks,
/// every byte compared with a scalar reference.
///
/// One world of threads lives through many sessions; a session is one `DpGather` per rank with one
/// policy and configuration, and a few steps. Every rank draws the same numbers, so nothing needs
/// to be handed around, and a failure is reproduced by `DPGATHER_TEST_SEED` alone.

#include "case_rank.hpp"
#include "gather_engine.hpp"
#include "payload.hpp"
#include "random_cases.hpp"

#include <dpgather/comm/run_ranks.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace test_support {

/// Worlds of W <= 16 and A in {1, 2, 4} with up to 32 ranks, and three larger ones.
inline std::vector<dg::topology> worlds_of_cases() {
  std::vector<dg::topology> out;
  for (const std::int32_t a : {1, 2, 4}) {
    for (std::int32_t w = 1; w <= 16 && w * a <= 32; ++w)
      out.push_back({.dp_size = w, .tp_size = a});
  }
  out.push_back({.dp_size = 11, .tp_size = 4});
  out.push_back({.dp_size = 12, .tp_size = 4});
  out.push_back({.dp_size = 16, .tp_size = 4});
  return out;
}

/// `cases` random cases, dealt to all worlds and all variants in turn. `around(comm, sessions)` is
/// called once for each rank of each world and calls `sessions()`.
template <class Around>
void run_gather_sessions(const std::vector<gather_variant>& variants,
                         const std::vector<dg::topology>& worlds, std::uint64_t cases,
                         Around around) {
  constexpr int steps = 4; // of a session
  // Small worlds often, since threads are what a case costs.
  std::vector<double> weight;
  double weights = 0;
  for (const dg::topology& w : worlds) weights += weight.emplace_back(1.0 / (w.world_size() + 6));

  MESSAGE("DPGATHER_TEST_SEED=", seed(), ", ", cases, " cases of ", variants.size(), " variants");
  case_log log;
  std::uint64_t sessions_so_far = 0;
  double due = 0;
  for (std::size_t w = 0; w < worlds.size() && !log.failed(); ++w) {
    due += static_cast<double>(cases) / steps * weight[w] / weights;
    const auto end = static_cast<std::uint64_t>(due + 0.999);
    dg::steady_wait_clock clock;
    dg::host_world world{worlds[w], clock, 100'000'000'000};
    dg::run_ranks(world, [&, first = sessions_so_far](dg::host_communicator comm) {
      around(comm, [&] {
        case_rank rank{comm, log};
        for (std::uint64_t s = first; s < end; ++s) {
          const std::uint64_t key = mixed(seed(), s, variants.size());
          if (!rank.session(variants[s % variants.size()], key, steps, s * steps)) return;
        }
      });
    });
    sessions_so_far = std::max(sessions_so_far, end);
  }
  log.report();
  CHECK_FALSE(log.failed());

  const std::uint64_t all = log.cases;
  MESSAGE(all, " cases: ", log.idle * 100 / all, " % with an idle rank, ", log.all_idle.load(),
          " with all idle, ", log.at_capacity * 100 / all, " % at capacity or one beside it, ",
          log.above_capacity.load(), " above it, ", log.refused.load(), " refused, ",
          log.partial.load(), " partial, ", log.in_graph.load(), " in a graph");
  CHECK(all >= cases);
  if (cases < 1000) return; // shares of few cases mean nothing
  CHECK(log.idle * 100 >= all * 30);
  CHECK(log.at_capacity * 100 >= all * 20);
  CHECK(log.above_capacity > all / 100);
  CHECK(sessions_so_far >= variants.size());
}

/// `percent` of `DPGATHER_TEST_CASES` (20,000 by default) random cases, dealt to all worlds and all
/// variants in turn.
inline void run_gather_cases(const std::vector<gather_variant>& variants, std::uint64_t percent) {
  const std::uint64_t cases = std::max<std::uint64_t>(case_count(20'000) * percent / 100, 1);
  run_gather_sessions(variants, worlds_of_cases(), cases,
                      [](dg::host_communicator&, auto&& sessions) { sessions(); });
}

} // namespace test_support
