#pragma once

/// @file
/// NCCL communicators for programs that have none: made from a bootstrap, destroyed at the end.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/nccl_bootstrap.cuh>
#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/comm/nccl_warm_up.cuh>
#include <dpgather/comm/nccl_world.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace dpgather::inline v0 {

/// Owns the communicators of one rank: one of all ranks, and with A > 1 one of the A peers, split
/// from it; and the exchange that `checks::checked` and `agree` use.
///
/// Collective to construct, with the device of the rank current. Bounded: NCCL's own initialisation
/// has no deadline, so it runs on a thread of its own, which is left behind when `timeout_ns` has
/// passed. (NCCL's non-blocking communicators are no way out: they start a thread for every call.)
/// Warms up (see `nccl_warm_up`, also for `warm_up_bytes`), so that the first call may be a
/// captured one. Allocates. Errors of the construction, where one rank's failure is every rank's:
/// those of the bootstrap, `native_error`, `timeout`, `nccl_version`, `peer_refused{rank}` where
/// another rank failed; see `check()`.
class nccl_owner {
public:
  template <bootstrap Bootstrap>
  nccl_owner(Bootstrap& ranks, const topology& place,
             std::int64_t timeout_ns = nccl_bootstrap::default_timeout_ns,
             std::size_t warm_up_bytes = nccl_warm_up::default_bytes) {
    ncclUniqueId id{};
    status mine = meet(ranks, place, id);
    if (mine.ok())
      mine = bounded(timeout_ns, [id, place, timeout_ns, warm_up_bytes] {
        return make(id, place, timeout_ns, warm_up_bytes);
      });
    // Whoever failed says so, so that no rank goes on alone.
    failure_ = agreed(ranks, mine);
    if (!failure_.ok()) {
      abort();
      return;
    }
    exchange_.emplace(world_comm_, timeout_ns);
    world_.emplace(place, world_comm_, attention_tp_, &*exchange_);
    failure_ = agreed(ranks, exchange_->check().ok() ? world_->check() : exchange_->check());
  }
  nccl_owner(const nccl_owner&) = delete;
  nccl_owner& operator=(const nccl_owner&) = delete;
  /// Destroys the communicators; aborts them after a failure, and when an exception is on its way
  /// through this rank, which the others may be waiting for. Under graphs that are still alive,
  /// where `close` answers an error, they are left alone: NCCL would hang or crash.
  ~nccl_owner() {
    if (std::uncaught_exceptions() > 0 && failure_.ok())
      failure_ = {.code = errc::peer_left, .where = "nccl_owner"};
    (void)close();
  }

  /// Ok, or why there is nothing here to use.
  [[nodiscard]] status check() const noexcept { return failure_; }
  /// Only after `check()` has answered ok.
  [[nodiscard]] nccl_world& world() noexcept { return *world_; }
  [[nodiscard]] nccl_bootstrap& exchange() noexcept { return *exchange_; }

  /// Destroys what the destructor would, and says how it went. Collective where no rank failed.
  /// After a failure: destroy the graphs, `world().abort()`, then free what the calls used. Waits a
  /// little for graphs that were destroyed just now, since CUDA lets go of them later.
  /// Errors: `graphs_alive{n}`, nothing was destroyed, call again; `native_error`.
  [[nodiscard]] status close() noexcept {
    if (!world_.has_value()) return {};
    for (int waits = 0; world_->graphs_alive() > 0 && waits < 100; ++waits)
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    if (world_->graphs_alive() > 0)
      return {.code = errc::graphs_alive,
              .rank = world_->topology().world_rank(),
              .value = world_->graphs_alive(),
              .where = "nccl_owner::close"};
    status done;
    if (!failure_.ok() || !world_->check().ok() || !exchange_->check().ok()) {
      world_->abort();
    } else {
      if (attention_tp_ != nullptr) done = nccl_status(ncclCommDestroy(attention_tp_), "close");
      const status last = nccl_status(ncclCommDestroy(world_comm_), "close");
      if (done.ok()) done = last;
    }
    world_comm_ = attention_tp_ = nullptr;
    world_.reset();
    exchange_.reset();
    if (failure_.ok()) failure_ = {.code = errc::peer_left, .where = "nccl_owner"}; // closed
    return done;
  }

private:
  struct communicators {
    ncclComm_t world = nullptr;
    ncclComm_t attention_tp = nullptr;
    status done{};

    void abort() noexcept {
      if (attention_tp != nullptr) (void)ncclCommAbort(attention_tp);
      if (world != nullptr) (void)ncclCommAbort(world);
    }
  };

  /// Everything that can be refused before NCCL starts; all ranks leave with one id.
  template <bootstrap Bootstrap>
  [[nodiscard]] static status meet(Bootstrap& ranks, const topology& place, ncclUniqueId& id) {
    status mine = place.validate();
    if (mine.ok() && (ranks.size() != place.world_size() || ranks.rank() != place.world_rank()))
      mine = status{.code = errc::bad_group,
                    .about = subject::world,
                    .rank = ranks.rank(),
                    .value = ranks.size(),
                    .limit = place.world_size(),
                    .where = "nccl_owner"};
    if (mine.ok()) mine = check_nccl_version();
    if (mine.ok() && ranks.rank() == 0) mine = nccl_status(ncclGetUniqueId(&id), "nccl_owner", 0);
    if (status bad = agreed(ranks, mine); !bad) return bad;
    std::vector<ncclUniqueId> ids(static_cast<std::size_t>(ranks.size()));
    if (status bad = ranks.all_gather(&id, ids.data(), sizeof id); !bad) return bad;
    id = ids[0];
    return {};
  }
  /// NCCL's part: collective, and blocking for as long as NCCL likes.
  [[nodiscard]] static communicators make(const ncclUniqueId& id, const topology& place,
                                          std::int64_t timeout_ns, std::size_t warm_up_bytes) {
    using clock = std::chrono::steady_clock;
    const clock::time_point end = clock::now() + std::chrono::nanoseconds{timeout_ns / 10 * 8};
    communicators out;
    const std::int32_t rank = place.world_rank();
    out.done =
        nccl_status(ncclCommInitRank(&out.world, place.world_size(), id, rank), "nccl_owner", rank);
    if (out.done.ok() && place.tp_size > 1)
      out.done = nccl_status(
          ncclCommSplit(out.world, place.dp_rank, place.tp_rank, &out.attention_tp, nullptr),
          "nccl_owner", rank);
    if (out.done.ok()) {
      nccl_world briefly{place, out.world, out.attention_tp};
      nccl_warm_up first{briefly, warm_up_bytes};
      out.done = briefly.check().ok() ? first.check() : briefly.check();
      const std::int64_t left = std::chrono::nanoseconds{end - clock::now()}.count();
      if (out.done.ok()) out.done = first.run(std::max<std::int64_t>(left, 0));
      if (!out.done.ok()) { // what still runs ends before its memory goes
        briefly.abort();
        first.free();
        out.world = out.attention_tp = nullptr;
      }
    }
    return out;
  }
  /// Runs `make` on a thread of its own; takes what it made, or leaves it behind.
  template <class Make>
  [[nodiscard]] status bounded(std::int64_t timeout_ns, Make make) {
    struct shared {
      std::mutex mutex;
      std::condition_variable changed;
      std::optional<communicators> made;
      bool left_behind = false;
    };
    const auto state = std::make_shared<shared>();
    int device = 0;
    if (status bad = cuda_status(cudaGetDevice(&device), "nccl_owner"); !bad) return bad;
    std::thread{[state, make, device] {
      communicators made;
      made.done = cuda_status(cudaSetDevice(device), "nccl_owner");
#if defined(__cpp_exceptions)
      try {
        if (made.done.ok()) made = make();
      } catch (...) { // no memory: what else would throw is not called
        made.done = cuda_status(cudaErrorMemoryAllocation, "nccl_owner");
      }
#else
      if (made.done.ok()) made = make();
#endif
      const std::lock_guard lock{state->mutex};
      if (state->left_behind) return made.abort();
      state->made = made;
      state->changed.notify_all();
    }}.detach();
    std::unique_lock lock{state->mutex};
    // Before the other ranks' patience with their bootstrap ends, so that they hear why.
    const std::chrono::nanoseconds limit{timeout_ns / 10 * 9};
    if (!state->changed.wait_for(lock, limit, [&] { return state->made.has_value(); })) {
      state->left_behind = true;
      return {.code = errc::timeout, .limit = timeout_ns / 1000, .where = "nccl_owner"};
    }
    world_comm_ = state->made->world;
    attention_tp_ = state->made->attention_tp;
    return state->made->done;
  }
  void abort() noexcept {
    if (attention_tp_ != nullptr) (void)ncclCommAbort(attention_tp_);
    if (world_comm_ != nullptr) (void)ncclCommAbort(world_comm_);
    attention_tp_ = world_comm_ = nullptr;
  }

  /// Ok if all ranks are; this rank's failure; or the first failure of another, `rank` being the
  /// other. A timeout says less than the failure of the rank that was waited for.
  template <bootstrap Bootstrap>
  [[nodiscard]] static status agreed(Bootstrap& ranks, status mine) {
    if (!mine.ok() && mine.rank < 0) mine.rank = ranks.rank(); // CUDA does not know whose it is
    struct verdict {
      std::int32_t code, native;
    };
    const verdict here{static_cast<std::int32_t>(mine.code), mine.native};
    std::vector<verdict> all(static_cast<std::size_t>(ranks.size()));
    const status exchanged = ranks.all_gather(&here, all.data(), sizeof here);
    if (!mine.ok() && (mine.code != errc::timeout || !exchanged.ok())) return mine;
    if (!exchanged.ok()) return exchanged;
    for (std::int32_t r = 0; r < ranks.size(); ++r) {
      const verdict& theirs = all[static_cast<std::size_t>(r)];
      const auto cause = static_cast<errc>(theirs.code);
      if (cause == errc::ok || (cause == errc::timeout && !mine.ok())) continue;
      return {.code = errc::peer_refused,
              .cause = cause,
              .rank = r,
              .native = theirs.native,
              .value = theirs.native,
              .where = "nccl_owner"};
    }
    return mine;
  }

  ncclComm_t world_comm_ = nullptr;
  ncclComm_t attention_tp_ = nullptr;
  std::optional<nccl_bootstrap> exchange_;
  std::optional<nccl_world> world_;
  status failure_{};
};

} // namespace dpgather::inline v0
