#pragma once

/// @file
/// Peer memory from NCCL: an arena registered as a window, mapped among all ranks that NCCL's
/// device interface can load from and store to. Needs nvcc and NCCL 2.28 or later.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/nccl_device.cuh>
#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/executor.cuh>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dpgather::inline v0 {

/// An arena of `ncclMemAlloc` on the device of each rank, registered as a window without collective
/// symmetry, so that NCCL makes no multicast object for it.
///
/// Ownership: owns the arena and its window, borrows the communicator, and is closed or destroyed
/// before that is destroyed or aborted. NCCL keeps a little memory of its first window for the life
/// of the communicator. Allocates at construction only.
class nccl_window_memory {
public:
  /// Bytes are rounded up to a multiple of this.
  static constexpr std::size_t granularity = 4096;

  /// Allocates `bytes` zeroed bytes on the current device, which is the communicator's, and maps
  /// those of the others. The same on all ranks. `comm` has the ranks of `ranks`, in their order.
  /// Not while this thread captures, nor between `ncclGroupStart` and `ncclGroupEnd`.
  ///
  /// Collective. The steps that NCCL takes among the ranks have no deadline of their own.
  /// Errors, where one rank's failure is every rank's, see `check()`: `too_many_ranks`,
  /// `null_pointer` (no communicator), `bad_group` and `wrong_memory` (its ranks or its device are
  /// others), `bad_config` (no bytes),
  /// `size_overflow`, `config_mismatch` (other bytes), `nccl_version`, `symmetric_unavailable` (a
  /// rank that kernels cannot reach, `NCCL_WIN_ENABLE=0`, `NCCL_CUMEM_ENABLE=0`), `native_error`,
  /// `peer_refused{cause, rank}` for the ranks that are not at fault, and those of the bootstrap.
  template <bootstrap Bootstrap>
  nccl_window_memory(Bootstrap& ranks, ncclComm_t comm, std::size_t bytes) noexcept : comm_{comm} {
    failure_ = open(ranks, bytes);
    if (failure_.ok()) return;
    (void)deregister();
    (void)free_own();
  }
  nccl_window_memory(const nccl_window_memory&) = delete;
  nccl_window_memory& operator=(const nccl_window_memory&) = delete;
  /// Unmaps all arenas and frees this rank's without asking anybody: only when no rank's kernels
  /// can touch it any more, else `close` first.
  ~nccl_window_memory() {
    (void)deregister();
    (void)free_own();
  }

  /// Ok, or why there is no memory; `peer_left` after `close`.
  [[nodiscard]] status check() const noexcept { return failure_; }
  /// Null pointers unless `check()` answers ok.
  [[nodiscard]] peer_pointers pointers() const noexcept { return pointers_; }

  /// Waits until all ranks are here, unmaps the others' arenas, waits until all have, and frees
  /// this rank's. Before it, the kernels of this rank that use any arena have ended. Collective;
  /// nothing where the construction failed.
  /// Errors: those of the bootstrap, where the first barrier failed nothing was released and the
  /// destructor will do it; `native_error`.
  template <bootstrap Bootstrap>
  [[nodiscard]] status close(Bootstrap& ranks) noexcept {
    return detail::close_together(
        ranks, failure_, where, [this]() noexcept { return deregister(); },
        [this]() noexcept { return free_own(); });
  }

private:
  static constexpr const char* where = "nccl_window_memory";

  template <bootstrap Bootstrap>
  [[nodiscard]] status open(Bootstrap& ranks, std::size_t bytes) noexcept {
    if (status bad = detail::check_peer_ranks(ranks, where); !bad) return bad;
    pointers_.rank = ranks.rank();
    pointers_.size = ranks.size();
    status here = check_communicator();
    here = detail::agree_on_bytes(ranks, here, bytes, granularity, where);
    if (!here.ok()) return here;
    here = check_device_interface();
    if (here.ok()) here = allocate(round_up(bytes, granularity));
    if (status bad = detail::vote(ranks, here, where); !bad) return bad;
    here = map(round_up(bytes, granularity));
    if (status bad = detail::vote(ranks, here, where); !bad) return bad;
    pointers_.bytes = round_up(bytes, granularity);
    return {};
  }

  /// The thread's own: another one may be busy, or be capturing.
  [[nodiscard]] static cudaStream_t stream() noexcept { return cudaStreamPerThread; }
  [[nodiscard]] status refuse(errc code, subject about, std::int64_t value, std::int64_t limit,
                              const char* name = nullptr) const noexcept {
    return {.code = code,
            .about = about,
            .rank = pointers_.rank,
            .value = value,
            .limit = limit,
            .value_name = name,
            .where = where};
  }

  /// What a rank can see by itself.
  [[nodiscard]] status check_communicator() const noexcept {
    if (comm_ == nullptr) return refuse(errc::null_pointer, subject::world, 0, pointers_.size);
    if (status bad = detail::check_nccl_device_version(where); !bad) return bad;
    int size = 0;
    int rank = 0;
    int its_device = 0;
    int device = 0;
    if (status bad = nccl_status(ncclCommCount(comm_, &size), where); !bad) return bad;
    if (status bad = nccl_status(ncclCommUserRank(comm_, &rank), where); !bad) return bad;
    if (status bad = nccl_status(ncclCommCuDevice(comm_, &its_device), where); !bad) return bad;
    if (status bad = cuda_status(cudaGetDevice(&device), where); !bad) return bad;
    if (size != pointers_.size)
      return refuse(errc::bad_group, subject::world, size, pointers_.size);
    if (rank != pointers_.rank) return refuse(errc::bad_group, subject::rank, rank, pointers_.rank);
    if (device != its_device)
      return refuse(errc::wrong_memory, subject::none, device, its_device, "the current device");
    // Asked before NCCL sets anything up: among several nodes it would look for networks.
    const ncclTeam_t reached = ncclTeamLsa(comm_);
    if (reached.nRanks != size || reached.rank != rank)
      return refuse(errc::symmetric_unavailable, subject::world, reached.nRanks, size);
    return {};
  }

  [[nodiscard]] status allocate(std::size_t bytes) noexcept {
    if (status bad = nccl_status(ncclMemAlloc(&arena_, bytes), where); !bad) return bad;
    if (status bad = cuda_status(cudaMemsetAsync(arena_, 0, bytes, stream()), where); !bad)
      return bad;
    return cuda_status(cudaStreamSynchronize(stream()), where);
  }

  /// A device communicator that asks for nothing, made and given back: without support for windows
  /// NCCL refuses that, while registering a window answers something that is none.
  [[nodiscard]] status check_device_interface() const noexcept {
#ifdef NCCL_DEV_COMM_REQUIREMENTS_INITIALIZER
    const ncclDevCommRequirements nothing = NCCL_DEV_COMM_REQUIREMENTS_INITIALIZER;
#else
    ncclDevCommRequirements nothing;
    std::memset(&nothing, 0, sizeof nothing); // padding too, as NCCL 2.28 asks for
#endif
    ncclDevComm probe{};
    const ncclResult_t made = nccl_settled(comm_, ncclDevCommCreate(comm_, &nothing, &probe));
    if (made == ncclInvalidUsage)
      return refuse(errc::symmetric_unavailable, subject::none, made, ncclSuccess, nccl_name(made));
    if (status bad = nccl_status(made, where); !bad) return bad;
    return nccl_status(ncclDevCommDestroy(comm_, &probe), where);
  }

  /// Registers the arena and asks where everybody's is.
  [[nodiscard]] status map(std::size_t bytes) noexcept {
    const ncclResult_t registered = nccl_settled(
        comm_, ncclCommWindowRegister(comm_, arena_, bytes, &window_, NCCL_WIN_DEFAULT));
    if (status bad = nccl_status(registered, where); !bad) return bad;
    if (window_ == nullptr)
      return refuse(errc::symmetric_unavailable, subject::none, 0, 1, "no window");
    // Written into the arena itself, which nobody uses before the last vote.
    void* at[max_peer_ranks]{};
    const detail::read_lsa_pointers ask{window_, static_cast<void**>(arena_), pointers_.size};
    if (status bad = executor<cudaStream_t>::run(ask, 1, stream()); !bad) return bad;
    if (status bad = cuda_status(
            cudaMemcpyAsync(at, arena_, sizeof at, cudaMemcpyDeviceToHost, stream()), where);
        !bad)
      return bad;
    if (status bad = cuda_status(cudaMemsetAsync(arena_, 0, sizeof at, stream()), where); !bad)
      return bad;
    if (status bad = cuda_status(cudaStreamSynchronize(stream()), where); !bad) return bad;
    for (std::int32_t r = 0; r < pointers_.size; ++r) {
      pointers_.base[r] = static_cast<std::byte*>(at[r]);
      if (at[r] != nullptr) continue;
      status bad = refuse(errc::symmetric_unavailable, subject::rank, r, pointers_.size);
      bad.peer = r;
      return bad;
    }
    return {};
  }

  status deregister() noexcept {
    for (std::byte*& each : pointers_.base) each = nullptr;
    pointers_.bytes = 0;
    if (window_ == nullptr) return {};
    const ncclWindow_t gone = window_;
    window_ = nullptr;
    return nccl_status(ncclCommWindowDeregister(comm_, gone), where);
  }
  status free_own() noexcept {
    if (arena_ == nullptr) return {};
    void* const gone = arena_;
    arena_ = nullptr;
    return nccl_status(ncclMemFree(gone), where);
  }

  ncclComm_t comm_;
  ncclWindow_t window_ = nullptr;
  void* arena_ = nullptr;
  peer_pointers pointers_{};
  status failure_{};
};

static_assert(peer_memory<nccl_window_memory>);

} // namespace dpgather::inline v0
