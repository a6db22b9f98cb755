#pragma once

/// @file
/// The main job, for one policy: every step of the schedule on all ranks, and the sums.

#include "launch.hpp"
#include "progress.hpp"
#include "rank_group.hpp"
#include "scheduler.hpp"
#include "served_rank.hpp"
#include "tally.hpp"
#include "traffic.hpp"

#include <dpgather/dpgather.hpp>
#include <dpgather/throw.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace serve {

namespace detail {

/// Each step twice, outside graphs and in one: 2 * step and the number behind it. False for those
/// that are not run.
template <class Policy>
[[nodiscard]] bool is_run(const step& of, bool graph) {
  return !graph || (dg::has_graphs<Policy> && !of.prefill);
}

/// What one rank has to tell about all its steps, besides their traffic.
struct rank_summary {
  std::int64_t mismatches = 0;
  std::uint64_t digest = 0;
};

/// The sums of rank 0's plans and everybody's traffic.
template <class Policy>
void add_up(const dg::gather_config& base, const std::vector<step>& steps,
            const std::vector<dg::result<dg::step_plan>>& plans, const std::vector<traffic>& moved,
            policy_result& out) {
  const double peers = base.topology.world_size() > 1 ? base.topology.world_size() - 1 : 1;
  const double row_bytes = static_cast<double>(base.row_bytes);
  for (std::size_t slot = 0; slot < plans.size(); ++slot) {
    const step& of = steps[slot / 2];
    const bool graph = slot % 2 == 1;
    if (!is_run<Policy>(of, graph)) continue;
    tally& sums = graph ? out.in_graph : of.prefill ? out.eager_prefill : out.eager_decode;
    if (!plans[slot]) {
      out.refused += 1;
      sums.buckets_missed += plans[slot].code() == dg::errc::no_bucket;
      continue;
    }
    sums.add(*plans[slot], static_cast<double>(moved[slot].gather) / peers / row_bytes,
             static_cast<double>(moved[slot].combine) / peers / row_bytes);
  }
}

/// All that one rank does. Rank 0 writes `out`; the others tell it over the bootstrap. Throws what
/// ends the rank early, on which the others hear that it left.
template <class Policy, class Stream>
void serve_as(rank_group& ranks, const dg::gather_config& base, const std::vector<step>& steps,
              policy_result& out) {
  place<Stream>::enter(ranks.rank());
  dg::gather_config config = base;
  config.topology = base.topology.at(ranks.rank());
  const bool leads = ranks.rank() == 0;
  served_rank<Policy, Stream> rank{ranks, config};

  std::vector<traffic> moved(2 * steps.size());
  std::vector<dg::result<dg::step_plan>> plans(leads ? 2 * steps.size() : 0);
  rank_summary mine;
  const auto started = std::chrono::steady_clock::now();
  {
    std::optional<progress_bar> bar;
    if (leads) bar.emplace(out.name, static_cast<std::int64_t>(steps.size()));
    for (std::size_t i = 0; i < steps.size(); ++i) {
      for (const bool graph : {false, true}) {
        if (!is_run<Policy>(steps[i], graph)) continue;
        const std::size_t slot = 2 * i + graph;
        const auto done = rank.run(
            steps[i].ranks[static_cast<std::size_t>(config.topology.dp_rank)], slot + 1, graph);
        moved[slot] = done.moved;
        mine.mismatches += done.mismatches;
        if (leads) plans[slot] = done.plan;
        // A missing bucket is an answer, the same on all ranks; anything else ends the run.
        if (!done.plan && done.plan.code() != dg::errc::no_bucket)
          throw dg::error{done.plan.status()};
      }
      if (bar) bar->at(static_cast<std::int64_t>(i) + 1);
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;

  mine.digest = rank.digest();
  sum_over_ranks(ranks, moved);
  std::vector<rank_summary> all(static_cast<std::size_t>(ranks.size()));
  dg::throw_if_failed(ranks.all_gather(&mine, all.data(), sizeof mine));
  dg::throw_if_failed(rank.close());
  if (!leads) return;

  dg::digest_builder digest;
  for (const rank_summary& each : all) {
    out.mismatches += each.mismatches;
    digest.add(each.digest);
  }
  out.digest = digest.value();
  out.seconds = seconds.count();
  add_up<Policy>(base, steps, plans, moved, out);
}

} // namespace detail

/// Runs all steps under one policy: each eagerly, and those without prefill in a graph as well
/// where the policy has graphs. The result is complete where rank 0 is; elsewhere it has a name and
/// this rank's error.
template <class Policy, class Stream>
[[nodiscard]] policy_result run_policy(const std::string& name, const dg::gather_config& base,
                                       const std::vector<step>& steps, const rank_launch& how) {
  policy_result out;
  out.name = name;
  out.first_error = run_as_launched(how, base.topology, name, [&](rank_group& ranks) {
    detail::serve_as<Policy, Stream>(ranks, base, steps, out);
  });
  return out;
}

} // namespace serve
