#pragma once

/// @file
/// Peer memory for ranks that are threads of one process: plain device memory and peer access.
/// Needs the toolkit's headers, no nvcc.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/hash.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <sys/auxv.h>
#include <unistd.h>

namespace dpgather::inline v0 {
namespace detail {

/// Tells processes apart, those of other containers and hosts too, where process ids repeat: the
/// kernel gives every program that it starts 16 random bytes, and a fork has another id. A digest,
/// since the bytes themselves guard the stack.
[[nodiscard]] inline std::uint64_t process_digest() noexcept {
  std::uint64_t random[2]{};
  if (const unsigned long at = ::getauxval(AT_RANDOM); at != 0)
    std::memcpy(random, reinterpret_cast<const void*>(at), sizeof random);
  return digest_builder{}.add_signed(::getpid()).add(random[0]).add(random[1]).value();
}

} // namespace detail

/// An arena of `cudaMalloc` on the device of each rank, which the other devices' kernels reach by
/// peer access. Several ranks may share a device.
///
/// Ownership: owns this rank's arena. Peer access between two devices belongs to the process and
/// stays enabled: somebody else may have come to rely on it. Allocates at construction only.
class peer_access_memory {
public:
  /// Bytes are rounded up to a multiple of this.
  static constexpr std::size_t granularity = 256;

  /// Allocates `bytes` zeroed bytes on the current device and opens the way to it. The same on all
  /// ranks, which are threads of this process. Not while this thread captures.
  ///
  /// Collective. Errors, where one rank's failure is every rank's, see `check()`: `too_many_ranks`,
  /// `bad_config` (no bytes), `size_overflow`, `config_mismatch` (other bytes), `bad_group` (a rank
  /// in another process), `symmetric_unavailable` (no peer access between two devices),
  /// `native_error`, `peer_refused{cause, rank}` for the ranks that are not at fault, and those of
  /// the bootstrap.
  template <bootstrap Bootstrap>
  peer_access_memory(Bootstrap& ranks, std::size_t bytes) noexcept {
    failure_ = open(ranks, bytes);
    if (!failure_.ok()) (void)release();
  }
  peer_access_memory(const peer_access_memory&) = delete;
  peer_access_memory& operator=(const peer_access_memory&) = delete;
  /// Frees this rank's arena without asking anybody: only when no rank's kernels can touch it any
  /// more, else `close` first.
  ~peer_access_memory() { (void)release(); }

  /// Ok, or why there is no memory; `peer_left` after `close`.
  [[nodiscard]] status check() const noexcept { return failure_; }
  /// Null pointers unless `check()` answers ok.
  [[nodiscard]] peer_pointers pointers() const noexcept { return pointers_; }

  /// Waits until all ranks are here, then frees the arena. Before it, the kernels of this rank that
  /// use any arena have ended. Collective; nothing where the construction failed.
  /// Errors: those of the bootstrap: nothing was freed, the destructor will do it; `native_error`.
  template <bootstrap Bootstrap>
  [[nodiscard]] status close(Bootstrap& ranks) noexcept {
    if (!failure_.ok()) return {};
    if (status bad = ranks.barrier(); !bad) return bad;
    failure_ = status{.code = errc::peer_left, .peer = pointers_.rank, .where = where};
    return release();
  }

private:
  static constexpr const char* where = "peer_access_memory";

  /// What a rank tells the others about its arena.
  struct offer {
    std::uint64_t base = 0;
    std::uint64_t process = 0;
    std::int32_t process_id = 0;
    std::int32_t device = 0;
  };

  template <bootstrap Bootstrap>
  [[nodiscard]] status open(Bootstrap& ranks, std::size_t bytes) noexcept {
    if (status bad = detail::check_peer_ranks(ranks, where); !bad) return bad;
    pointers_.rank = ranks.rank();
    pointers_.size = ranks.size();
    if (status bad = detail::agree_on_bytes(ranks, {}, bytes, granularity, where); !bad) return bad;
    offer mine;
    offer all[max_peer_ranks];
    const status allocated = allocate(round_up(bytes, granularity), mine);
    if (status bad = detail::vote(ranks, allocated, where, mine, all); !bad) return bad;
    for (std::int32_t r = 0; r < pointers_.size; ++r) {
      if (all[r].process == mine.process) continue;
      return in_another_process(all);
    }
    status reached;
    for (std::int32_t r = 0; r < pointers_.size && reached.ok(); ++r)
      reached = reach(mine.device, all[r].device, r);
    if (status bad = detail::vote(ranks, reached, where); !bad) return bad;
    for (std::int32_t r = 0; r < pointers_.size; ++r)
      pointers_.base[r] = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(all[r].base));
    pointers_.bytes = round_up(bytes, granularity);
    return {};
  }

  [[nodiscard]] status allocate(std::size_t bytes, offer& mine) noexcept {
    mine = {.process = detail::process_digest(), .process_id = ::getpid()};
    if (status bad = cuda_status(cudaGetDevice(&mine.device), where); !bad) return bad;
    if (status bad = cuda_status(cudaMalloc(&arena_, bytes), where); !bad) return bad;
    mine.base = reinterpret_cast<std::uintptr_t>(arena_);
    // The thread's own stream: another one may be busy, or be capturing.
    const cudaStream_t stream = cudaStreamPerThread;
    if (status bad = cuda_status(cudaMemsetAsync(arena_, 0, bytes, stream), where); !bad)
      return bad;
    return cuda_status(cudaStreamSynchronize(stream), where);
  }

  /// Every rank sees one that is not in its own process, so that all refuse without a vote.
  [[nodiscard]] status in_another_process(const offer (&all)[max_peer_ranks]) const noexcept {
    const offer& mine = all[pointers_.rank];
    status bad{.code = errc::bad_group,
               .about = subject::rank,
               .rank = pointers_.rank,
               .limit = mine.process_id,
               .value_name = "in another process",
               .where = where};
    for (std::int32_t r = 0; r < pointers_.size && bad.peer < 0; ++r) {
      if (all[r].process == mine.process) continue;
      bad.peer = r;
      bad.value = all[r].process_id;
    }
    return bad;
  }

  [[nodiscard]] status reach(int mine, int theirs, std::int32_t peer) const noexcept {
    if (mine == theirs) return {};
    int can = 0;
    if (status bad = cuda_status(cudaDeviceCanAccessPeer(&can, mine, theirs), where); !bad)
      return bad;
    if (can == 0)
      return {.code = errc::symmetric_unavailable,
              .rank = pointers_.rank,
              .peer = peer,
              .value = theirs,
              .limit = mine,
              .value_name = "no access to device",
              .where = where};
    const cudaError_t enabled = cudaDeviceEnablePeerAccess(theirs, 0);
    if (enabled != cudaErrorPeerAccessAlreadyEnabled) return cuda_status(enabled, where);
    (void)cudaGetLastError(); // as good as done
    return {};
  }

  status release() noexcept {
    for (std::byte*& each : pointers_.base) each = nullptr;
    pointers_.bytes = 0;
    if (arena_ == nullptr) return {};
    const status freed = cuda_status(cudaFree(arena_), where);
    arena_ = nullptr;
    return freed;
  }

  void* arena_ = nullptr;
  peer_pointers pointers_{};
  status failure_{};
};

static_assert(peer_memory<peer_access_memory>);

} // namespace dpgather::inline v0
