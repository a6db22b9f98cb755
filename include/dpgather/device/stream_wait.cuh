#pragma once

/// @file
/// Waiting for a stream on the host, with a deadline.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace dpgather::inline v0 {

/// Polls until `stream` is idle. `poll` is asked now and then and may end the wait with an error.
/// Errors: `timeout{limit = microseconds}`, `native_error`, those of `poll`.
template <class Poll>
[[nodiscard]] status wait_for(cudaStream_t stream, std::int64_t timeout_ns, Poll poll) noexcept {
  using clock = std::chrono::steady_clock;
  // Capped: a deadline far away must not overflow the clock's own arithmetic.
  constexpr std::int64_t a_year = 31'536'000'000'000'000;
  const clock::time_point end =
      clock::now() + std::chrono::nanoseconds{timeout_ns < a_year ? timeout_ns : a_year};
  for (std::uint64_t looked = 0;; ++looked) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return {};
    if (state != cudaErrorNotReady) return cuda_status(state, "wait");
    (void)cudaGetLastError(); // "not ready" is no error
    if (looked % 64 != 63) continue;
    std::this_thread::yield(); // a step takes microseconds, a rank that is late far longer
    if (status bad = poll(); !bad) return bad;
    if (clock::now() > end)
      return {.code = errc::timeout, .limit = timeout_ns / 1000, .where = "wait"};
  }
}

} // namespace dpgather::inline v0
