#pragma once

/// @file
/// What stands for the engine's GPU kernels. As there, a kernel runs on all rows of its shape,
/// tails included, and a row of the output depends on one row of the input.

#include "grid.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace engine {

/// `out[rows, n] = in[rows, k] * weights[k, n]`.
inline void matmul(const float* in, const float* weights, float* out, std::int64_t rows,
                   std::int32_t k, std::int32_t n) noexcept {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* const y = out + r * n;
    std::fill_n(y, n, 0.0F);
    for (std::int32_t i = 0; i < k; ++i) {
      const float x = in[r * k + i];
      const float* const w = weights + static_cast<std::ptrdiff_t>(i) * n;
      for (std::int32_t j = 0; j < n; ++j) y[j] += x * w[j];
    }
  }
}

/// Each value back to a small whole number.
inline void requantise_all(const float* in, float* out, std::int64_t count, float scale, float low,
                           float high) noexcept {
  for (std::int64_t i = 0; i < count; ++i) out[i] = requantise(in[i], scale, low, high);
}

/// `in_out += addends`, clamped: the residual stream.
inline void add_residual(const float* addends, float* in_out, std::int64_t count,
                         float scale) noexcept {
  for (std::int64_t i = 0; i < count; ++i)
    in_out[i] =
        requantise(in_out[i] + requantise(addends[i], scale, residual_limit), 1, residual_limit);
}

/// Index of the largest value, the first of equals. No NaN is ever the largest.
[[nodiscard]] inline std::int32_t argmax(const float* values, std::int32_t count) noexcept {
  std::int32_t best = 0;
  for (std::int32_t i = 1; i < count; ++i) {
    if (values[i] > values[best] || values[best] != values[best]) best = i;
  }
  return best;
}

} // namespace engine
