#pragma once

/// @file
/// Which communicator a run takes, and why: `--backend auto|host|nccl`.
///
/// Policies are types, so whoever switches at run time compiles both and picks one here: see
/// `dpgather::rebind_comm`. `DPGATHER_EXAMPLE_NCCL` is set where nvcc and NCCL were found.

#include "usage_error.hpp"

#if defined(DPGATHER_EXAMPLE_NCCL)
#include <dpgather/device/cuda_runtime.cuh>
#endif

#include <cstdint>
#include <string>
#include <string_view>

namespace serve {

enum class backend_kind : std::uint8_t {
  automatic, ///< nccl where it was built in and every rank can have a GPU, else host
  host,      ///< ranks are threads, rows are in the host's memory
  nccl,      ///< a GPU for each rank
};

[[nodiscard]] constexpr const char* name_of(backend_kind b) noexcept {
  return b == backend_kind::host ? "host" : b == backend_kind::nccl ? "nccl" : "auto";
}

/// Errors: `usage_error`.
[[nodiscard]] inline backend_kind backend_named(std::string_view name) {
  for (const backend_kind each : {backend_kind::automatic, backend_kind::host, backend_kind::nccl})
    if (name == name_of(each)) return each;
  throw usage_error{"--backend takes auto, host or nccl, not '" + std::string{name} + "'"};
}

/// What was taken; never `automatic`.
struct backend_choice {
  backend_kind kind = backend_kind::host;
  std::string why;

  [[nodiscard]] std::string sentence() const {
    return std::string{"communicator "} + name_of(kind) + ": " + why;
  }
};

/// What was built in, and the GPUs that this process sees.
struct visible_gpus {
  bool built_in = false;
  std::int32_t count = 0;
  std::string none_because; ///< where there is none and CUDA says why

  [[nodiscard]] static visible_gpus here() {
    visible_gpus out;
#if defined(DPGATHER_EXAMPLE_NCCL)
    out.built_in = true;
    int count = 0;
    const cudaError_t asked = cudaGetDeviceCount(&count);
    int driver = 0; // 0: there is none, for which CUDA has no error of its own
    (void)cudaDriverGetVersion(&driver);
    if (const dpgather::status bad = dpgather::cuda_status(asked, "cudaGetDeviceCount"); bad.ok()) {
      out.count = count;
    } else if (asked != cudaErrorNoDevice && driver != 0) {
      out.none_because = bad.value_name; // e.g. a driver that is older than the toolkit
    }
#endif
    return out;
  }
};

/// Errors: `usage_error` where nccl was asked for and not built in, `too_few_gpus`.
[[nodiscard]] inline backend_choice choose_backend(backend_kind asked, std::int32_t ranks,
                                                   const visible_gpus& gpus) {
  if (asked == backend_kind::host) return {backend_kind::host, "as asked"};
  const auto counted = [](std::int32_t n, const char* what) {
    return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
  };
  std::string lacks;
  if (!gpus.built_in) {
    lacks = "built without nvcc or NCCL";
  } else if (gpus.count == 0) {
    lacks = "no GPU" + (gpus.none_because.empty() ? "" : " (" + gpus.none_because + ")");
  } else if (gpus.count < ranks) {
    lacks = counted(ranks, "rank") + " but " + counted(gpus.count, "GPU") + ", NCCL wants one each";
  }
  if (lacks.empty())
    return {backend_kind::nccl, counted(gpus.count, "GPU") + " for " + counted(ranks, "rank")};
  if (asked == backend_kind::automatic) return {backend_kind::host, lacks};
  if (!gpus.built_in) throw usage_error{"--backend nccl: this program was " + lacks};
  throw too_few_gpus{"--backend nccl: " + lacks};
}

} // namespace serve
