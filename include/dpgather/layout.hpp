#pragma once

/// @file
/// Where the rows of a rank lie in the global tensor.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

enum class layout_kind : std::uint8_t { slots, packed };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(layout_kind l) noexcept {
  return l == layout_kind::slots ? "slots" : "packed";
}

namespace layout {

/// Row i of rank r is global row `r * stride + i`: a tail in every slot.
struct slots {
  using category = category::layout;
};

/// Row i of rank r is global row `offset[r] + i`, offsets an exclusive prefix sum of *real* rows:
/// one tail at the end, no holes. (SGLang sums padded rows; with A = 1 the two are the same.)
struct packed {
  using category = category::layout;
};

/// `slots` under `padding::max_len`, `packed` under any other; the default.
struct by_padding {
  using category = category::layout;
};

} // namespace layout

} // namespace dpgather::inline v0
