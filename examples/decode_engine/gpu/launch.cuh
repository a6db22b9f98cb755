#pragma once

/// @file
/// Launches that may have nothing to do, and statuses in a row.

#include "../../serve/cuda_resources.cuh"

#include <dpgather/status.hpp>

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

namespace engine::gpu {

namespace dg = dpgather;

/// What is enqueued on one stream, up to the first failure. Capture: safe.
class enqueuer {
public:
  explicit enqueuer(cudaStream_t stream) noexcept : stream_{stream} {}

  /// At least `threads` threads of a kernel; none for no rows.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), std::int64_t threads,
              Arguments&&... arguments) noexcept {
    if (done_.ok() && threads > 0)
      done_ = serve::launch(kernel, threads, stream_, std::forward<Arguments>(arguments)...);
  }
  /// A call that answers a status.
  template <class Call>
  void call(Call what) noexcept {
    if (done_.ok()) done_ = what();
  }
  void set(void* data, int byte, std::size_t bytes) noexcept {
    if (done_.ok() && bytes > 0)
      done_ = dg::cuda_status(cudaMemsetAsync(data, byte, bytes, stream_), "cudaMemsetAsync");
  }

  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_; }
  [[nodiscard]] const dg::status& done() const noexcept { return done_; }

private:
  cudaStream_t stream_;
  dg::status done_;
};

} // namespace engine::gpu
