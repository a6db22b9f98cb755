#pragma once

/// @file
/// The captured steps of one rank and one policy: one graph per bucket.
///
/// Two sets, since the two halves of a step may be of different sizes: attention runs at a size of
/// this rank, whatever all ranks do together at the one that they share. Under `lookup::max` both
/// sizes are the same, under `lookup::own_and_sum` the shared one is of the sum.

#include "traffic.hpp"

#include <dpgather/bucket_list.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

namespace serve {

class step_graphs {
public:
  /// Captures a graph for each size, largest first. `attention(size)` and `shared(size, traffic&)`
  /// enqueue their halves on `stream` and answer a status. Capture: no body may wait or allocate
  /// on the device.
  template <class Attention, class Shared>
  [[nodiscard]] dg::status capture(const dg::bucket_list& own_sizes,
                                   const dg::bucket_list& shared_sizes, cudaStream_t stream,
                                   Attention attention, Shared shared) {
    for (const std::int32_t size : shared_sizes.span()) moved_[size] = {};
    if (dg::status bad = attention_.capture(own_sizes, stream, attention); !bad) return bad;
    // The communicator counts a call when it is captured and never again: whoever replays adds it.
    return shared_.capture(shared_sizes, stream,
                           [&](std::int32_t size) { return shared(size, moved_[size]); });
  }

  [[nodiscard]] dg::status attention(std::int32_t size, cudaStream_t stream) noexcept {
    return attention_.launch(size, stream);
  }
  /// `moved` becomes what the graph's calls bring this rank. Errors: those of `graph_set::launch`.
  [[nodiscard]] dg::status shared(std::int32_t size, cudaStream_t stream, traffic& moved) noexcept {
    if (dg::status bad = shared_.launch(size, stream); !bad) return bad;
    if (const auto found = moved_.find(size); found != moved_.end()) moved = found->second;
    return {};
  }

  /// Before the communicator whose calls they hold.
  void clear() noexcept {
    attention_.clear();
    shared_.clear();
  }

private:
  dg::graph_set attention_, shared_;
  std::map<std::int32_t, traffic> moved_; // by shared size
};

} // namespace serve
