#pragma once

/// @file
/// Peer memory for ranks that are processes of one host: CUDA's virtual memory, whose handles
/// travel as file descriptors. Needs the toolkit's headers; no nvcc, and no libcuda to link.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/handle_exchange.hpp>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/comm/vmm_driver.cuh>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>

namespace dpgather::inline v0 {

/// An arena in CUDA's virtual memory on the device of each rank, mapped by the processes of all
/// others. Threads of one process and ranks that share a device will do as well. Never a multicast
/// object.
///
/// For ranks of one host, one user and one network namespace (see `unix_socket_bootstrap`).
/// Ownership: owns this rank's arena and its mappings of the others'. An arena goes when the last
/// mapping of it does. Allocates at construction only.
class vmm_memory {
public:
  static constexpr std::int64_t default_timeout_ns = 60'000'000'000;

  /// Allocates `bytes` zeroed bytes on the current device, rounded up to the granularity of all
  /// devices (2 MiB as a rule), and maps those of the others. `bytes` is the same on all ranks.
  /// `timeout_ns`: how long a rank waits for the others' descriptors. Not while this thread
  /// captures.
  ///
  /// Collective. Errors, where one rank's failure is every rank's, see `check()`: `too_many_ranks`,
  /// `bad_config` (no bytes, no time), `size_overflow`, `config_mismatch` (other bytes),
  /// `symmetric_unavailable` with what the device or the driver lacks, `timeout` and `peer_left`
  /// naming the rank whose descriptor did not come, `native_error` of CUDA, its driver or the
  /// system, `peer_refused{cause, rank}` for the ranks that are not at fault, and those of the
  /// bootstrap.
  template <bootstrap Bootstrap>
  vmm_memory(Bootstrap& ranks, std::size_t bytes,
             std::int64_t timeout_ns = default_timeout_ns) noexcept {
    failure_ = open(ranks, bytes, timeout_ns);
    if (failure_.ok()) return;
    (void)unmap_peers();
    (void)free_own();
  }
  vmm_memory(const vmm_memory&) = delete;
  vmm_memory& operator=(const vmm_memory&) = delete;
  /// Unmaps all arenas without asking anybody: only when no kernel of this rank uses them. Others
  /// that still map this rank's arena keep it alive.
  ~vmm_memory() {
    (void)unmap_peers();
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
        ranks, failure_, where, [this]() noexcept { return unmap_peers(); },
        [this]() noexcept { return free_own(); });
  }

private:
  static constexpr const char* where = detail::vmm_driver::where;

  struct offer {
    std::uint64_t bytes = 0;
    std::uint64_t granularity = 0;
  };

  template <bootstrap Bootstrap>
  [[nodiscard]] status open(Bootstrap& ranks, std::size_t bytes, std::int64_t timeout_ns) noexcept {
    if (status bad = detail::check_peer_ranks(ranks, where); !bad) return bad;
    pointers_.rank = ranks.rank();
    pointers_.size = ranks.size();
    offer mine{.bytes = bytes};
    offer all[max_peer_ranks];
    const status prepared = prepare(mine);
    if (status bad = detail::vote(ranks, prepared, where, mine, all); !bad) return bad;
    if (status bad = detail::same_bytes(all, pointers_.rank, pointers_.size, where); !bad)
      return bad;
    // Powers of two: the largest suits all.
    for (std::int32_t r = 0; r < pointers_.size; ++r)
      mine.granularity = std::max(mine.granularity, all[r].granularity);
    const std::size_t rounded = round_up(bytes, mine.granularity);

    detail::socket_handle exported;
    const status allocated = allocate(rounded, exported);
    if (status bad = detail::vote(ranks, allocated, where); !bad) return bad;
    detail::socket_handle theirs[max_peer_ranks];
    if (status bad = detail::exchange_handles(ranks, exported.get(), theirs, timeout_ns); !bad)
      return bad;
    status mapped;
    for (std::int32_t r = 0; r < pointers_.size && mapped.ok(); ++r)
      if (r != pointers_.rank) mapped = import(r, theirs[r], rounded);
    if (status bad = detail::vote(ranks, mapped, where); !bad) return bad;
    for (std::int32_t r = 0; r < pointers_.size; ++r) pointers_.base[r] = arenas_[r].data();
    pointers_.bytes = rounded;
    return {};
  }

  /// What memory of this rank is like, for `cuMemCreate`.
  [[nodiscard]] CUmemAllocationProp properties() const noexcept {
    CUmemAllocationProp out{};
    out.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    out.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    out.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    out.location.id = device_;
    return out;
  }

  /// Everything that can be refused before there is memory.
  [[nodiscard]] status prepare(offer& mine) noexcept {
    int ordinal = 0;
    if (status bad = cuda_status(cudaGetDevice(&ordinal), where); !bad) return bad;
    // The driver knows the device's memory only once the runtime has a context on it.
    if (status bad = cuda_status(cudaFree(nullptr), where); !bad) return bad;
    if (status bad = driver_.load(); !bad) return bad;
    if (status bad = driver_.check(driver_.device(&device_, ordinal)); !bad) return bad;
    if (status bad = driver_.needs(device_, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                   "virtual memory management");
        !bad)
      return bad;
    if (status bad =
            driver_.needs(device_, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                          "memory handles that are file descriptors");
        !bad)
      return bad;
    const CUmemAllocationProp kind = properties();
    std::size_t granularity = 0;
    if (status bad = driver_.check(
            driver_.granularity(&granularity, &kind, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
        !bad)
      return bad;
    mine.granularity = granularity;
    return detail::check_arena_bytes(mine.bytes, granularity, where);
  }

  /// This rank's arena, zeroed, and the descriptor that others map it by.
  [[nodiscard]] status allocate(std::size_t bytes, detail::socket_handle& exported) noexcept {
    const CUmemAllocationProp kind = properties();
    CUmemGenericAllocationHandle handle = 0;
    if (status bad = driver_.check(driver_.create(&handle, bytes, &kind, 0)); !bad) return bad;
    int fd = -1;
    status bad = driver_.check(
        driver_.export_handle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    if (bad.ok()) {
      exported = detail::socket_handle{fd};
      (void)::fcntl(fd, F_SETFD, FD_CLOEXEC); // a program started meanwhile would keep the memory
    }
    detail::vmm_mapping& own = arenas_[pointers_.rank];
    const status mapped = own.open(driver_, handle, bytes, device_); // takes the handle
    if (bad.ok()) bad = mapped;
    if (!bad.ok()) return bad;
    // The thread's own stream: another one may be busy, or be capturing.
    const cudaStream_t stream = cudaStreamPerThread;
    bad = cuda_status(cudaMemsetAsync(own.data(), 0, bytes, stream), where);
    return bad.ok() ? cuda_status(cudaStreamSynchronize(stream), where) : bad;
  }

  [[nodiscard]] status import(std::int32_t rank, detail::socket_handle& theirs,
                              std::size_t bytes) noexcept {
    CUmemGenericAllocationHandle handle = 0;
    void* const fd = reinterpret_cast<void*>(static_cast<std::uintptr_t>(theirs.get()));
    if (status bad = driver_.check(
            driver_.import_handle(&handle, fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
        !bad)
      return bad;
    theirs.close();
    return arenas_[rank].open(driver_, handle, bytes, device_);
  }

  status unmap_peers() noexcept {
    status bad;
    for (std::int32_t r = 0; r < max_peer_ranks; ++r) {
      pointers_.base[r] = nullptr;
      if (r == pointers_.rank) continue;
      const status closed = arenas_[r].close(driver_);
      if (bad.ok()) bad = closed;
    }
    pointers_.bytes = 0;
    return bad;
  }
  status free_own() noexcept { return arenas_[pointers_.rank].close(driver_); }

  detail::vmm_driver driver_{};
  CUdevice device_ = 0;
  detail::vmm_mapping arenas_[max_peer_ranks]{};
  peer_pointers pointers_{};
  status failure_{};
};

static_assert(peer_memory<vmm_memory>);

} // namespace dpgather::inline v0
