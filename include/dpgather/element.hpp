#pragma once

/// @file
/// Elements of a row. Moving rows never looks at them; only sums and numeric fills do.

#include <dpgather/config.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// What a row is made of. `u8` also stands for any payload that is only moved (fp8, packed ids).
enum class element : std::uint8_t { u8, i32, i64, f16, bf16, f32, f64 };

/// Bytes of one element.
[[nodiscard]] constexpr std::size_t size_of(element e) noexcept {
  switch (e) {
  case element::u8:
    return 1;
  case element::f16:
  case element::bf16:
    return 2;
  case element::i32:
  case element::f32:
    return 4;
  case element::i64:
  case element::f64:
    return 8;
  }
  return 0;
}

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(element e) noexcept {
  switch (e) {
  case element::u8:
    return "u8";
  case element::i32:
    return "i32";
  case element::i64:
    return "i64";
  case element::f16:
    return "f16";
  case element::bf16:
    return "bf16";
  case element::f32:
    return "f32";
  case element::f64:
    return "f64";
  }
  return "unknown";
}

/// True where `combine` and partial inputs define a sum: f16 and bf16 accumulate in fp32, f32 in
/// fp32, f64 in fp64, integers modulo 2^n. Bytes have no sum.
[[nodiscard]] constexpr bool is_summable(element e) noexcept { return e != element::u8; }

/// True for the elements that have NaN.
[[nodiscard]] constexpr bool is_floating(element e) noexcept {
  return e == element::f16 || e == element::bf16 || e == element::f32 || e == element::f64;
}

} // namespace dpgather::inline v0
