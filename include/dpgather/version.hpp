#pragma once

/// @file
/// The library's version. CMake reads it from here, so that there is one place to change.

#include <dpgather/config.hpp>

#define DPGATHER_VERSION_MAJOR 0
#define DPGATHER_VERSION_MINOR 1
#define DPGATHER_VERSION_PATCH 0

namespace dpgather::inline v0 {

/// Semantic version of the headers that were included.
struct version_type {
  int major, minor, patch;
};

inline constexpr version_type version{DPGATHER_VERSION_MAJOR, DPGATHER_VERSION_MINOR,
                                      DPGATHER_VERSION_PATCH};

} // namespace dpgather::inline v0
