#pragma once

/// @file
/// The engine's kernels: a toy attention, a toy FFN on exactly the real rows, and the checks, which
/// know what every byte must be from the list of splits alone.

#include <dpgather/count_set.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace exact {

namespace dg = dpgather;

using bf16_bits = std::uint16_t;
inline constexpr bf16_bits nan_bits = 0x7fff;

/// Whole numbers up to 256 are exact.
[[nodiscard]] __device__ inline bf16_bits to_bf16(std::int32_t value) {
  return static_cast<bf16_bits>(__float_as_uint(static_cast<float>(value)) >> 16);
}
[[nodiscard]] __device__ inline std::int32_t from_bf16(bf16_bits bits) {
  return static_cast<std::int32_t>(__uint_as_float(static_cast<std::uint32_t>(bits) << 16));
}

/// What the kernels of one rank share. Pointers are to device memory.
struct step_facts {
  const std::int32_t* splits = nullptr; ///< [steps, ranks]; never shown to the library
  unsigned long long* step = nullptr;   ///< the number of the step under way, from 1
  unsigned long long* wrong = nullptr;  ///< values that were not what they must be
  std::int64_t steps = 1;
  std::int64_t global_rows = 0; ///< rows of the gathered tensor, tail included
  std::int32_t rank = 0, ranks = 1;
  std::int32_t rows = 0; ///< rows of a local tensor, tail included
  std::int32_t hidden = 0;

  /// Rows of every rank in this step.
  [[nodiscard]] __device__ const std::int32_t* counts() const {
    return splits +
           static_cast<std::int64_t>((*step - 1) % static_cast<std::uint64_t>(steps)) * ranks;
  }
  /// One element of a rank's row, in [-7, 7]: another one for every step, rank, row and column.
  [[nodiscard]] __device__ std::int32_t payload(std::int32_t of_rank, std::int64_t row,
                                                std::int32_t column) const {
    std::uint32_t x = static_cast<std::uint32_t>(*step) * 0xc2b2ae3du +
                      static_cast<std::uint32_t>(of_rank) * 0x85ebca77u +
                      static_cast<std::uint32_t>(row) * 0x9e3779b1u +
                      static_cast<std::uint32_t>(column);
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return static_cast<std::int32_t>((x ^ (x >> 16)) % 15) - 7;
  }
  __device__ void count(bool is_wrong) const {
    if (is_wrong) atomicAdd(wrong, 1ull);
  }
};

[[nodiscard]] __device__ inline std::int64_t thread_number() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// One thread. The graph is the same every time; this word is not.
__global__ void begin_step(step_facts of) { ++*of.step; }

/// "Attention": this rank's rows, one thread per element. NaN behind the real ones, which must
/// reach nobody.
__global__ void attention(step_facts of, const std::int32_t* real, bf16_bits* local) {
  const std::int64_t i = thread_number();
  const std::int64_t row = i / of.hidden;
  if (row >= of.rows) return;
  local[i] = row < *real
                 ? to_bf16(of.payload(of.rank, row, static_cast<std::int32_t>(i % of.hidden)))
                 : nan_bits;
}

/// "FFN": this rank's addend of all real rows, and of no other. A GEMM of an engine would read its
/// M from the same word.
__global__ void ffn(step_facts of, const std::int64_t* total, const bf16_bits* in, bf16_bits* out) {
  const std::int64_t i = thread_number();
  if (i < *total * of.hidden) out[i] = to_bf16(from_bf16(in[i]) * (of.rank + 1));
}

/// Every element of the gathered tensor: rank after rank without a gap, then zeros. And the counts.
__global__ void check_gathered(step_facts of, const dg::count_set* live, const bf16_bits* global) {
  const std::int64_t i = thread_number();
  const std::int64_t row = i / of.hidden;
  if (row >= of.global_rows) return;
  const std::int32_t* const counts = of.counts();
  std::int64_t first = 0; // row of rank `owner`
  std::int32_t owner = 0;
  while (owner < of.ranks && row >= first + counts[owner]) first += counts[owner++];
  const bf16_bits right =
      owner < of.ranks
          ? to_bf16(of.payload(owner, row - first, static_cast<std::int32_t>(i % of.hidden)))
          : bf16_bits{0};
  of.count(global[i] != right);
  if (i > 0) return;
  std::int64_t total = 0;
  for (std::int32_t r = 0; r < of.ranks; ++r) {
    of.count(live->rows[r] != counts[r] || live->offset[r] != total);
    total += counts[r];
  }
  of.count(live->total != total);
}

/// Every element of this rank's output: sums over all ranks, then zeros.
__global__ void check_output(step_facts of, const bf16_bits* output) {
  const std::int64_t i = thread_number();
  const std::int64_t row = i / of.hidden;
  if (row >= of.rows) return;
  const std::int32_t weights = of.ranks * (of.ranks + 1) / 2;
  const std::int32_t value = of.payload(of.rank, row, static_cast<std::int32_t>(i % of.hidden));
  const bf16_bits right = row < of.counts()[of.rank] ? to_bf16(value * weights) : bf16_bits{0};
  of.count(output[i] != right);
}

} // namespace exact
