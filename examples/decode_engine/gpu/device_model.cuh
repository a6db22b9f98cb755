#pragma once

/// @file
/// One rank's weights in device memory, as bf16.

#include "../model.hpp"
#include "gemm.cuh"

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

namespace engine::gpu {

struct device_layer {
  weight_matrix qkv, output, up, down, router;
  const bf16* experts_up = nullptr;   ///< `[own experts, hidden, expert_intermediate]`
  const bf16* experts_down = nullptr; ///< `[own experts, expert_intermediate, hidden]`
};

class device_model {
public:
  explicit device_model(const model_shard& from) : embedding_{from.embedding.size()} {
    dg::throw_if_failed(dg::cuda_status(cudaMemcpy(embedding_.data(), from.embedding.data(),
                                                   embedding_.bytes(), cudaMemcpyHostToDevice),
                                        "cudaMemcpy"));
    logits = matrix_of(from.logits, hidden, vocabulary);
    const std::int32_t columns = from.head_columns();
    for (const layer_weights& w : from.layer) {
      device_layer to;
      to.qkv = matrix_of(w.qkv, hidden, 3 * columns);
      to.output = matrix_of(w.output, columns, hidden);
      if (w.router.empty()) {
        to.up = matrix_of(w.up, hidden, from.own_units.count);
        to.down = matrix_of(w.down, from.own_units.count, hidden);
      } else {
        to.router = matrix_of(w.router, hidden, experts);
        matrix up, down;
        for (const expert_weights& e : w.own_experts) {
          up.insert(up.end(), e.up.begin(), e.up.end());
          down.insert(down.end(), e.down.begin(), e.down.end());
        }
        to.experts_up = uploaded(up);
        to.experts_down = uploaded(down);
      }
      layer.push_back(to);
    }
  }

  std::vector<device_layer> layer;
  weight_matrix logits;

  [[nodiscard]] const float* embedding() const noexcept { return embedding_.data(); }
  [[nodiscard]] const std::vector<weight_matrix>& matrices() const noexcept { return matrices_; }

private:
  [[nodiscard]] weight_matrix matrix_of(const matrix& from, std::int32_t k, std::int32_t n) {
    matrices_.push_back({uploaded(from), k, n});
    return matrices_.back();
  }
  [[nodiscard]] const bf16* uploaded(const matrix& from) {
    std::vector<bf16> rounded;
    for (const float value : from) rounded.push_back(__float2bfloat16(value));
    arrays_.emplace_back(from.size());
    dg::throw_if_failed(dg::cuda_status(cudaMemcpy(arrays_.back().data(), rounded.data(),
                                                   arrays_.back().bytes(), cudaMemcpyHostToDevice),
                                        "cudaMemcpy"));
    return arrays_.back().data();
  }

  serve::device_array<float> embedding_;
  std::deque<serve::device_array<bf16>> arrays_; // neither copied nor moved
  std::vector<weight_matrix> matrices_;
};

} // namespace engine::gpu
