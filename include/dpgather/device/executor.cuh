#pragma once

/// @file
/// Jobs as kernels on CUDA streams. The only header that launches anything; needs nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/executor.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

/// All kernels of the library are instances of this one. Hidden: two shared objects of a process
/// that embed the library must not answer for each other's kernels, whose weak symbols would merge
/// and then silently not launch.
template <class Job, int Threads>
__global__ void __launch_bounds__(Threads) __attribute__((visibility("hidden")))
run_job(const __grid_constant__ Job job) {
  job(blockIdx.y, worker_id{std::uint64_t{blockIdx.x} * Threads + threadIdx.x,
                            std::uint64_t{gridDim.x} * Threads});
}

} // namespace detail

template <>
struct executor<cudaStream_t> {
  static constexpr bool has_own_memory = true;
  static constexpr int threads = 256;
  /// A few waves on any GPU of today; more blocks only queue.
  static constexpr std::uint64_t most_blocks = 1024;
  /// Words that a thread moves before another block pays off.
  static constexpr std::uint64_t words_per_thread = 4;

  template <device_job Job>
  [[nodiscard]] static status run(const Job& job, std::int32_t blocks,
                                  cudaStream_t stream) noexcept {
    const std::uint64_t words = job.words();
    const std::uint32_t parts = job.parts();
    if (words == 0 || parts == 0) return {};
    std::uint64_t wide = (words + threads * words_per_thread - 1) / (threads * words_per_thread);
    const std::uint64_t most = blocks > 0 ? static_cast<std::uint64_t>(blocks) : most_blocks;
    const std::uint64_t most_wide = parts < most ? most / parts : 1; // a part needs a block
    static_assert(sizeof(Job) <= 4096, "kernel parameters hold 4 KiB on every GPU");
    if (wide > most_wide) wide = most_wide;
    cudaLaunchConfig_t how{};
    how.gridDim = dim3{static_cast<unsigned>(wide), parts};
    how.blockDim = dim3{threads};
    how.stream = stream;
    return cuda_status(cudaLaunchKernelEx(&how, detail::run_job<Job, threads>, job), "launch");
  }
  [[nodiscard]] static result<bool> is_capturing(cudaStream_t stream) noexcept {
    return dpgather::is_capturing(stream);
  }
  [[nodiscard]] static status check_memory(const void* pointer) noexcept {
    return check_device_memory(pointer);
  }
  DPGATHER_HOST_DEVICE static void set_conditional([[maybe_unused]] unsigned long long handle,
                                                   [[maybe_unused]] unsigned value) noexcept {
#if defined(__CUDA_ARCH__)
    cudaGraphSetConditional(handle, value);
#endif
  }
};

} // namespace dpgather::inline v0
