#pragma once

/// @file
/// Kernels that stand for what an engine does around a collective: it writes counts, clears
/// padding, and is late.

#include "../support/check.cuh"
#include "collective_case.hpp"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace bench {

/// Writes the counts of a case, and how many rows lie before each rank's.
template <class Case>
__global__ void write_counts(const __grid_constant__ Case what, std::int32_t* counts,
                             std::int64_t* offsets) {
  const auto r = static_cast<std::int32_t>(threadIdx.x);
  if (r >= what.ranks) return;
  counts[r] = what.counts[r];
  offsets[r] = what.offset(r);
}

/// Rows of 16-byte words from `*count` on become zero.
template <class Word>
__global__ void clear_padding(Word* at, const std::int32_t* count, std::int32_t rows,
                              std::uint32_t row_words) {
  const std::uint64_t end = static_cast<std::uint64_t>(rows) * row_words;
  const std::uint64_t first = static_cast<std::uint64_t>(*count) * row_words;
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = first + std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < end;
       i += step)
    at[i] = Word{};
}

/// Takes that long.
template <class Nanoseconds>
__global__ void spin(Nanoseconds ns) {
  const auto now = [] {
    Nanoseconds out;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(out));
    return out;
  };
  for (const Nanoseconds begin = now(); ns > 0 && now() - begin < ns;) {
  }
}

/// Loads them for the current device, while nothing waits for a peer.
inline void load_section_kernels() {
  cudaFuncAttributes loaded{};
  must(cudaFuncGetAttributes(&loaded, write_counts<collective_case>), "write_counts");
  must(cudaFuncGetAttributes(&loaded, clear_padding<uint4>), "clear_padding");
  must(cudaFuncGetAttributes(&loaded, spin<std::uint64_t>), "spin");
}

} // namespace bench
