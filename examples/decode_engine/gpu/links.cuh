#pragma once

/// @file
/// What connects a rank to the others, by NCCL or over peer memory, with one interface:
/// `communicator()`, `stream()`, `wait()`, `close()`.

#include "../../serve/cuda_resources.cuh"
#include "../../serve/nccl_link.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <cstdint>

namespace engine::gpu {

namespace dg = dpgather;

inline constexpr std::int64_t patience_ns = 60'000'000'000;

/// Peer memory, over NVLink or within one GPU that several ranks share.
template <class Policy>
class peer_link {
public:
  using communicator_type = dg::basic_peer_communicator<dg::element::f32>;

  peer_link(dg::host_communicator& ranks, const dg::gather_config& config)
      : ranks_{ranks}, memory_{ranks,
                               dg::value_or_throw(dg::peer_arena_bytes<Policy>(config, options()))},
        world_{ranks, config.topology, memory_.pointers(),
               dg::value_or_throw(dg::peer_limits_of<Policy>(config, options()))} {
    dg::throw_if_failed(memory_.check());
    dg::throw_if_failed(world_.check());
  }
  peer_link(const peer_link&) = delete;
  peer_link& operator=(const peer_link&) = delete;
  /// Nobody's kernels may touch the arenas any more when they go: they end by themselves.
  ~peer_link() {
    (void)cudaStreamSynchronize(stream_.get());
    (void)ranks_.barrier();
  }

  [[nodiscard]] communicator_type communicator() noexcept { return communicator_type{world_}; }
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_.get(); }
  [[nodiscard]] dg::status wait() noexcept { return world_.wait(stream_.get(), patience_ns); }
  [[nodiscard]] dg::status close() noexcept { return wait(); }

private:
  /// Here a gather comes between two combines.
  [[nodiscard]] static dg::peer_options options() noexcept { return {.inputs = 1}; }

  dg::host_communicator& ranks_;
  serve::cuda_stream stream_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
};

/// NCCL; a GPU for each rank.
template <class Policy>
class nccl_link : public serve::nccl_link {
public:
  using communicator_type = dg::nccl_communicator;
  nccl_link(dg::host_communicator& ranks, const dg::gather_config& config)
      : serve::nccl_link{ranks, config.topology} {}
};

} // namespace engine::gpu
