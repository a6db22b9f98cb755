#pragma once

/// @file
/// NCCL's device interface, as far as the library uses it. The only header that includes it, which
/// takes seconds to compile; needs nvcc and NCCL 2.28 or later.

#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstdint>

// NCCL's header does not compile without warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <nccl_device.h>
#pragma GCC diagnostic pop

namespace dpgather::inline v0 {
namespace detail {

/// A job, for kernels only, that writes down where a window of every rank begins. NCCL 2.28 tells
/// nobody but kernels.
struct read_lsa_pointers {
  ncclWindow_t window;
  void** out;
  std::int32_t size;

  [[nodiscard]] constexpr std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] constexpr std::uint64_t words() const noexcept { return 1; }
  __device__ void operator()(std::uint32_t, worker_id worker) const noexcept {
    if (worker.index >= static_cast<std::uint64_t>(size)) return;
    const int peer = static_cast<int>(worker.index);
    out[peer] = ncclGetLsaPointer(window, 0, peer);
  }
};

/// `nccl_version{loaded, built}` unless the library is of the header's release (2.28, 2.29, ...):
/// what kernels read of a window has another layout in others.
[[nodiscard]] inline status check_nccl_device_version(const char* where) noexcept {
  int loaded = 0;
  if (status bad = nccl_status(ncclGetVersion(&loaded), where); !bad) return bad;
  if (loaded / 100 == NCCL_VERSION_CODE / 100) return {};
  return {.code = errc::nccl_version,
          .value = loaded,
          .limit = NCCL_VERSION_CODE,
          .value_name = "loaded",
          .where = where};
}

} // namespace detail
} // namespace dpgather::inline v0
