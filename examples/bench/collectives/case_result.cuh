#pragma once

/// @file
/// What came of one case, and what it is held against.

#include "../support/run_group.cuh"
#include "../support/target.hpp"
#include "collective_case.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// What no collective can be faster than, as far as it was measured.
struct floor_figures {
  double barrier_us = 0;
  double store_rate = 0; ///< bytes per microsecond, both ways at once, at the best number of blocks

  [[nodiscard]] double us(double bytes) const { return barrier_us + quotient(bytes, store_rate); }
};

/// One case and what came of it. The first `nccl_methods` are NCCL's.
struct case_result {
  std::string operation; ///< "gather" or "combine"
  collective_case what;
  double bytes = 0; ///< that the busiest rank has to receive or send; with random counts on average
  std::int32_t nccl_methods = 0;
  std::vector<method_result> all;

  [[nodiscard]] const method_result& best_nccl() const {
    return *std::min_element(all.begin(), all.begin() + nccl_methods,
                             [](const method_result& a, const method_result& b) {
                               return a.measured.us.median < b.measured.us.median;
                             });
  }
  /// GB/s on exact bytes.
  [[nodiscard]] double goodput(double us) const { return quotient(bytes, us) * 1e-3; }
  /// The method of that name, or null.
  [[nodiscard]] const method_result* find(std::string_view name) const {
    const auto at = std::find_if(all.begin(), all.end(),
                                 [name](const method_result& each) { return each.name == name; });
    return at == all.end() ? nullptr : &*at;
  }
};

/// One of NCCL's, a second time.
[[nodiscard]] inline bool is_again(const method_result& one) {
  return one.name.ends_with(", again");
}

} // namespace bench
