#pragma once

/// @file
/// Arithmetic whose result does not depend on the order of a sum: every operand of a product is a
/// small whole number, so every fp32 partial sum is one too and below 2^24, hence exact. Between
/// layers sums go back to the small numbers. Any split over ranks gives the same bits.

#include <dpgather/config.hpp>

#include <cstdint>

namespace engine {

/// What activations are clamped to before a product, and the residual stream between layers.
inline constexpr float activation_limit = 7;
inline constexpr float residual_limit = 31;

/// `sum * scale`, rounded to a whole number and clamped to `[low, high]`. NaN stays NaN, payload
/// and all. `scale`: a power of two, so that the product is exact.
/// Rounds by adding 1.5 * 2^23, beyond which floats are whole; |sum * scale| below 2^22.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float requantise(float sum, float scale, float low,
                                                              float high) noexcept {
  constexpr float whole = 12582912.0F;
  const float rounded = (sum * scale + whole) - whole;
  const float capped = high < rounded ? high : rounded; // comparisons with NaN are false
  return capped < low ? low : capped;
}
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float requantise(float sum, float scale,
                                                              float limit) noexcept {
  return requantise(sum, scale, -limit, limit);
}

/// 2^(difference / 16 + 6), the exponent rounded to a whole number and clamped to 0 to 6: a softmax
/// weight of a score that lies `difference` <= 0 from the best one, in base 2. A sum of 2^14 such
/// weights times activations is exact. NaN stays NaN.
[[nodiscard]] DPGATHER_HOST_DEVICE inline float softmax_weight(float difference) noexcept {
  if (difference != difference) return difference;
  const float exponent = requantise(difference, 0.0625F, -6, 0) + 6;
  return static_cast<float>(1 << static_cast<std::int32_t>(exponent));
}

/// A number that looks random, the same everywhere (the finaliser of MurmurHash3).
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::uint32_t
scramble(std::uint32_t a, std::uint32_t b, std::uint32_t c) noexcept {
  std::uint32_t h = a * 0x9e3779b1U + b * 0x85ebca77U + c * 0xc2b2ae3dU + 0x27d4eb2fU;
  h = (h ^ h >> 16) * 0x85ebca6bU;
  h = (h ^ h >> 13) * 0xc2b2ae35U;
  return h ^ h >> 16;
}

/// A whole number from `-limit` to `limit`.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float
on_grid(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::int32_t limit) noexcept {
  const auto span = static_cast<std::uint32_t>(2 * limit + 1);
  return static_cast<float>(static_cast<std::int32_t>(scramble(a, b, c) % span) - limit);
}

} // namespace engine
