#pragma once

/// @file
/// The data-parallel half of a layer: this rank's rows, this rank's cache, no communication.
///
/// Leaves `8 * residual + output` in the addends, of which each attention-TP peer has its heads'
/// part: summed over the peers and divided by 8 it is the new residual. The gather sums it.

#include "batch.hpp"
#include "kernels.hpp"
#include "kv_cache.hpp"
#include "model.hpp"
#include "tail_guard.hpp"
#include "tensor.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace engine {

inline constexpr float addends_per_residual = 8;

class attention {
public:
  /// `columns`: floats of this rank's heads; `longest`: most tokens of a request.
  attention(std::int64_t capacity, std::int32_t columns, std::int32_t longest)
      : normed_{tensor_name::normed, capacity, hidden}, qkv_{tensor_name::qkv, capacity,
                                                             3 * columns},
        context_{tensor_name::context, capacity, columns}, columns_{columns},
        scores_(static_cast<std::size_t>(longest)) {}

  /// `residual`, `addends`: `[rows.rows, hidden]`. `brings_residual`: true on one of the peers.
  void run(const layer_weights& weights, const batch& step, kv_cache& cache, std::int32_t layer,
           tensor& residual, tensor& addends, const row_sets& rows, bool brings_residual,
           tail_guard& guard) noexcept {
    guard.poison(residual, rows);
    requantise_all(residual.row(0), normed_.row(0), rows.rows * hidden, 0.5F, -activation_limit,
                   activation_limit);
    guard.check(normed_, rows);

    guard.poison(normed_, rows);
    matmul(normed_.row(0), weights.qkv.data(), qkv_.row(0), rows.rows, hidden, 3 * columns_);
    requantise_all(qkv_.row(0), qkv_.row(0), rows.rows * 3 * columns_, 0.25F, -activation_limit,
                   activation_limit);
    guard.check(qkv_, rows);

    guard.poison(qkv_, rows);
    tensor& slots = cache.layer(layer);
    for (std::int64_t r = 0; r < rows.rows; ++r)
      std::copy_n(qkv_.row(r) + columns_, 2 * columns_,
                  slots.row(step.slots[static_cast<std::size_t>(r)]));
    for (std::int64_t r = 0; r < rows.rows; ++r) attend(step, cache, slots, r);
    guard.check(context_, rows);

    guard.poison(context_, rows);
    matmul(context_.row(0), weights.output.data(), addends.row(0), rows.rows, columns_, hidden);
    if (brings_residual) {
      for (std::int64_t i = 0; i < rows.rows * hidden; ++i)
        addends.row(0)[i] += addends_per_residual * residual.row(0)[i];
    }
    guard.check(addends, rows);
  }

private:
  /// One row, all heads: sums of whole numbers, then one division, which IEEE rounds alike
  /// everywhere.
  void attend(const batch& step, const kv_cache& cache, const tensor& slots,
              std::int64_t row) noexcept {
    const auto at = static_cast<std::size_t>(row);
    const std::int32_t table = step.tables[at];
    const std::int32_t length = step.lengths[at];
    for (std::int32_t first = 0; first < columns_; first += head_dim) {
      const float* const query = qkv_.row(row) + first;
      float best = -std::numeric_limits<float>::infinity();
      for (std::int32_t j = 0; j < length; ++j) {
        const float* const key = slots.row(cache.slot(table, j)) + first;
        float score = 0;
        for (std::int32_t c = 0; c < head_dim; ++c) score += query[c] * key[c];
        scores_[static_cast<std::size_t>(j)] = score;
        best = std::max(best, score);
      }
      float all = 0;
      float sums[head_dim]{};
      for (std::int32_t j = 0; j < length; ++j) {
        const float weight = softmax_weight(scores_[static_cast<std::size_t>(j)] - best);
        const float* const value = slots.row(cache.slot(table, j)) + columns_ + first;
        all += weight;
        for (std::int32_t c = 0; c < head_dim; ++c) sums[c] += weight * value[c];
      }
      float* const out = context_.row(row) + first;
      for (std::int32_t c = 0; c < head_dim; ++c)
        out[c] = requantise(sums[c] / all, 2, activation_limit);
    }
  }

  tensor normed_, qkv_, context_;
  std::int32_t columns_;
  std::vector<float> scores_;
};

} // namespace engine
