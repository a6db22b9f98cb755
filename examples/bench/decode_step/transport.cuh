#pragma once

/// @file
/// How rows travel in a step: what a method is made of beside the model.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace bench {

/// One way in one case on one rank. Functions enqueue on the rank's stream.
struct transport {
  std::string name;
  std::int64_t own_rows = 0;           ///< that attention runs on
  std::int64_t ffn_rows = 0;           ///< that the FFN runs on
  std::byte* local = nullptr;          ///< attention writes, the gather reads
  const std::byte* gathered = nullptr; ///< the gather writes, the FFN reads
  std::byte* addends = nullptr;        ///< the FFN writes, the combine reads
  std::byte* sums = nullptr;           ///< this rank's rows, for the next layer
  std::function<void()> gather = [] {};
  std::function<void()> combine = [] {};
  /// What the n-th step has to tell the device before it is replayed.
  std::function<void(int)> bring = [](int) {};
  /// Dies where a call has failed on the device.
  std::function<void()> check = [] {};
};

} // namespace bench
