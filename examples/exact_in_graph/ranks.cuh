#pragma once

/// @file
/// What ranks that are threads with a GPU each need besides the library.

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

namespace exact {

namespace dg = dpgather;

/// How long a host waits for a stream.
inline constexpr std::int64_t patience_ns = 60'000'000'000;

/// On every way out of a rank, before what its peers' kernels may still touch is freed: this rank's
/// kernels end, which they do by themselves, and all ranks meet.
class meeting_at_the_end {
public:
  meeting_at_the_end(dg::host_communicator& ranks, cudaStream_t stream)
      : ranks_{ranks}, stream_{stream} {}
  meeting_at_the_end(const meeting_at_the_end&) = delete;
  meeting_at_the_end& operator=(const meeting_at_the_end&) = delete;
  ~meeting_at_the_end() {
    (void)cudaStreamSynchronize(stream_);
    (void)ranks_.barrier();
  }

private:
  dg::host_communicator& ranks_;
  cudaStream_t stream_;
};

/// What rank `rank` says of a step in which it has `rows` rows.
[[nodiscard]] inline dg::step_record record_of(dg::step_record out, std::int32_t rank,
                                               std::int32_t rows) {
  out.world_rank = rank;
  out.tokens = out.logits_tokens = out.requests = rows;
  out.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
  out.votes = dg::step_record::graph_vote;
  return out;
}

/// How many of GPUs 0, 1, ... reach each other's memory, up to the first that does not.
[[nodiscard]] inline std::int32_t peers_among(std::int32_t gpus) {
  for (std::int32_t n = 1; n < gpus; ++n) {
    for (std::int32_t before = 0; before < n; ++before) {
      for (const auto& [from, to] : {std::pair{n, before}, std::pair{before, n}}) {
        int can = 0;
        dg::throw_if_failed(
            dg::cuda_status(cudaDeviceCanAccessPeer(&can, from, to), "cudaDeviceCanAccessPeer"));
        if (can == 0) return n;
      }
    }
  }
  return gpus;
}

} // namespace exact
