#pragma once

/// @file
/// What the rows that are not real hold after a call.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>
#include <dpgather/fill.hpp>

#include <cstdint>

namespace dpgather::inline v0::tail {

/// Zeros, written by select and never by multiply (`NaN * 0` is `NaN`); the default.
struct zero {
  using category = category::tail;
  static constexpr fill_pattern fill(element) noexcept { return zero_fill(); }
};

/// The value V in the row's element type, for consumers that skip rows by a mark.
template <std::int64_t V>
struct sentinel {
  using category = category::tail;
  static constexpr fill_pattern fill(element e) noexcept { return value_fill(e, V); }
};

/// Whatever was there, or whatever the collective brings: the cheapest, for consumers that never
/// read tails.
struct leave {
  using category = category::tail;
  static constexpr fill_pattern fill(element) noexcept { return no_fill(); }
};

/// NaN or the most negative integer: a consumer that reads a tail is found at once.
struct poison {
  using category = category::tail;
  static constexpr fill_pattern fill(element e) noexcept { return poison_fill(e); }
};

} // namespace dpgather::inline v0::tail
