#pragma once

/// @file
/// A dependency that waits for the end of what is before it.

#include "check.cuh"
#include "check_nccl.cuh"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace bench {

/// Whether NCCL's symmetric kernels may read their input before the kernel in front of them has
/// written it. Releases from 2.28 on launch them as programmatic dependents and leave out the wait
/// that belongs to it, until 2.30.7 ("Reintroduce cudaGridDependencySynchronize in built-in
/// symmetric kernels", github.com/NVIDIA/nccl, 2948185d). Behind cuBLAS's kernels of sm_90, which
/// let their dependents start early, rows came out wrong in one of the first replays.
[[nodiscard]] inline bool symmetric_kernels_do_not_wait() {
  int version = 0;
  must(ncclGetVersion(&version), "ncclGetVersion");
  return version >= 22800 && version < 23007;
}

/// What is captured next on `stream` starts when all before it is complete, programmatic dependents
/// too: between them comes a node that does nothing and that graphs don't launch. Nothing outside
/// captures.
inline void wait_for_completion(cudaStream_t stream) {
  cudaStreamCaptureStatus capturing{};
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* before = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  std::size_t count = 0;
  must(cudaStreamGetCaptureInfo(stream, &capturing, nullptr, &graph, &before, &edges, &count),
       "cudaStreamGetCaptureInfo");
  if (capturing != cudaStreamCaptureStatusActive || count == 0) return;
  cudaGraphNode_t nothing = nullptr;
  must(cudaGraphAddEmptyNode(&nothing, graph, before, count), "cudaGraphAddEmptyNode");
  must(cudaStreamUpdateCaptureDependencies(stream, &nothing, nullptr, 1,
                                           cudaStreamSetCaptureDependencies),
       "cudaStreamUpdateCaptureDependencies");
}

} // namespace bench
