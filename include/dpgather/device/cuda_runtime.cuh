#pragma once

/// @file
/// The CUDA runtime in the library's words: errors as statuses, what a stream is doing, whose
/// memory a pointer names. Needs the toolkit's headers, no nvcc.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dpgather::inline v0 {

/// `native_error` with the runtime's own name for anything but success. The error is taken: a later
/// `cudaGetLastError` does not find it again (errors that outlive that are the context's).
[[nodiscard]] inline status cuda_status(cudaError_t code, const char* where) noexcept {
  if (code == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {.code = errc::native_error,
          .native = static_cast<std::int32_t>(code),
          .value_name = cudaGetErrorName(code),
          .where = where};
}

/// Whether the stream is being captured. Errors: `native_error`; `not_capturable` with the
/// runtime's code and name for a capture that was invalidated, which harms nothing but itself.
[[nodiscard]] inline result<bool> is_capturing(cudaStream_t stream) noexcept {
  cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
  if (const status bad = cuda_status(cudaStreamIsCapturing(stream, &now), "is_capturing"); !bad)
    return bad;
  if (now == cudaStreamCaptureStatusInvalidated) {
    status bad = cuda_status(cudaErrorStreamCaptureInvalidated, "is_capturing");
    bad.code = errc::not_capturable;
    bad.value = bad.native;
    return bad;
  }
  return now == cudaStreamCaptureStatusActive;
}

/// `wrong_memory` unless `pointer` is memory of the current device (or managed memory): `value` is
/// the device that owns it, -1 for host memory, `limit` the current one. Null is nobody's and
/// passes. About 0.3 us.
[[nodiscard]] inline status check_device_memory(const void* pointer) noexcept {
  if (pointer == nullptr) return {};
  cudaPointerAttributes is{};
  int current = 0;
  if (const status bad = cuda_status(cudaGetDevice(&current), "check_memory"); !bad) return bad;
  if (const status bad = cuda_status(cudaPointerGetAttributes(&is, pointer), "check_memory"); !bad)
    return bad;
  const bool ours = is.type == cudaMemoryTypeDevice && is.device == current;
  if (ours || is.type == cudaMemoryTypeManaged) return {};
  return {.code = errc::wrong_memory,
          .value = is.type == cudaMemoryTypeDevice ? is.device : -1,
          .limit = current,
          .value_name = is.type == cudaMemoryTypeDevice ? "memory of device" : "host memory",
          .where = "check_memory"};
}

} // namespace dpgather::inline v0
