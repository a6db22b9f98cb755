#pragma once

/// @file
/// What a graph can do over NCCL: all-gather and reduce-scatter of slots, padded to the bucket of
/// the longest rank, in a graph for each bucket.

#include "../serve/cuda_resources.cuh"
#include "../serve/nccl_link.cuh"
#include "kernels.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <nccl.h>

#include <cstddef>
#include <cstdint>

namespace exact {

/// One rank. Collective to construct, on the thread and with the GPU of the rank.
class padded_nccl {
public:
  /// Captures `calls` pairs of all-gather and reduce-scatter for each bucket.
  padded_nccl(dg::host_communicator& ranks, const dg::bucket_list& buckets, std::int32_t hidden,
              std::int32_t calls)
      : slot_{elements(buckets, hidden)},
        all_{slot_.size() * static_cast<std::size_t>(ranks.size())}, link_{ranks} {
    dg::throw_if_failed(dg::cuda_status(
        cudaMemsetAsync(all_.data(), 0, all_.bytes(), link_.stream()), "cudaMemsetAsync"));
    dg::throw_if_failed(dg::cuda_status(
        cudaMemsetAsync(slot_.data(), 0, slot_.bytes(), link_.stream()), "cudaMemsetAsync"));
    for (const std::int32_t bucket : buckets.span()) // NCCL connects for a size when it first comes
      dg::throw_if_failed(enqueue(bucket, hidden));
    dg::throw_if_failed(graphs_.capture(buckets, link_.stream(), [&](std::int32_t bucket) {
      for (std::int32_t i = 0; i < calls; ++i)
        if (dg::status bad = enqueue(bucket, hidden); !bad) return bad;
      return dg::status{};
    }));
    dg::throw_if_failed(link_.wait());
  }

  [[nodiscard]] cudaStream_t stream() const noexcept { return link_.stream(); }
  [[nodiscard]] dg::status replay(std::int32_t bucket) noexcept {
    return graphs_.launch(bucket, link_.stream());
  }
  [[nodiscard]] dg::status wait() noexcept { return link_.wait(); }
  /// Graphs go before the communicators whose calls they hold. Collective.
  [[nodiscard]] dg::status close() noexcept {
    graphs_.clear();
    return link_.close();
  }

private:
  [[nodiscard]] static std::size_t elements(const dg::bucket_list& buckets, std::int32_t hidden) {
    return static_cast<std::size_t>(buckets.largest()) * static_cast<std::size_t>(hidden);
  }
  [[nodiscard]] dg::status enqueue(std::int32_t bucket, std::int32_t hidden) noexcept {
    const std::size_t count = static_cast<std::size_t>(bucket) * static_cast<std::size_t>(hidden);
    const ncclComm_t comm = link_.communicator().native_handle();
    if (dg::status bad = dg::nccl_status(
            ncclAllGather(slot_.data(), all_.data(), count, ncclBfloat16, comm, link_.stream()),
            "ncclAllGather");
        !bad)
      return bad;
    return dg::nccl_status(ncclReduceScatter(all_.data(), slot_.data(), count, ncclBfloat16,
                                             ncclSum, comm, link_.stream()),
                           "ncclReduceScatter");
  }

  serve::device_array<bf16_bits> slot_, all_;
  serve::nccl_link link_;
  dg::graph_set graphs_;
};

} // namespace exact
