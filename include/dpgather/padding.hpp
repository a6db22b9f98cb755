#pragma once

/// @file
/// What the rows of a rank, and with them the global tensor, are padded to.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

enum class padding_kind : std::uint8_t { none, max_len, sum_len };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(padding_kind p) noexcept {
  switch (p) {
  case padding_kind::none:
    return "none";
  case padding_kind::max_len:
    return "max_len";
  case padding_kind::sum_len:
    return "sum_len";
  }
  return "unknown";
}

namespace padding {

/// The global tensor has exactly the real rows; each rank's rows are only aligned.
struct none {
  using category = category::padding;
  static constexpr padding_kind kind = padding_kind::none;
};

/// Every rank has the rows of the longest one; the global tensor has `max * W` rows.
struct max_len {
  using category = category::padding;
  static constexpr padding_kind kind = padding_kind::max_len;
};

/// Each rank keeps its own aligned rows; the global tensor has their sum, in a graph its bucket.
struct sum_len {
  using category = category::padding;
  static constexpr padding_kind kind = padding_kind::sum_len;
};

/// Rows of a rank are rounded up to a multiple of N, on top of the attention-TP size.
template <std::int32_t N>
requires(N >= 1) struct align {
  using category = category::align;
  static constexpr std::int32_t rows = N;
};

} // namespace padding

} // namespace dpgather::inline v0
