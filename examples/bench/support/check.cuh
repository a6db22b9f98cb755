#pragma once

/// @file
/// Calls that must succeed. A benchmark has no use for a failure, and ranks that go on alone would
/// hang the others: the first failure ends the process with exit code 4.

#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace bench {

/// Ends the process without an orderly end: other threads may hold anything.
[[noreturn]] inline void give_up(int code) {
  std::fflush(stdout);
  std::fflush(stderr);
  _exit(code);
}

inline void must(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  int device = -1;
  (void)cudaGetDevice(&device);
  std::fprintf(stderr, "device %d: %s: %s (%s)\n", device, what, cudaGetErrorName(code),
               cudaGetErrorString(code));
  give_up(4);
}

inline void must(const dpgather::status& done, const char* what) {
  if (done.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, done.message().c_str());
  give_up(4);
}

template <class T>
[[nodiscard]] T must(dpgather::result<T> answer, const char* what) {
  must(answer.ok() ? dpgather::status{} : answer.status(), what);
  return *std::move(answer);
}

} // namespace bench
