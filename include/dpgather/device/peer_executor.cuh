#pragma once

/// @file
/// Peer calls as kernels on CUDA streams. Needs nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/gpu_block.cuh>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

inline constexpr int most_peer_threads = 512;

/// One rank's call. Hidden, as all kernels of the library (see `run_job`).
template <class Job, class Rules>
__global__ void __launch_bounds__(most_peer_threads, 1) __attribute__((visibility("hidden")))
run_peer_job(const __grid_constant__ Job job, const __grid_constant__ Rules rules) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize(); // nothing unless launched as dependent
  cudaTriggerProgrammaticLaunchCompletion();
#endif
  __shared__ gpu_block_memory memory;
  gpu_block<Rules> block{blockIdx.x, gridDim.x, rules, memory};
  job(block);
}

} // namespace detail

/// How a peer call is launched.
struct peer_launch {
  std::int32_t blocks = 1;    ///< 1 to `max_peer_blocks`, equal on all ranks
  std::int32_t threads = 512; ///< of a block: 128, 256 or 512, equal on all ranks
  bool dependent = false;     ///< programmatic dependent launch: starts while its predecessor ends
  bool remote_domain = true;  ///< its system fences wait for no other kernel's stores
};

/// Launches one rank's call. Stream: ordered. Capture: safe. Errors: `native_error`.
template <class Job, class Rules = peer_rules>
[[nodiscard]] status launch_peer_job(const Job& job, const peer_launch& how, cudaStream_t stream,
                                     const Rules& rules = {}) noexcept {
  static_assert(sizeof(Job) + sizeof(Rules) <= 4096, "kernel parameters hold 4 KiB on every GPU");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{static_cast<unsigned>(how.blocks)};
  config.blockDim = dim3{static_cast<unsigned>(how.threads)};
  config.stream = stream;
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (how.remote_domain) {
    attributes[count].id = cudaLaunchAttributeMemSyncDomain;
    attributes[count++].val.memSyncDomain = cudaLaunchMemSyncDomainRemote;
  }
  if (how.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  return cuda_status(cudaLaunchKernelEx(&config, detail::run_peer_job<Job, Rules>, job, rules),
                     "launch_peer_job");
}

} // namespace dpgather::inline v0
