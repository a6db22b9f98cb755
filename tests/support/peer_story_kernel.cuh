#pragma once

/// @file
/// The kernel that tells a peer story: virtual ranks as block groups of one cooperative launch; and
/// how many blocks a GPU holds of it.

#include "must.cuh"
#include "peer_story.hpp"

#include <dpgather/device/gpu_block.cuh>

#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace test_support {

inline constexpr int story_threads = 512;

template <class Rules>
struct telling_gpu_block : dg::gpu_block<Rules> {
  using base = dg::gpu_block<Rules>;
  using base::base;
  __device__ telling_gpu_block(const base& other) : base{other} {}
  [[nodiscard]] __device__ telling_gpu_block narrowed(std::uint32_t count) const {
    return base::narrowed(count);
  }
  __device__ static std::uint64_t count_wrong(std::uint64_t* wrong) {
    return atomicAdd(reinterpret_cast<unsigned long long*>(wrong), 1ull);
  }
};

/// The rules as one rank has them: those with a `rank` hold for one rank only.
template <class Rules>
[[nodiscard]] __device__ Rules rules_of_rank(const Rules& rules, std::int32_t rank) {
  Rules out = rules;
  if constexpr (requires { out.rank; }) out.rank = rank;
  return out;
}

/// Brings the blocks of one rank together, as the end of a kernel does.
struct rank_barrier {
  std::uint32_t* counter; // of the rank
  std::uint32_t blocks;
  mutable std::uint32_t target = 0;

  __device__ void operator()() const {
    __syncthreads();
    target += blocks;
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(counter, 1u);
      while (static_cast<std::int32_t>(*static_cast<volatile std::uint32_t*>(counter) - target) < 0)
        ;
      __threadfence();
    }
    __syncthreads();
  }
};

template <class Sum, class Rules>
__global__ void __launch_bounds__(story_threads, 1)
    tell_story(const story_rank* ranks, std::uint32_t blocks, const story_call* calls,
               std::uint32_t call_count, std::uint32_t* counters, Rules rules) {
  __shared__ dg::gpu_block_memory memory;
  if (call_count == 0) return; // it was only asked whether so many blocks fit
  const story_rank& rank = ranks[blockIdx.x / blocks];
  const Rules own = rules_of_rank(rules, rank.lane.rank());
  telling_gpu_block<Rules> block{blockIdx.x % blocks, blocks, own, memory};
  const rank_barrier meet{counters + blockIdx.x / blocks, blocks};
  story_teller<Sum, telling_gpu_block<Rules>, const rank_barrier&> teller{block, rank, meet};
  for (std::uint32_t c = 0; c < call_count; ++c) teller.tell(calls[c]);
}

/// What a story's kernel needs, and how much room a GPU has for it.
template <class Sum, class Rules>
struct story_room {
  int gpu = 0, processors = 0, on_each = 0; ///< blocks on each processor
  cudaFuncAttributes kernel{};

  [[nodiscard]] static story_room of(int gpu) {
    story_room out;
    out.gpu = gpu;
    cuda_must(cudaSetDevice(gpu), "device");
    cuda_must(cudaDeviceGetAttribute(&out.processors, cudaDevAttrMultiProcessorCount, gpu),
              "processors");
    cuda_must(cudaFuncGetAttributes(&out.kernel, tell_story<Sum, Rules>), "attributes");
    cuda_must(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&out.on_each, tell_story<Sum, Rules>,
                                                            story_threads, 0),
              "occupancy");
    return out;
  }
  /// Whether so many blocks run at once, as blocks that wait for each other must. Tools that
  /// instrument kernels leave less room, and what they take themselves may be missing in the
  /// occupancy: only a launch, here of no calls, says for certain.
  [[nodiscard]] bool holds(std::uint32_t blocks) const {
    if (blocks > static_cast<std::uint32_t>(processors * on_each)) return false;
    const story_rank* ranks = nullptr;
    const story_call* calls = nullptr;
    std::uint32_t* counters = nullptr;
    std::uint32_t of_rank = 1, call_count = 0;
    Rules rules{};
    void* arguments[] = {&ranks, &of_rank, &calls, &call_count, &counters, &rules};
    cuda_must(cudaSetDevice(gpu), "device");
    const cudaError_t launched = cudaLaunchCooperativeKernel(
        tell_story<Sum, Rules>, dim3{blocks}, dim3{story_threads}, arguments, 0, nullptr);
    if (launched == cudaErrorCooperativeLaunchTooLarge ||
        launched == cudaErrorLaunchOutOfResources) {
      (void)cudaGetLastError();
      return false;
    }
    cuda_must(launched, "launch of no calls");
    cuda_must(cudaDeviceSynchronize(), "no calls");
    return true;
  }
  [[nodiscard]] std::string text() const {
    return "GPU " + std::to_string(gpu) + ": " + std::to_string(processors) + " processors, " +
           std::to_string(on_each) + " blocks on each; " + std::to_string(kernel.numRegs) +
           " registers, " + std::to_string(kernel.localSizeBytes) + " local and " +
           std::to_string(kernel.sharedSizeBytes) + " shared bytes, at most " +
           std::to_string(kernel.maxThreadsPerBlock) + " threads, needs " +
           std::to_string(story_threads);
  }
};

/// Leaves as many blocks of each rank as every GPU holds, and says so when those are fewer than
/// were asked for. Throws when there is no room for one.
template <class Sum, class Rules>
void limit_blocks(story_options& with, int gpus) {
  const std::int32_t wanted = with.blocks;
  for (int g = 0; g < gpus; ++g) {
    const std::int32_t here = (with.dp_size * with.tp_size - g + gpus - 1) / gpus; // see gpu_stage
    if (here <= 0) break;
    const auto room = story_room<Sum, Rules>::of(g);
    while (with.blocks > 0 && !room.holds(static_cast<std::uint32_t>(here * with.blocks)))
      --with.blocks;
    if (with.blocks == 0)
      throw std::runtime_error{"no room for one block of each of " + std::to_string(here) +
                               " ranks. " + room.text()};
    if (with.blocks < wanted)
      MESSAGE("blocks of a rank: ", with.blocks, ", not ", wanted, ": ", here, " ranks on ",
              room.text());
  }
}

} // namespace test_support
