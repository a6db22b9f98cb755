#pragma once

/// @file
/// What rows hold in tests: bytes that differ for every call, rank and row, and addends whose sums
/// are exact in every element type and order.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace test_support {

/// A well-mixed word of up to four numbers.
DPGATHER_HOST_DEVICE constexpr std::uint64_t mixed(std::uint64_t a, std::uint64_t b = 0,
                                                   std::uint64_t c = 0, std::uint64_t d = 0) {
  std::uint64_t state = 0x9e3779b97f4a7c15U;
  const std::uint64_t words[] = {a, b, c, d};
  for (const std::uint64_t word : words) {
    state = (state ^ word) * 0xff51afd7ed558ccdU;
    state ^= state >> 32;
  }
  state *= 0xc4ceb9fe1a85ec53U;
  return state ^ (state >> 29);
}

/// `bytes` bytes that follow from `key`; every bit pattern of every element occurs.
inline void random_row(std::byte* out, std::size_t bytes, std::uint64_t key) {
  for (std::size_t at = 0; at < bytes; at += 8) {
    const std::uint64_t word = mixed(key, at);
    std::memcpy(out + at, &word, bytes - at < 8 ? bytes - at : 8);
  }
}

/// The bits of an integer in an element type; floats must hold it exactly, integers wrap. Written
/// from the formats' definitions: sign, exponent with its bias, mantissa below the leading one.
inline std::uint64_t element_bits(dpgather::element type, std::uint64_t value) {
  std::uint64_t exponent_bias = 0;
  unsigned mantissa_bits = 0;
  unsigned width = 0;
  switch (type) {
  case dpgather::element::f16:
    exponent_bias = 15, mantissa_bits = 10, width = 16;
    break;
  case dpgather::element::bf16:
    exponent_bias = 127, mantissa_bits = 7, width = 16;
    break;
  case dpgather::element::f32:
    exponent_bias = 127, mantissa_bits = 23, width = 32;
    break;
  case dpgather::element::f64:
    exponent_bias = 1023, mantissa_bits = 52, width = 64;
    break;
  default:
    return value;
  }
  const auto number = static_cast<std::int64_t>(value);
  if (number == 0) return 0;
  const std::uint64_t sign = number < 0 ? 1 : 0;
  const std::uint64_t magnitude = number < 0 ? std::uint64_t{0} - value : value;
  unsigned leading = 63;
  while ((magnitude >> leading) == 0) --leading;
  const std::uint64_t below = magnitude ^ (std::uint64_t{1} << leading);
  const std::uint64_t mantissa = leading <= mantissa_bits ? below << (mantissa_bits - leading)
                                                          : below >> (leading - mantissa_bits);
  return sign << (width - 1) | (exponent_bias + leading) << mantissa_bits | mantissa;
}

inline void store_element(std::byte* out, dpgather::element type, std::uint64_t value) {
  const std::uint64_t bits = element_bits(type, value);
  std::memcpy(out, &bits, dpgather::size_of(type));
}

/// Number `index` of a row of addends. Integers take any value; floats integers so small that
/// `addends` of them sum to what the narrowest mantissa (8 bits of bf16) holds.
inline std::uint64_t addend(dpgather::element type, std::uint64_t key, std::size_t index,
                            std::int32_t addends) {
  const std::uint64_t word = mixed(key, index);
  if (!dpgather::is_floating(type)) return word;
  const std::uint64_t exact = type == dpgather::element::bf16  ? 256
                              : type == dpgather::element::f16 ? 2048
                                                               : 1 << 24;
  const std::uint64_t limit = exact / static_cast<std::uint64_t>(addends);
  return word % (2 * limit + 1) - limit;
}

} // namespace test_support
