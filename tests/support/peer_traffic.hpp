#pragma once

/// @file
/// What crosses the wires of a peer world on CPU threads, in bytes of rows from rank to rank: the
/// measurable form of who helps whom, without the GPUs it is for.

#include "peer_host_stage.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace test_support {

/// Bytes of rows from each rank's memory to each rank's. Rows in lines are not counted.
class traffic {
public:
  explicit traffic(const host_stage& stage)
      : stage_{stage}, bytes_(stage.arenas.size() * stage.arenas.size()) {}

  /// `bytes` bytes that rank `by` moves; what lies in no arena is its own.
  void count(std::int32_t by, const std::byte* from, const std::byte* to, std::uint64_t bytes) {
    const std::size_t i = owner(from, by) * stage_.arenas.size() + owner(to, by);
    std::atomic_ref{bytes_[i]}.fetch_add(bytes);
  }
  [[nodiscard]] std::uint64_t out_of(std::int32_t rank) const {
    return sum([rank](std::int32_t from, std::int32_t to) { return from == rank && to != rank; });
  }
  [[nodiscard]] std::uint64_t into(std::int32_t rank) const {
    return sum([rank](std::int32_t from, std::int32_t to) { return to == rank && from != rank; });
  }
  /// Of the rank with most.
  [[nodiscard]] std::uint64_t busiest_out() const {
    std::uint64_t most = 0;
    for (std::int32_t r = 0; r < stage_.ranks(); ++r) most = std::max(most, out_of(r));
    return most;
  }
  [[nodiscard]] std::uint64_t busiest_in() const {
    std::uint64_t most = 0;
    for (std::int32_t r = 0; r < stage_.ranks(); ++r) most = std::max(most, into(r));
    return most;
  }

private:
  [[nodiscard]] std::size_t owner(const std::byte* at, std::int32_t otherwise) const {
    for (std::size_t r = 0; r < stage_.arenas.size(); ++r) {
      const std::byte* const start = stage_.arenas[r].get();
      if (at >= start && at < start + stage_.arenas[r].size()) return r;
    }
    return static_cast<std::size_t>(otherwise);
  }
  template <class Wanted>
  [[nodiscard]] std::uint64_t sum(Wanted wanted) const {
    std::uint64_t out = 0;
    for (std::int32_t from = 0; from < stage_.ranks(); ++from)
      for (std::int32_t to = 0; to < stage_.ranks(); ++to)
        if (wanted(from, to)) out += bytes_[static_cast<std::size_t>(from * stage_.ranks() + to)];
    return out;
  }

  const host_stage& stage_;
  std::vector<std::uint64_t> bytes_;
};

/// Rules whose blocks count what they move.
template <class Rules>
struct metered : Rules {
  traffic* meter = nullptr;
  std::int32_t rank = 0;
};

template <class Rules>
struct metering_block : telling_block<Rules> {
  using base = telling_block<Rules>;
  using base::base;
  metering_block(const dg::host_block<Rules>& other) : base{other} {}
  [[nodiscard]] metering_block narrowed(std::uint32_t count) const { return base::narrowed(count); }

  // All blocks of a rank move the same rows together, or all of a group: its first one counts.
  void push(const dg::detail::row_places<const std::byte>& from, dg::row_range which,
            std::byte* const* to, std::int32_t receivers, dg::warp_group by) {
    forward(from, which, to, receivers, by);
  }
  void forward(const dg::detail::row_places<const std::byte>& from, dg::row_range which,
               std::byte* const* to, std::int32_t receivers, dg::warp_group by) {
    for (std::int32_t r = 0; by.index == 0 && r < receivers; ++r)
      count(from.data, to[r], which, from.row_bytes);
    base::forward(from, which, to, receivers, by);
  }
  template <class Sum>
  [[nodiscard]] bool pull(const std::byte* const* from, std::int32_t sources,
                          const dg::detail::row_places<std::byte>& to, dg::row_range which) {
    if (!base::template pull<Sum>(from, sources, to, which)) return false;
    if (this->block() != 0) return true;
    for (std::int32_t s = 0; s < sources; ++s) count(from[s], nullptr, which, to.row_bytes);
    count(nullptr, to.data, which, to.row_bytes);
    return true;
  }

private:
  void count(const std::byte* from, const std::byte* to, dg::row_range which,
             std::size_t row_bytes) const {
    this->rules().meter->count(this->rules().rank, from, to,
                               static_cast<std::uint64_t>(which.count) * row_bytes);
  }
};

} // namespace test_support
