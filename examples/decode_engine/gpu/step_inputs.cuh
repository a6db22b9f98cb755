#pragma once

/// @file
/// What a step is told and what it tells: one copy there, one back. Addresses never change, since
/// graphs hold them.

#include "../batch.hpp"
#include "../kv_cache.hpp"
#include "attention.cuh"
#include "launch.cuh"

#include <dpgather/batch_fill.hpp>
#include <dpgather/device/pad.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace engine::gpu {

class step_inputs {
public:
  step_inputs(std::int64_t rows, const kv_cache& cache)
      : rows_{static_cast<std::size_t>(rows)}, tables_{cache.tables().size()},
        pages_each_{cache.pages_each()}, host_{1 + 5 * rows_ + tables_}, device_{host_.size()},
        picked_{rows_}, picked_here_{rows_} {
    std::fill_n(host_.data(), host_.size(), 0);
  }

  /// Of a batch with `rows` rows, tails left to `pad`. Stream: ordered; the host's copy may be
  /// rewritten when the stream has passed.
  [[nodiscard]] dg::status upload(const batch& step, std::int32_t number, const kv_cache& cache,
                                  cudaStream_t stream) noexcept {
    std::int32_t* to = host_.data();
    *to++ = number;
    for (const auto* each :
         {&step.tokens, &step.positions, &step.slots, &step.lengths, &step.tables})
      to = std::copy_n(each->data(), rows_, to);
    std::copy_n(cache.tables().data(), tables_, to);
    return serve::copy(device_, host_, host_.size(), stream);
  }

  /// Grows every tensor a tail that a kernel can run on, up to `padded` rows, from the count at
  /// `live` on. See `engine::batch::pad`. Capture: safe.
  [[nodiscard]] dg::status pad(std::int32_t padded, const std::int32_t* live,
                               cudaStream_t stream) const noexcept {
    const dg::unit_counts rows{
        .padded = padded, .capacity = static_cast<std::int32_t>(rows_), .live = live};
    using name = dg::batch_tensor;
    const auto with_default = [&](std::int32_t* to, name which) {
      const auto tail = dg::default_tail(which, dg::phase::decode, 1);
      return dg::pad_vector(to, rows, static_cast<std::int32_t>(tail.value));
    };
    const device_batch b = on_device();
    const dg::pad_tensor list[] = {with_default(b.tokens, name::input_ids),
                                   with_default(b.positions, name::positions),
                                   with_default(b.slots, name::out_cache_locations),
                                   with_default(b.lengths, name::sequence_lengths),
                                   with_default(b.tables, name::request_pool_indices)};
    return dg::pad(list, stream);
  }

  [[nodiscard]] device_batch on_device() const noexcept {
    std::int32_t* const first = device_.data() + 1;
    return {first,
            first + rows_,
            first + 2 * rows_,
            first + 3 * rows_,
            first + 4 * rows_,
            first + 5 * rows_,
            pages_each_};
  }
  /// The step's number, in device memory.
  [[nodiscard]] const std::int32_t* number() const noexcept { return device_.data(); }

  /// `[rows]`: the token that follows from each row, written by kernels.
  [[nodiscard]] std::int32_t* picked() const noexcept { return picked_.data(); }
  [[nodiscard]] dg::status fetch(std::int32_t rows, cudaStream_t stream) noexcept {
    if (rows == 0) return {};
    return serve::copy(picked_here_, picked_, static_cast<std::size_t>(rows), stream);
  }
  /// When the stream has passed `fetch`.
  [[nodiscard]] std::int32_t token(std::int32_t row) const noexcept {
    return picked_here_[static_cast<std::size_t>(row)];
  }

private:
  std::size_t rows_, tables_;
  std::int32_t pages_each_;
  serve::pinned_array<std::int32_t> host_;
  serve::device_array<std::int32_t> device_; ///< number, five lists of rows, page tables
  serve::device_array<std::int32_t> picked_;
  serve::pinned_array<std::int32_t> picked_here_;
};

} // namespace engine::gpu
