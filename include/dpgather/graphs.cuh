#pragma once

/// @file
/// One CUDA graph per captured size, replayed for any counts. Needs the toolkit's headers, no nvcc.

#include <dpgather/bucket_list.hpp>
#include <dpgather/captured_graph.cuh>
#include <dpgather/config.hpp>
#include <dpgather/graph_cost.hpp>
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
    if (this != &other) graphs_ = std::exchange(other.graphs_, {});
    return *this;
  }
  ~graph_set() = default;

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
    std::vector<captured> made;
    made.reserve(static_cast<std::size_t>(sizes.size()));
    for (std::int32_t i = sizes.size() - 1; i >= 0; --i) {
      result<captured_graph> one = captured_graph::capture(
          stream, [&] { return body(sizes[i]); }, "graph_set::capture");
      if (!one) return one.status();
      made.push_back({.size = sizes[i], .graph = *std::move(one)});
    }
    std::ranges::reverse(made);
    graphs_ = std::move(made);
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
    if (status bad = graph->graph.launch(stream, "graph_set::launch"); !bad) return bad;
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
    return graph == nullptr ? 0 : static_cast<std::size_t>(graph->graph.cost().nodes);
  }
  /// What all graphs have cost.
  [[nodiscard]] graph_cost cost() const noexcept {
    graph_cost out;
    for (const captured& each : graphs_) out += each.graph.cost();
    return out;
  }

  /// Destroys all graphs: before the communicators whose calls they hold.
  void clear() noexcept { graphs_.clear(); }

private:
  struct captured {
    std::int32_t size = 0;
    captured_graph graph;
    std::uint64_t replays = 0;
  };

  [[nodiscard]] const captured* find(std::int32_t size) const noexcept {
    const auto at = std::ranges::lower_bound(graphs_, size, {}, &captured::size);
    return at == graphs_.end() || at->size != size ? nullptr : &*at;
  }

  std::vector<captured> graphs_; // ascending
};

} // namespace dpgather::inline v0
