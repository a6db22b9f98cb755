#pragma once

/// @file
/// The least that any collective over NVLink does: tell the others that one has come, and store to
/// their memory.

#include "../support/payload.hpp"
#include "collective_case.hpp"

#include <dpgather/config.hpp>

#include <cuda/atomic>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace bench {

/// Flags of all ranks, `most_ranks` for each block, as one rank's kernels see them.
struct barrier_flags {
  std::uint64_t* of[most_ranks]{};
  std::uint64_t* epochs = nullptr; ///< the own count of barriers, for each block
  std::int32_t rank = 0;
  std::int32_t ranks = 0;

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t* flag(std::int32_t of_rank, std::uint32_t block,
                                                         std::int32_t from_rank) const {
    return of[of_rank] + static_cast<std::size_t>(block) * most_ranks + from_rank;
  }
};

/// Each block tells the same block of all others that it is here, and waits for them.
template <class Flags>
__global__ void __launch_bounds__(512, 1) flag_barrier(const __grid_constant__ Flags flags) {
  using flag_ref = cuda::atomic_ref<std::uint64_t, cuda::thread_scope_system>;
  const std::uint64_t epoch = flags.epochs[blockIdx.x] + 1;
  const auto peer = static_cast<std::int32_t>(threadIdx.x);
  __syncthreads(); // everybody has read the epoch
  if (peer < flags.ranks && peer != flags.rank) {
    flag_ref{*flags.flag(peer, blockIdx.x, flags.rank)}.store(epoch, cuda::memory_order_release);
    const flag_ref theirs{*flags.flag(flags.rank, blockIdx.x, peer)};
    while (theirs.load(cuda::memory_order_acquire) < epoch) {
    }
  }
  __syncthreads();
  if (peer == 0) flags.epochs[blockIdx.x] = epoch;
}

/// Memory of all ranks that one rank's kernels store to: chunk c goes to the same place of the rank
/// that is `1 + c % (ranks - 1)` further on, so that no two ranks write one chunk.
struct store_targets {
  static constexpr std::size_t chunk_bytes = 4096;
  static constexpr std::int32_t chunk_elements = chunk_bytes / 2;

  std::byte* landing[most_ranks]{};
  const std::byte* source = nullptr;
  std::uint32_t chunks = 0;
  std::int32_t rank = 0;
  std::int32_t ranks = 0;

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t target(std::uint32_t chunk) const {
    return (rank + 1 + hops(chunk)) % ranks;
  }
  /// Who has stored a chunk that landed here.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t origin(std::uint32_t chunk) const {
    return (rank + ranks - 1 - hops(chunk)) % ranks;
  }

private:
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t hops(std::uint32_t chunk) const {
    return static_cast<std::int32_t>(chunk % static_cast<std::uint32_t>(ranks - 1));
  }
};

/// What a rank stores: chunks as rows, see `write_rows`.
struct stored_chunks {
  std::int32_t rank = 0;
  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t chunk, std::int32_t column) const {
    return bf16_bits(payload({rank, 0, chunk}, column));
  }
};
/// What must have landed on one.
struct landed_chunks {
  store_targets here;
  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t chunk, std::int32_t column) const {
    return stored_chunks{here.origin(static_cast<std::uint32_t>(chunk))}(chunk, column);
  }
};

/// A chunk for each warp in turn, eight times 16 bytes in flight for each thread.
template <class Targets>
__global__ void __launch_bounds__(512, 1) store_to_peers(const __grid_constant__ Targets to) {
  constexpr std::uint32_t lanes = 32, in_flight = Targets::chunk_bytes / (lanes * sizeof(uint4));
  const std::uint32_t lane = threadIdx.x % lanes;
  const std::uint32_t warps = gridDim.x * (blockDim.x / lanes);
  // Neighbouring chunks are of different blocks.
  for (std::uint32_t c = threadIdx.x / lanes * gridDim.x + blockIdx.x; c < to.chunks; c += warps) {
    const std::size_t at = c * Targets::chunk_bytes;
    const auto* const from = reinterpret_cast<const uint4*>(to.source + at) + lane;
    auto* const there = reinterpret_cast<uint4*>(to.landing[to.target(c)] + at) + lane;
    uint4 words[in_flight];
#pragma unroll
    for (std::uint32_t i = 0; i < in_flight; ++i) words[i] = from[i * lanes];
#pragma unroll
    for (std::uint32_t i = 0; i < in_flight; ++i) there[i * lanes] = words[i];
  }
}

template <class Nothing>
__global__ void empty_kernel(Nothing) {}

} // namespace bench
