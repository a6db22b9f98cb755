#pragma once

/// @file
/// What graphs cost, what they may cost, and what became of them.

#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// What captured graphs have cost.
struct graph_cost {
  std::int64_t graphs = 0;
  std::int64_t nodes = 0;      ///< those in bodies of SWITCH nodes included
  std::int64_t capture_us = 0; ///< capture, instantiation and upload, on the host
  /// Device memory that was free before and not after. The driver takes it in chunks of megabytes,
  /// and others may take some meanwhile: right for many graphs, not for one.
  std::int64_t bytes = 0;

  constexpr graph_cost& operator+=(const graph_cost& more) noexcept {
    graphs += more.graphs;
    nodes += more.nodes;
    capture_us += more.capture_us;
    bytes += more.bytes;
    return *this;
  }
  /// What `count` graphs would cost that are like these; zeros but for the number where there are
  /// none yet.
  [[nodiscard]] constexpr graph_cost scaled_to(std::int64_t count) const noexcept {
    graph_cost out{.graphs = count};
    if (graphs == 0) return out;
    const auto scale = [&](std::int64_t value) {
      return static_cast<std::int64_t>(static_cast<double>(value) * static_cast<double>(count) /
                                       static_cast<double>(graphs));
    };
    out.nodes = scale(nodes);
    out.capture_us = scale(capture_us);
    out.bytes = scale(bytes);
    return out;
  }

  friend constexpr bool operator==(const graph_cost&, const graph_cost&) = default;
};

/// What graphs may cost. Without limits unless they are set.
struct graph_budget {
  std::int64_t graphs = INT64_MAX;
  std::int64_t bytes = INT64_MAX; ///< of device memory

  /// Whether `more` graphs fit beside those of `spent`. Their bytes are not known before, so they
  /// are taken to be like those; the first ones fit where anything does.
  [[nodiscard]] constexpr bool allows(const graph_cost& spent, std::int64_t more) const noexcept {
    if (graphs - spent.graphs < more) return false;
    if (bytes <= 0) return more == 0;
    return spent.scaled_to(spent.graphs + more).bytes <= bytes;
  }

  friend constexpr bool operator==(const graph_budget&, const graph_budget&) = default;
};

/// What one rank's graphs have cost and done so far. A value.
struct graph_report {
  graph_cost cost;            ///< of the graphs that there are
  std::uint64_t replays = 0;  ///< steps replayed
  std::uint64_t launches = 0; ///< graphs launched for them
  std::uint64_t misses = 0;   ///< launches that found no graph
  std::uint64_t late = 0;     ///< of those, ones that captured it, which held the step up
  std::uint64_t refused = 0;  ///< captures that the budget refused
  std::uint64_t eager = 0;    ///< steps launched call by call

  friend constexpr bool operator==(const graph_report&, const graph_report&) = default;
};

} // namespace dpgather::inline v0
