#pragma once

/// @file
/// The threads that measure together, one for each GPU.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

/// Meetings of `size` threads, and what they tell each other there. A meeting has no deadline: the
/// watchdog has one.
class team {
public:
  explicit team(std::int32_t size) : meeting_{size}, times_(static_cast<std::size_t>(size)) {}
  team(const team&) = delete;
  team& operator=(const team&) = delete;

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(times_.size()); }
  /// Returns when all have come.
  void meet() { meeting_.arrive_and_wait(); }

  /// Element by element the largest that any member brought. All members, lists of one length.
  [[nodiscard]] std::vector<double> slowest(std::int32_t rank, const std::vector<double>& mine) {
    times_[static_cast<std::size_t>(rank)] = mine;
    meet();
    std::vector<double> out = mine;
    for (const std::vector<double>& theirs : times_) {
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::max(out[i], theirs[i]);
    }
    meet(); // nobody writes what others still read
    return out;
  }
  /// The sum of what the members brought.
  [[nodiscard]] std::int64_t sum(std::int64_t mine) {
    sum_ += mine;
    meet();
    const std::int64_t out = sum_;
    meet();
    sum_ -= mine;
    meet();
    return out;
  }

private:
  std::barrier<> meeting_;
  std::vector<std::vector<double>> times_;
  std::atomic<std::int64_t> sum_{0};
};

} // namespace bench
