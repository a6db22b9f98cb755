#pragma once

/// @file
/// NCCL communicators for programs that have none: made from a bootstrap, destroyed at the end.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/nccl_bootstrap.cuh>
#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/comm/nccl_warm_up.cuh>
#include <dpgather/comm/nccl_world.cuh>
#include <dpgather/config.hpp>
#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <nccl.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace dpgather::inline v0 {

/// Owns the communicators of one rank: one of all ranks, and with A > 1 one of the A peers, split
/// from it; and the exchange that `checks::checked` and `agree` use.
///
/// Collective to construct, with the device of the rank current. The bootstrap's deadlines hold:
/// NCCL's own initialisation, which has none, begins after all ranks have come. Allocates. Errors
/// of the construction, the same verdict on all ranks: those of the bootstrap, `native_error`,
/// `nccl_version`, `peer_refused{rank}` where another rank failed; see `check()`.
class nccl_owner {
public:
  template <bootstrap Bootstrap>
  nccl_owner(Bootstrap& ranks, const topology& place,
             std::int64_t timeout_ns = nccl_bootstrap::default_timeout_ns) {
    status mine = connect(ranks, place);
    if (mine.ok()) mine = split(place);
    // Whoever failed says so, so that no rank goes on alone.
    failure_ = agreed(ranks, mine);
    if (!failure_.ok()) {
      abort();
      return;
    }
    exchange_.emplace(world_comm_, timeout_ns);
    world_.emplace(place, world_comm_, attention_tp_, &*exchange_);
    mine = exchange_->check().ok() ? world_->check() : exchange_->check();
    failure_ = agreed(ranks, mine);
    if (failure_.ok()) failure_ = agreed(ranks, warm_up(*world_, timeout_ns));
  }
  nccl_owner(const nccl_owner&) = delete;
  nccl_owner& operator=(const nccl_owner&) = delete;
  /// Destroys the communicators; aborts them after a failure. Under graphs that are still alive,
  /// where `close` answers an error, they are left alone: NCCL would hang or crash.
  ~nccl_owner() { (void)close(); }

  /// Ok, or why there is nothing here to use.
  [[nodiscard]] status check() const noexcept { return failure_; }
  /// Only after `check()` has answered ok.
  [[nodiscard]] nccl_world& world() noexcept { return *world_; }
  [[nodiscard]] nccl_bootstrap& exchange() noexcept { return *exchange_; }

  /// Destroys what the destructor would, and says how it went. Collective where no rank failed.
  /// Errors: `graphs_alive{n}`, nothing was destroyed, call again; `native_error`.
  [[nodiscard]] status close() noexcept {
    if (!world_.has_value()) return {};
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
  template <bootstrap Bootstrap>
  [[nodiscard]] status connect(Bootstrap& ranks, const topology& place) {
    if (status bad = place.validate(); !bad) return agreed(ranks, bad);
    if (ranks.size() != place.world_size() || ranks.rank() != place.world_rank())
      return agreed(ranks, status{.code = errc::bad_group,
                                  .about = subject::world,
                                  .rank = ranks.rank(),
                                  .value = ranks.size(),
                                  .limit = place.world_size(),
                                  .where = "nccl_owner"});
    status mine = check_nccl_version();
    ncclUniqueId id{};
    if (mine.ok() && ranks.rank() == 0) mine = nccl_status(ncclGetUniqueId(&id), "nccl_owner", 0);
    if (status bad = agreed(ranks, mine); !bad) return bad;
    std::vector<ncclUniqueId> ids(static_cast<std::size_t>(ranks.size()));
    if (status bad = ranks.all_gather(&id, ids.data(), sizeof id); !bad) return bad;
    return nccl_status(ncclCommInitRank(&world_comm_, ranks.size(), ids[0], ranks.rank()),
                       "nccl_owner", ranks.rank());
  }
  [[nodiscard]] status split(const topology& place) noexcept {
    if (place.tp_size == 1) return {};
    return nccl_status(
        ncclCommSplit(world_comm_, place.dp_rank, place.tp_rank, &attention_tp_, nullptr),
        "nccl_owner", place.world_rank());
  }
  void abort() noexcept {
    if (attention_tp_ != nullptr) (void)ncclCommAbort(attention_tp_);
    if (world_comm_ != nullptr) (void)ncclCommAbort(world_comm_);
    attention_tp_ = world_comm_ = nullptr;
  }

  /// Ok if all ranks are; this rank's failure; or the first failure of another.
  template <bootstrap Bootstrap>
  [[nodiscard]] static status agreed(Bootstrap& ranks, const status& mine) {
    struct verdict {
      std::int32_t code, native;
    };
    const verdict here{static_cast<std::int32_t>(mine.code), mine.native};
    std::vector<verdict> all(static_cast<std::size_t>(ranks.size()));
    const status exchanged = ranks.all_gather(&here, all.data(), sizeof here);
    if (!mine.ok()) return mine;
    if (!exchanged.ok()) return exchanged;
    for (std::int32_t r = 0; r < ranks.size(); ++r) {
      const verdict& theirs = all[static_cast<std::size_t>(r)];
      if (theirs.code == 0) continue;
      return {.code = errc::peer_refused,
              .cause = static_cast<errc>(theirs.code),
              .rank = ranks.rank(),
              .peer = r,
              .native = theirs.native,
              .value = theirs.native,
              .where = "nccl_owner"};
    }
    return {};
  }

  ncclComm_t world_comm_ = nullptr;
  ncclComm_t attention_tp_ = nullptr;
  std::optional<nccl_bootstrap> exchange_;
  std::optional<nccl_world> world_;
  status failure_{};
};

} // namespace dpgather::inline v0
