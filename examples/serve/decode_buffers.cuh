#pragma once

/// @file
/// Everything that a captured decode step touches: one set of buffers for all graphs of a ladder,
/// sized for the largest, since they never run at the same time. All of it is allocated before the
/// first capture, and its bytes are known before that.

#include "cuda_resources.cuh"
#include "decode_check.hpp"
#include "device_model.hpp"
#include "scheduler.hpp"

#include <dpgather/status.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace serve {

/// How large they are.
struct buffer_sizes {
  std::int64_t rows = 0;        ///< most rows of this rank, pads included
  std::int64_t global_rows = 0; ///< most rows of all ranks, likewise
  std::int32_t rank = 0;        ///< whose units of the FFN
  std::int32_t ranks = 1;
  std::size_t workspace_bytes = 0;
};

/// Buffers of one rank, on the GPU that was current when they were made. Stream: whatever takes one
/// is ordered on it. Capture: nothing here belongs into one.
class decode_buffers {
public:
  explicit decode_buffers(const buffer_sizes& sizes)
      : slice{.in = nullptr,
              .out = nullptr,
              .units =
                  first_unit(sizes.rank + 1, sizes.ranks) - first_unit(sizes.rank, sizes.ranks)},
        tokens{wide(sizes.rows)}, positions{wide(sizes.rows)}, local{wide(sizes.rows * hidden)},
        output{wide(sizes.rows * hidden)}, trimmed{wide(sizes.rows * hidden)},
        global{wide(sizes.global_rows * hidden)}, shard{wide(sizes.global_rows * hidden)},
        weights_in{wide(slice.units * hidden)}, weights_out{wide(slice.units * hidden)},
        workspace{sizes.workspace_bytes}, host_tokens{wide(sizes.rows)},
        host_positions{wide(sizes.rows)}, host_output{wide(sizes.rows * hidden)},
        host_trimmed{wide(sizes.rows * hidden)}, rank_{sizes.rank}, ranks_{sizes.ranks} {
    slice.in = weights_in.data();
    slice.out = weights_out.data();
  }

  ffn_slice slice; ///< this rank's units, for kernels
  device_array<std::int32_t> tokens, positions;
  device_array<float> local, output, trimmed, global, shard, weights_in, weights_out;
  device_array<std::byte> workspace;
  pinned_array<std::int32_t> host_tokens, host_positions;
  pinned_array<float> host_output, host_trimmed;

  [[nodiscard]] std::size_t local_bytes() const noexcept {
    return tokens.bytes() + positions.bytes() + local.bytes() + output.bytes() + trimmed.bytes();
  }
  [[nodiscard]] std::size_t global_bytes() const noexcept { return global.bytes() + shard.bytes(); }
  [[nodiscard]] std::size_t weight_bytes() const noexcept {
    return weights_in.bytes() + weights_out.bytes();
  }

  /// What stands behind the real inputs until the graph pads them.
  static constexpr std::int32_t unwritten = -1;

  /// Once: this rank's slice of the very table that the scalar reference uses.
  [[nodiscard]] dg::status upload_weights(cudaStream_t stream) const noexcept {
    const std::size_t first = wide(first_unit(rank_, ranks_));
    const auto upload = [stream](const device_array<float>& to, const float* from) {
      return dg::cuda_status(
          cudaMemcpyAsync(to.data(), from, to.bytes(), cudaMemcpyHostToDevice, stream),
          "upload_weights");
    };
    if (dg::status bad = upload(weights_in, weights.in[first].data()); !bad) return bad;
    return upload(weights_out, weights.out[first].data());
  }

  /// A step's inputs, and the `unwritten` ones up to the bucket. The stream must be idle: what is
  /// copied from here may not change before it has been.
  [[nodiscard]] dg::status upload_inputs(const rank_step& mine, std::int32_t bucket,
                                         cudaStream_t stream) const noexcept {
    std::size_t row = 0;
    mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
      host_tokens[row] = token_at(request, position);
      host_positions[row++] = position;
    });
    for (; row < wide(bucket); ++row) host_tokens[row] = host_positions[row] = unwritten;
    if (dg::status bad = copy(tokens, host_tokens, row, stream); !bad) return bad;
    return copy(positions, host_positions, row, stream);
  }

  /// What a step left, to the host.
  [[nodiscard]] dg::status download(std::int32_t bucket, cudaStream_t stream) const noexcept {
    const std::size_t rows = wide(bucket);
    if (dg::status bad = copy(host_tokens, tokens, rows, stream); !bad) return bad;
    if (dg::status bad = copy(host_positions, positions, rows, stream); !bad) return bad;
    if (dg::status bad = copy(host_output, output, rows * hidden, stream); !bad) return bad;
    return copy(host_trimmed, trimmed, rows * hidden, stream);
  }

  /// Where that is now.
  [[nodiscard]] decode_outcome outcome(std::int32_t bucket) const noexcept {
    return {.bucket = bucket,
            .tokens = host_tokens.data(),
            .positions = host_positions.data(),
            .output = host_output.data(),
            .trimmed = host_trimmed.data()};
  }

  /// NaN into all rows, so that no step passes with what another one left.
  [[nodiscard]] dg::status poison(cudaStream_t stream) const noexcept {
    for (const device_array<float>* each : {&local, &output, &trimmed, &global, &shard}) {
      if (dg::status bad = poison_all(*each, stream); !bad) return bad;
    }
    return {};
  }

private:
  [[nodiscard]] static std::size_t wide(std::int64_t count) noexcept {
    return static_cast<std::size_t>(count);
  }

  std::int32_t rank_;
  std::int32_t ranks_;
};

} // namespace serve
