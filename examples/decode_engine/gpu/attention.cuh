#pragma once

/// @file
/// Attention over a paged KV cache: this rank's rows and heads.

#include "../kv_cache.hpp"
#include "kernels.cuh"

#include <cstdint>

namespace engine::gpu {

/// What the kernels are told about a step's rows, in device memory; see `engine::batch`.
struct device_batch {
  std::int32_t* tokens = nullptr;
  std::int32_t* positions = nullptr;
  std::int32_t* slots = nullptr;
  std::int32_t* lengths = nullptr;
  std::int32_t* tables = nullptr;
  std::int32_t* pages = nullptr; ///< `[tables, pages_each]`
  std::int32_t pages_each = 0;
};

/// `qkv[rows, 3 * columns]` back to small numbers; keys and values into their slots.
__global__ void store_keys(numbers kind, device_batch batch, std::int64_t rows,
                           std::int32_t columns, float* qkv, float* cache) {
  const std::int64_t i = thread_number();
  if (i >= rows * 3 * columns) return;
  const std::int64_t row = i / (3 * columns);
  const auto c = static_cast<std::int32_t>(i % (3 * columns));
  const float value = squeezed(kind, qkv[i], 0.25F, -activation_limit, activation_limit);
  qkv[i] = value;
  if (c >= columns) cache[std::int64_t{batch.slots[row]} * 2 * columns + c - columns] = value;
}

[[nodiscard]] __device__ inline float weight_of(numbers kind, float difference) {
  return kind == numbers::on_grid ? softmax_weight(difference) : exp2f(difference * 0.0625F);
}
[[nodiscard]] __device__ inline float warp_sum(float value) {
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  return value;
}

/// A warp for each row and head, a lane for every 32nd token: once for the best score, once more
/// for the sums, which are of whole numbers and so the same in any order.
__global__ void attend(numbers kind, device_batch batch, std::int64_t rows, std::int32_t columns,
                       const float* qkv, const float* cache, bf16* context) {
  constexpr std::int32_t page_slots = kv_cache::page_slots;
  const std::int64_t warp = thread_number() / 32;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const std::int32_t own_heads = columns / head_dim;
  const std::int64_t row = warp / own_heads;
  if (row >= rows) return; // the whole warp
  const std::int64_t first = warp % own_heads * head_dim;
  const float* const query = qkv + row * 3 * columns + first;
  const std::int32_t* const table =
      batch.pages + std::int64_t{batch.tables[row]} * batch.pages_each;
  const std::int32_t length = batch.lengths[row];
  const auto slot = [&](std::int32_t j) {
    return cache +
           (std::int64_t{table[j / page_slots]} * page_slots + j % page_slots) * 2 * columns +
           first;
  };
  const auto score = [&](std::int32_t j) {
    const float* const key = slot(j);
    float sum = 0;
    for (std::int32_t c = 0; c < head_dim; ++c) sum += query[c] * key[c];
    return sum;
  };

  float best = -INFINITY;
  for (std::int32_t j = lane; j < length; j += 32) best = fmaxf(best, score(j));
  for (int other = 16; other > 0; other /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, other));
  float all = 0;
  float sums[head_dim]{};
  for (std::int32_t j = lane; j < length; j += 32) {
    const float weight = weight_of(kind, score(j) - best);
    const float* const value = slot(j) + columns;
    all += weight;
    for (std::int32_t c = 0; c < head_dim; ++c) sums[c] += weight * value[c];
  }
  all = warp_sum(all);
  for (std::int32_t c = 0; c < head_dim; ++c) {
    const float sum = warp_sum(sums[c]);
    if (lane == c)
      context[row * columns + first + c] =
          __float2bfloat16(squeezed(kind, sum / all, 2, -activation_limit, activation_limit));
  }
}

} // namespace engine::gpu
