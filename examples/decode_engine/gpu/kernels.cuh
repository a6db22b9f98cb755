#pragma once

/// @file
/// The engine's kernels that work on rows: plain ones, a thread for each element of the output.
///
/// Operands of products are bf16, sums and the residual stream fp32: whole numbers up to 256 are
/// exact in the one, up to 2^24 in the other. With `numbers::real` nothing is rounded to the grid.

#include "../grid.hpp"
#include "../model.hpp"
#include "launch.cuh"

#include <cuda_bf16.h>

#include <cstdint>

namespace engine::gpu {

using bf16 = __nv_bfloat16;

enum class numbers : std::uint8_t {
  on_grid, ///< whole numbers: sums are exact
  real,    ///< bf16 as models have it
};

/// Rows of a kernel: those of its shape, or fewer where it reads how many are real.
struct row_count {
  std::int64_t rows = 0;
  const std::int64_t* live = nullptr; ///< in device memory, or null

  [[nodiscard]] __device__ std::int64_t now() const {
    return live != nullptr && *live < rows ? *live : rows;
  }
};

[[nodiscard]] __device__ inline std::int64_t thread_number() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// A sum made small again. NaN stays NaN.
[[nodiscard]] __device__ inline float squeezed(numbers kind, float sum, float scale, float low,
                                               float high) {
  if (kind == numbers::on_grid) return requantise(sum, scale, low, high);
  const float value = sum * scale;
  const float capped = high < value ? high : value;
  return capped < low ? low : capped;
}
[[nodiscard]] __device__ inline float residual_of(numbers kind, float sum, float scale) {
  return squeezed(kind, sum, scale, -residual_limit, residual_limit);
}
/// What a GEMM reads of the residual stream.
[[nodiscard]] __device__ inline bf16 normed_of(numbers kind, float residual) {
  return __float2bfloat16(squeezed(kind, residual, 0.5F, -activation_limit, activation_limit));
}

/// `residual[rows, hidden]`: the token's row, and what the position adds.
__global__ void embed(const std::int32_t* tokens, const std::int32_t* positions,
                      const float* embedding, std::int64_t rows, float* residual) {
  const std::int64_t i = thread_number();
  if (i >= rows * hidden) return;
  const std::int64_t row = i / hidden;
  const auto c = static_cast<std::uint32_t>(i % hidden);
  residual[i] = embedding[std::int64_t{tokens[row]} * hidden + c] +
                on_grid(9, static_cast<std::uint32_t>(positions[row]), c, 3);
}

__global__ void normalise(numbers kind, const float* residual, std::int64_t rows, bf16* normed) {
  const std::int64_t i = thread_number();
  if (i < rows * hidden) normed[i] = normed_of(kind, residual[i]);
}

/// `addends += 8 * residual`, on one of the attention-TP peers.
__global__ void bring_residual(const float* residual, std::int64_t rows, float factor,
                               float* addends) {
  const std::int64_t i = thread_number();
  if (i < rows * hidden) addends[i] += factor * residual[i];
}

/// The gathered sum is the new residual, of all ranks' rows, and what the FFN reads of it.
__global__ void take_gathered(numbers kind, const float* gathered, row_count rows, float* residual,
                              bf16* normed) {
  const std::int64_t i = thread_number();
  if (i >= rows.now() * hidden) return;
  residual[i] = residual_of(kind, gathered[i], 0.125F);
  normed[i] = normed_of(kind, residual[i]);
}

/// Clamped at 0 from below: that is the ReLU.
__global__ void activate(numbers kind, const float* sums, row_count rows, std::int32_t units,
                         bf16* activated) {
  const std::int64_t i = thread_number();
  if (i < rows.now() * units)
    activated[i] = __float2bfloat16(squeezed(kind, sums[i], 0.125F, 0, 15));
}

/// The residual stream takes what the FFN of all ranks came to.
__global__ void add_ffn(numbers kind, const float* combined, std::int64_t rows, float* residual) {
  const std::int64_t i = thread_number();
  if (i >= rows * hidden) return;
  residual[i] = residual_of(kind, residual[i] + residual_of(kind, combined[i], 0.125F), 1);
}

/// Greedy: index of the largest logit of a row, the first of equals; a thread for each row.
__global__ void pick_token(const float* logits, std::int64_t rows, std::int32_t* tokens) {
  const std::int64_t row = thread_number();
  if (row >= rows) return;
  const float* const of = logits + row * vocabulary;
  std::int32_t best = 0;
  for (std::int32_t i = 1; i < vocabulary; ++i)
    if (of[i] > of[best]) best = i;
  tokens[row] = best;
}

} // namespace engine::gpu
