#pragma once

/// @file
/// One CUDA graph per captured size, replayed for any counts. Needs the toolkit's headers, no nvcc.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dpgather::inline v0 {

/// The executable graphs of a ladder.
///
/// Ownership: owns graphs only. Whatever the captured calls use (buffers, `DpGather`,
/// communicators) is the engine's and must outlive it: one set of buffers of the largest size
/// serves all, since graphs of one set never run at the same time. Their bytes are known before the
/// first capture: `DpGather::workspace_bytes`, `planner::max_global_bytes`, and the largest size
/// itself. Threads: one at a time.
class graph_set {
public:
  graph_set() noexcept = default;
  graph_set(graph_set&& other) noexcept : graphs_{std::exchange(other.graphs_, {})} {}
  graph_set& operator=(graph_set&& other) noexcept {
    if (this != &other) {
      clear();
      graphs_ = std::exchange(other.graphs_, {});
    }
    return *this;
  }
  ~graph_set() { clear(); }

  /// Captures a graph for each size: `body(size)` enqueues the step on `stream` and answers a
  /// status. Largest first, as engines do, so that what the step allocates while captured is reused
  /// by the smaller ones. Capture mode is thread-local: other threads may go on allocating.
  /// Allocates, so it may throw `bad_alloc`; a body that throws leaves a usable stream and no
  /// graphs. Stream: must be capturable, not the null stream. Replaces what was captured before;
  /// after an error there are no graphs. Errors: the first one of `body`, `native_error`;
  /// `bad_buckets` for no sizes.
  template <class Body>
  [[nodiscard]] status capture(const bucket_list& sizes, cudaStream_t stream, Body&& body) {
    clear();
    if (sizes.empty()) return {.code = errc::bad_buckets, .about = subject::ladder, .limit = 1};
    graphs_.reserve(static_cast<std::size_t>(sizes.size()));
    for (std::int32_t i = sizes.size() - 1; i >= 0; --i) {
      if (status bad = capture_one(sizes[i], stream, body); !bad) {
        clear();
        return bad;
      }
    }
    std::ranges::sort(graphs_, {}, &captured::size);
    return {};
  }

  /// Replays the graph of a size. One launch. Errors: `graph_missing{size}`, `native_error`.
  [[nodiscard]] status launch(std::int32_t size, cudaStream_t stream) noexcept {
    auto* const graph = const_cast<captured*>(find(size)); // ours
    if (graph == nullptr)
      return {.code = errc::graph_missing,
              .about = subject::bucket,
              .value = size,
              .limit = graphs_.empty() ? 0 : graphs_.back().size,
              .where = "graph_set::launch"};
    if (status bad = cuda_status(cudaGraphLaunch(graph->run, stream), "graph_set::launch"); !bad)
      return bad;
    ++graph->replays;
    return {};
  }

  [[nodiscard]] std::size_t count() const noexcept { return graphs_.size(); }
  [[nodiscard]] bool has(std::int32_t size) const noexcept { return find(size) != nullptr; }
  /// Launches of a size so far; 0 for one that was never captured.
  [[nodiscard]] std::uint64_t replays(std::int32_t size) const noexcept {
    const captured* const graph = find(size);
    return graph == nullptr ? 0 : graph->replays;
  }
  /// Nodes of a size's graph; 0 for one that was never captured.
  [[nodiscard]] std::size_t nodes(std::int32_t size) const noexcept {
    const captured* const graph = find(size);
    return graph == nullptr ? 0 : graph->nodes;
  }

  /// Destroys all graphs: before the communicators whose calls they hold.
  void clear() noexcept {
    for (const captured& each : graphs_) (void)cudaGraphExecDestroy(each.run);
    graphs_.clear();
  }

private:
  struct captured {
    std::int32_t size = 0;
    cudaGraphExec_t run = nullptr;
    std::size_t nodes = 0;
    std::uint64_t replays = 0;
  };

  [[nodiscard]] const captured* find(std::int32_t size) const noexcept {
    const auto at = std::ranges::lower_bound(graphs_, size, {}, &captured::size);
    return at == graphs_.end() || at->size != size ? nullptr : &*at;
  }

  /// Ends a capture on every way out, or the stream stays unusable.
  class capture_scope {
  public:
    explicit capture_scope(cudaStream_t stream) noexcept : stream_{stream} {}
    capture_scope(const capture_scope&) = delete;
    capture_scope& operator=(const capture_scope&) = delete;
    ~capture_scope() {
      if (open_) (void)cudaStreamEndCapture(stream_, &graph_);
      if (graph_ != nullptr) (void)cudaGraphDestroy(graph_);
    }
    [[nodiscard]] cudaError_t begin() noexcept {
      const cudaError_t begun = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
      open_ = begun == cudaSuccess;
      return begun;
    }
    [[nodiscard]] cudaError_t end() noexcept {
      open_ = false;
      return cudaStreamEndCapture(stream_, &graph_);
    }
    [[nodiscard]] cudaGraph_t graph() const noexcept { return graph_; }

  private:
    cudaStream_t stream_;
    cudaGraph_t graph_ = nullptr;
    bool open_ = false;
  };

  template <class Body>
  [[nodiscard]] status capture_one(std::int32_t size, cudaStream_t stream, Body& body) {
    constexpr const char* where = "graph_set::capture";
    capture_scope scope{stream};
    if (status bad = cuda_status(scope.begin(), where); !bad) return bad;
    const status enqueued = body(size);
    status done = cuda_status(scope.end(), where);
    if (!enqueued.ok()) return enqueued; // says more than the capture that it spoilt
    captured made{.size = size};
    if (done.ok())
      done = cuda_status(cudaGraphGetNodes(scope.graph(), nullptr, &made.nodes), where);
    if (done.ok()) done = cuda_status(cudaGraphInstantiate(&made.run, scope.graph(), 0), where);
    // Now and not at the first replay, which is on the step path.
    if (done.ok()) done = cuda_status(cudaGraphUpload(made.run, stream), where);
    if (done.ok()) {
      graphs_.push_back(made);
    } else if (made.run != nullptr) {
      (void)cudaGraphExecDestroy(made.run);
    }
    return done;
  }

  std::vector<captured> graphs_; // ascending, once all are captured
};

} // namespace dpgather::inline v0
