#pragma once

/// @file
/// Files that a benchmark may be asked to write.

#include <fstream>
#include <string>

namespace bench {

/// Opens a file to write, where one was named. False when that fails.
[[nodiscard]] inline bool opens(std::ofstream& file, const std::string& name) {
  if (!name.empty()) file.open(name);
  return file.good();
}

} // namespace bench
