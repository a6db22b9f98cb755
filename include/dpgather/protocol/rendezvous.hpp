#pragma once

/// @file
/// Where CPU ranks meet: one arrival epoch per rank, a deadline, and a named error for who is
/// missing. The one place in which the host communicator waits.

#include <dpgather/config.hpp>
#include <dpgather/protocol/failure_cell.hpp>
#include <dpgather/protocol/wait_clock.hpp>
#include <dpgather/status.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dpgather::inline v0 {

/// A reusable barrier of a fixed group of ranks.
///
/// What a rank wrote before `meet` is visible to every rank after it (release on arrival, acquire
/// on seeing it). A rank passes the k-th meeting only when all have arrived at it, so nobody is
/// ever more than one meeting ahead: two alternating slots are enough for what is posted at a
/// meeting. Ownership: borrows clock and failure cell. Allocates at construction only.
class rendezvous {
public:
  /// `first_world_rank`: group rank r is world rank `first_world_rank + r`, for messages.
  rendezvous(std::int32_t size, std::int32_t first_world_rank, wait_clock& clock,
             failure_cell& failure)
      : ranks_(static_cast<std::size_t>(size)),
        first_world_rank_{first_world_rank}, clock_{clock}, failure_{failure} {}

  [[nodiscard]] std::int32_t size() const noexcept {
    return static_cast<std::int32_t>(ranks_.size());
  }

  /// Number of meetings that `rank` has arrived at. To be read by that rank only.
  [[nodiscard]] std::uint64_t epoch(std::int32_t rank) const noexcept {
    return at(rank).arrived.load(std::memory_order_relaxed);
  }

  /// Arrives and waits for all others, at most `timeout_ns`.
  ///
  /// Errors, all sticky: `timeout` and `peer_left` name the first rank that is missing; `poisoned`
  /// if the world had failed before; the first failure if it fails meanwhile.
  status meet(std::int32_t rank, std::int64_t timeout_ns, std::uint64_t call,
              const char* where) noexcept {
    if (failure_.failed()) return failure_.poisoned();
    const std::uint64_t target = epoch(rank) + 1;
    const std::int64_t deadline = clock_.now_ns() + timeout_ns;
    at(rank).arrived.store(target, std::memory_order_release);
    // Only the last to arrive can complete a meeting, so only that one needs to wake the others.
    if (arrivals_.fetch_add(1, std::memory_order_acq_rel) + 1 == target * ranks_.size()) {
      clock_.notify();
    }
    for (;;) {
      const std::uint64_t seen = clock_.version();
      const std::int32_t missing = first_missing(target);
      if (failure_.failed()) return failure_.first();
      if (missing < 0) return {};
      const bool gone = at(missing).left.load(std::memory_order_acquire) &&
                        at(missing).arrived.load(std::memory_order_acquire) < target;
      const bool late = clock_.now_ns() >= deadline;
      if (gone || late) {
        const status cause{.code = gone ? errc::peer_left : errc::timeout,
                           .rank = first_world_rank_ + rank,
                           .peer = first_world_rank_ + missing,
                           .limit = timeout_ns / 1000,
                           .call = call,
                           .where = where};
        return fail(cause);
      }
      clock_.wait(seen, deadline);
    }
  }

  /// Records a failure and wakes everybody. Answers the first failure.
  status fail(const status& cause) noexcept {
    const status first = failure_.raise(cause);
    clock_.notify();
    return first;
  }

  /// `rank` will not come again; whoever waits for it hears so at once.
  void leave(std::int32_t rank) noexcept {
    at(rank).left.store(true, std::memory_order_release);
    clock_.notify();
  }

private:
  // One cache line per rank: arrivals do not disturb each other.
  struct alignas(64) rank_state {
    std::atomic<std::uint64_t> arrived{0};
    std::atomic<bool> left{false};
  };

  [[nodiscard]] rank_state& at(std::int32_t r) noexcept {
    return ranks_[static_cast<std::size_t>(r)];
  }
  [[nodiscard]] const rank_state& at(std::int32_t r) const noexcept {
    return ranks_[static_cast<std::size_t>(r)];
  }
  [[nodiscard]] std::int32_t first_missing(std::uint64_t target) const noexcept {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (ranks_[r].arrived.load(std::memory_order_acquire) < target)
        return static_cast<std::int32_t>(r);
    }
    return -1;
  }

  std::vector<rank_state> ranks_;
  std::atomic<std::uint64_t> arrivals_{0};
  std::int32_t first_world_rank_;
  wait_clock& clock_;
  failure_cell& failure_;
};

} // namespace dpgather::inline v0
