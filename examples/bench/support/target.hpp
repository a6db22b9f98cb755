#pragma once

/// @file
/// What a method is compared with, and whether it is good enough.

#include "statistics.hpp"
#include "table.hpp"

#include <string>

namespace bench {

/// The times of one method, per call, and the bytes that a call writes and moves (reads and
/// writes), 0 where nobody asks.
struct measurement {
  summary us;
  double written = 0;
  double moved = 0;

  [[nodiscard]] double written_rate() const { return us.median > 0 ? written / us.median : 0; }
  [[nodiscard]] double moved_rate() const { return us.median > 0 ? moved / us.median : 0; }
};

/// A quotient, 0 for what has none.
[[nodiscard]] inline double quotient(double a, double b) { return b > 0 ? a / b : 0; }

/// A limit on a method, relative to its baseline.
class target {
public:
  /// None: only reported.
  constexpr target() = default;
  /// At most `limit` times the baseline's time.
  [[nodiscard]] static constexpr target time_ratio(double limit) { return {kind::ratio, limit}; }
  /// At most `limit` microseconds more than the baseline.
  [[nodiscard]] static constexpr target extra_us(double limit) { return {kind::extra, limit}; }
  /// At least `limit` times the bytes per second that the baseline moves, reads and writes.
  [[nodiscard]] static constexpr target moved_share(double limit) { return {kind::moved, limit}; }

  [[nodiscard]] bool exists() const { return kind_ != kind::none; }
  /// "-" for none.
  [[nodiscard]] std::string text() const {
    switch (kind_) {
    case kind::none:
      break;
    case kind::ratio:
      return "<= " + fixed(limit_, 2) + " x";
    case kind::extra:
      return "<= " + fixed(limit_, 2, true) + " us";
    case kind::moved:
      return ">= " + fixed(limit_, 2) + " moved";
    }
    return "-";
  }
  /// By medians.
  [[nodiscard]] const char* verdict(const measurement& mine, const measurement& baseline) const {
    bool met = false;
    switch (kind_) {
    case kind::none:
      return "-";
    case kind::ratio:
      met = mine.us.median <= limit_ * baseline.us.median;
      break;
    case kind::extra:
      met = mine.us.median <= baseline.us.median + limit_;
      break;
    case kind::moved:
      met = mine.moved_rate() >= limit_ * baseline.moved_rate();
      break;
    }
    return met ? "met" : "MISSED";
  }

private:
  enum class kind { none, ratio, extra, moved };
  constexpr target(kind of, double limit) : kind_{of}, limit_{limit} {}

  kind kind_ = kind::none;
  double limit_ = 0;
};

} // namespace bench
