#pragma once

/// @file
/// One executable CUDA graph and what it cost. Needs the toolkit's headers, no nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/graph_cost.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace dpgather::inline v0 {

namespace detail {

/// A capture of one stream, ended on every way out, or the stream stays unusable. Owns the graph,
/// unless it captures into one that belongs to somebody.
class capture_scope {
public:
  explicit capture_scope(cudaStream_t stream) noexcept : stream_{stream} {}
  capture_scope(const capture_scope&) = delete;
  capture_scope& operator=(const capture_scope&) = delete;
  ~capture_scope() {
    if (open_) (void)cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr && owns_) (void)cudaGraphDestroy(graph_);
    if (open_) (void)cudaGetLastError(); // what has spoilt the capture is told already
  }

  [[nodiscard]] cudaError_t begin() noexcept {
    return opened(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  }
  /// Into a graph without nodes that is another one's.
  [[nodiscard]] cudaError_t begin_in(cudaGraph_t body) noexcept {
    owns_ = false;
    return opened(cudaStreamBeginCaptureToGraph(stream_, body, nullptr, nullptr, 0,
                                                cudaStreamCaptureModeThreadLocal));
  }
  [[nodiscard]] cudaError_t end() noexcept {
    open_ = false;
    return cudaStreamEndCapture(stream_, &graph_);
  }
  [[nodiscard]] cudaGraph_t graph() const noexcept { return graph_; }

private:
  [[nodiscard]] cudaError_t opened(cudaError_t begun) noexcept {
    open_ = begun == cudaSuccess;
    return begun;
  }

  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool open_ = false;
  bool owns_ = true;
};

} // namespace detail

/// An executable graph, ready to be launched. Ownership: owns it alone; whatever its calls use is
/// the engine's and must outlive it. Threads: one at a time.
class captured_graph {
public:
  captured_graph() noexcept = default;
  captured_graph(captured_graph&& other) noexcept
      : run_{std::exchange(other.run_, nullptr)}, cost_{std::exchange(other.cost_, {})} {}
  captured_graph& operator=(captured_graph&& other) noexcept {
    if (this != &other) {
      reset();
      run_ = std::exchange(other.run_, nullptr);
      cost_ = std::exchange(other.cost_, {});
    }
    return *this;
  }
  ~captured_graph() { reset(); }

  /// Captures what `body()` enqueues on `stream`; it answers a status. Capture mode is
  /// thread-local: other threads may go on allocating. A body that throws leaves a usable stream.
  /// The graph is uploaded now and not at its first launch, which is on the step path.
  /// Stream: must be capturable, not the null stream. Errors: the body's, which says more than the
  /// capture that it spoilt; `native_error`.
  template <class Body>
  [[nodiscard]] static result<captured_graph> capture(cudaStream_t stream, Body&& body,
                                                      const char* where = "capture") {
    using clock = std::chrono::steady_clock;
    const auto began = clock::now();
    const std::int64_t had = free_bytes();
    detail::capture_scope scope{stream};
    if (status bad = cuda_status(scope.begin(), where); !bad) return bad;
    const status enqueued = body();
    const status ended = cuda_status(scope.end(), where);
    if (!enqueued.ok()) return enqueued;
    if (!ended.ok()) return ended;
    captured_graph made;
    std::size_t nodes = 0;
    if (status bad = cuda_status(cudaGraphGetNodes(scope.graph(), nullptr, &nodes), where); !bad)
      return bad;
    if (status bad = cuda_status(cudaGraphInstantiate(&made.run_, scope.graph(), 0), where); !bad)
      return bad;
    if (status bad = cuda_status(cudaGraphUpload(made.run_, stream), where); !bad) return bad;
    made.cost_.graphs = 1;
    made.cost_.nodes = static_cast<std::int64_t>(nodes);
    const std::int64_t has = free_bytes();
    made.cost_.bytes = had < 0 || has < 0 ? 0 : had - has;
    made.cost_.capture_us =
        std::chrono::duration_cast<std::chrono::microseconds>(clock::now() - began).count();
    return result<captured_graph>{std::move(made)};
  }

  /// One launch. Stream: ordered. Errors: `native_error`.
  [[nodiscard]] status launch(cudaStream_t stream, const char* where = "launch") const noexcept {
    return cuda_status(cudaGraphLaunch(run_, stream), where);
  }

  [[nodiscard]] explicit operator bool() const noexcept { return run_ != nullptr; }
  [[nodiscard]] const graph_cost& cost() const noexcept { return cost_; }
  /// Adds nodes that the graph holds inside nodes.
  void add_inner_nodes(std::int64_t count) noexcept { cost_.nodes += count; }

  void reset() noexcept {
    if (run_ != nullptr) (void)cudaGraphExecDestroy(run_);
    run_ = nullptr;
    cost_ = {};
  }

private:
  /// -1 where it cannot be told.
  [[nodiscard]] static std::int64_t free_bytes() noexcept {
    std::size_t free = 0, all = 0;
    if (!cuda_status(cudaMemGetInfo(&free, &all), "").ok()) return -1;
    return static_cast<std::int64_t>(free);
  }

  cudaGraphExec_t run_ = nullptr;
  graph_cost cost_;
};

} // namespace dpgather::inline v0
