#pragma once

/// @file
/// What inputs hold and what outputs must hold, element by element: values for `write_rows` and
/// `row_checker`. Rows carry whole numbers that differ by rank, buffer and row; sums of them are
/// exact in bf16. Padding is zero, and what nobody may write is poison.

#include "../support/payload.hpp"
#include "collective_case.hpp"

#include <dpgather/config.hpp>

#include <cstdint>

namespace bench {

inline constexpr std::uint16_t poisoned_element = 0xcdcd;

/// Whose row: row `index` of rank `rank`, or nobody's.
struct row_owner {
  std::int32_t rank = -1;
  std::int64_t index = 0;
};
/// Of a row in a packed tensor.
[[nodiscard]] DPGATHER_HOST_DEVICE inline row_owner packed_owner(const collective_case& what,
                                                                 std::int64_t row) {
  for (std::int32_t r = 0; r < what.ranks && r < most_ranks; ++r) {
    if (row < what.counts[r]) return {r, row};
    row -= what.counts[r];
  }
  return {};
}
/// Of a row in slots, padding included.
[[nodiscard]] DPGATHER_HOST_DEVICE inline row_owner slot_owner(const collective_case& what,
                                                               std::int64_t row) {
  if (row >= what.slot_rows()) return {};
  return {static_cast<std::int32_t>(row / what.rows), row % what.rows};
}

/// Input of a gather: the rows of `rank`, then padding.
struct own_rows {
  collective_case what;
  std::int32_t rank = 0;
  std::int32_t buffer = 0;

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    if (row >= what.counts[rank]) return 0;
    return bf16_bits(payload({rank, buffer, row}, column));
  }
};

/// Output of a gather: all ranks' rows, packed or in slots, and behind them nothing.
struct gathered_rows {
  collective_case what;
  std::int32_t buffer = 0; ///< that the ranks sent
  bool packed = true;
  std::int64_t cleared = 0; ///< rows up to which the tail of packed rows is cleared

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    const row_owner of = packed ? packed_owner(what, row) : slot_owner(what, row);
    if (of.rank < 0) return row < cleared ? 0 : poisoned_element;
    if (of.index >= what.counts[of.rank]) return 0;
    return bf16_bits(payload({of.rank, buffer, of.index}, column));
  }
};

/// Input of a combine: what `rank` adds to every rank's rows, packed or in slots.
struct partial_rows {
  collective_case what;
  std::int32_t rank = 0;
  std::int32_t buffer = 0;
  bool packed = true;

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    const row_owner of = packed ? packed_owner(what, row) : slot_owner(what, row);
    if (of.rank < 0 || of.index >= what.counts[of.rank]) return 0;
    return bf16_bits(payload({rank, buffer, named(what, of)}, column));
  }
  /// The name of an owner's row is the same in both layouts.
  DPGATHER_HOST_DEVICE static std::int64_t named(const collective_case& what, const row_owner& of) {
    return std::int64_t{of.rank} * what.rows + of.index;
  }
};

/// Output of a combine: the sums of `rank`, then those of padding where that is moved too, and
/// behind them nothing.
struct combined_rows {
  collective_case what;
  std::int32_t rank = 0;   ///< whose rows they are
  std::int32_t buffer = 0; ///< that the ranks sent
  bool packed = true;
  bool clears_tail = false; ///< up to the longest rank's rows, as slots have it anyway

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    if (row >= what.counts[rank])
      return (!packed || clears_tail) && row < what.rows ? 0 : poisoned_element;
    std::int32_t sum = 0;
    for (std::int32_t r = 0; r < what.ranks; ++r)
      sum += payload({r, buffer, partial_rows::named(what, {rank, row})}, column);
    return bf16_bits(sum);
  }
};

} // namespace bench
