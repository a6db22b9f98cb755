#pragma once

/// @file
/// What a run on GPUs came to: the tokens, and what the steps took.

#include "../../bench/support/statistics.hpp"
#include "../policy_result.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace engine::gpu {

/// One replayed decode step, as rank 0 saw it.
struct timed_step {
  std::int64_t real_rows = 0; ///< of all ranks
  std::int64_t ffn_rows = 0;  ///< that the FFN ran on
  double us = 0;              ///< from the announcement to the tokens on the host
};

struct gpu_result {
  policy_result result;
  std::vector<timed_step> decode;
  double step_seconds = 0; ///< of all steps
  // Of rank 0's graphs.
  std::int64_t graphs = 0;
  std::int64_t capture_us = 0;
  std::int64_t graph_bytes = 0;
  std::uint64_t graph_misses = 0; ///< launches that found no graph

  [[nodiscard]] double median_us() const {
    std::vector<double> all;
    for (const timed_step& each : decode) all.push_back(each.us);
    return bench::summarize(std::move(all)).median;
  }
  [[nodiscard]] double tokens_per_second() const {
    return step_seconds > 0 ? static_cast<double>(result.tokens()) / step_seconds : 0;
  }
  /// FFN rows per real row in replayed steps.
  [[nodiscard]] double ffn_rows() const {
    return result.in_graph.per_real_row(result.in_graph.ffn_rows);
  }
  /// Replayed steps by their real rows, rounded up to powers of two.
  [[nodiscard]] std::map<std::int64_t, std::vector<timed_step>> by_rows() const {
    std::map<std::int64_t, std::vector<timed_step>> out;
    for (const timed_step& each : decode) {
      std::int64_t size = 1;
      while (size < each.real_rows) size *= 2;
      out[size].push_back(each);
    }
    return out;
  }
};

/// The share of tokens that are the same at the same place.
[[nodiscard]] inline double agreement_of(const token_streams& a, const token_streams& b) {
  std::size_t same = 0;
  std::size_t all = 0;
  for (std::size_t r = 0; r < std::min(a.size(), b.size()); ++r) {
    all += a[r].size();
    for (std::size_t t = 0; t < std::min(a[r].size(), b[r].size()); ++t) same += a[r][t] == b[r][t];
  }
  return all == 0 ? 0 : static_cast<double>(same) / static_cast<double>(all);
}

} // namespace engine::gpu
