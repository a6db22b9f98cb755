#pragma once

/// @file
/// Counts at fixed addresses, where kernels and the FFN behind a gather read them.

#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// `n[W]`, `offset[W + 1]` and `total` of one kind of rows, always *real* rows, and the padded rows
/// beside them: nothing ever overwrites the one with the other. A gather fills it; with
/// `counts::device` the engine writes `rows` before the call. Plain arrays: kernels read them.
struct count_set {
  std::int32_t rows[max_ranks]{};       ///< real rows
  std::int32_t padded[max_ranks]{};     ///< rows that a rank's local work runs on
  std::int64_t offset[max_ranks + 1]{}; ///< prefix sum of real rows
  std::int64_t total = 0;               ///< of real rows

  constexpr void set(std::int32_t rank, std::int32_t count) noexcept { rows[rank] = count; }
  /// Offsets and total from the first `ranks` rows.
  constexpr void sum_up(std::int32_t ranks) noexcept {
    for (std::int32_t r = 0; r < ranks; ++r) offset[r + 1] = offset[r] + rows[r];
    total = offset[ranks];
  }
};

} // namespace dpgather::inline v0
