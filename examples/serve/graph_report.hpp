#pragma once

/// @file
/// What a run in graphs came to, for people.

#include "toy_model.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace serve {

/// One step of rank 0, spelled out: its first row, and the first pad row behind its real ones.
struct spelled_step {
  std::int64_t tick = -1; ///< -1: none yet
  std::vector<std::int32_t> rows_of_rank;
  std::int32_t bucket = 0;
  std::int64_t global_rows = 0;
  std::int64_t pad_rows = 0;
  std::int32_t request = 0, position = 0, token = 0;
  std::int32_t pad_token_before = 0, pad_token_after = 0;
  std::array<float, hidden> result{}, expected{}, pad_result{};
};

/// One rank's run.
struct graph_results {
  std::size_t graphs = 0;
  std::size_t nodes = 0; ///< of the largest graph
  double capture_seconds = 0;
  std::int64_t steps = 0;
  std::int64_t missed = 0; ///< steps for which no captured size was large enough
  std::int64_t mismatches = 0;
  double step_seconds = 0;                                       ///< of all steps together
  std::vector<std::pair<std::int32_t, std::uint64_t>> replays{}; ///< of each size
  spelled_step sample;
  std::string error; ///< what ended the rank early
};

namespace detail {

inline void print_row(const char* name, const std::array<float, hidden>& row) {
  std::printf("  %-22s", name);
  for (const float x : row) std::printf(" %5g", static_cast<double>(x));
  std::printf("\n");
}

} // namespace detail

/// How rank 0's first row of a step went through the graph.
inline void print_sample(const spelled_step& s) {
  if (s.tick < 0) return;
  std::printf("step %lld of the schedule, as rank 0 saw it\n", static_cast<long long>(s.tick));
  std::printf("  %-22s", "rows of the ranks");
  for (const std::int32_t rows : s.rows_of_rank) std::printf(" %d", rows);
  std::printf("\n  %-22s %d rows, so %lld global rows, %lld of them pads\n", "graph replayed",
              s.bucket, static_cast<long long>(s.global_rows), static_cast<long long>(s.pad_rows));
  std::printf("  %-22s request %d, position %d, token %d\n", "row 0", s.request, s.position,
              s.token);
  detail::print_row("  after the FFN", s.result);
  detail::print_row("  scalar reference", s.expected);
  if (s.rows_of_rank[0] < s.bucket) {
    std::printf("  row %-18d token %d, padded in the graph to %d; embedded as NaN\n",
                s.rows_of_rank[0], s.pad_token_before, s.pad_token_after);
    detail::print_row("  after the FFN", s.pad_result);
  }
  std::printf("\n");
}

/// `Buffers`: `decode_buffers`; this header stays free of CUDA.
template <class Buffers>
void print_buffers(const Buffers& b) {
  std::printf("buffers of a rank, known before the first capture: %zu bytes\n"
              "  global rows %zu, local rows %zu, workspace %zu, weights %zu\n",
              b.global_bytes() + b.local_bytes() + b.workspace.bytes() + b.weight_bytes(),
              b.global_bytes(), b.local_bytes(), b.workspace.bytes(), b.weight_bytes());
}

inline void print_capture(const graph_results& r) {
  std::printf("captured %zu graphs in %.2f s, after a run outside graphs; %zu nodes in the largest"
              "\n\n",
              r.graphs, r.capture_seconds, r.nodes);
  std::fflush(stdout);
}

/// The sample, the table, the sizes that were replayed most, and the errors. `results` are those of
/// all ranks; true when all is right.
[[nodiscard]] inline bool print_graph_results(const std::vector<graph_results>& results) {
  const graph_results& first = results[0];
  std::int64_t mismatches = 0;
  for (const graph_results& r : results) mismatches += r.mismatches;
  print_sample(first.sample);
  std::printf("%8s %8s %8s %11s %14s\n", "steps", "graphs", "missed", "mismatches",
              "mean step, us");
  std::printf("%8lld %8zu %8lld %11lld %14.1f\n\n", static_cast<long long>(first.steps),
              first.graphs, static_cast<long long>(first.missed),
              static_cast<long long>(mismatches),
              first.steps == 0 ? 0.0 : first.step_seconds * 1e6 / static_cast<double>(first.steps));

  constexpr std::size_t shown = 6;
  auto replays = first.replays;
  std::stable_sort(replays.begin(), replays.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  if (!replays.empty()) std::printf("replays of the sizes used most:\n");
  for (std::size_t i = 0; i < replays.size() && i < shown && replays[i].second > 0; ++i)
    std::printf("  %4d rows %8llu\n", replays[i].first,
                static_cast<unsigned long long>(replays[i].second));

  bool right = mismatches == 0;
  for (std::size_t r = 0; r < results.size(); ++r) {
    if (results[r].error.empty()) continue;
    right = false;
    std::printf("rank %zu ended early: %s\n", r, results[r].error.c_str());
  }
  return right;
}

} // namespace serve
