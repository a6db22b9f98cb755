#pragma once

/// @file
/// Random counts: what the ranks have in each replay.

#include "collective_case.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace bench {

/// Counts drawn uniformly from 0 to the case's rows, each rank's by itself; behind them extremes
/// that are verified and not timed. A pure function of its arguments, so equal on all ranks.
class random_splits {
public:
  random_splits(const collective_case& room, std::int32_t timed, std::int32_t seed)
      : timed_{timed} {
    std::mt19937 draw{static_cast<std::uint32_t>(seed) * 0x9e3779b1u +
                      static_cast<std::uint32_t>(room.rows)};
    const auto values = static_cast<std::uint32_t>(room.rows) + 1;
    for (std::int32_t i = 0; i < timed; ++i) {
      collective_case one = room;
      for (std::int32_t r = 0; r < room.ranks; ++r)
        one.counts[r] = static_cast<std::int32_t>(draw() % values);
      all_.push_back(one);
      bytes_ += one.least_bytes() / timed;
    }
    collective_case last_only = room;
    for (std::int32_t r = 0; r + 1 < room.ranks; ++r) last_only.counts[r] = 0;
    collective_case nobody = last_only;
    nobody.counts[room.ranks - 1] = 0;
    all_.insert(all_.end(), {nobody, room, last_only});
  }

  [[nodiscard]] std::int32_t timed() const { return timed_; }
  [[nodiscard]] const std::vector<collective_case>& all() const { return all_; }
  /// The n-th replay's.
  [[nodiscard]] const collective_case& at(int n) const { return all_[static_cast<std::size_t>(n)]; }
  /// Two that are timed, and the extremes.
  [[nodiscard]] std::vector<int> verified() const {
    return {0, timed_ / 2, timed_, timed_ + 1, timed_ + 2};
  }
  /// What `least_bytes` comes to for one call, on average over what is timed.
  [[nodiscard]] double bytes() const { return bytes_; }

private:
  std::int32_t timed_;
  std::vector<collective_case> all_;
  double bytes_ = 0;
};

} // namespace bench
