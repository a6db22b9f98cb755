#pragma once

/// @file
/// What a test on streams cannot go on without. It throws, so that a rank's thread ends as one.
/// Needs the toolkit's headers, no nvcc.

#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace test_support {

inline void must(const dpgather::status& s) {
  if (!s) throw std::runtime_error{s.message().c_str()};
}
inline void must(const dpgather::status& s, const char* what) {
  if (!s) throw std::runtime_error{std::string{what} + ": " + s.message().c_str()};
}
inline void cuda_must(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error{std::string{what} + ": " + cudaGetErrorName(code)};
}

/// A stream of `gpu` that waits for no other. The GPU becomes this thread's.
[[nodiscard]] inline cudaStream_t stream_on(int gpu) {
  cuda_must(cudaSetDevice(gpu), "device");
  cudaStream_t out = nullptr;
  cuda_must(cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking), "stream");
  return out;
}

} // namespace test_support
