#pragma once

/// @file
/// What a study of ladders came to, for people and for machines.

#include "ladder_study.hpp"
#include "report.hpp"

#include <dpgather/ladder.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

namespace serve {

/// What was studied.
struct study_info {
  std::string source;
  std::int32_t ranks = 1;
  std::int32_t attention_ranks = 1;
  double speed = 1;
};

namespace detail {

/// Pad rows that the fitted ladder of a lookup saves, in per cent of the policy's.
[[nodiscard]] inline double saved(const ladder_line& policy, const ladder_line& fitted) {
  if (policy.score.pad_rows == 0) return 0;
  return 100.0 * static_cast<double>(policy.score.pad_rows - fitted.score.pad_rows) /
         static_cast<double>(policy.score.pad_rows);
}

/// "sglang", or the number of sizes that were fitted.
[[nodiscard]] inline std::string sizes_named(std::int32_t fitted, const char* otherwise) {
  return fitted == 0 ? otherwise : "fitted " + std::to_string(fitted);
}

} // namespace detail

inline void print_table(const ladder_study& study, const study_info& info) {
  std::printf("%s, arrivals x%g\n%d data-parallel ranks of %d attention-TP rank%s; ladders fitted "
              "on %lld decode steps, scored on the %lld after them, %lld real rows\n\n",
              info.source.c_str(), info.speed, info.ranks, info.attention_ranks,
              info.attention_ranks == 1 ? "" : "s", static_cast<long long>(study.seen_steps),
              static_cast<long long>(study.scored_steps),
              static_cast<long long>(study.scored_rows));
  std::printf("%-7s %-8s %8s %12s %12s %10s %8s %7s\n", "lookup", "ladder", "captured",
              "used, fitted", "used, scored", "pad rows", "per real", "saved");
  for (std::size_t i = 0; i < study.ladders.size(); ++i) {
    const ladder_line& line = study.ladders[i];
    std::printf("%-7s %-8s %8d %12d %12d %10lld %8.3f", name_of(line.by),
                line.fitted ? "fitted" : "sglang", line.captured, line.used_seen,
                line.score.sizes_used, static_cast<long long>(line.score.pad_rows),
                static_cast<double>(line.score.pad_rows) /
                    static_cast<double>(std::max<std::int64_t>(1, study.scored_rows)));
    if (line.fitted) std::printf(" %5.1f %%", detail::saved(study.ladders[i - 1], line));
    std::printf("\n");
  }
  std::printf("\npad rows: between the count that is looked up and its size, under max on every "
              "rank; used: sizes that some\nstep of that half found. A fitted ladder goes on with "
              "the sizes of sglang's that are larger\n\n");
  std::printf("%-10s %-10s %-10s %8s %10s %10s %6s %6s\n", "buckets", "own sizes", "sum sizes",
              "FFN rows", "attention", "attention", "FFN", "pairs");
  std::printf("%-10s %-10s %-10s %8s %10s %10s %6s %6s\n", "", "", "", "per real", "per real",
              "graphs", "graphs", "");
  for (const graphs_line& line : study.graphs) {
    std::printf("%-10s %-10s %-10s %8.3f %10.3f %10lld %6lld %6lld\n",
                line.coupled ? "coupled" : "decoupled",
                detail::sizes_named(line.own_sizes, "sglang").c_str(),
                line.coupled ? "" : detail::sizes_named(line.sum_sizes, "derived").c_str(),
                line.steps.per_real_row(static_cast<double>(line.steps.ffn_rows)),
                line.steps.per_real_row(static_cast<double>(line.steps.attention_rows)),
                static_cast<long long>(line.attention_graphs),
                static_cast<long long>(line.ffn_graphs), static_cast<long long>(line.pairs));
  }
  std::printf("\ncoupled: one bucket, of the longest rank (pr8278); decoupled: attention at a "
              "rank's own, the FFN at that of the\nsum (exact_graph). graphs: sizes that were "
              "replayed, attention and FFN captured apart; pairs: captured as one\n");
}

/// One object.
inline void print_json(const ladder_study& study, const study_info& info) {
  std::printf("{\n  \"source\": %s,\n  \"speed\": %g,\n  \"dp_ranks\": %d,\n"
              "  \"attention_tp_ranks\": %d,\n  \"fitted_on_steps\": %lld,\n"
              "  \"scored_on_steps\": %lld,\n  \"real_rows\": %lld,\n  \"ladders\": [",
              detail::quoted(info.source).c_str(), info.speed, info.ranks, info.attention_ranks,
              static_cast<long long>(study.seen_steps), static_cast<long long>(study.scored_steps),
              static_cast<long long>(study.scored_rows));
  const char* between = "";
  for (const ladder_line& line : study.ladders) {
    std::printf("%s\n    {\"lookup\": \"%s\", \"fitted\": %s, \"captured\": %d, "
                "\"used_when_fitted\": %d, \"used\": %d, \"pad_rows\": %lld, \"misses\": %lld}",
                between, name_of(line.by), line.fitted ? "true" : "false", line.captured,
                line.used_seen, line.score.sizes_used, static_cast<long long>(line.score.pad_rows),
                static_cast<long long>(line.score.misses));
    between = ",";
  }
  std::printf("\n  ],\n  \"graphs\": [");
  between = "";
  for (const graphs_line& line : study.graphs) {
    std::printf("%s\n    {\"coupled\": %s, \"own_sizes_fitted\": %d, \"sum_sizes_fitted\": %d, "
                "\"ffn_rows\": %lld, \"attention_rows\": %lld, \"attention_graphs\": %lld, "
                "\"ffn_graphs\": %lld, \"pairs\": %lld}",
                between, line.coupled ? "true" : "false", line.own_sizes, line.sum_sizes,
                static_cast<long long>(line.steps.ffn_rows),
                static_cast<long long>(line.steps.attention_rows),
                static_cast<long long>(line.attention_graphs),
                static_cast<long long>(line.ffn_graphs), static_cast<long long>(line.pairs));
    between = ",";
  }
  std::printf("\n  ]\n}\n");
}

} // namespace serve
