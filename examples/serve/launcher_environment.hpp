#pragma once

/// @file
/// What torchrun and mpirun tell the processes that they start, in environment variables. Examples
/// read them; the library never does.

#include "command_line.hpp"
#include "usage_error.hpp"

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

namespace serve {

/// This process's place among those that a launcher started.
struct launcher_place {
  const char* by = "";
  std::int32_t rank = 0;
  std::int32_t size = 1;
};

namespace detail {

struct launcher {
  const char* name;
  const char* rank;
  const char* size;
  const char* local_size; ///< processes on this host, where the launcher says so
  const char* also;       ///< has to be set as well before anybody believes the others unasked
};
inline constexpr launcher launchers[] = {
    // Clusters set RANK and WORLD_SIZE for whole machines too; LOCAL_RANK is of processes.
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
     "OMPI_COMM_WORLD_RANK"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "PMI_RANK"},
};

[[nodiscard]] inline std::int32_t number_in(const char* variable, std::int32_t low) {
  return number<std::int32_t>(variable, std::getenv(variable), low, 1 << 20);
}

} // namespace detail

/// Where a launcher put this process. Unasked, one process alone is nobody's rank. Errors:
/// `usage_error` for values that make no sense, for processes on several hosts, and where
/// `wanted` finds nothing.
[[nodiscard]] inline std::optional<launcher_place> place_in_environment(bool wanted) {
  for (const detail::launcher& each : detail::launchers) {
    if (std::getenv(each.rank) == nullptr || std::getenv(each.size) == nullptr) continue;
    if (!wanted && std::getenv(each.also) == nullptr) continue;
    launcher_place out{.by = each.name,
                       .rank = detail::number_in(each.rank, 0),
                       .size = detail::number_in(each.size, 1)};
    if (!wanted && out.size == 1) continue;
    if (out.rank >= out.size)
      throw usage_error{std::string{each.rank} + " is not below " + each.size};
    if (std::getenv(each.local_size) != nullptr &&
        detail::number_in(each.local_size, 1) != out.size)
      throw usage_error{std::string{each.size} + " and " + each.local_size +
                        " differ: the ranks of this example are on one host (what an engine does "
                        "is in serve/rank_group.hpp)"};
    return out;
  }
  if (wanted)
    throw usage_error{"--launch env finds neither RANK and WORLD_SIZE (torchrun) nor "
                      "OMPI_COMM_WORLD_RANK and _SIZE nor PMI_RANK and PMI_SIZE (mpirun)"};
  return {};
}

} // namespace serve
