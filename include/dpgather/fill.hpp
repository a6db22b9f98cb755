#pragma once

/// @file
/// The bytes that padding is made of.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// A pattern of 1 to 8 bytes that is repeated over a padded unit, or the wish to leave it alone.
/// Lengths are powers of two, so that every element type and every unit of whole elements fits.
struct fill_pattern {
  std::array<std::byte, 8> bytes{}; ///< the first `size` bytes, repeated to the end
  std::uint8_t size = 1;            ///< 1, 2, 4 or 8
  bool leave = false;               ///< write nothing

  friend constexpr bool operator==(const fill_pattern&, const fill_pattern&) = default;
};

namespace detail {

/// Repeats the low `size` bytes of `bits` (little endian, as every CUDA platform is).
[[nodiscard]] constexpr fill_pattern pattern_of(std::uint64_t bits, std::size_t size) noexcept {
  fill_pattern out;
  out.size = static_cast<std::uint8_t>(size);
  for (std::size_t i = 0; i < out.bytes.size(); ++i) {
    out.bytes[i] = static_cast<std::byte>((bits >> (8 * (i % size))) & 0xff);
  }
  return out;
}

/// The bits of an integer value as binary16 or bfloat16, for values those formats hold exactly.
[[nodiscard]] constexpr std::uint64_t narrow_float_bits(std::int64_t value, bool bf16) noexcept {
  const auto wide = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  if (bf16) return wide >> 16;
  const std::uint32_t sign = (wide >> 16) & 0x8000u;
  const std::int32_t exponent = static_cast<std::int32_t>((wide >> 23) & 0xff) - 127 + 15;
  if (value == 0) return sign;
  if (exponent >= 31) return sign | 0x7c00u;
  return sign | (static_cast<std::uint32_t>(exponent) << 10) | ((wide >> 13) & 0x3ffu);
}

} // namespace detail

/// All zero bytes: 0 for every element type.
[[nodiscard]] constexpr fill_pattern zero_fill() noexcept { return {}; }

/// Nothing is written.
[[nodiscard]] constexpr fill_pattern no_fill() noexcept { return {.leave = true}; }

/// The integer `value` as an element. For f16 and bf16 use values the format holds exactly
/// (|value| <= 2048 and <= 256); others are truncated.
[[nodiscard]] constexpr fill_pattern value_fill(element e, std::int64_t value) noexcept {
  switch (e) {
  case element::f16:
    return detail::pattern_of(detail::narrow_float_bits(value, false), 2);
  case element::bf16:
    return detail::pattern_of(detail::narrow_float_bits(value, true), 2);
  case element::f32:
    return detail::pattern_of(std::bit_cast<std::uint32_t>(static_cast<float>(value)), 4);
  case element::f64:
    return detail::pattern_of(std::bit_cast<std::uint64_t>(static_cast<double>(value)), 8);
  default:
    return detail::pattern_of(static_cast<std::uint64_t>(value), size_of(e));
  }
}

/// A value no correct program reads: NaN for floats (all bits set), the most negative integer
/// otherwise, which is outside every index range.
[[nodiscard]] constexpr fill_pattern poison_fill(element e) noexcept {
  if (is_floating(e)) return detail::pattern_of(~std::uint64_t{0}, size_of(e));
  return detail::pattern_of(std::uint64_t{1} << (8 * size_of(e) - 1), size_of(e));
}

/// A fill as a kernel reads it: plain members, no `std::array`.
struct fill_word {
  std::uint64_t bits = 0; ///< the pattern, repeated over 8 bytes (little endian)
  std::uint8_t size = 1;  ///< bytes of the pattern: 1, 2, 4 or 8
  bool leave = false;     ///< write nothing

  constexpr fill_word() noexcept = default;
  constexpr fill_word(const fill_pattern& p) noexcept : size{p.size}, leave{p.leave} { // NOLINT
    for (std::size_t i = 0; i < 8 && size != 0; ++i) {
      bits |= std::to_integer<std::uint64_t>(p.bytes[i % size]) << (8 * i);
    }
  }
};

} // namespace dpgather::inline v0
