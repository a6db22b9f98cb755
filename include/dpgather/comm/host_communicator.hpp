#pragma once

/// @file
/// The communicator whose ranks are threads: no GPU, the same words, the same bytes on the wire as
/// a ring, sums in rank order.

#include <dpgather/comm/communicator.hpp>
#include <dpgather/comm/host_world.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/element.hpp>
#include <dpgather/options.hpp>
#include <dpgather/protocol/in_use.hpp>
#include <dpgather/status.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace dpgather::inline v0 {

/// One rank's handle on a `host_world`: a communicator and a bootstrap. Cheap to copy.
///
/// Stream: calls finish before they return. Ownership: borrows the world. Capture: there is no
/// graph to capture; a plan for a graph runs with the graph's shapes. Order of sums: rank order,
/// fp32 for f16, bf16 and f32. Traffic: each rank pulls what a ring would bring it, so an
/// all-reduce is a reduce-scatter and an all-gather, and `bytes_received` counts what was copied or
/// summed from another rank's memory. Errors of every call: `busy` (another thread is inside this
/// rank's call; nothing happened), `timeout`, `peer_left`, `poisoned`, and the first failure of any
/// rank while waiting.
class host_communicator {
public:
  using tag = comm::host;
  using stream_type = host_stream;
  static constexpr bool compares_plans = true;
  static constexpr bool freezes_counts = false;

  /// World rank `world_rank` of `world`.
  host_communicator(host_world& world, std::int32_t world_rank) noexcept
      : host_communicator{world, world.groups_[0], world_rank, world_rank} {}

  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return group_->meeting.size(); }
  [[nodiscard]] host_world& world() const noexcept { return *world_; }
  [[nodiscard]] dpgather::v0::topology topology() const noexcept {
    return world_->shape().at(world_rank_);
  }

  /// The A ranks of this data-parallel rank. Borrowed: the same thread, the same failure.
  [[nodiscard]] host_communicator subgroup(subgroup_kind) noexcept {
    return {*world_, world_->groups_[world_->tp_group(world_rank_)],
            world_rank_ % world_->shape().tp_size, world_rank_};
  }

  /// Bytes that data collectives brought to this rank from others since construction of the world.
  [[nodiscard]] std::uint64_t bytes_received() const noexcept { return mine().bytes_received; }

  /// Ends all waiting in this world with `cause`, for good.
  void abort(const status& cause) noexcept { (void)group_->meeting.fail(cause); }

  /// Exchanges call records. Errors: those of `judge`; a `plan_mismatch` fails the world.
  [[nodiscard]] status announce(const call_record& call, std::span<call_record> all,
                                host_stream) noexcept {
    const in_use guard{mine().busy};
    if (!guard) return busy("announce");
    if (status bad = group_->meeting.standing(); !bad) return bad;
    mine().call = call.call;
    auto& posted = group_->calls[(group_->meeting.epoch(rank_) + 1) % 2];
    posted[index(rank_)] = call;
    if (status bad = enter("announce"); !bad) return bad;
    const status verdict = judge(posted);
    if (is_sticky(verdict.code)) return group_->meeting.fail(verdict);
    for (std::size_t r = 0; r < all.size(); ++r) all[r] = posted[r];
    return verdict;
  }

  [[nodiscard]] status all_gather(const void* send, void* recv, std::size_t bytes,
                                  host_stream) noexcept {
    const auto place = [bytes](std::int32_t r) { return span_of{index(r) * bytes, bytes}; };
    return pull_all("all_gather", send, recv, place, true);
  }

  [[nodiscard]] status all_gather_v(const void* send, void* recv, std::span<const piece> pieces,
                                    host_stream) noexcept {
    const auto place = [pieces](std::int32_t r) {
      const piece& p = pieces[index(r)];
      return span_of{static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.count)};
    };
    return pull_all("all_gather_v", send, recv, place, true);
  }

  [[nodiscard]] status reduce_scatter(const void* send, void* recv, std::size_t count, element type,
                                      host_stream) noexcept {
    return reduce_to("reduce_scatter", send, recv, index(rank_) * count, count, type);
  }

  [[nodiscard]] status reduce_scatter_v(const void* send, void* recv, std::span<const piece> pieces,
                                        element type, host_stream) noexcept {
    const piece& p = pieces[index(rank_)];
    return reduce_to("reduce_scatter_v", send, recv, static_cast<std::size_t>(p.offset),
                     static_cast<std::size_t>(p.count), type);
  }

  [[nodiscard]] status all_reduce(const void* send, void* recv, std::size_t count, element type,
                                  host_stream stream) noexcept {
    const in_use guard{mine().busy};
    if (!guard) return busy("all_reduce");
    // Rank r sums slice r, then everybody fetches everybody's slice.
    const std::size_t bytes = size_of(type);
    const auto slice = [count, ranks = index(size())](std::int32_t r) {
      const std::size_t first = count * index(r) / ranks;
      return piece{static_cast<std::int64_t>(first),
                   static_cast<std::int64_t>(count * (index(r) + 1) / ranks - first)};
    };
    const piece own = slice(rank_);
    auto* out = static_cast<std::byte*>(recv) + static_cast<std::size_t>(own.offset) * bytes;
    if (status bad = reduce_held("all_reduce", send, out, static_cast<std::size_t>(own.offset),
                                 static_cast<std::size_t>(own.count), type);
        !bad)
      return bad;
    (void)stream;
    const auto place = [slice, bytes](std::int32_t r) {
      const piece p = slice(r);
      return span_of{static_cast<std::size_t>(p.offset) * bytes,
                     static_cast<std::size_t>(p.count) * bytes};
    };
    return pull_held("all_reduce", out, recv, place, true, true);
  }

  /// Bootstrap: the same without a stream, not counted as traffic.
  [[nodiscard]] status all_gather(const void* mine_bytes, void* all, std::size_t bytes) noexcept {
    const auto place = [bytes](std::int32_t r) { return span_of{index(r) * bytes, bytes}; };
    return pull_all("exchange", mine_bytes, all, place, false);
  }
  [[nodiscard]] status barrier() noexcept {
    const in_use guard{mine().busy};
    if (!guard) return busy("barrier");
    return enter("barrier");
  }

private:
  struct span_of {
    std::size_t offset, bytes;
  };

  host_communicator(host_world& world, host_world::group& group, std::int32_t rank,
                    std::int32_t world_rank) noexcept
      : world_{&world}, group_{&group}, rank_{rank}, world_rank_{world_rank} {}

  [[nodiscard]] static constexpr std::size_t index(std::int32_t r) noexcept {
    return static_cast<std::size_t>(r);
  }
  [[nodiscard]] host_world::rank_state& mine() const noexcept {
    return world_->ranks_[index(world_rank_)];
  }
  [[nodiscard]] status busy(const char* where) const noexcept {
    return {.code = errc::busy,
            .about = subject::call,
            .rank = world_rank_,
            .value = 1,
            .where = where};
  }
  [[nodiscard]] status meet(const char* where) noexcept {
    return group_->meeting.meet(rank_, world_->timeout_ns_, mine().call, where);
  }

  /// `poisoned` taken apart: what happened during a call is its own.
  [[nodiscard]] static status own(status bad) noexcept {
    bad.code = bad.cause;
    bad.cause = errc::ok;
    return bad;
  }
  /// A later meeting of a call: a failure is this call's own.
  [[nodiscard]] status meet_again(const char* where) noexcept {
    return group_->meeting.meet(rank_, world_->timeout_ns_, mine().call, where, true);
  }
  /// The first meeting of a call: all ranks must have entered the same one.
  [[nodiscard]] status enter(const char* what) noexcept {
    if (status bad = group_->meeting.standing(); !bad) return bad;
    auto& entered = group_->entered[(group_->meeting.epoch(rank_) + 1) % 2];
    entered[index(rank_)] = what;
    if (status bad = meet(what); !bad) return bad;
    for (std::int32_t r = 1; r < size(); ++r) {
      if (std::strcmp(entered[index(r)], entered[0]) == 0) continue;
      return group_->meeting.fail({.code = errc::plan_mismatch,
                                   .about = subject::operation,
                                   .rank = group_->meeting.world_rank(r),
                                   .peer = group_->meeting.world_rank(0),
                                   .value_name = entered[index(r)],
                                   .limit_name = entered[0],
                                   .where = "host_communicator"});
    }
    return {};
  }

  /// Every rank's `send` goes to `place(rank)` of every `recv`.
  template <class Place>
  [[nodiscard]] status pull_all(const char* what, const void* send, void* recv, Place place,
                                bool counted) noexcept {
    const in_use guard{mine().busy};
    if (!guard) return busy(what);
    return pull_held(what, send, recv, place, counted, false);
  }
  template <class Place>
  [[nodiscard]] status pull_held(const char* what, const void* send, void* recv, Place place,
                                 bool counted, bool again) noexcept {
    if (status bad = group_->meeting.standing(); !bad) return again ? own(bad) : bad;
    group_->sends[index(rank_)] = static_cast<const std::byte*>(send);
    if (status bad = again ? meet_again(what) : enter(what); !bad) return bad;
    for (std::int32_t r = 0; r < size(); ++r) {
      const span_of to = place(r);
      std::byte* out = static_cast<std::byte*>(recv) + to.offset;
      const std::byte* from = group_->sends[index(r)];
      if (to.bytes == 0 || from == out) continue;
      memcpy(out, from, to.bytes);
      if (r != rank_ && counted) mine().bytes_received += to.bytes;
    }
    // Nobody may touch what the others still read.
    return meet_again(what);
  }

  /// The sum of elements `first` to `first + count` of every rank's `send` goes to `recv`.
  [[nodiscard]] status reduce_to(const char* what, const void* send, void* recv, std::size_t first,
                                 std::size_t count, element type) noexcept {
    const in_use guard{mine().busy};
    if (!guard) return busy(what);
    return reduce_held(what, send, recv, first, count, type);
  }
  [[nodiscard]] status reduce_held(const char* what, const void* send, void* recv,
                                   std::size_t first, std::size_t count, element type) noexcept {
    if (status bad = group_->meeting.standing(); !bad) return bad;
    group_->sends[index(rank_)] = static_cast<const std::byte*>(send);
    if (status bad = enter(what); !bad) return bad;
    if (count > 0) {
      with_sum_of(type, [&]<class Sum>(Sum) {
        sum_elements<Sum>(static_cast<std::byte*>(recv), group_->sends.data(), size(), first, count,
                          0, 1);
      });
      mine().bytes_received += (index(size()) - 1) * count * size_of(type);
    }
    return meet_again(what);
  }

  host_world* world_;
  host_world::group* group_;
  std::int32_t rank_;
  std::int32_t world_rank_;
};

template <>
struct communicator_of<comm::host> {
  using type = host_communicator;
};

} // namespace dpgather::inline v0
