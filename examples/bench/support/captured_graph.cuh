#pragma once

/// @file
/// A stream's work as a CUDA graph, and what it consists of.

#include "check.cuh"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Short, for tables.
[[nodiscard]] inline const char* name_of(cudaGraphNodeType type) {
  switch (type) {
  case cudaGraphNodeTypeKernel:
    return "kernel";
  case cudaGraphNodeTypeMemcpy:
    return "copy";
  case cudaGraphNodeTypeMemset:
    return "set";
  case cudaGraphNodeTypeHost:
    return "host";
  case cudaGraphNodeTypeGraph:
    return "graph";
  case cudaGraphNodeTypeEmpty:
    return "empty";
  case cudaGraphNodeTypeWaitEvent:
    return "wait";
  case cudaGraphNodeTypeEventRecord:
    return "record";
  default:
    return "other";
  }
}

/// How many nodes of each type a graph has. Counts, not a sequence: CUDA promises no order.
class node_census {
public:
  node_census() = default;
  explicit node_census(const std::vector<cudaGraphNode_t>& nodes) {
    for (cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type{};
      must(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      ++of_type_[type];
    }
  }
  /// "20 kernel + 20 set".
  [[nodiscard]] std::string text() const {
    std::string out;
    for (const auto& [type, count] : of_type_)
      out += (out.empty() ? "" : " + ") + std::to_string(count) + " " + name_of(type);
    return out;
  }
  friend bool operator==(const node_census&, const node_census&) = default;

private:
  std::map<cudaGraphNodeType, std::size_t> of_type_;
};

/// Owns the executable graph. Destroyed when no replay is under way, and before the communicators
/// and the memory that it uses.
class captured_graph {
public:
  captured_graph() = default;
  /// Captures what `body()` enqueues on `stream`. Thread-local: other ranks capture and allocate at
  /// the same time. Uploaded, so that the first replay is like all others; wait before it.
  template <class Body>
  captured_graph(cudaStream_t stream, Body&& body) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
    body();
    cudaGraph_t graph = nullptr;
    must(cudaStreamEndCapture(stream, &graph), "end capture");
    std::size_t count = 0;
    must(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(count);
    if (count > 0) must(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
    nodes_ = node_census{nodes};
    must(cudaGraphInstantiate(&run_, graph, 0), "cudaGraphInstantiate");
    must(cudaGraphDestroy(graph), "cudaGraphDestroy");
    must(cudaGraphUpload(run_, stream), "cudaGraphUpload");
  }
  captured_graph(captured_graph&& other) noexcept
      : run_{std::exchange(other.run_, nullptr)}, nodes_{std::move(other.nodes_)} {}
  captured_graph& operator=(captured_graph&& other) noexcept {
    std::swap(run_, other.run_);
    std::swap(nodes_, other.nodes_);
    return *this;
  }
  ~captured_graph() {
    if (run_ != nullptr) (void)cudaGraphExecDestroy(run_);
  }

  void replay(cudaStream_t stream) const { must(cudaGraphLaunch(run_, stream), "cudaGraphLaunch"); }
  [[nodiscard]] const node_census& nodes() const { return nodes_; }

private:
  cudaGraphExec_t run_ = nullptr;
  node_census nodes_;
};

} // namespace bench
