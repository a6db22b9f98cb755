#pragma once

/// @file
/// Which NCCL a benchmark runs with, and which of its switches matter.

#include "check_nccl.cuh"
#include "command_line.hpp"
#include "json.hpp"

#include <nccl.h>

#include <cstdio>
#include <string>

namespace bench {

/// False, and says so, unless NVLink multicast is off: registering windows would use it.
[[nodiscard]] inline bool multicast_is_off(const char* program) {
  if (environment("NCCL_NVLS_ENABLE") == "0") return true;
  std::fprintf(stderr, "%s: NVLink multicast must be off: set NCCL_NVLS_ENABLE=0\n", program);
  return false;
}

/// To stdout and to the report.
inline void print_nccl(json_writer& json) {
  int version = 0;
  must(ncclGetVersion(&version), "ncclGetVersion");
  std::printf("NCCL %d.%d.%d, built with %d.%d.%d\n", version / 10000, version / 100 % 100,
              version % 100, NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
  const std::string multicast = environment("NCCL_NVLS_ENABLE");
  std::printf("NCCL_NVLS_ENABLE=%s: NVLink multicast is off, as it must be here\n",
              multicast.c_str());
  std::printf(
      "NCCL_GRAPH_MIXING_SUPPORT=%s; NCCL takes it from the environment only: both settings "
      "are two runs\n",
      environment("NCCL_GRAPH_MIXING_SUPPORT", "(unset, which is 1)").c_str());
  json.field("nccl", version).field("nccl_built", NCCL_VERSION_CODE);
  json.field("NCCL_GRAPH_MIXING_SUPPORT", environment("NCCL_GRAPH_MIXING_SUPPORT"));
  json.field("NCCL_NVLS_ENABLE", multicast);
}

} // namespace bench
