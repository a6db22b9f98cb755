#pragma once

/// @file
/// What a run came to, for people.

#include "../bench/support/table.hpp"
#include "splits.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace exact {

/// Microseconds of a gather and a combine of one split.
struct timing {
  split rows;
  std::int32_t bucket = 0; ///< what NCCL's slots are padded to
  double ours = 0, padded = 0;
  [[nodiscard]] double ratio() const { return ours / padded; }
};

/// Of one rank.
struct results {
  std::int64_t steps = 0;
  std::int64_t checked = 0; ///< values
  std::int64_t wrong = 0;
  std::vector<timing> times;
  std::vector<std::string> shown_error;
  std::string error; ///< what ended the rank early
};

namespace detail {

inline void print_times(const std::vector<timing>& times) {
  const auto ranks = static_cast<std::int32_t>(times.front().rows.size());
  std::printf("\ngather + combine, us in replayed graphs; dpgather: one graph for all splits, "
              "NCCL: all-gather and\nreduce-scatter of slots, a graph for each bucket of the "
              "longest rank, pads left in\n");
  bench::table out{{"rows by rank", "real", "padded", "dpgather", "NCCL", "ratio"}};
  std::size_t faster = 0;
  double least = times.front().ratio(), most = least;
  for (const timing& each : times) {
    out.add({text(each.rows), std::to_string(sum(each.rows)), std::to_string(each.bucket * ranks),
             bench::fixed(each.ours, 2), bench::fixed(each.padded, 2),
             bench::fixed(each.ratio(), 2)});
    faster += each.ours < each.padded ? 1 : 0;
    least = std::min(least, each.ratio());
    most = std::max(most, each.ratio());
  }
  out.print(stdout);
  std::printf(
      "dpgather took less time in %zu of these %zu splits, %.2f to %.2f times NCCL's with "
      "plain buffers;\nbench/collectives also has NCCL's symmetric kernels, which win at one "
      "row\n",
      faster, times.size(), least, most);
}

} // namespace detail

/// True when nothing was wrong.
[[nodiscard]] inline bool print(const std::vector<results>& of) {
  std::int64_t wrong = 0, checked = 0;
  bool complete = true;
  for (std::size_t r = 0; r < of.size(); ++r) {
    wrong += of[r].wrong;
    checked += of[r].checked;
    if (of[r].error.empty()) continue;
    complete = false;
    std::fprintf(stderr, "07_exact_in_graph: rank %zu: %s\n", r, of[r].error.c_str());
  }
  if (!complete) return false;
  std::printf("%lld steps replayed, %lld of %lld values wrong: gathered rows, tails, sums, "
              "counts\n",
              static_cast<long long>(of[0].steps), static_cast<long long>(wrong),
              static_cast<long long>(checked));
  if (!of[0].times.empty()) detail::print_times(of[0].times);
  if (!of[0].shown_error.empty()) {
    std::printf("\nrank 0 replayed once more than the others:\n");
    for (const std::string& line : of[0].shown_error) std::printf("  %s\n", line.c_str());
  }
  return wrong == 0;
}

} // namespace exact
