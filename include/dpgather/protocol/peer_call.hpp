#pragma once

/// @file
/// One call of one rank, as each of its blocks lives through it: epochs, headers, flags, waiting,
/// errors. One text for the CPU and the GPU; what a call moves is the caller's.
///
/// Every call sends a header to every peer and hears one from every peer, whatever it moves. So
/// when a rank is in call c, its peers have begun c - 1 and finished c - 2: two slots do for flags
/// and lines, and what call c - 2 used is free. What call c - 1 used is free once a peer's header
/// of call c is here, since that peer's stream had come so far. Both are modelled: tests/models/
/// channel.pml, reuse.pml.

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/protocol/waiting.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// A channel as its kernels see it. Trivially copyable.
struct peer_lane {
  peer_pointers arenas{};
  peer_layout layout{};
  peer_control* control = nullptr; ///< mapped
  std::byte* own = nullptr;        ///< this rank's arena
  bool tells_progress = false;     ///< each call that ended well says so in `control`

  [[nodiscard]] DPGATHER_HOST_DEVICE static peer_lane
  of(const peer_pointers& arenas, const peer_layout& layout, peer_control* control) noexcept {
    return {arenas, layout, control, arenas.base[arenas.rank], false};
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* at(std::int32_t rank,
                                                   std::uint64_t offset) const noexcept {
    return arenas.base[rank] + offset;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* mine(std::uint64_t offset) const noexcept {
    return own + offset;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_state& state() const noexcept {
    return *reinterpret_cast<peer_state*>(mine(layout.state));
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_state& state(std::int32_t of_rank) const noexcept {
    return *reinterpret_cast<peer_state*>(at(of_rank, layout.state));
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t rank() const noexcept { return arenas.rank; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t ranks() const noexcept { return layout.ranks; }
  /// The rank `distance` behind this one: everybody starts with another neighbour.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t neighbour(std::int32_t distance) const noexcept {
    const std::int32_t r = arenas.rank + distance;
    return r < layout.ranks ? r : r - layout.ranks;
  }
};

/// The first error of a rank in the 64 bits that it leaves with its peers.
struct poison_word {
  /// Never 0.
  [[nodiscard]] DPGATHER_HOST_DEVICE static constexpr std::uint64_t
  of(errc code, subject about, std::int32_t rank, std::int32_t peer) noexcept {
    return (std::uint64_t{1} << 63) | static_cast<std::uint64_t>(code) |
           (static_cast<std::uint64_t>(about) << 8) |
           (static_cast<std::uint64_t>(rank & 0xff) << 16) |
           (static_cast<std::uint64_t>(peer & 0xff) << 24);
  }
};

namespace detail {

/// What a call is, for those who report on it.
struct peer_call_id {
  std::uint64_t epoch = 0;
  std::uint32_t shape = 0;
  std::uint32_t counts = 0; ///< what every header is to say of the rows,
  bool expects = false;     ///< if that is known
};

/// A call as one thread hands it to an out-of-line part of it and takes it back: by value, since a
/// call whose address leaves the kernel would live in memory.
struct peer_call_part {
  peer_call_id id;
  std::uint64_t started = 0;
  bool failed = false;
};

template <class Block>
DPGATHER_HOST_DEVICE void
record_failure(Block& block, const peer_lane& lane, const peer_call_id& call, errc code,
               subject about, std::int32_t rank, std::int32_t peer, std::int64_t value,
               std::int64_t limit, peer_point where, std::uint32_t peer_shape) noexcept {
  peer_record& out = lane.control->first;
  out.epoch = call.epoch;
  out.value = value;
  out.limit = limit;
  out.shape = call.shape;
  out.peer_shape = peer_shape;
  out.rank = rank;
  out.peer = peer;
  out.block = block.block();
  out.code = static_cast<std::uint8_t>(code);
  out.about = static_cast<std::uint8_t>(about);
  out.phase = static_cast<std::uint8_t>(where);
  block.publish_word(&out.written, 1u);
}

/// See `peer_call::fail`. Out of line with all that goes wrong: it would be most of a kernel.
template <class Block>
DPGATHER_HOST_DEVICE __attribute__((noinline)) void
fail_call(Block block, const peer_lane& lane, peer_call_id call, errc code, subject about,
          std::int32_t peer, std::int64_t value, std::int64_t limit, peer_point where,
          std::uint32_t peer_shape) noexcept {
  if (!block.take(&lane.state().failed)) return;
  record_failure(block, lane, call, code, about, lane.rank(), peer, value, limit, where,
                 peer_shape);
  const std::uint64_t word = poison_word::of(code, about, lane.rank(), peer);
  DPGATHER_ROLLED
  for (std::int32_t i = 1; i < lane.ranks(); ++i)
    block.poison(&lane.state(lane.neighbour(i)).poison, word);
  block.poison(&lane.state().poison, word);
}

/// Word of a peer's error becomes this rank's record, if it has none of its own.
template <class Block>
DPGATHER_HOST_DEVICE __attribute__((noinline)) void
hear_failure(Block block, const peer_lane& lane, peer_call_id call, std::uint64_t word) noexcept {
  if (!block.take(&lane.state().failed)) return;
  const auto signed_byte = [word](int shift) {
    return static_cast<std::int32_t>(static_cast<std::int8_t>((word >> shift) & 0xff));
  };
  record_failure(block, lane, call, static_cast<errc>(word & 0xff),
                 static_cast<subject>((word >> 8) & 0xff), signed_byte(16), signed_byte(24), 0, 0,
                 peer_point::entered, 0);
}

/// Too late: a timeout that names who is to blame. `headers`: of all ranks, of this call's slot.
template <class Block>
DPGATHER_HOST_DEVICE __attribute__((noinline)) void
fail_late(Block block, const peer_lane& lane, peer_call_id call, const peer_flag* headers,
          std::int32_t peer, peer_point where, std::uint64_t budget) noexcept {
  // One that has begun the call may itself wait for one that has not.
  const auto begun = [&](std::int32_t r) {
    return r == lane.rank() || block.observe(headers + r).epoch == call.epoch;
  };
  const auto missing = [&](std::int32_t r) { return r == peer || !begun(r); };
  fail_call(block, lane, call, errc::timeout, subject::none, to_blame(lane.ranks(), missing, begun),
            static_cast<std::int64_t>(where), static_cast<std::int64_t>(budget / 1000), where, 0);
}

/// A wait of one thread in a call: for a word of `peer`, whose header of the call is to be
/// `header`.
template <class Block>
struct peer_wait {
  Block& block;
  const peer_lane& lane;
  const peer_call_id& call;
  const peer_flag* header;
  std::int32_t peer;
  peer_point where;
  bool deadline; ///< asked for now

  [[nodiscard]] DPGATHER_HOST_DEVICE bool hears_failure() noexcept {
    const std::uint64_t poison = block.word(&lane.state().poison);
    if (poison == 0) return false;
    hear_failure(block, lane, call, poison);
    return true;
  }
  /// The peer is in another call.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool is_hopeless() noexcept {
    const peer_flag seen = block.observe(header);
    if (seen.epoch != call.epoch) return false;
    if (seen.shape != call.shape) {
      fail_call(block, lane, call, errc::plan_mismatch, subject::operation, peer, call.shape,
                seen.shape, peer_point::entered, seen.shape);
      return true;
    }
    if (!call.expects || seen.rows == call.counts) return false;
    fail_call(block, lane, call, errc::plan_mismatch, subject::counts, peer, call.counts, seen.rows,
              peer_point::entered, 0);
    return true;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t now() const noexcept {
    const std::uint64_t out = block.now();
    return out == 0 ? 1 : out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t budget() noexcept {
    return deadline ? block.word(&lane.control->budget_ns) : ~std::uint64_t{0};
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE bool expires(std::uint64_t budget) noexcept {
    fail_late(block, lane, call, header - peer, peer, where, budget);
    return true;
  }
  DPGATHER_HOST_DEVICE void rests(std::uint64_t) const noexcept {}
};

/// See `look_up`.
template <class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE __attribute__((noinline)) std::uint64_t
look_up_in_call(Block block, const peer_lane& lane, peer_call_id call, const peer_flag* header,
                std::int32_t peer, peer_point where, std::uint64_t started,
                bool deadline) noexcept {
  peer_wait<Block> wait{block, lane, call, header, peer, where, deadline};
  return look_up(wait, started);
}

} // namespace detail

/// One call as one block lives through it. Every thread of the block has its own; what it says of
/// the block holds after the block has met.
template <class Block>
class peer_call {
public:
  using rules = typename Block::rules_type;

  /// `shape`: what this rank takes the call to be.
  DPGATHER_HOST_DEVICE peer_call(Block& block, const peer_lane& lane, std::uint32_t shape) noexcept
      : block_{block}, lane_{lane}, state_{lane.state()}, shape_{shape},
        epoch_{block.word(&state_.epoch[block.block()]) + 1}, standing_{
                                                                  block.word(&state_.poison)} {}

  /// Goes on with a call.
  DPGATHER_HOST_DEVICE peer_call(Block& block, const peer_lane& lane,
                                 const detail::peer_call_part& part) noexcept
      : block_{block}, lane_{lane}, state_{lane.state()}, shape_{part.id.shape},
        epoch_{part.id.epoch}, standing_{0} {
    started_ = part.started;
    counts_ = part.id.counts;
    expects_ = part.id.expects;
    failed_ = part.failed;
  }

  /// What another one goes on with.
  [[nodiscard]] DPGATHER_HOST_DEVICE detail::peer_call_part part() const noexcept {
    return {id(), started_, failed_};
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t slot() const noexcept {
    return epoch_ % rules::slots;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_state& state() const noexcept { return state_; }
  [[nodiscard]] DPGATHER_HOST_DEVICE bool failed() const noexcept { return failed_; }

  /// Whether an error stood when the call began. Not the same for all threads.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool began_poisoned() noexcept {
    if (standing_ == 0) return false;
    detail::hear_failure(block_, lane_, id(), standing_);
    failed_ = true;
    return true;
  }
  /// Begins the call for this block, which nobody else may have begun and not ended: a second
  /// stream in the channel. Once; by a thread that has nothing urgent to do. Sync after.
  DPGATHER_HOST_DEVICE void claim() noexcept {
    if (block_.thread() != block_.threads() / 2 || standing_ != 0) return;
    const std::uint64_t begun = block_.increment(&state_.begun[block_.block()]);
    if (begun + 1 != epoch_) fail(errc::busy, subject::call, -1, 1, 0);
  }
  /// Sends this rank's header to all peers. Block 0 speaks for the rank. `released`: peers that
  /// acquire it may read what earlier kernels of this rank wrote.
  DPGATHER_HOST_DEVICE void send_headers(std::uint32_t rows, bool released) noexcept {
    block_.rules().at(peer_point::entered, block_);
    if (block_.block() != 0) return;
    for_each_peer([&](std::int32_t r) {
      peer_flag* const to = header(r, lane_.rank());
      const peer_flag flag{epoch_, rows, shape_};
      if (released) {
        block_.publish(to, flag);
      } else {
        block_.post(to, flag);
      }
    });
  }
  /// From now on a header that says anything else of the rows is another plan's.
  DPGATHER_HOST_DEVICE void expect(std::uint32_t counts) noexcept {
    counts_ = counts;
    expects_ = true;
  }
  /// Waits for the headers of all peers; `visit(rank, flag)` by the thread that has it. With
  /// `acquired`, what their earlier kernels wrote may be read after the next `sync`. The caller
  /// syncs, and asks `failed`.
  template <class Visit>
  DPGATHER_HOST_DEVICE void wait_headers(bool acquired, Visit visit) noexcept {
    for_each_peer([&](std::int32_t r) {
      peer_flag seen{};
      if (!wait_each(r, peer_point::waiting, [&] {
            const peer_flag* const from = header(lane_.rank(), r);
            seen = acquired ? block_.acquire(from) : block_.observe(from);
            return seen.epoch == epoch_;
          }))
        return;
      if (seen.shape != shape_) {
        mismatch(r, seen);
        return;
      }
      visit(r, seen);
    });
  }

  /// Tells all peers that this block's stores are done; the caller has synced.
  DPGATHER_HOST_DEVICE void publish_flags() noexcept {
    for_each_peer([&](std::int32_t r) { publish(flag_of(r, lane_.rank())); });
  }
  /// Waits until the same block of every peer that `wanted(rank)` names has published.
  template <class Wanted>
  DPGATHER_HOST_DEVICE void wait_flags(Wanted wanted) noexcept {
    for_each_peer([&](std::int32_t r) {
      if (!wanted(r)) return;
      (void)wait_each(r, peer_point::received,
                      [&] { return block_.acquire(flag_of(lane_.rank(), r)).epoch == epoch_; });
    });
  }

  /// Tells the ranks that `wanted(rank)` names, maybe this one, that this block's part of their
  /// slices is stored; the caller has synced.
  template <class Wanted>
  DPGATHER_HOST_DEVICE void publish_slices(Wanted wanted) noexcept {
    for_each_rank([&](std::int32_t r) {
      if (wanted(r)) publish(slice_flag(r, lane_.rank(), block_.block()));
    });
  }
  /// Waits until all blocks of every rank that `wanted(rank)` names have stored their parts of this
  /// rank's slice. The caller syncs, and asks `failed`.
  template <class Wanted>
  DPGATHER_HOST_DEVICE void wait_slices(Wanted wanted) noexcept {
    if constexpr (!rules::waits_for_slices) return;
    const std::uint32_t blocks = block_.blocks();
    const std::uint32_t all = blocks * static_cast<std::uint32_t>(ranks());
    DPGATHER_ROLLED
    for (std::uint32_t i = block_.thread(); i < all && !failed_; i += block_.threads()) {
      const auto r = static_cast<std::int32_t>(i / blocks);
      if (!wanted(r)) continue;
      const peer_flag* const from = slice_flag(lane_.rank(), r, i % blocks);
      (void)wait_each(r, peer_point::received,
                      [&] { return block_.acquire(from).epoch == epoch_; });
    }
  }

  /// Looks until `arrived()`; false when the call has failed instead. One thread's own.
  template <class Arrived>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool wait_each(std::int32_t peer, peer_point where,
                                                    Arrived arrived) noexcept {
    return wait_until(peer, where, arrived, [](bool gave_up) { return gave_up; });
  }
  /// The same for lanes that move in step: `arrived()` is theirs together, and so is the answer.
  /// `peer` may change with what has arrived.
  template <class Arrived>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool wait_together(const std::int32_t& peer, peer_point where,
                                                        Arrived arrived) noexcept {
    return wait_until(peer, where, arrived, [this](bool gave_up) { return block_.any(gave_up); });
  }

  /// Records an error, this rank's first only, and leaves word of it with all peers, where it is
  /// before anything that this rank's stream does next.
  DPGATHER_HOST_DEVICE void fail(errc code, subject about, std::int32_t peer, std::int64_t value,
                                 std::int64_t limit, peer_point where = peer_point::entered,
                                 std::uint32_t peer_shape = 0) noexcept {
    failed_ = true;
    detail::fail_call(block_, lane_, id(), code, about, peer, value, limit, where, peer_shape);
  }

  /// Ends the call: true when every thread of the block got through. `rereads`: rows were read from
  /// peers, who may have failed meanwhile and gone on to overwrite them.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool end(bool rereads) noexcept {
    block_.rules().at(peer_point::received, block_);
    if (rereads) {
      block_.sync();
      const std::uint64_t word = block_.word(&state_.poison);
      if (word != 0) {
        detail::hear_failure(block_, lane_, id(), word);
        failed_ = true;
      }
    }
    if (block_.sync_or(failed_)) return false;
    const std::uint32_t own = block_.block();
    if (block_.thread() == 0) block_.set(&state_.epoch[own], epoch_);
    if (lane_.tells_progress && own == 0 && block_.thread() == 0)
      block_.set(&lane_.control->done, epoch_);
    if (own == 0 && rules::counts_idle_blocks) {
      for (std::uint32_t b = block_.blocks() + block_.thread(); b < max_peer_blocks;
           b += block_.threads()) {
        block_.set(&state_.epoch[b], epoch_);
        block_.set(&state_.begun[b], epoch_);
      }
    }
    return true;
  }

  /// Calls `visit(rank)` for every peer, by as many threads as there are: the last ones, which have
  /// the fewest lines to see to.
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each_peer(Visit visit) const noexcept {
    for_each_rank([&](std::int32_t r) {
      if (r != lane_.rank()) visit(r);
    });
  }

private:
  static constexpr std::uint32_t looks_between = Block::looks_between;
  /// The deadline lies in the host's memory. All warps of a GPU that ask for it keep the bus busy
  /// for longer than it takes to be asked again: a rank that waited is late for the next call, its
  /// peer waits, and so on for good. Two H200, lines of 32 rows: 600 us a call instead of 5.
  static constexpr std::uint32_t looks_at_deadline = 16 * looks_between;

  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each_rank(Visit visit) const noexcept {
    DPGATHER_ROLLED
    for (std::uint32_t r = block_.threads() - 1 - block_.thread();
         r < static_cast<std::uint32_t>(ranks()); r += block_.threads())
      visit(static_cast<std::int32_t>(r));
  }
  DPGATHER_HOST_DEVICE void publish(peer_flag* to) noexcept {
    const peer_flag flag{epoch_, 0, shape_};
    if constexpr (rules::releases) {
      block_.publish(to, flag);
    } else {
      block_.post(to, flag);
    }
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t ranks() const noexcept {
    if constexpr (rules::ranks > 0)
      return rules::ranks;
    else
      return lane_.ranks();
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE detail::peer_call_id id() const noexcept {
    return {epoch_, shape_, counts_, expects_};
  }
  /// Looks until `arrived()`, and once in a while up; `gives_up(whether this thread does)`.
  template <class Arrived, class GivesUp>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool wait_until(const std::int32_t& peer, peer_point where,
                                                     Arrived arrived, GivesUp gives_up) noexcept {
    if (look_until<looks_between>(
            arrived, [&] { block_.pause(); },
            [&](std::uint32_t looks) {
              started_ = look_up_for(peer, where, looks % looks_at_deadline == 0);
              return gives_up(started_ == 0);
            }))
      return true;
    failed_ = true;
    return false;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t look_up_for(std::int32_t peer, peer_point where,
                                                               bool deadline) noexcept {
    return detail::look_up_in_call(block_, lane_, id(), header(lane_.rank(), peer), peer, where,
                                   started_, deadline);
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_flag* header(std::int32_t to,
                                                       std::int32_t from) const noexcept {
    return reinterpret_cast<peer_flag*>(lane_.at(to, lane_.layout.headers)) +
           slot() * max_peer_ranks + static_cast<std::uint32_t>(from);
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_flag* flag_of(std::int32_t to,
                                                        std::int32_t from) const noexcept {
    return flag_at(lane_.layout.flags, to, from, block_.block());
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_flag* slice_flag(std::int32_t to, std::int32_t from,
                                                           std::uint32_t block) const noexcept {
    return flag_at(lane_.layout.slice_flags, to, from, block);
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_flag* flag_at(std::uint64_t flags, std::int32_t to,
                                                        std::int32_t from,
                                                        std::uint32_t block) const noexcept {
    return reinterpret_cast<peer_flag*>(lane_.at(to, flags)) +
           (slot() * max_peer_ranks + static_cast<std::uint32_t>(from)) * max_peer_blocks + block;
  }
  DPGATHER_HOST_DEVICE void mismatch(std::int32_t peer, const peer_flag& seen) noexcept {
    fail(errc::plan_mismatch, subject::operation, peer, shape_, seen.shape, peer_point::entered,
         seen.shape);
  }

  Block& block_;
  const peer_lane& lane_;
  peer_state& state_;
  std::uint32_t shape_;
  std::uint64_t epoch_;
  std::uint64_t standing_;    // poison, when the call began
  std::uint64_t started_ = 0; // when a wait of this call first looked at the clock
  std::uint32_t counts_ = 0;
  bool expects_ = false;
  bool failed_ = false; // as this thread knows
};

} // namespace dpgather::inline v0
