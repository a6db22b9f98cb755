#pragma once

/// @file
/// One rank: its GPU, stream, communicators, model and buffers.

#include "../support/device_memory.cuh"
#include "../support/nccl_gpu.cuh"
#include "../support/run_group.cuh"
#include "../support/symmetric_window.cuh"
#include "../support/team.hpp"
#include "expected_rows.cuh"
#include "step_model.cuh"
#include "step_shape.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>

namespace bench {

namespace dg = dpgather;

/// What rows travel from and to, with room for the largest case.
struct step_buffers {
  std::byte* local = nullptr;    ///< this rank's rows before the gather
  std::byte* gathered = nullptr; ///< all ranks' rows
  std::byte* addends = nullptr;  ///< what this rank adds to them
  std::byte* sums = nullptr;     ///< this rank's rows of the sum

  [[nodiscard]] static std::size_t bytes(const step_shape& shape) {
    return 2 * local_room(shape) + 2 * global_room(shape);
  }
  [[nodiscard]] static step_buffers at(std::byte* memory, const step_shape& shape) {
    std::byte* const sums = memory + local_room(shape);
    std::byte* const global = sums + local_room(shape);
    return {memory, global, global + global_room(shape), sums};
  }

private:
  /// Where NCCL wants buffers of windows to begin.
  [[nodiscard]] static std::size_t aligned(std::size_t bytes) {
    return (bytes + 4095) / 4096 * 4096;
  }
  [[nodiscard]] static std::size_t local_room(const step_shape& shape) {
    return aligned(static_cast<std::size_t>(shape.most_rows) * shape.row_bytes());
  }
  [[nodiscard]] static std::size_t global_room(const step_shape& shape) {
    return aligned(static_cast<std::size_t>(shape.most_global_rows()) * shape.row_bytes());
  }
};

/// Made by the thread that is the rank. All memory is allocated before anything waits for a peer.
class step_rank {
public:
  step_rank(dg::host_communicator ranks, const step_shape& shape, team& others)
      : shape_{shape}, gpu_{ranks}, memory_{step_buffers::bytes(shape)},
        window_{gpu_.comm(), memory_.size(), others}, model_{shape, gpu_.rank(), gpu_.stream()},
        expected_{model_, gpu_.rank()}, place_{others, gpu_.rank(), gpu_.stream(),
                                               [this](const char* what) { gpu_.wait(what); }} {
    plain_ = step_buffers::at(memory_.data(), shape);
    if (has_windows()) windows_ = step_buffers::at(window_.data(), shape);
  }
  step_rank(const step_rank&) = delete;
  step_rank& operator=(const step_rank&) = delete;
  /// Collective, when all graphs are gone.
  ~step_rank() {
    gpu_.await_graphs();
    place_.meet();
    window_.close();
    gpu_.close();
  }

  [[nodiscard]] const bench_place& place() const { return place_; }
  [[nodiscard]] const step_shape& shape() const { return shape_; }
  [[nodiscard]] std::int32_t rank() const { return gpu_.rank(); }
  [[nodiscard]] cudaStream_t stream() const { return gpu_.stream(); }
  [[nodiscard]] ncclComm_t comm() { return gpu_.comm(); }
  [[nodiscard]] dg::nccl_world& world() { return gpu_.world(); }
  [[nodiscard]] step_model& model() { return model_; }
  [[nodiscard]] const expected_rows& expected() const { return expected_; }

  /// Memory of `cudaMalloc`.
  [[nodiscard]] const step_buffers& plain() const { return plain_; }
  /// The same in a registered window; only where there are windows.
  [[nodiscard]] const step_buffers& windows() const { return windows_; }
  [[nodiscard]] bool has_windows() const { return window_.data() != nullptr; }
  [[nodiscard]] const char* why_no_windows() const { return window_.why_none(); }
  /// Poisons both. Stream: ordered.
  void poison() const {
    for (const device_span& each :
         {device_span{memory_.data(), memory_.size()}, device_span{window_.data(), memory_.size()}})
      if (each.data != nullptr) poison_bytes(each.data, each.size, stream());
  }

private:
  struct device_span {
    std::byte* data;
    std::size_t size;
  };

  step_shape shape_;
  nccl_gpu gpu_;
  device_memory memory_;
  symmetric_window window_;
  step_model model_;
  expected_rows expected_;
  step_buffers plain_, windows_;
  bench_place place_;
};

} // namespace bench
