#pragma once

/// @file
/// A bootstrap over an NCCL communicator, for engines that have nothing else, and for the exchange
/// of call records under `checks::checked`.

#include <dpgather/comm/nccl_status.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/stream_wait.cuh>
#include <dpgather/status.hpp>

#include <nccl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dpgather::inline v0 {

/// Host-side exchange through a borrowed NCCL communicator and a stream of its own.
///
/// Ownership: borrows the communicator, owns stream and buffers. Allocates at construction only.
/// Blocking, bounded by `timeout_ns`. Not while this thread captures. Errors: `timeout` (NCCL does
/// not say who is missing), `native_error`; sticky: later calls answer `poisoned`.
class nccl_bootstrap {
public:
  static constexpr std::int64_t default_timeout_ns = 30'000'000'000;
  static constexpr std::size_t chunk_bytes = 4096; ///< of a rank; longer values go in pieces

  explicit nccl_bootstrap(ncclComm_t comm, std::int64_t timeout_ns = default_timeout_ns) noexcept
      : comm_{comm}, timeout_ns_{timeout_ns} {
    constexpr const char* where = "nccl_bootstrap";
    int rank = 0;
    int size = 0;
    failure_ = nccl_status(ncclCommUserRank(comm, &rank), where);
    if (failure_.ok()) failure_ = nccl_status(ncclCommCount(comm, &size), where);
    rank_ = rank;
    size_ = size;
    const std::size_t bytes = chunk_bytes * static_cast<std::size_t>(size + 1);
    if (failure_.ok())
      failure_ = cuda_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), where);
    if (failure_.ok())
      failure_ = cuda_status(cudaMalloc(reinterpret_cast<void**>(&device_), bytes), where);
    if (failure_.ok())
      failure_ = cuda_status(
          cudaHostAlloc(reinterpret_cast<void**>(&host_), bytes, cudaHostAllocDefault), where);
  }
  nccl_bootstrap(const nccl_bootstrap&) = delete;
  nccl_bootstrap& operator=(const nccl_bootstrap&) = delete;
  /// After a failure that left work on the stream, end that first: `nccl_world::abort`.
  ~nccl_bootstrap() {
    // The copies behind a collective that was aborted may still be under way: freeing waits for the
    // device, destroying its stream does not.
    if (device_ != nullptr) (void)cudaFree(device_);
    if (host_ != nullptr) (void)cudaFreeHost(host_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

  /// Ok, or the first failure.
  [[nodiscard]] status check() const noexcept { return failure_; }
  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return size_; }

  [[nodiscard]] status all_gather(const void* mine, void* all, std::size_t bytes) noexcept {
    if (!failure_.ok()) return failure_.as_poisoned();
    const auto* const from = static_cast<const std::byte*>(mine);
    auto* const to = static_cast<std::byte*>(all);
    for (std::size_t done = 0; done < bytes; done += chunk_bytes) {
      const std::size_t now = std::min(chunk_bytes, bytes - done);
      std::memcpy(host_, from + done, now);
      if (status bad = exchange(now); !bad) {
        bad.rank = rank_;
        failure_ = bad;
        return bad;
      }
      for (std::int32_t r = 0; r < size_; ++r) {
        const auto at = static_cast<std::size_t>(r);
        std::memcpy(to + at * bytes + done, host_ + chunk_bytes + at * now, now);
      }
    }
    return {};
  }
  [[nodiscard]] status barrier() noexcept {
    std::byte mine{};
    std::byte all[chunk_bytes];
    if (static_cast<std::size_t>(size_) > chunk_bytes)
      return {.code = errc::too_many_ranks, .value = size_, .limit = chunk_bytes};
    return all_gather(&mine, all, 1);
  }

private:
  /// `bytes` from the front of the host buffer to all, and all of theirs behind it.
  [[nodiscard]] status exchange(std::size_t bytes) noexcept {
    constexpr const char* where = "nccl_bootstrap";
    std::byte* const received = device_ + chunk_bytes;
    if (status bad = cuda_status(
            cudaMemcpyAsync(device_, host_, bytes, cudaMemcpyHostToDevice, stream_), where);
        !bad)
      return bad;
    const ncclResult_t sent =
        nccl_settled(comm_, ncclAllGather(device_, received, bytes, ncclUint8, comm_, stream_));
    if (status bad = nccl_status(sent, where); !bad) return bad;
    const std::size_t total = bytes * static_cast<std::size_t>(size_);
    if (status bad = cuda_status(
            cudaMemcpyAsync(host_ + chunk_bytes, received, total, cudaMemcpyDeviceToHost, stream_),
            where);
        !bad)
      return bad;
    return wait_for(stream_, timeout_ns_, [this]() noexcept {
      ncclResult_t state = ncclSuccess;
      const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
      if (asked != ncclSuccess) return nccl_status(asked, where);
      return state == ncclInProgress ? status{} : nccl_status(state, where);
    });
  }

  ncclComm_t comm_;
  std::int64_t timeout_ns_;
  std::int32_t rank_ = 0;
  std::int32_t size_ = 0;
  cudaStream_t stream_ = nullptr;
  std::byte* device_ = nullptr; // one chunk to send, `size` to receive
  std::byte* host_ = nullptr;   // likewise, pinned
  status failure_{};
};

} // namespace dpgather::inline v0
