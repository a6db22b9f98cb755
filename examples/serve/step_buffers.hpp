#pragma once

/// @file
/// The tensors of one rank, sized once for the largest step, and the weights of its shard.

#include "device_model.hpp"
#include "host_place.hpp"
#include "scheduler.hpp"
#include "toy_model.hpp"

#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace serve {

/// Stream: whatever uses a tensor is ordered on the rank's.
template <class Stream>
class step_buffers {
public:
  template <class T>
  using mirrored = typename place<Stream>::template mirrored<T>;
  template <class T>
  using array = typename place<Stream>::template array<T>;

  /// `rows`: of this rank at most, pads included; `global_rows`: of all ranks, likewise.
  step_buffers(std::int64_t rows, std::int64_t global_rows, std::size_t workspace_bytes,
               const dg::topology& where)
      : tokens{wide(rows)}, positions{wide(rows)},
        local(wide(rows * hidden)), output{wide(rows * hidden)}, trimmed{wide(rows * hidden)},
        global(wide(global_rows * hidden)), shard(wide(global_rows * hidden)),
        workspace(workspace_bytes), first_{first_unit(where.world_rank(), where.world_size())},
        units_{first_unit(where.world_rank() + 1, where.world_size()) - first_},
        weights_in_{weight_count()}, weights_out_{weight_count()} {}

  mirrored<std::int32_t> tokens, positions; ///< `[rows]`
  array<float> local;                       ///< `[rows, hidden]`
  mirrored<float> output, trimmed;          ///< `[rows, hidden]`
  array<float> global, shard;               ///< `[global_rows, hidden]`
  array<std::byte> workspace;

  /// This rank's part of the FFN, for jobs.
  [[nodiscard]] ffn_slice slice() noexcept {
    return {.in = weights_in_.data(), .out = weights_out_.data(), .units = units_};
  }

  /// Once, from the table that the scalar reference uses.
  [[nodiscard]] dg::status upload_weights(Stream stream) noexcept {
    for (std::int32_t u = 0; u < units_; ++u) {
      const auto unit = static_cast<std::size_t>(first_ + u);
      const auto to = static_cast<std::ptrdiff_t>(u) * hidden;
      std::ranges::copy(weights.in[unit], weights_in_.on_host().begin() + to);
      std::ranges::copy(weights.out[unit], weights_out_.on_host().begin() + to);
    }
    if (dg::status bad = weights_in_.upload(weight_count(), stream); !bad) return bad;
    return weights_out_.upload(weight_count(), stream);
  }

  /// The real inputs of a step.
  [[nodiscard]] dg::status upload_inputs(const rank_step& mine, Stream stream) noexcept {
    std::size_t row = 0;
    mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
      tokens.on_host()[row] = token_at(request, position);
      positions.on_host()[row++] = position;
    });
    if (dg::status bad = tokens.upload(row, stream); !bad) return bad;
    return positions.upload(row, stream);
  }

  /// NaN where a step is to write, so that none passes with what another one left.
  [[nodiscard]] dg::status poison(std::int64_t rows, std::int64_t global_rows,
                                  Stream stream) noexcept {
    using here = place<Stream>;
    if (dg::status bad = here::poison(output.data(), wide(rows * hidden), stream); !bad) return bad;
    if (dg::status bad = here::poison(trimmed.data(), wide(rows * hidden), stream); !bad)
      return bad;
    return here::poison(global.data(), wide(global_rows * hidden), stream);
  }

  /// What a step left: `real` trimmed rows, `padded` rows with their tail.
  [[nodiscard]] dg::status download(std::int32_t real, std::int32_t padded,
                                    Stream stream) noexcept {
    if (dg::status bad = trimmed.download(wide(std::int64_t{real} * hidden), stream); !bad)
      return bad;
    return output.download(wide(std::int64_t{padded} * hidden), stream);
  }

private:
  [[nodiscard]] static std::size_t wide(std::int64_t count) noexcept {
    return static_cast<std::size_t>(count);
  }
  /// More ranks than units leave some without one, but not without memory.
  [[nodiscard]] std::size_t weight_count() const noexcept {
    return wide(std::int64_t{std::max(units_, 1)} * hidden);
  }

  std::int32_t first_;
  std::int32_t units_;
  mirrored<float> weights_in_, weights_out_;
};

} // namespace serve
