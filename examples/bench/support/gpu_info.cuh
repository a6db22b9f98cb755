#pragma once

/// @file
/// What the numbers were measured on.

#include "check.cuh"
#include "json.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace bench {

/// GPUs that this process sees; 0 where there is no driver.
[[nodiscard]] inline std::int32_t gpu_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

struct gpu_info {
  std::string name;
  std::int32_t major = 0, minor = 0;
  std::int32_t multiprocessors = 0;
  std::size_t cache_bytes = 0;  ///< L2
  std::size_t memory_bytes = 0; ///< all of it

  [[nodiscard]] static gpu_info of(std::int32_t device) {
    cudaDeviceProp is{};
    must(cudaGetDeviceProperties(&is, device), "cudaGetDeviceProperties");
    return {is.name,
            is.major,
            is.minor,
            is.multiProcessorCount,
            static_cast<std::size_t>(is.l2CacheSize),
            is.totalGlobalMem};
  }
};

/// Prints the GPUs `[0, count)` and the versions of CUDA, and adds them to an open JSON object.
inline std::vector<gpu_info> describe_gpus(std::int32_t count, json_writer& json) {
  int runtime = 0;
  int driver = 0;
  must(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  must(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  std::printf("CUDA runtime %d.%d, driver for %d.%d\n", runtime / 1000, runtime % 1000 / 10,
              driver / 1000, driver % 1000 / 10);
  json.field("cuda_runtime", runtime).field("cuda_driver", driver).key("gpus").open_list();
  std::vector<gpu_info> out;
  for (std::int32_t d = 0; d < count; ++d) {
    const gpu_info gpu = gpu_info::of(d);
    std::printf("GPU %d: %s, sm_%d%d, %d SMs, L2 %.0f MiB, memory %.0f GiB\n", d, gpu.name.c_str(),
                gpu.major, gpu.minor, gpu.multiprocessors,
                static_cast<double>(gpu.cache_bytes) / (1 << 20),
                static_cast<double>(gpu.memory_bytes) / (1 << 30));
    json.value(gpu.name);
    out.push_back(gpu);
  }
  json.close_list();
  return out;
}

/// Whether every GPU can load and store in every other one's memory; else says which cannot.
[[nodiscard]] inline bool all_are_peers(std::int32_t ranks) {
  for (std::int32_t a = 0; a < ranks; ++a) {
    for (std::int32_t b = 0; b < ranks; ++b) {
      int can = a == b;
      if (a != b) must(cudaDeviceCanAccessPeer(&can, a, b), "cudaDeviceCanAccessPeer");
      if (can != 0) continue;
      std::printf("skipped: GPU %d has no access to the memory of GPU %d\n", a, b);
      return false;
    }
  }
  return true;
}

/// A variable of the environment, or what stands for one that is not set.
[[nodiscard]] inline std::string environment(const char* name, const char* unset = "(unset)") {
  const char* const value = std::getenv(name);
  return value == nullptr ? unset : value;
}

} // namespace bench
