#pragma once

/// @file
/// Where a rank's tensors lie and what its work is ordered on: a GPU of its own, a CUDA stream,
/// NCCL. See host_place.hpp for what a place has.

#include "cuda_resources.cuh"
#include "host_place.hpp"
#include "nccl_link.cuh"
#include "rank_group.hpp"
#include "step_graphs.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace serve {

template <>
struct place<cudaStream_t> {
  using comm_tag = dg::comm::nccl;
  static constexpr bool captures = true;
  using graphs = step_graphs;

  /// All ranks see all GPUs of the host: rank r has the r-th.
  static void enter(std::int32_t rank) {
    dg::throw_if_failed(dg::cuda_status(cudaSetDevice(rank), "cudaSetDevice"));
  }

  template <class T>
  using array = device_array<T>;

  template <class T>
  class mirrored {
  public:
    explicit mirrored(std::size_t count) : device_{count}, host_{count} {}
    [[nodiscard]] T* data() noexcept { return device_.data(); }
    [[nodiscard]] std::span<T> span() noexcept { return device_.span(); }
    [[nodiscard]] std::span<T> on_host() noexcept { return host_.span(); }
    /// Stream: ordered; the twin may not change before the stream has been waited for.
    [[nodiscard]] dg::status upload(std::size_t count, cudaStream_t stream) noexcept {
      return count == 0 ? dg::status{} : copy(device_, host_, count, stream);
    }
    /// Stream: ordered; the twin may be read once the stream has been waited for.
    [[nodiscard]] dg::status download(std::size_t count, cudaStream_t stream) noexcept {
      return count == 0 ? dg::status{} : copy(host_, device_, count, stream);
    }

  private:
    device_array<T> device_;
    pinned_array<T> host_;
  };

  template <class T>
  [[nodiscard]] static dg::status poison(T* data, std::size_t count, cudaStream_t stream) noexcept {
    if (count == 0) return {}; // of an idle rank
    return dg::cuda_status(cudaMemsetAsync(data, 0xff, count * sizeof(T), stream), "poison");
  }

  using link = nccl_link_of<rank_group>;
};

} // namespace serve
