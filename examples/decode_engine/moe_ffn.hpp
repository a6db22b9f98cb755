#pragma once

/// @file
/// The mixture of experts: each rank has some of the experts, routes the rows of all ranks, and
/// runs its experts on the rows that chose them. Rows that are not real choose expert -1.

#include "kernels.hpp"
#include "model.hpp"
#include "tail_guard.hpp"
#include "tensor.hpp"

#include <dpgather/device/masks.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

class moe_ffn {
public:
  explicit moe_ffn(std::int64_t global_capacity)
      : logits_(static_cast<std::size_t>(global_capacity) * experts),
        chosen_(static_cast<std::size_t>(global_capacity) * top_k), gates_(chosen_.size()) {
    routed_.reserve(chosen_.size());
  }

  /// `--plant-leak`: the next time that there is a tail, the permutation takes a row of it.
  void plant_leak() noexcept { leak_is_planted_ = true; }
  /// Rows that this rank's experts have run on so far.
  [[nodiscard]] std::int64_t rows_run() const noexcept { return rows_run_; }

  /// `in`, `addends`: `[rows.rows, hidden]`, all ranks' rows. Errors: those of `write_masks`.
  [[nodiscard]] dg::status run(const model_shard& model, const layer_weights& weights, tensor& in,
                               tensor& addends, const row_sets& rows, const dg::placement& places,
                               tail_guard& guard) noexcept {
    guard.poison(in, rows);
    matmul(in.row(0), weights.router.data(), logits_.data(), rows.rows, hidden, experts);
    for (std::int64_t r = 0; r < rows.rows; ++r) choose(r);
    const dg::row_masks masks{.places = places,
                              .topk_ids = chosen_.data(),
                              .topk_weights = gates_.data(),
                              .topk = top_k,
                              .pad_expert = -1};
    if (dg::status bad = dg::write_masks(masks, dg::host_stream{}); !bad) return bad;

    std::fill_n(addends.row(0), rows.rows * hidden, 0.0F);
    for (std::int32_t e = 0; e < model.own_experts.count; ++e) {
      permute(model.own_experts.first + e, rows);
      const expert_weights& expert = weights.own_experts[static_cast<std::size_t>(e)];
      for (const routed_row& each : routed_) run_expert(expert, in, addends, each);
      rows_run_ += static_cast<std::int64_t>(routed_.size());
    }
    guard.check(addends, rows);
    return {};
  }

private:
  struct routed_row {
    std::int64_t from = 0;
    std::int64_t to = 0;
    float gate = 0;
  };

  /// The best experts of a row, the first of equals; gates are 2 and 1.
  void choose(std::int64_t row) noexcept {
    float* const logits = logits_.data() + row * experts;
    for (std::int32_t k = 0; k < top_k; ++k) {
      const std::int32_t best = argmax(logits, experts);
      chosen_[static_cast<std::size_t>(row * top_k + k)] = best;
      gates_[static_cast<std::size_t>(row * top_k + k)] = static_cast<float>(top_k - k);
      logits[best] = -1e9F;
    }
  }

  /// The rows that chose an expert.
  void permute(std::int32_t expert, const row_sets& rows) noexcept {
    routed_.clear();
    for (std::int64_t i = 0; i < rows.rows * top_k; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (chosen_[at] == expert) routed_.push_back({i / top_k, i / top_k, gates_[at]});
    }
    if (!leak_is_planted_ || routed_.empty()) return;
    for (const dg::row_range tail : rows.tails) {
      if (tail.count == 0) continue;
      routed_.back().from = tail.first;
      leak_is_planted_ = false;
      return;
    }
  }

  static void run_expert(const expert_weights& expert, const tensor& in, tensor& addends,
                         const routed_row& row) noexcept {
    float activated[expert_intermediate];
    float out[hidden];
    matmul(in.row(row.from), expert.up.data(), activated, 1, hidden, expert_intermediate);
    requantise_all(activated, activated, expert_intermediate, 0.125F, 0, 15);
    matmul(activated, expert.down.data(), out, 1, expert_intermediate, hidden);
    for (std::int32_t c = 0; c < hidden; ++c) addends.row(row.to)[c] += row.gate * out[c];
  }

  std::vector<float> logits_;        ///< `[rows, experts]`
  std::vector<std::int32_t> chosen_; ///< `[rows, top_k]`
  std::vector<float> gates_;         ///< `[rows, top_k]`
  std::vector<routed_row> routed_;
  std::int64_t rows_run_ = 0;
  bool leak_is_planted_ = false;
};

} // namespace engine
