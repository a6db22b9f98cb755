#pragma once

/// @file
/// Jobs on the streams of the fake: what `device/executor.cuh` does with kernels. Include it
/// instead.

#include "support/fake_cuda/fake_cuda.hpp"

#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/executor.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>
#include <typeinfo>

namespace dpgather::inline v0 {

template <>
struct executor<cudaStream_t> {
  static constexpr bool has_own_memory = true;
  /// For an `nccl_owner`. The fake connects nothing, and sums slowly under sanitizers.
  static constexpr std::size_t warm_up_bytes = 4096;

  /// Three workers, in an order that no body may depend on.
  template <device_job Job>
  [[nodiscard]] static status run(const Job& job, std::int32_t, cudaStream_t stream) noexcept {
    if (job.words() == 0 || job.parts() == 0) return {};
    return cuda_status(fake_cuda::enqueue(stream, typeid(Job).name(),
                                          [job] {
                                            for (std::uint32_t part = job.parts(); part-- > 0;) {
                                              for (const std::uint64_t w : {1, 2, 0})
                                                job(part, worker_id{w, 3});
                                            }
                                          }),
                       "launch");
  }
  [[nodiscard]] static result<bool> is_capturing(cudaStream_t stream) noexcept {
    return dpgather::is_capturing(stream);
  }
  [[nodiscard]] static status check_memory(const void* pointer) noexcept {
    return check_device_memory(pointer);
  }
  static void set_conditional(unsigned long long handle, unsigned value) noexcept {
    fake_cuda::set_conditional(handle, value);
  }
};

} // namespace dpgather::inline v0
