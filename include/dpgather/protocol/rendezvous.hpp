#pragma once

/// @file
/// Where CPU ranks meet: one arrival epoch per rank, a deadline, and a named error for who is
/// missing. The one place in which the host communicator waits; how it waits is one text with the
/// kernels (waiting.hpp).
///
/// The rest is not that of a peer call (peer_call.hpp), because:
/// - A meeting takes place for all or for nobody: arrivals are counted in one word, which a failure
///   closes. Kernels judge each peer by itself: one rank may end a call that another one fails, and
///   only the call after it fails for all. One word for all would be a compare-exchange over
///   NVLink, there and back, in every call.
/// - So all ranks judge the same records, and a refusal is a verdict like any other: nothing moves,
///   and the next meeting goes on. A kernel's rows are under way before a peer has said anything;
///   to hear of a refusal first it would have to wait for everybody once more.
/// - A failure is one cell that all ranks read, with names that a record in mapped memory cannot
///   hold (failure_cell.hpp). Kernels leave a word with each peer.
/// - Ranks are any number, each with one word that counts up and is looked at by all: a later one
///   will do. Kernels have a word for each peer in each slot, and only the call's own will do.
/// - A rank may leave; a CPU thread sleeps.

#include <dpgather/config.hpp>
#include <dpgather/protocol/failure_cell.hpp>
#include <dpgather/protocol/wait_clock.hpp>
#include <dpgather/protocol/waiting.hpp>
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
    attendance wait{*this, rank, epoch(rank) + 1, timeout_ns, call, where};
    at(rank).arrived.store(wait.target, std::memory_order_release);
    if (count_me() == wait.complete()) clock_.notify(); // one rank fills it, for all
    const waiting_mark mark{waiting_ == nullptr ? nullptr : waiting_ + first_world_rank_ + rank};
    std::uint64_t started = 0;
    const bool met =
        look_until<1>([&] { return wait.has_met(); }, [] {},
                      [&](std::uint32_t) { return (started = look_up(wait, started)) == 0; });
    return met ? status{} : wait.failure;
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
  /// One rank at one meeting: see `wait_of_ranks`.
  struct attendance {
    rendezvous& point;
    std::int32_t rank;
    std::uint64_t target; // number of the meeting
    std::int64_t timeout_ns;
    std::uint64_t call;
    const char* where;
    std::uint64_t version = 0; // of the clock, before the last look
    status failure{};

    [[nodiscard]] std::uint64_t complete() const noexcept { return target * point.ranks_.size(); }
    [[nodiscard]] bool has_met() noexcept {
      version = point.clock_.version();
      return (point.arrivals_.load(std::memory_order_acquire) & ~closed) >= complete();
    }

    [[nodiscard]] bool hears_failure() noexcept {
      if (!point.failure_.failed() || !point.close_below(complete())) return false;
      failure = point.failure_.first();
      return true;
    }
    [[nodiscard]] bool is_hopeless() noexcept { return fails(errc::peer_left, point.gone(target)); }
    // One more than the clock, which may begin at zero.
    [[nodiscard]] std::uint64_t now() const noexcept {
      return static_cast<std::uint64_t>(point.clock_.now_ns()) + 1;
    }
    [[nodiscard]] std::uint64_t budget() const noexcept {
      return timeout_ns < 0 ? 0 : static_cast<std::uint64_t>(timeout_ns);
    }
    // None missing: the last one is about to be counted, or the failure about to be known.
    [[nodiscard]] bool expires(std::uint64_t) noexcept {
      return fails(errc::timeout, point.missing(target));
    }
    void rests(std::uint64_t started) const noexcept {
      const std::uint64_t end = started - 1 + budget();
      point.clock_.wait(version, end < INT64_MAX ? static_cast<std::int64_t>(end) : INT64_MAX);
    }

  private:
    /// Fails the meeting for all because of `peer`, unless that is nobody or the meeting has taken
    /// place.
    [[nodiscard]] bool fails(errc code, std::int32_t peer) noexcept {
      if (peer < 0 || !point.close_below(complete())) return false;
      failure = point.fail({.code = code,
                            .rank = point.world_rank(rank),
                            .peer = point.world_rank(peer),
                            .limit = timeout_ns / 1000,
                            .call = call,
                            .where = where});
      return true;
    }
  };

  [[nodiscard]] bool has_arrived(std::int32_t r, std::uint64_t target) const noexcept {
    return at(r).arrived.load(std::memory_order_acquire) >= target;
  }
  /// The rank to blame for a meeting that is late, or -1.
  [[nodiscard]] std::int32_t missing(std::uint64_t target) const noexcept {
    return to_blame(
        size(), [&](std::int32_t r) { return !has_arrived(r, target); },
        [&](std::int32_t r) {
          return waiting_ != nullptr && waiting_[world_rank(r)].load(std::memory_order_acquire);
        });
  }
  /// The first rank that has left and has not arrived, or -1.
  [[nodiscard]] std::int32_t gone(std::uint64_t target) const noexcept {
    return to_blame(
        size(),
        [&](std::int32_t r) {
          return at(r).left.load(std::memory_order_acquire) && !has_arrived(r, target);
        },
        [](std::int32_t) { return false; });
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
