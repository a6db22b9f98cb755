#pragma once

/// @file
/// One rank's GPU, communicators and stream, and how they end.

#include "cuda_resources.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>
#include <dpgather/topology.hpp>

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace serve {

namespace dg = dpgather;

/// Makes the GPU of this rank current in the calling thread; NCCL wants one GPU for each rank.
[[nodiscard]] inline dg::host_communicator on_own_gpu(const dg::host_communicator& ranks) {
  dg::throw_if_failed(dg::cuda_status(cudaSetDevice(ranks.rank()), "cudaSetDevice"));
  return ranks;
}

/// NCCL for one rank: made when all ranks have come, destroyed when all have gone (`close`), and
/// aborted when this one goes alone, by an exception. Abort comes before memory is freed, which
/// would wait for kernels of NCCL that wait for other ranks: declare it after all device memory,
/// and graphs after it.
template <dg::bootstrap Bootstrap>
class nccl_link_of {
public:
  static constexpr std::chrono::nanoseconds patience = std::chrono::seconds{20};

  /// Collective, on the thread and with the GPU of the rank. Borrows `ranks`.
  nccl_link_of(Bootstrap& ranks, const dg::topology& where)
      : ranks_{ranks}, owner_{ranks_, where, patience.count()} {
    dg::throw_if_failed(owner_.check());
  }
  explicit nccl_link_of(Bootstrap& ranks) : nccl_link_of{ranks, ranks.topology()} {}
  nccl_link_of(const nccl_link_of&) = delete;
  nccl_link_of& operator=(const nccl_link_of&) = delete;
  ~nccl_link_of() {
    if (owner_.check().ok()) owner_.world().abort();
  }

  [[nodiscard]] dg::nccl_communicator communicator() noexcept {
    return dg::nccl_communicator{owner_.world()};
  }
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_.get(); }
  /// Waits for the stream, within `patience`, and listens to NCCL's asynchronous errors meanwhile.
  [[nodiscard]] dg::status wait() noexcept {
    return owner_.world().wait(stream_.get(), patience.count());
  }

  /// The end of a run in which nothing failed, after graphs have been destroyed. Collective: when
  /// one rank does not come to it, all others abort too, since NCCL destroys together or not at
  /// all.
  [[nodiscard]] dg::status close() noexcept {
    if (dg::status bad = ranks_.barrier(); !bad) return bad;
    const auto end = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const dg::status done = owner_.close();
      // CUDA lets go of a destroyed graph a little later.
      if (done.code != dg::errc::graphs_alive || std::chrono::steady_clock::now() > end)
        return done;
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
  }

private:
  Bootstrap& ranks_;
  cuda_stream stream_; // outlives the communicators, whose last kernels may be on it
  dg::nccl_owner owner_;
};

/// Of ranks that are threads.
using nccl_link = nccl_link_of<dg::host_communicator>;

} // namespace serve
