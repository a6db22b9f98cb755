#pragma once

/// @file
/// What came of one case.

#include "../support/run_group.cuh"
#include "../support/target.hpp"
#include "step_case.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/// What runs on how many rows on the rank that has most of them.
struct method_rows {
  std::int64_t attention = 0;
  std::int64_t ffn = 0;
};

/// Methods in the order in which they were timed: first those over NCCL, of them first PR #8278's;
/// then exact rows, first with one size, second with two, last without clearing pads: NCCL's calls
/// alone don't clear any, so that one is judged.
struct step_result {
  step_case what;
  double rows = 0; ///< real ones of a timed step, on average
  std::size_t nccl_methods = 0;
  std::vector<method_rows> runs_on; ///< one for each method
  std::vector<method_result> all;
  std::vector<method_result> parts; ///< three for each method, or none

  [[nodiscard]] std::size_t best_nccl() const {
    const auto end = all.begin() + static_cast<std::ptrdiff_t>(nccl_methods);
    const auto at = std::min_element(all.begin(), end, [](const auto& a, const auto& b) {
      return a.measured.us.median < b.measured.us.median;
    });
    return static_cast<std::size_t>(at - all.begin());
  }
  [[nodiscard]] double ratio(std::size_t method) const {
    return quotient(all[method].measured.us.median, all[best_nccl()].measured.us.median);
  }
  /// Of the two that clear pads: exact rows to PR #8278.
  [[nodiscard]] double cleared_ratio() const {
    return quotient(all[nccl_methods + 1].measured.us.median, all[0].measured.us.median);
  }
  [[nodiscard]] double tokens_per_second(std::size_t method) const {
    return quotient(rows, all[method].measured.us.median) * 1e6;
  }
  [[nodiscard]] double ffn_rows_per_row(std::size_t method) const {
    return quotient(static_cast<double>(runs_on[method].ffn), rows);
  }
  [[nodiscard]] bool is_judged(std::size_t method) const { return method + 1 == all.size(); }
};

} // namespace bench
