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
  /// `waiting`: one flag for each world rank, shared by all groups of a world, so that a rank that
  /// waits in another group is not blamed for being late; null: there is one group.
  rendezvous(std::int32_t size, std::int32_t first_world_rank, wait_clock& clock,
             failure_cell& failure, std::atomic<bool>* waiting = nullptr)
      : ranks_(static_cast<std::size_t>(size)),
        first_world_rank_{first_world_rank}, clock_{clock}, failure_{failure}, waiting_{waiting} {}

  [[nodiscard]] std::int32_t size() const noexcept {
    return static_cast<std::int32_t>(ranks_.size());
  }

  [[nodiscard]] std::int32_t world_rank(std::int32_t rank) const noexcept {
    return first_world_rank_ + rank;
  }

  /// Number of meetings that `rank` has arrived at. To be read by that rank only.
  [[nodiscard]] std::uint64_t epoch(std::int32_t rank) const noexcept {
    return at(rank).arrived.load(std::memory_order_relaxed);
  }

  /// `poisoned` if the world has failed. To be asked before anything is posted: after a failure a
  /// slow rank may still read what was posted for the meeting that it passed last.
  [[nodiscard]] status standing() const noexcept {
    return failure_.failed() ? failure_.poisoned() : status{};
  }

  /// Arrives and waits for all others, at most `timeout_ns`.
  ///
  /// Errors, all sticky: `timeout` and `peer_left` name the first rank that is missing; `poisoned`
  /// if the world had failed before; the first failure if it fails meanwhile.
  /// `continues`: a later meeting of a call that has begun, which answers a failure as its own.
  status meet(std::int32_t rank, std::int64_t timeout_ns, std::uint64_t call, const char* where,
              bool continues = false) noexcept {
    if (failure_.failed()) return continues ? failure_.first() : failure_.poisoned();
    const std::uint64_t target = epoch(rank) + 1;
    const std::int64_t now = clock_.now_ns();
    const std::int64_t deadline = timeout_ns < INT64_MAX - now ? now + timeout_ns : INT64_MAX;
    at(rank).arrived.store(target, std::memory_order_release);
    const std::uint64_t complete = target * ranks_.size();
    if (count_me() == complete) clock_.notify(); // one rank fills it, for all
    const waiting_mark mark{waiting_ == nullptr ? nullptr : waiting_ + first_world_rank_ + rank};
    for (;;) {
      const std::uint64_t seen = clock_.version();
      if ((arrivals_.load(std::memory_order_acquire) & ~closed) >= complete) return {};
      if (failure_.failed()) return close_below(complete) ? failure_.first() : status{};
      const std::int32_t gone = first_gone(target);
      const std::int32_t missing = gone >= 0 ? gone : most_missing(target);
      const bool late = clock_.now_ns() >= deadline;
      // None missing: the last one is about to be counted, or the failure about to be known.
      if (missing >= 0 && (gone >= 0 || late)) {
        if (!close_below(complete)) return {};
        return fail({.code = gone >= 0 ? errc::peer_left : errc::timeout,
                     .rank = first_world_rank_ + rank,
                     .peer = first_world_rank_ + missing,
                     .limit = timeout_ns / 1000,
                     .call = call,
                     .where = where});
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
  /// The first rank that has not arrived and does not wait elsewhere; else the first that has not
  /// arrived; else -1.
  [[nodiscard]] std::int32_t most_missing(std::uint64_t target) const noexcept {
    std::int32_t found = -1;
    for (std::int32_t r = 0; r < size(); ++r) {
      if (at(r).arrived.load(std::memory_order_acquire) >= target) continue;
      const bool waits =
          waiting_ != nullptr && waiting_[first_world_rank_ + r].load(std::memory_order_acquire);
      if (!waits) return r;
      if (found < 0) found = r;
    }
    return found;
  }

  class waiting_mark {
  public:
    explicit waiting_mark(std::atomic<bool>* flag) noexcept : flag_{flag} {
      if (flag_ != nullptr) flag_->store(true, std::memory_order_release);
    }
    waiting_mark(const waiting_mark&) = delete;
    waiting_mark& operator=(const waiting_mark&) = delete;
    ~waiting_mark() {
      if (flag_ != nullptr) flag_->store(false, std::memory_order_release);
    }

  private:
    std::atomic<bool>* flag_;
  };

  [[nodiscard]] std::int32_t first_gone(std::uint64_t target) const noexcept {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (ranks_[r].left.load(std::memory_order_acquire) &&
          ranks_[r].arrived.load(std::memory_order_acquire) < target)
        return static_cast<std::int32_t>(r);
    }
    return -1;
  }

  /// Counts an arrival, unless the meeting point was closed. Answers the count.
  [[nodiscard]] std::uint64_t count_me() noexcept {
    std::uint64_t count = arrivals_.load(std::memory_order_relaxed);
    do {
      if ((count & closed) != 0) return 0;
    } while (!arrivals_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel,
                                              std::memory_order_relaxed));
    return count + 1;
  }
  /// No arrival counts any more: who has arrived fails, and so does everybody else. False if the
  /// meeting that `complete` arrivals make has taken place before, for everybody.
  [[nodiscard]] bool close_below(std::uint64_t complete) noexcept {
    std::uint64_t count = arrivals_.load(std::memory_order_acquire);
    do {
      if ((count & ~closed) >= complete) return false;
    } while (!arrivals_.compare_exchange_weak(count, count | closed, std::memory_order_acq_rel,
                                              std::memory_order_acquire));
    return true;
  }

  static constexpr std::uint64_t closed = std::uint64_t{1} << 63;

  std::vector<rank_state> ranks_;
  std::atomic<std::uint64_t> arrivals_{0}; // of all ranks at all meetings; decides who passes
  std::int32_t first_world_rank_;
  wait_clock& clock_;
  failure_cell& failure_;
  std::atomic<bool>* waiting_;
};

} // namespace dpgather::inline v0
