#pragma once

/// @file
/// The ways of doing one thing that are timed against each other.

#include "target.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// One way. Its functions enqueue on the stream of the rank that made it.
struct method {
  std::string name;
  std::int32_t baseline = 0; ///< index in the group of what it is compared with; its own: nothing
  target goal{};
  bool captured = true;          ///< timed as a graph of calls; else call by call
  std::function<void(int)> call; ///< the i-th call of a graph, which may take the i-th buffers
  /// Before a call is verified: outputs are poisoned, inputs put where they are looked for.
  std::function<void()> prepare = [] {};
  /// After the calls [0, n): bytes or elements that are wrong. Prints what is.
  std::function<std::int64_t(int)> wrong = [](int) { return std::int64_t{0}; };
  /// Before the n-th replay of a sample, outside the graph and inside the time: what a step brings
  /// to the device. May be null.
  std::function<void(int)> before = {};
  /// The numbers that `before` is told when replays are verified; it comes before `prepare` there.
  std::vector<int> verified = {0};
  double written = 0; ///< bytes that a call writes, where that is of interest
  double moved = 0;   ///< bytes that it reads and writes
};

/// Methods that are timed in turn. The same on all ranks.
struct group {
  std::string title;
  std::vector<method> methods;

  /// Adds a method; answers its index.
  std::int32_t add(method one) {
    methods.push_back(std::move(one));
    return static_cast<std::int32_t>(methods.size()) - 1;
  }
  /// Times a method a second time: how far two times of one thing are apart.
  void add_again(std::int32_t index) {
    method again = methods[static_cast<std::size_t>(index)];
    again.name += ", again";
    again.baseline = index;
    again.goal = {};
    add(std::move(again));
  }
};

} // namespace bench
