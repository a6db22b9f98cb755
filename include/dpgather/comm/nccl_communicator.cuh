#pragma once

/// @file
/// The communicator over NCCL: one or many nodes, eager and captured.

#include <dpgather/comm/communicator.hpp>
#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/comm/nccl_world.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/element.hpp>
#include <dpgather/options.hpp>
#include <dpgather/protocol/in_use.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// One rank's handle on an `nccl_world`. Cheap to copy; rank and size are those of the group that
/// it speaks for.
///
/// Stream: calls return at once and run in stream order. Capture: as NCCL's own, but for the
/// v-variants, whose pieces come from the host (`not_capturable`). Order of sums: NCCL's own. Equal
/// pieces that follow each other are one plain collective, others one group of W broadcasts or
/// reduces. Errors of every call: `busy`, `native_error` with NCCL's name (sticky: after an error
/// of NCCL a communicator is good for nothing but `abort`), `poisoned`. A rank that does not come
/// is no error here: NCCL waits on the stream; see `nccl_world::wait`.
class nccl_communicator {
public:
  using tag = comm::nccl;
  using stream_type = cudaStream_t;
  static constexpr bool compares_plans = false;
  static constexpr bool freezes_counts = true;

  explicit nccl_communicator(nccl_world& world) noexcept
      : world_{&world}, rank_{world.place_.world_rank()}, size_{world.place_.world_size()} {}

  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return size_; }
  [[nodiscard]] nccl_world& world() const noexcept { return *world_; }
  [[nodiscard]] dpgather::v0::topology topology() const noexcept { return world_->place_; }
  [[nodiscard]] std::uint64_t bytes_received() const noexcept { return world_->bytes_received(); }
  /// NCCL's own handle, for the engine's own collectives.
  [[nodiscard]] ncclComm_t native_handle() const noexcept {
    return of_attention_tp_ ? world_->attention_tp_ : world_->world_;
  }

  /// Ok while calls can be made. Asked by every call before it starts anything. Errors: `busy`,
  /// `poisoned`, and an asynchronous error that nobody has heard of yet.
  [[nodiscard]] status standing() noexcept {
    const in_use guard{world_->busy_};
    return guard ? world_->poll() : busy("standing");
  }
  /// Ends the world with `why`: this rank has left out a part of a call that its peers may have
  /// made, so that its next collective would meet another one of theirs.
  void fail(const status& why) noexcept { (void)world_->fail(why); }

  /// The A ranks of this data-parallel rank; borrowed from the world, which was given it.
  [[nodiscard]] nccl_communicator subgroup(subgroup_kind) noexcept {
    nccl_communicator out = *this;
    out.of_attention_tp_ = true;
    out.rank_ = world_->place_.tp_rank;
    out.size_ = world_->place_.tp_size;
    return out;
  }

  /// Exchanges call records through the world's `announcements` and judges them: on the host,
  /// before anything moves. Blocking: for debugging and CI. Errors: those of `judge` (a
  /// `plan_mismatch` stays), `bad_config` without `announcements`, those of `nccl_bootstrap`.
  [[nodiscard]] status announce(const call_record& call, std::span<call_record> all,
                                cudaStream_t) noexcept {
    const in_use guard{world_->busy_};
    if (!guard) return busy("announce");
    if (world_->failure_.failed()) return world_->failure_.poisoned();
    if (world_->announcements_ == nullptr)
      return {.code = errc::bad_config,
              .about = subject::record,
              .rank = rank_,
              .value_name = "checks::checked needs nccl_world's announcements",
              .where = "announce"};
    if (status bad =
            world_->announcements_->all_gather(&call, world_->records_.data(), sizeof call);
        !bad)
      return world_->fail(bad);
    const status verdict = judge(world_->records_);
    if (is_sticky(verdict.code)) return world_->fail(verdict);
    for (std::size_t r = 0; r < all.size(); ++r) all[r] = world_->records_[r];
    return verdict;
  }

  [[nodiscard]] status all_gather(const void* send, void* recv, std::size_t bytes,
                                  cudaStream_t stream) noexcept {
    return issue("all_gather", stream, (wide_size() - 1) * bytes, [&](ncclComm_t comm) noexcept {
      return ncclAllGather(send, recv, bytes, ncclUint8, comm, stream);
    });
  }
  [[nodiscard]] status all_reduce(const void* send, void* recv, std::size_t count, element type,
                                  cudaStream_t stream) noexcept {
    // A reduce-scatter and an all-gather of slices.
    const std::size_t first = count * static_cast<std::size_t>(rank_) / wide_size();
    const std::size_t slice = count * (static_cast<std::size_t>(rank_) + 1) / wide_size() - first;
    const std::size_t elements = (wide_size() - 1) * slice + (count - slice);
    return issue("all_reduce", stream, elements * size_of(type), [&](ncclComm_t comm) noexcept {
      return ncclAllReduce(send, recv, count, nccl_type(type), ncclSum, comm, stream);
    });
  }
  [[nodiscard]] status reduce_scatter(const void* send, void* recv, std::size_t count, element type,
                                      cudaStream_t stream) noexcept {
    return issue("reduce_scatter", stream, (wide_size() - 1) * count * size_of(type),
                 [&](ncclComm_t comm) noexcept {
                   return ncclReduceScatter(send, recv, count, nccl_type(type), ncclSum, comm,
                                            stream);
                 });
  }

  [[nodiscard]] status all_gather_v(const void* send, void* recv, std::span<const piece> pieces,
                                    cudaStream_t stream) noexcept {
    if (equal_and_adjacent(pieces)) {
      if (status bad = outside_capture(stream, "all_gather_v"); !bad) return bad;
      return all_gather(send, recv, bytes_of(pieces[0]), stream);
    }
    std::size_t received = 0;
    for (std::int32_t r = 0; r < size_; ++r)
      received += r == rank_ ? 0 : bytes_of(pieces[static_cast<std::size_t>(r)]);
    return issue_group("all_gather_v", stream, received, pieces,
                       [&](std::int32_t root, const piece& p, ncclComm_t comm) noexcept {
                         std::byte* const place = static_cast<std::byte*>(recv) + p.offset;
                         return ncclBroadcast(root == rank_ ? send : place, place, bytes_of(p),
                                              ncclUint8, root, comm, stream);
                       });
  }
  [[nodiscard]] status reduce_scatter_v(const void* send, void* recv, std::span<const piece> pieces,
                                        element type, cudaStream_t stream) noexcept {
    if (equal_and_adjacent(pieces)) {
      if (status bad = outside_capture(stream, "reduce_scatter_v"); !bad) return bad;
      return reduce_scatter(send, recv, bytes_of(pieces[0]), type, stream);
    }
    const std::size_t unit = size_of(type);
    const piece& mine = pieces[static_cast<std::size_t>(rank_)];
    return issue_group("reduce_scatter_v", stream, (wide_size() - 1) * bytes_of(mine) * unit,
                       pieces, [&](std::int32_t root, const piece& p, ncclComm_t comm) noexcept {
                         const std::byte* const from = static_cast<const std::byte*>(send) +
                                                       static_cast<std::size_t>(p.offset) * unit;
                         return ncclReduce(from, recv, bytes_of(p), nccl_type(type), ncclSum, root,
                                           comm, stream);
                       });
  }

private:
  [[nodiscard]] static std::size_t bytes_of(const piece& p) noexcept {
    return static_cast<std::size_t>(p.count);
  }
  [[nodiscard]] std::size_t wide_size() const noexcept { return static_cast<std::size_t>(size_); }
  [[nodiscard]] status busy(const char* where) const noexcept {
    return {.code = errc::busy, .about = subject::call, .rank = rank_, .value = 1, .where = where};
  }
  [[nodiscard]] static bool equal_and_adjacent(std::span<const piece> pieces) noexcept {
    for (std::size_t r = 0; r < pieces.size(); ++r) {
      if (pieces[r].count != pieces[0].count ||
          pieces[r].offset != static_cast<std::int64_t>(r) * pieces[0].count)
        return false;
    }
    return true;
  }
  [[nodiscard]] status outside_capture(cudaStream_t stream, const char* where) const noexcept {
    const result<bool> capturing = is_capturing(stream);
    if (!capturing) return capturing.status();
    if (!*capturing) return {};
    return {.code = errc::not_capturable,
            .about = subject::counts,
            .rank = world_->place_.world_rank(),
            .value = 1,
            .where = where};
  }

  /// One collective: checks, the call, what came of it.
  template <class Call>
  [[nodiscard]] status issue(const char* where, cudaStream_t stream, std::size_t bytes,
                             Call call) noexcept {
    const in_use guard{world_->busy_};
    if (!guard) return busy(where);
    if (status bad = world_->poll(); !bad) return bad;
    if (status bad = world_->graphs_.hold(stream); !bad) return bad;
    const ncclComm_t comm = native_handle();
    if (comm == nullptr) return world_->failure_.poisoned(); // aborted by another thread just now
    const ncclResult_t done = nccl_settled(comm, call(comm));
    if (done != ncclSuccess)
      return world_->fail(nccl_status(done, where, world_->place_.world_rank()));
    world_->bytes_received_ += bytes;
    return {};
  }
  /// One call for each rank that has a piece, in one group. All ranks know all pieces, so all leave
  /// out the same ones.
  template <class Call>
  [[nodiscard]] status issue_group(const char* where, cudaStream_t stream, std::size_t bytes,
                                   std::span<const piece> pieces, Call call) noexcept {
    if (status bad = outside_capture(stream, where); !bad) return bad;
    return issue(where, stream, bytes, [&](ncclComm_t comm) noexcept {
      ncclResult_t first = ncclGroupStart();
      if (first != ncclSuccess) return first;
      for (std::int32_t root = 0; root < size_; ++root) {
        const piece& p = pieces[static_cast<std::size_t>(root)];
        if (p.count == 0) continue;
        const ncclResult_t one = call(root, p, comm);
        if (one != ncclSuccess && one != ncclInProgress && first == ncclSuccess) first = one;
      }
      const ncclResult_t all = ncclGroupEnd(); // always: an open group would swallow what follows
      return first != ncclSuccess ? first : all;
    });
  }

  nccl_world* world_;
  std::int32_t rank_;
  std::int32_t size_;
  bool of_attention_tp_ = false;
};

template <>
struct communicator_of<comm::nccl> {
  using type = nccl_communicator;
};

} // namespace dpgather::inline v0
