#pragma once

/// @file
/// A SWITCH node in a graph that is being captured: one of several bodies runs, by a total that a
/// kernel reads in device memory. Needs the toolkit's headers, 13.0 or later.

#include <dpgather/bucket_list.hpp>
#include <dpgather/captured_graph.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/executor.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <dpgather/device/executor.cuh>
#endif

namespace dpgather::inline v0 {

/// Most bodies of one SWITCH node: their sizes travel in a kernel's parameters.
inline constexpr std::int32_t max_switch_bodies = 512;

/// Sets a conditional to the index of the smallest size that holds the total, or of the largest.
/// `RunOn`: the executor that it runs on.
template <class RunOn>
struct choose_body {
  const std::int64_t* total = nullptr; ///< rows, in device memory; read when the kernel runs
  unsigned long long handle = 0;
  std::int32_t rows_per_request = 1;
  std::int32_t count = 0;
  std::int32_t sizes[max_switch_bodies]{}; ///< requests, ascending

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    if (worker.index == 0) RunOn::set_conditional(handle, static_cast<unsigned>(index()));
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t index() const noexcept {
    std::int32_t low = 0, high = count - 1;
    while (low < high) {
      const std::int32_t middle = (low + high) / 2;
      if (std::int64_t{sizes[middle]} * rows_per_request >= *total) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

/// Captures a kernel that chooses and a SWITCH node with a body for each of `sizes`, as the next
/// work of `stream`, which is being captured. `body(size, side)` enqueues that body on `side`, and
/// answers a status; `side` is a stream of the same device that is not being captured. The total is
/// read where the stream stands: a gather before it may have brought it. A total above all sizes
/// takes the largest. Answers the number of nodes in all bodies.
///
/// Bodies hold kernels (with launch attributes, not cooperative ones), memsets and copies on the
/// device, child graphs and further conditionals; no host functions, no events, no memory nodes,
/// and all of one context. A graph with such a node cannot be a child graph, and is instantiated
/// once. Gathers and combines of `comm::peer` may be in bodies: since the total is equal on all
/// ranks, all of them run the body of one size, whose calls have one shape.
/// Errors: `bad_buckets` for no sizes or more than `max_switch_bodies`; `null_pointer` for no
/// total; the bodies' own; `native_error`. Source: CUDA runtime API, `cudaConditionalNodeParams`.
template <class Body, class RunOn = executor<cudaStream_t>>
[[nodiscard]] result<std::int64_t>
capture_switch(const bucket_list& sizes, const std::int64_t* total, std::int32_t rows_per_request,
               cudaStream_t stream, cudaStream_t side, Body&& body) {
  constexpr const char* where = "capture_switch";
  if (sizes.empty() || sizes.size() > max_switch_bodies)
    return status{.code = errc::bad_buckets,
                  .about = subject::ladder,
                  .value = sizes.size(),
                  .limit = max_switch_bodies,
                  .where = where};
  if (total == nullptr)
    return status{.code = errc::null_pointer, .about = subject::counts, .where = where};

  cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* before = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  std::size_t count = 0;
  const auto look = [&]() noexcept {
    status asked = cuda_status(
        cudaStreamGetCaptureInfo(stream, &now, nullptr, &graph, &before, &edges, &count), where);
    if (asked.ok() && now != cudaStreamCaptureStatusActive)
      asked = cuda_status(cudaErrorIllegalState, where);
    return asked;
  };
  if (status bad = look(); !bad) return bad;
  choose_body<RunOn> choose{
      .total = total, .rows_per_request = rows_per_request, .count = sizes.size()};
  for (std::int32_t i = 0; i < sizes.size(); ++i) choose.sizes[i] = sizes[i];
  cudaGraphConditionalHandle handle{};
  if (status bad = cuda_status(cudaGraphConditionalHandleCreate(&handle, graph, 0, 0), where); !bad)
    return bad;
  choose.handle = handle;
  if (status bad = RunOn::run(choose, 1, stream); !bad) return bad;

  if (status bad = look(); !bad) return bad;
  cudaGraphNodeParams params{};
  params.type = cudaGraphNodeTypeConditional;
  params.conditional.handle = handle;
  params.conditional.type = cudaGraphCondTypeSwitch;
  params.conditional.size = static_cast<unsigned>(sizes.size());
  cudaGraphNode_t node = nullptr;
  if (status bad =
          cuda_status(cudaGraphAddNode(&node, graph, before, edges, count, &params), where);
      !bad)
    return bad;
  if (status bad = cuda_status(cudaStreamUpdateCaptureDependencies(
                                   stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies),
                               where);
      !bad)
    return bad;

  std::int64_t nodes = 0;
  for (std::int32_t i = 0; i < sizes.size(); ++i) {
    detail::capture_scope scope{side};
    if (status bad = cuda_status(scope.begin_in(params.conditional.phGraph_out[i]), where); !bad)
      return bad;
    const status enqueued = body(sizes[i], side);
    const status ended = cuda_status(scope.end(), where);
    if (!enqueued.ok()) return enqueued;
    if (!ended.ok()) return ended;
    std::size_t inside = 0;
    if (status bad = cuda_status(
            cudaGraphGetNodes(params.conditional.phGraph_out[i], nullptr, &inside), where);
        !bad)
      return bad;
    nodes += static_cast<std::int64_t>(inside);
  }
  return nodes;
}

} // namespace dpgather::inline v0
