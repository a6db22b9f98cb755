#pragma once

/// @file
/// One rank's NCCL communicators and what has happened on them.

#include <dpgather/comm/nccl_bootstrap.cuh>
#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/graph_count.cuh>
#include <dpgather/device/stream_wait.cuh>
#include <dpgather/protocol/call_record.hpp>
#include <dpgather/protocol/failure_cell.hpp>
#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <nccl.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dpgather::inline v0 {

class nccl_communicator;

/// The NCCL communicators of one rank, borrowed; the first failure on them; what they brought.
/// Handles on it are `nccl_communicator`s. `nccl_owner` is the twin that makes its own.
///
/// Ownership: borrows the communicators and `announcements`, which must outlive it and every graph
/// that its calls were captured into. Address-stable. Allocates at construction only.
/// Threads: one at a time makes calls, as NCCL demands of a communicator; a second one is answered
/// `busy`. `check`, `poll`, `wait` and `abort` may be called by another one, a watchdog, meanwhile.
/// After a failure every call answers `poisoned`; `abort` the communicators and make new ones.
class nccl_world {
public:
  /// `world` has one rank for each of `place.world_size()`; `attention_tp` the A ranks of this
  /// data-parallel rank, in their order, and may be null with A = 1. `announcements` serves
  /// `checks::checked`; without it `announce` is refused.
  nccl_world(const topology& place, ncclComm_t world, ncclComm_t attention_tp = nullptr,
             nccl_bootstrap* announcements = nullptr)
      : place_{place}, world_{world}, attention_tp_{attention_tp}, announcements_{announcements},
        records_(place.validate().ok() ? static_cast<std::size_t>(place.world_size()) : 0) {
    if (const status bad = verify(); !bad) (void)failure_.raise(bad);
  }
  nccl_world(const nccl_world&) = delete;
  nccl_world& operator=(const nccl_world&) = delete;

  /// Ok, or the first failure: of the construction (`nccl_version`, `bad_group`, `null_pointer`) or
  /// of any call since.
  [[nodiscard]] status check() const noexcept { return failure_.first(); }
  [[nodiscard]] const dpgather::v0::topology& topology() const noexcept { return place_; }
  /// Bytes that a ring brings this rank for the data collectives issued so far; NCCL itself tells
  /// nobody. A captured call counts once, when it is captured.
  [[nodiscard]] std::uint64_t bytes_received() const noexcept { return bytes_received_; }
  /// Graphs that still hold calls of this world; they must be destroyed before it.
  [[nodiscard]] std::int32_t graphs_alive() const noexcept { return graphs_.alive(); }

  /// Whether an asynchronous error has come up. Errors: `native_error`, which stays.
  [[nodiscard]] status poll() noexcept {
    if (failure_.failed()) return failure_.poisoned();
    for (ncclComm_t each : {world_.load(), attention_tp_.load()}) {
      if (each == nullptr) continue;
      ncclResult_t state = ncclSuccess;
      ncclResult_t asked = ncclCommGetAsyncError(each, &state);
      if (asked == ncclSuccess) asked = state;
      if (asked != ncclSuccess && asked != ncclInProgress)
        return fail(nccl_status(asked, "asynchronous", place_.world_rank()));
    }
    return {};
  }

  /// Waits until `stream` is idle, at most `timeout_ns`. The only bounded wait there is for NCCL: a
  /// rank that does not come leaves its kernel on the stream. Errors: `timeout`, `native_error`;
  /// after either `abort` ends what still runs; `poisoned` after an earlier failure.
  [[nodiscard]] status wait(cudaStream_t stream, std::int64_t timeout_ns) noexcept {
    status done = wait_for(stream, timeout_ns, [this]() noexcept { return poll(); });
    if (done.ok()) return poll(); // a failed collective may leave the stream idle
    if (done.code == errc::poisoned || failure_.failed()) return done;
    done.rank = place_.world_rank();
    return fail(done);
  }

  /// Ends what still runs and frees both communicators, as NCCL demands after a failure. Their
  /// handles are invalid then, the engine's copies too. Blocks as long as `ncclCommAbort` does.
  void abort() noexcept {
    (void)fail({.code = errc::peer_left, .peer = place_.world_rank()});
    const ncclComm_t peers = attention_tp_.exchange(nullptr);
    const ncclComm_t all = world_.exchange(nullptr);
    // With one data-parallel rank an engine may have given one communicator for both.
    if (peers != nullptr && peers != all) (void)ncclCommAbort(peers);
    if (all != nullptr) (void)ncclCommAbort(all);
  }

private:
  friend class nccl_communicator;

  [[nodiscard]] status verify() const noexcept {
    if (status bad = place_.validate(); !bad) return bad;
    if (status bad = check_nccl_version(); !bad) return bad;
    if (status bad = verify(world_, place_.world_size(), place_.world_rank(), subject::world); !bad)
      return bad;
    if (attention_tp_ != nullptr || place_.tp_size > 1) {
      if (status bad = verify(attention_tp_, place_.tp_size, place_.tp_rank, subject::tp_size);
          !bad)
        return bad;
    }
    if (announcements_ == nullptr) return {};
    if (status bad = announcements_->check(); !bad) return bad;
    const auto other = [&](subject what, std::int64_t value, std::int64_t limit) {
      return status{.code = errc::bad_group,
                    .about = what,
                    .rank = place_.world_rank(),
                    .value = value,
                    .limit = limit,
                    .where = "nccl_world's announcements"};
    };
    if (announcements_->size() != place_.world_size())
      return other(subject::world, announcements_->size(), place_.world_size());
    if (announcements_->rank() != place_.world_rank())
      return other(subject::rank, announcements_->rank(), place_.world_rank());
    return {};
  }
  [[nodiscard]] status verify(ncclComm_t comm, std::int32_t size, std::int32_t rank,
                              subject about) const noexcept {
    constexpr const char* where = "nccl_world";
    const auto refuse = [&](errc code, subject what, std::int64_t value, std::int64_t limit) {
      return status{.code = code,
                    .about = what,
                    .rank = place_.world_rank(),
                    .value = value,
                    .limit = limit,
                    .where = where};
    };
    if (comm == nullptr) return refuse(errc::null_pointer, about, size, 0);
    int has = 0;
    int is = 0;
    const std::int32_t me = place_.world_rank();
    if (status bad = nccl_status(ncclCommCount(comm, &has), where, me); !bad) return bad;
    if (status bad = nccl_status(ncclCommUserRank(comm, &is), where, me); !bad) return bad;
    if (has != size) return refuse(errc::bad_group, about, has, size);
    if (is != rank) return refuse(errc::bad_group, subject::rank, is, rank);
    return {};
  }

  status fail(const status& why) noexcept {
    (void)failure_.raise(why);
    return why;
  }

  dpgather::v0::topology place_;
  std::atomic<ncclComm_t> world_; // null after an abort
  std::atomic<ncclComm_t> attention_tp_;
  nccl_bootstrap* announcements_;
  std::vector<call_record> records_;
  failure_cell failure_;
  graph_count graphs_;
  std::uint64_t bytes_received_ = 0;
  std::atomic<bool> busy_{false};
};

} // namespace dpgather::inline v0
