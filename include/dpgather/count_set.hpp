#pragma once

/// @file
/// Counts at fixed addresses, where kernels and the FFN behind a gather read them.

#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// `n[W]`, `offset[W + 1]` and `total` of one kind of rows, always *real* rows; nothing ever
/// overwrites them with padded ones. A gather fills it; with `counts::device` the engine writes
/// `rows` before the call.
struct count_set {
  std::array<std::int32_t, max_ranks> rows{};
  std::array<std::int64_t, max_ranks + 1> offset{}; ///< prefix sum of rows
  std::int64_t total = 0;

  constexpr void set(std::int32_t rank, std::int32_t count) noexcept {
    rows[static_cast<std::size_t>(rank)] = count;
  }
  /// Offsets and total from the first `ranks` rows.
  constexpr void sum_up(std::int32_t ranks) noexcept {
    for (std::int32_t r = 0; r < ranks; ++r) {
      const auto at = static_cast<std::size_t>(r);
      offset[at + 1] = offset[at] + rows[at];
    }
    total = offset[static_cast<std::size_t>(ranks)];
  }
};

} // namespace dpgather::inline v0
