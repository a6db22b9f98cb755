#pragma once

/// @file
/// How many live graphs hold calls of a communicator, so that destroying it under them is an error
/// and not a hang. Needs the toolkit's headers, no nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

namespace dpgather::inline v0 {

/// Counts graphs through CUDA's user objects: a graph, and every executable made of it, holds one
/// until it is destroyed. CUDA may let go a little later than the destroying call returns.
class graph_count {
public:
  [[nodiscard]] std::int32_t alive() const noexcept { return alive_->load(); }

  /// Ties the graph that `stream` is being captured into to this count; nothing outside a capture,
  /// and once for each capture. Errors: `native_error`.
  [[nodiscard]] status hold(cudaStream_t stream) noexcept {
    constexpr const char* where = "graph_count";
    cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
    const cudaError_t asked = cudaStreamGetCaptureInfo(stream, &now, &id, &graph);
#else
    const cudaError_t asked = cudaStreamGetCaptureInfo_v2(stream, &now, &id, &graph);
#endif
    if (status bad = cuda_status(asked, where); !bad) return bad;
    if (now != cudaStreamCaptureStatusActive || id == last_capture_) return {};
    auto* const held = new (std::nothrow) std::shared_ptr<std::atomic<std::int32_t>>{alive_};
    if (held == nullptr) return cuda_status(cudaErrorMemoryAllocation, where);
    const auto let_go = [](void* data) {
      auto* const counted = static_cast<std::shared_ptr<std::atomic<std::int32_t>>*>(data);
      counted->get()->fetch_sub(1);
      delete counted;
    };
    cudaUserObject_t object = nullptr;
    if (status bad = cuda_status(
            cudaUserObjectCreate(&object, held, let_go, 1, cudaUserObjectNoDestructorSync), where);
        !bad) {
      delete held;
      return bad;
    }
    alive_->fetch_add(1);
    const cudaError_t tied = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
    if (tied == cudaSuccess) {
      last_capture_ = id;
    } else {
      (void)cudaUserObjectRelease(object, 1); // and with it the count
    }
    return cuda_status(tied, where);
  }

private:
  // Shared with the graphs: one that outlives the communicator finds its number still there.
  std::shared_ptr<std::atomic<std::int32_t>> alive_ =
      std::make_shared<std::atomic<std::int32_t>>(0);
  unsigned long long last_capture_ = 0;
};

} // namespace dpgather::inline v0
