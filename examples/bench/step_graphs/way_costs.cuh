#pragma once

/// @file
/// What each way of decoupled buckets costs on one GPU: graphs, captures and memory, and what it
/// adds to a step of kernels that take a fixed time.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/statistics.hpp"
#include "../support/watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// One part of a layer: a block that is busy for some cycles.
struct busy_part {
  std::int64_t cycles = 0;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id) const noexcept {
#if defined(__CUDA_ARCH__)
    const std::int64_t began = clock64();
    while (clock64() - began < cycles) {
    }
#endif
  }
};

/// A step whose parts take the same time at every size, so that only the ways differ.
struct busy_step {
  std::int32_t count = 1;
  std::int64_t cycles = 0;

  [[nodiscard]] std::int32_t layers() const { return count; }
  [[nodiscard]] dg::status local(std::int32_t, std::int32_t, cudaStream_t stream) const {
    return dg::executor<cudaStream_t>::run(busy_part{cycles}, 1, stream);
  }
  [[nodiscard]] dg::status shared(std::int32_t, std::int32_t, cudaStream_t stream) const {
    return dg::executor<cudaStream_t>::run(busy_part{cycles}, 1, stream);
  }
};

struct way_cost {
  std::string name;
  dg::graph_report report;
  double step_us = 0; ///< GPU time of a step, replays back to back
  double host_us = 0; ///< of a launch, while the GPU has little to do
};

struct way_options {
  std::int32_t replays = 10;
  std::int32_t samples = 11;
};

/// `total`: rows of all ranks, in device memory, for a SWITCH.
template <class Way>
[[nodiscard]] way_cost cost_of(busy_step step, const dg::graph_ladders& ladders,
                               const std::int64_t* total, const dg::graph_sizes& sizes,
                               const way_options& how, cudaStream_t stream) {
  watchdog::step(Way::name);
  dg::step_graphs<Way> graphs{ladders, {.total = total}};
  must(graphs.capture(step, stream), "capture");
  cudaEvent_t begun = nullptr, ended = nullptr;
  must(cudaEventCreate(&begun), "cudaEventCreate");
  must(cudaEventCreate(&ended), "cudaEventCreate");
  std::vector<double> on_gpu, on_host;
  for (std::int32_t s = 0; s < how.samples; ++s) {
    must(graphs.launch(sizes, stream), "launch"); // warm
    must(cudaEventRecord(begun, stream), "cudaEventRecord");
    for (std::int32_t i = 0; i < how.replays; ++i) must(graphs.launch(sizes, stream), "launch");
    must(cudaEventRecord(ended, stream), "cudaEventRecord");
    must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begun, ended), "cudaEventElapsedTime");
    on_gpu.push_back(double{ms} * 1000 / how.replays);
    const auto from = std::chrono::steady_clock::now();
    must(graphs.launch(sizes, stream), "launch");
    on_host.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - from).count());
    must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
  must(cudaEventDestroy(begun), "cudaEventDestroy");
  must(cudaEventDestroy(ended), "cudaEventDestroy");
  return {Way::name, graphs.report(), summarize(on_gpu).median, summarize(on_host).median};
}

} // namespace bench
