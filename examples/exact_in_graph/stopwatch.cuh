#pragma once

/// @file
/// Replays between two events of a stream, on all ranks together.

#include "../bench/support/statistics.hpp"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace exact {

namespace dg = dpgather;

class stopwatch {
public:
  static constexpr int samples = 11;
  static constexpr int replays = 10; ///< of the graph, in a sample

  stopwatch() {
    must(cudaEventCreateWithFlags(&begin_, cudaEventDefault));
    must(cudaEventCreateWithFlags(&end_, cudaEventDefault));
  }
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;
  ~stopwatch() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }

  /// Microseconds of one replay: the slowest rank of each sample, the median of the samples.
  /// Collective. `replay()` enqueues on `stream`, `wait()` waits for it with a deadline.
  template <class Replay, class Wait>
  [[nodiscard]] double time(dg::host_communicator& ranks, cudaStream_t stream, Replay replay,
                            Wait wait) {
    std::vector<double> slowest;
    std::vector<double> all(static_cast<std::size_t>(ranks.size()));
    for (int s = -1; s < samples; ++s) { // the first one warms up
      dg::throw_if_failed(ranks.barrier());
      dg::throw_if_failed(replay()); // brings the GPUs together, and is not timed
      must(cudaEventRecord(begin_, stream));
      for (int i = 0; i < replays; ++i) dg::throw_if_failed(replay());
      must(cudaEventRecord(end_, stream));
      dg::throw_if_failed(wait());
      float milliseconds = 0;
      must(cudaEventElapsedTime(&milliseconds, begin_, end_));
      const double mine = double{milliseconds} * 1000 / replays;
      dg::throw_if_failed(ranks.all_gather(&mine, all.data(), sizeof mine));
      if (s >= 0) slowest.push_back(*std::ranges::max_element(all));
    }
    return bench::summarize(slowest).median;
  }

private:
  static void must(cudaError_t code) { dg::throw_if_failed(dg::cuda_status(code, "stopwatch")); }
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

} // namespace exact
