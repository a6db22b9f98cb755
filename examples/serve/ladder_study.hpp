#pragma once

/// @file
/// Which ladder, and how many graphs: plans of all decode steps of a trace, without moving a row.
/// Ladders are fitted on the first half of those steps and scored on the second, which they have
/// not seen.

#include "scheduler.hpp"

#include <dpgather/dpgather.hpp>
#include <dpgather/ladder_fit.hpp>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace serve {

namespace dg = dpgather;

/// Requests of every rank in some decode steps, step by step.
struct decode_counts {
  std::size_t ranks = 1;
  std::vector<std::int32_t> requests; ///< steps * ranks

  [[nodiscard]] std::size_t steps() const noexcept { return requests.size() / ranks; }
  [[nodiscard]] std::span<const std::int32_t> at(std::size_t step) const noexcept {
    return {requests.data() + step * ranks, ranks};
  }
  [[nodiscard]] decode_counts part(std::size_t first, std::size_t last) const {
    const auto at = [&](std::size_t step) {
      return requests.begin() + static_cast<std::ptrdiff_t>(step * ranks);
    };
    return {ranks, {at(first), at(last)}};
  }
  /// How often each count is looked up: the longest rank's, every rank's own, or the sum.
  [[nodiscard]] std::vector<std::int64_t> histogram(dg::lookup_kind by) const {
    std::vector<std::int64_t> times;
    const auto add = [&times](std::int64_t count) {
      if (count >= std::ssize(times)) times.resize(static_cast<std::size_t>(count) + 1);
      ++times[static_cast<std::size_t>(count)];
    };
    for (std::size_t i = 0; i < steps(); ++i) {
      std::int64_t sum = 0;
      for (const std::int32_t n : at(i)) {
        sum += n;
        if (by == dg::lookup_kind::own) add(n);
      }
      if (by == dg::lookup_kind::max) add(*std::ranges::max_element(at(i)));
      if (by == dg::lookup_kind::sum) add(sum);
    }
    return times;
  }
};

/// The decode steps among the next `most` steps.
[[nodiscard]] inline decode_counts decode_steps(scheduler& source, std::int32_t ranks,
                                                std::int64_t most) {
  decode_counts out{static_cast<std::size_t>(ranks), {}};
  step next;
  for (std::int64_t i = 0; i < most && source.next(next); ++i) {
    if (next.prefill) continue;
    for (const rank_step& each : next.ranks) out.requests.push_back(each.requests);
  }
  return out;
}

/// One ladder under one lookup, on the half of the steps that it has not seen.
struct ladder_line {
  dg::lookup_kind by{};
  bool fitted = false;
  std::int32_t captured = 0;  ///< sizes
  std::int32_t used_seen = 0; ///< of them, in the half that was fitted on
  dg::ladder_score score;
};

/// Graphs and rows under one pair of ladders, on the same half.
struct graphs_line {
  bool coupled = false;              ///< one bucket, of the longest rank, for attention and FFN
  std::int32_t own_sizes = 0;        ///< fitted; 0: the policy's
  std::int32_t sum_sizes = 0;        ///< fitted; 0: those derived from the policy's
  std::int64_t attention_graphs = 0; ///< sizes replayed at least once
  std::int64_t ffn_graphs = 0;       ///< the same
  std::int64_t pairs = 0;            ///< of the two, replayed by one rank in one step
  dg::step_totals steps;
};

/// All of it.
struct ladder_study {
  std::int64_t seen_steps = 0, scored_steps = 0, scored_rows = 0;
  std::vector<ladder_line> ladders;
  std::vector<graphs_line> graphs;
};

namespace detail {

/// Plans all steps, and counts.
template <class Policy>
[[nodiscard]] graphs_line replay(const dg::gather_config& config, const decode_counts& counts) {
  const dg::planner<Policy> rules = dg::value_or_throw(dg::planner<Policy>::make(config));
  dg::step_metrics metrics{rules};
  std::set<std::pair<std::int32_t, std::int32_t>> pairs;
  dg::agreement agreed;
  agreed.dp_size = config.topology.dp_size;
  agreed.tp_size = config.topology.tp_size;
  agreed.can_run_graph = true;
  agreed.tokens = dg::real_rows::zeros(agreed.dp_size);
  for (std::size_t i = 0; i < counts.steps(); ++i) {
    for (std::int32_t r = 0; r < agreed.dp_size; ++r)
      agreed.tokens.set(r, counts.at(i)[static_cast<std::size_t>(r)]);
    const dg::step_plan plan = dg::value_or_throw(dg::make_plan(rules, agreed));
    metrics.add(plan);
    for (std::int32_t r = 0; r < agreed.dp_size; ++r)
      pairs.emplace(plan.own_bucket(r), plan.shared_bucket);
  }
  const auto replayed = [](const dg::bucket_totals& each) { return each.replays > 0; };
  graphs_line out;
  out.attention_graphs = std::ranges::count_if(metrics.attention(), replayed);
  out.ffn_graphs = std::ranges::count_if(metrics.ffn(), replayed);
  out.pairs = static_cast<std::int64_t>(pairs.size());
  out.steps = metrics.in_graph();
  return out;
}

} // namespace detail

/// A ladder of `sizes` sizes for what `seen` looked up, and above it the sizes of `policy_ladder`,
/// for counts that are yet to come.
[[nodiscard]] inline dg::bucket_list fit(const std::vector<std::int64_t>& seen, std::int32_t sizes,
                                         std::int64_t multiple,
                                         const dg::bucket_list& policy_ladder) {
  dg::bucket_list out = dg::value_or_throw(
      dg::fit_ladder(seen, {.sizes = sizes, .multiple = multiple, .cap = policy_ladder.largest()}));
  out.append(policy_ladder);
  return out;
}

/// `sizes`: of fitted ladders; 0: as many as the policy's ladder used in the first half.
/// Throws `dpgather::error` for a configuration that makes no planner.
[[nodiscard]] inline ladder_study study_ladders(const dg::gather_config& config,
                                                const decode_counts& counts, std::int32_t sizes) {
  using rules_type = dg::planner<dg::exact_graph>;
  const rules_type rules = dg::value_or_throw(rules_type::make(config));
  const std::int64_t multiple = rules_type::size_multiple(config);
  const decode_counts seen = counts.part(0, counts.steps() / 2);
  const decode_counts unseen = counts.part(counts.steps() / 2, counts.steps());
  ladder_study out;
  out.seen_steps = static_cast<std::int64_t>(seen.steps());
  out.scored_steps = static_cast<std::int64_t>(unseen.steps());

  for (const dg::lookup_kind by :
       {dg::lookup_kind::max, dg::lookup_kind::own, dg::lookup_kind::sum}) {
    const dg::bucket_list& stated =
        by == dg::lookup_kind::sum ? rules.shared_ladder() : rules.ladder();
    const std::vector<std::int64_t> before = seen.histogram(by);
    const std::vector<std::int64_t> after = unseen.histogram(by);
    const auto used = [&](const dg::bucket_list& ladder) {
      return dg::value_or_throw(dg::score_ladder(before, ladder)).sizes_used;
    };
    const auto add = [&](bool fitted, const dg::bucket_list& ladder) {
      out.ladders.push_back({by, fitted, ladder.size(), used(ladder),
                             dg::value_or_throw(dg::score_ladder(
                                 after, ladder, dg::rows_per_pad(by, config.topology.dp_size)))});
    };
    add(false, stated);
    add(true, fit(before, sizes == 0 ? used(stated) : sizes, multiple, stated));
  }

  out.graphs.push_back(detail::replay<dg::pr8278>(config, unseen));
  out.graphs.back().coupled = true;
  out.graphs.push_back(detail::replay<dg::exact_graph>(config, unseen));
  out.scored_rows = out.graphs.back().steps.real_rows;
  const std::vector<std::int64_t> owns = seen.histogram(dg::lookup_kind::own);
  const std::vector<std::int64_t> sums = seen.histogram(dg::lookup_kind::sum);
  std::set<std::int32_t> curve{1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
  if (sizes > 0) curve.insert(sizes);
  for (const std::int32_t own_sizes : {0, 2}) {
    for (const std::int32_t sum_sizes : curve) {
      dg::gather_config fitted = config;
      if (own_sizes > 0) fitted.ladder = fit(owns, own_sizes, multiple, rules.ladder());
      fitted.sum_ladder = fit(sums, sum_sizes, multiple, rules.shared_ladder());
      out.graphs.push_back(detail::replay<dg::exact_graph>(fitted, unseen));
      out.graphs.back().own_sizes = own_sizes;
      out.graphs.back().sum_sizes = sum_sizes;
    }
  }
  return out;
}

} // namespace serve
