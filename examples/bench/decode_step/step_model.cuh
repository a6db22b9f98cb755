#pragma once

/// @file
/// The model of one rank: its weights, and the two parts of a layer between which rows travel.

#include "../support/device_memory.cuh"
#include "../support/device_rows.cuh"
#include "row_gemm.cuh"
#include "step_kernels.cuh"
#include "step_shape.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace bench {

/// Weights of all layers lie in memory apart, so that each GEMM reads its own from HBM: a layer has
/// many times what the L2 holds. All methods use this object in turn, on one stream.
class step_model {
public:
  step_model(const step_shape& shape, std::int32_t rank, cudaStream_t stream)
      : shape_{shape}, stream_{stream}, gemm_{stream}, weights_{shape.layer_bytes() *
                                                                static_cast<std::size_t>(
                                                                    shape.layers)},
        normed_{static_cast<std::size_t>(shape.most_rows) * shape.row_bytes()},
        gates_{activation_bytes(2)}, activations_{activation_bytes(1)} {
    for (std::int32_t l = 0; l < shape.layers; ++l) {
      fill(attention_weights(l), {l, 0, step_matrix::attention});
      fill(up_weights(l), {l, rank, step_matrix::up});
      fill(down_weights(l), {l, rank, step_matrix::down});
    }
    must(cudaStreamSynchronize(stream), "weights");
  }
  step_model(const step_model&) = delete;
  step_model& operator=(const step_model&) = delete;

  [[nodiscard]] const step_shape& shape() const { return shape_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  /// What a rank does with its own rows: `in[rows, hidden]` to `out[rows, hidden]`.
  void attention(std::int32_t layer, const std::byte* in, std::byte* out, std::int64_t rows) {
    // The tokens of the first layer are as small as a norm makes them.
    const float scale = layer == 0 ? 1 : shape_.norm_scale();
    norm_rows(in, normed_.data(), rows, shape_.hidden, scale, stream_);
    gemm_.multiply(normed_.data(), attention_weights(layer), out, rows, shape_.hidden,
                   shape_.hidden);
  }
  /// This rank's addend to the FFN of all ranks' rows: `in[rows, hidden]` to `out[rows, hidden]`.
  void ffn(std::int32_t layer, const std::byte* in, std::byte* out, std::int64_t rows) {
    ffn_of(up_weights(layer), down_weights(layer), in, out, rows);
  }
  /// The same by weights that lie elsewhere.
  void ffn_of(const std::byte* up, const std::byte* down, const std::byte* in, std::byte* out,
              std::int64_t rows) {
    gemm_.multiply(in, up, gates_.data(), rows, 2 * shape_.shard(), shape_.hidden,
                   shape_.up_scale());
    silu_rows(gates_.data(), activations_.data(), rows, shape_.shard(), stream_);
    gemm_.multiply(activations_.data(), down, out, rows, shape_.hidden, shape_.shard());
  }
  /// Writes one matrix. Stream: ordered.
  void fill(std::byte* at, const step_weights& which) const {
    const bool down = which.matrix == step_matrix::down;
    const std::int64_t rows = which.matrix == step_matrix::up ? 2 * shape_.shard() : shape_.hidden;
    write_rows(at, rows, down ? shape_.shard() : shape_.hidden, which, stream_);
  }

private:
  [[nodiscard]] std::byte* attention_weights(std::int32_t layer) const {
    return weights_.data() + shape_.layer_bytes() * static_cast<std::size_t>(layer);
  }
  [[nodiscard]] std::byte* up_weights(std::int32_t layer) const {
    return attention_weights(layer) + 2 * shape_.attention_elements();
  }
  [[nodiscard]] std::byte* down_weights(std::int32_t layer) const {
    return up_weights(layer) + 2 * shape_.up_elements();
  }
  [[nodiscard]] std::size_t activation_bytes(std::int32_t shards) const {
    return static_cast<std::size_t>(shape_.most_global_rows() * shape_.shard() * shards) * 2;
  }

  step_shape shape_;
  cudaStream_t stream_;
  row_gemm gemm_;
  device_memory weights_, normed_, gates_, activations_;
};

} // namespace bench
