#pragma once

/// @file
/// One rank: its GPU, stream, communicator, buffers, and one channel for each policy.

#include "../support/device_memory.cuh"
#include "../support/nccl_gpu.cuh"
#include "../support/payload.hpp"
#include "../support/run_group.cuh"
#include "policies.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

/// A channel and its workspace.
template <class Policy>
struct channel_of {
  device_memory workspace;
  dg::DpGather<Policy> dp;

  channel_of(dg::nccl_world& world, const dg::gather_config& config)
      : workspace{must(dg::DpGather<Policy>::workspace_bytes(config), "workspace_bytes")},
        dp{dg::nccl_communicator{world}, config, workspace.span()} {
    must(dp.check(), "DpGather");
  }
};

/// Made by the thread that is the rank. All memory is allocated before anything runs: an allocation
/// may wait for a device on which a kernel waits for a peer.
class nccl_rank {
public:
  nccl_rank(dg::host_communicator ranks, const nccl_calls_shape& shape, std::size_t cache_bytes,
            team& others)
      : shape_{shape}, gpu_{ranks}, inputs_{2 * cache_bytes + shape.most_global_bytes()},
        global_{shape.most_global_bytes() + shape.row_bytes()}, local_{static_cast<std::size_t>(
                                                                           shape.most_rows() + 1) *
                                                                       shape.row_bytes()},
        config_{must(shape.config(ranks.rank()), "configuration")}, leave_{gpu_.world(), config_},
        zero_{gpu_.world(), config_}, summed_{gpu_.world(), config_}, exact_{gpu_.world(), config_},
        place_{others, rank(), stream(), [this](const char* what) { wait(what); }} {}
  nccl_rank(const nccl_rank&) = delete;
  nccl_rank& operator=(const nccl_rank&) = delete;
  /// Collective, when all graphs are gone.
  ~nccl_rank() { gpu_.close(); }

  [[nodiscard]] const bench_place& place() const { return place_; }
  [[nodiscard]] const nccl_calls_shape& shape() const { return shape_; }
  [[nodiscard]] std::int32_t rank() const { return gpu_.rank(); }
  [[nodiscard]] cudaStream_t stream() const { return gpu_.stream(); }
  [[nodiscard]] ncclComm_t comm() { return gpu_.comm(); }
  [[nodiscard]] dg::DpGather<padded_leave>& leave() { return leave_.dp; }
  [[nodiscard]] dg::DpGather<padded_zero>& zero() { return zero_.dp; }
  [[nodiscard]] dg::DpGather<summed>& sum() { return summed_.dp; }
  [[nodiscard]] dg::DpGather<exact>& exactly() { return exact_.dp; }
  /// Room for all ranks' rows and one row more, which nobody may write.
  [[nodiscard]] std::byte* global() const { return global_.data(); }
  /// Room for this rank's rows, likewise.
  [[nodiscard]] std::byte* local() const { return local_.data(); }

  /// Until the stream is idle; a peer that does not come is an error after 20 s.
  void wait(const char* what) { gpu_.wait(what); }

  /// Cuts the inputs into buffers of `rows` rows, as many as there is room and use for, and writes
  /// the payload of this rank into each. Nothing when they are so already.
  void fill_inputs(std::int64_t rows, std::int32_t calls) {
    const std::size_t bytes = static_cast<std::size_t>(rows) * shape_.row_bytes();
    if (bytes == input_bytes_) return;
    input_bytes_ = bytes;
    input_stride_ = (bytes + 255) / 256 * 256;
    buffers_ = 0;
    while (buffers_ < calls && (buffers_ + 1u) * input_stride_ <= inputs_.size()) {
      const std::vector<std::uint16_t> values = payload_rows(rank(), buffers_, rows, shape_.hidden);
      upload(inputs_.data() + static_cast<std::size_t>(buffers_) * input_stride_, values.data(),
             bytes, stream());
      ++buffers_;
    }
  }
  /// Which buffer the i-th call takes.
  [[nodiscard]] std::int32_t buffer_of(int call) const { return call % buffers_; }
  [[nodiscard]] const std::byte* input(int call) const {
    return inputs_.data() + static_cast<std::size_t>(buffer_of(call)) * input_stride_;
  }

private:
  nccl_calls_shape shape_;
  nccl_gpu gpu_;
  device_memory inputs_, global_, local_;
  std::size_t input_bytes_ = 0;
  std::size_t input_stride_ = 0;
  std::int32_t buffers_ = 1;
  dg::gather_config config_;
  channel_of<padded_leave> leave_;
  channel_of<padded_zero> zero_;
  channel_of<summed> summed_;
  channel_of<exact> exact_;
  bench_place place_;
};

} // namespace bench
