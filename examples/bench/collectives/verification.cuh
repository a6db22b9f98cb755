#pragma once

/// @file
/// Outputs before and after the calls that are verified.

#include "../support/device_memory.cuh"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "contents.hpp"

#include <cstddef>
#include <cstdint>

namespace bench {

enum class row_layout { packed, slots };

/// Room for all slots and a row behind them.
inline void poison_global(const collective_rank& here, const collective_case& what, std::byte* at) {
  poison_bytes(at, static_cast<std::size_t>(what.slot_rows() + 1) * what.row_bytes(),
               here.stream());
}
/// Room for the longest rank's rows and a row behind them.
inline void poison_local(const collective_rank& here, const collective_case& what, std::byte* at) {
  poison_bytes(at, static_cast<std::size_t>(what.rows + 1) * what.row_bytes(), here.stream());
}

/// Elements of what `poison_global` poisoned that are wrong after a gather of the ranks' inputs
/// number `buffer`.
[[nodiscard]] inline std::int64_t wrong_after_gather(const collective_rank& here,
                                                     const collective_case& what,
                                                     const std::byte* global, std::int32_t buffer,
                                                     row_layout layout, std::int64_t cleared = 0) {
  const gathered_rows want{what, buffer, layout == row_layout::packed, cleared};
  return here.checker().wrong(global, what.slot_rows() + 1, what.hidden, want, here.stream());
}
/// Elements of what `poison_local` poisoned that are wrong after a combine of the ranks' inputs
/// number `buffer`.
[[nodiscard]] inline std::int64_t wrong_after_combine(const collective_rank& here,
                                                      const collective_case& what,
                                                      const std::byte* local, std::int32_t buffer,
                                                      row_layout layout, bool clears_tail = false) {
  const combined_rows want{what, here.rank(), buffer, layout == row_layout::packed, clears_tail};
  return here.checker().wrong(local, std::int64_t{what.rows} + 1, what.hidden, want, here.stream());
}

} // namespace bench
