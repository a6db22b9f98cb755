#pragma once

/// @file
/// NCCL's calls that must succeed; see check.cuh.

#include "check.cuh"

#include <dpgather/dpgather.cuh>

#include <nccl.h>

#include <cstdio>

namespace bench {

inline void must(ncclResult_t code, const char* what) {
  if (code != ncclSuccess) std::fprintf(stderr, "%s: %s\n", what, ncclGetLastError(nullptr));
  must(dpgather::nccl_status(code, what), what);
}

} // namespace bench
