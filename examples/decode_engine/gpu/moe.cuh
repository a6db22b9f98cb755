#pragma once

/// @file
/// The mixture of experts: choose, permute by expert, run, gate and add.
///
/// How many rows chose an expert is known on the device only, while cuBLAS's grouped GEMM takes
/// sizes from the host, which a graph would freeze. So experts have a kernel of their own: launched
/// for all rows that could come, of which those beyond an expert's count end at once.

#include "kernels.cuh"

#include <dpgather/placement.hpp>

#include <cstdint>

namespace engine::gpu {

/// What routing leaves in device memory.
struct routing {
  std::int32_t* chosen = nullptr; ///< `[rows, top_k]`; -1 for rows that are not real
  float* gates = nullptr;         ///< `[rows, top_k]`
  std::int32_t* counts = nullptr; ///< `[own experts]`: rows that chose each
  std::int32_t* lists = nullptr;  ///< `[own experts, capacity]`: `row * top_k + k`
  float* outputs = nullptr;       ///< `[rows * top_k, hidden]`, gated
  std::int64_t capacity = 0;
  std::int32_t first_expert = 0;
  std::int32_t own_experts = 0;
  unsigned long long* rows_run = nullptr; ///< counted over the run
};

/// The best experts of a row, the first of equals; gates are 2 and 1. A thread for each row.
__global__ void choose_experts(const float* logits, row_count rows, routing to) {
  const std::int64_t row = thread_number();
  if (row >= rows.now()) return;
  const float* const of = logits + row * experts;
  std::int32_t before = -1;
  for (std::int32_t k = 0; k < top_k; ++k) {
    std::int32_t best = -1;
    for (std::int32_t e = 0; e < experts; ++e)
      if (e != before && (best < 0 || of[e] > of[best])) best = e;
    to.chosen[row * top_k + k] = best;
    to.gates[row * top_k + k] = static_cast<float>(top_k - k);
    before = best;
  }
}

/// Every routed row into the list of its expert, in any order. A thread for each row and choice.
__global__ void permute_rows(row_count rows, routing to) {
  const std::int64_t i = thread_number();
  if (i >= rows.now() * top_k) return;
  const std::int32_t own = to.chosen[i] - to.first_expert;
  if (to.chosen[i] < 0 || own < 0 || own >= to.own_experts) return;
  to.lists[own * to.capacity + atomicAdd(to.counts + own, 1)] = static_cast<std::int32_t>(i);
  atomicAdd(to.rows_run, 1ULL);
}

/// The first row that is not real, or -1.
[[nodiscard]] __device__ inline std::int64_t first_tail_row(const dg::placement& places) {
  std::int64_t out = -1;
  places.for_each_tail([&](dg::row_range tail) {
    if (out < 0 && tail.count > 0) out = tail.first;
  });
  return out;
}

/// A warp for each expert and place in its list, a lane for each unit, then for each column.
/// `plant_leak`: the first row of each list is read where a tail is.
__global__ void run_experts(numbers kind, const bf16* in, const bf16* up, const bf16* down,
                            std::int64_t rows, routing of, dg::placement places, bool plant_leak) {
  static_assert(hidden == 32 && expert_intermediate <= 32);
  const std::int64_t warp = thread_number() / 32;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const std::int64_t expert = warp / rows;
  const std::int64_t at = warp % rows;
  if (expert >= of.own_experts || at >= of.counts[expert]) return; // the whole warp
  const std::int64_t entry = of.lists[expert * of.capacity + at];
  std::int64_t from = entry / top_k;
  if (plant_leak && at == 0) {
    const std::int64_t tail = first_tail_row(places);
    if (tail >= 0) from = tail;
  }
  up += expert * hidden * expert_intermediate;
  down += expert * hidden * expert_intermediate;
  const std::int32_t unit = lane % expert_intermediate;
  float sum = 0;
  for (std::int32_t c = 0; c < hidden; ++c)
    sum += __bfloat162float(in[from * hidden + c]) *
           __bfloat162float(up[c * expert_intermediate + unit]);
  const float activated = __bfloat162float(__float2bfloat16(squeezed(kind, sum, 0.125F, 0, 15)));
  float out = 0;
  for (std::int32_t u = 0; u < expert_intermediate; ++u)
    out += __shfl_sync(~0u, activated, u) * __bfloat162float(down[u * hidden + lane]);
  of.outputs[entry * hidden + lane] = of.gates[entry] * out;
}

/// What a row's experts of this rank came to, in the order of its choices; 0 where there are none.
__global__ void add_experts(row_count rows, routing of, float* addends) {
  const std::int64_t i = thread_number();
  if (i >= rows.now() * hidden) return;
  float sum = 0;
  for (std::int32_t k = 0; k < top_k; ++k) {
    const std::int64_t entry = i / hidden * top_k + k;
    const std::int32_t own = of.chosen[entry] - of.first_expert;
    if (of.chosen[entry] < 0 || own < 0 || own >= of.own_experts) continue;
    sum += of.outputs[entry * hidden + i % hidden];
  }
  addends[i] = sum;
}

} // namespace engine::gpu
