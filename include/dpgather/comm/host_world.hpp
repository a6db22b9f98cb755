#pragma once

/// @file
/// The memory that the threads of one process share when they are the ranks.

#include <dpgather/config.hpp>
#include <dpgather/protocol/call_record.hpp>
#include <dpgather/protocol/failure_cell.hpp>
#include <dpgather/protocol/rendezvous.hpp>
#include <dpgather/protocol/wait_clock.hpp>
#include <dpgather/topology.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace dpgather::inline v0 {

class host_communicator;

/// All ranks of a topology as threads of this process: their meeting points, what they post there,
/// and the first failure of any of them.
///
/// Ownership: owns all of it, borrows the clock; outlives every `host_communicator` on it.
/// Allocates at construction only. A world that failed stays failed: build a new one.
class host_world {
public:
  static constexpr std::int64_t default_timeout_ns = 30'000'000'000;

  /// `timeout_ns`: how long a rank waits for the others at one meeting. The rank numbers in `shape`
  /// do not matter; its sizes must be valid.
  host_world(const topology& shape, wait_clock& clock, std::int64_t timeout_ns = default_timeout_ns)
      : shape_{shape}, timeout_ns_{timeout_ns},
        ranks_(static_cast<std::size_t>(shape.world_size())),
        waiting_(static_cast<std::size_t>(shape.world_size())) {
    groups_.emplace_back(shape.world_size(), 0, clock, failure_, waiting_.data());
    for (std::int32_t d = 0; d < shape.dp_size; ++d) {
      groups_.emplace_back(shape.tp_size, d * shape.tp_size, clock, failure_, waiting_.data());
    }
  }
  host_world(const host_world&) = delete;
  host_world& operator=(const host_world&) = delete;

  [[nodiscard]] const topology& shape() const noexcept { return shape_; }
  [[nodiscard]] std::int32_t size() const noexcept { return shape_.world_size(); }
  /// The first failure of any rank, or ok.
  [[nodiscard]] status first_failure() const noexcept { return failure_.first(); }

  /// World rank `rank` makes no more calls. Whoever waits for it answers `peer_left` at once.
  void leave(std::int32_t rank) noexcept {
    groups_[0].meeting.leave(rank);
    groups_[tp_group(rank)].meeting.leave(rank % shape_.tp_size);
  }

private:
  friend class host_communicator;

  /// A set of ranks that meet, and what each posts before a meeting for the others to read after
  /// it.
  struct group {
    group(std::int32_t size, std::int32_t first_world_rank, wait_clock& clock,
          failure_cell& failure, std::atomic<bool>* waiting)
        : meeting{size, first_world_rank, clock, failure, waiting},
          sends(static_cast<std::size_t>(size)) {
      for (auto& slot : calls) slot.resize(static_cast<std::size_t>(size));
      for (auto& slot : entered) slot.resize(static_cast<std::size_t>(size));
    }
    rendezvous meeting;
    std::vector<const std::byte*> sends;
    // Two, alternating with the epoch: read without a second meeting (see `rendezvous`).
    std::vector<call_record> calls[2];
    // Which function each rank has entered, in the same way: nothing else that is posted is looked
    // at before these are equal.
    std::vector<const char*> entered[2];
  };

  struct alignas(64) rank_state {
    std::atomic<bool> busy{false};
    std::uint64_t call = 0;           // of the last announcement
    std::uint64_t bytes_received = 0; // by data collectives, from other ranks
  };

  [[nodiscard]] std::size_t tp_group(std::int32_t world_rank) const noexcept {
    return static_cast<std::size_t>(1 + world_rank / shape_.tp_size);
  }

  topology shape_;
  std::int64_t timeout_ns_;
  failure_cell failure_;
  std::vector<rank_state> ranks_;
  std::vector<std::atomic<bool>> waiting_; // by world rank, see rendezvous
  std::deque<group> groups_; // the world, then one attention-TP group per dp rank; never moved
};

} // namespace dpgather::inline v0
