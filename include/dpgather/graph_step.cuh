#pragma once

/// @file
/// A step as an engine describes it for `step_graphs`, and how its parts get into a graph. Needs
/// the toolkit's headers, 13.0 or later; nvcc for SWITCH nodes.

#include <dpgather/config.hpp>
#include <dpgather/graph_cost.hpp>
#include <dpgather/graph_sizes.hpp>
#include <dpgather/graph_switch.cuh>
#include <dpgather/graph_ways.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <concepts>
#include <cstdint>

namespace dpgather::inline v0 {

/// A step as an engine describes it, once for all ways.
///
/// - `layers()`: how often it has the two parts below; the same in every call.
/// - `local(layer, own, stream)`: what depends on this rank's bucket of `own` requests: attention.
/// - `shared(layer, size, stream)`: what depends on the sum's bucket of `size` requests: gather,
///   FFN, combine. Calls take `DpGather::capture_plan(size)`; outside captures (`run`) with the
///   counts of the step, `step_plan::with_counts_of`, in captures without them. Where no host knows
///   the sum (`counts::exchanged`) the gather, which brings it, is the end of `local`: its shape
///   and the combine's are the capacities', so they take the plan of any step.
/// - optionally `finish(own, stream)`: behind the last layer, of the own bucket: logits.
///
/// Each enqueues on the `stream` it is given, which need not be the one that the graph is launched
/// on, and answers a status. They are called once for each graph that they are in, in any order,
/// and may throw. Local tensors hold the rows of the largest own bucket, see `DpGather`.
template <class Step>
concept graph_step = requires(Step& step, const Step& same, std::int32_t n, cudaStream_t stream) {
  { same.layers() } -> std::convertible_to<std::int32_t>;
  { step.local(n, n, stream) } -> std::same_as<status>;
  { step.shared(n, n, stream) } -> std::same_as<status>;
};

/// What `step_graphs` is told besides the sizes.
struct step_graph_options {
  graph_budget budget{};
  /// Rows of all ranks, in device memory: `&dp.live_counts()->total`. For `switch_on_sum`.
  const std::int64_t* total = nullptr;
  std::int32_t rows_per_request = 1; ///< tokens per request
};

namespace detail {

template <class Step>
inline constexpr bool finishes = requires(Step& step, cudaStream_t stream) {
  { step.finish(std::int32_t{}, stream) } -> std::same_as<status>;
};
template <graph_step Step>
[[nodiscard]] step_outline outline_of(const Step& step) {
  return {.layers = static_cast<std::int32_t>(step.layers()), .finishes = finishes<Step>};
}

/// What a way records a graph's parts with, on the stream that is being captured.
template <graph_step Step>
struct step_recorder {
  Step& step;
  const graph_ladders& ladders;
  const step_graph_options& options;
  cudaStream_t stream;
  cudaStream_t side; ///< for bodies of SWITCH nodes
  std::int64_t inner_nodes = 0;

  [[nodiscard]] status local(std::int32_t layer, std::int32_t own) {
    return step.local(layer, own, stream);
  }
  [[nodiscard]] status shared(std::int32_t layer, std::int32_t size) {
    return step.shared(layer, size, stream);
  }
  [[nodiscard]] status switched(std::int32_t layer) {
    const result<std::int64_t> nodes = capture_switch(
        ladders.shared, options.total, options.rows_per_request, stream, side,
        [&](std::int32_t size, cudaStream_t on) { return step.shared(layer, size, on); });
    if (!nodes) return nodes.status();
    inner_nodes += *nodes;
    return {};
  }
  [[nodiscard]] status finish([[maybe_unused]] std::int32_t own) {
    if constexpr (finishes<Step>) {
      return step.finish(own, stream);
    } else {
      return {};
    }
  }
};

} // namespace detail

} // namespace dpgather::inline v0
