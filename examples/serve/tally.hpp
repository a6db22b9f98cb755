#pragma once

/// @file
/// What a run of one policy adds up, outside and inside graphs apart.

#include <dpgather/step_plan.hpp>
#include <dpgather/step_totals.hpp>

#include <algorithm>
#include <cstdint>
#include <string>

namespace serve {

/// Sums over the steps of one policy in one situation. Rows on the wire come from the bytes that
/// the communicator moved, never from a formula: not from those of the plans.
struct tally {
  dpgather::step_totals plans;
  double gather_wire_rows = 0;
  double combine_wire_rows = 0;
  double worst_gather = 0; ///< gather wire rows per real row, of the worst step
  std::int64_t buckets_hit = 0;
  std::int64_t buckets_missed = 0;

  void add(const dpgather::step_plan& plan, double gather_rows, double combine_rows) {
    plans.add(plan);
    gather_wire_rows += gather_rows;
    combine_wire_rows += combine_rows;
    if (plan.total_rows > 0)
      worst_gather = std::max(worst_gather, gather_rows / static_cast<double>(plan.total_rows));
    buckets_hit += plan.in_graph();
    buckets_missed += plan.bucket_missed;
  }
};

/// Everything about one policy.
struct policy_result {
  std::string name;
  /// Steps with decode rows only, launched eagerly; steps with prefill; decode steps in graphs.
  tally eager_decode, eager_prefill, in_graph;
  std::int64_t mismatches = 0; ///< values that differ from the scalar reference, over all ranks
  std::int64_t refused = 0; ///< steps that ended in an error, e.g. no bucket under on_miss::error
  std::uint64_t digest = 0; ///< of all trimmed outputs of all ranks: equal for equal results
  double seconds = 0;       ///< of the steps
  std::string first_error;  ///< what ended the run early; then there are no sums
};

} // namespace serve
