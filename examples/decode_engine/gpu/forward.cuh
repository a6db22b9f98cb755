#pragma once

/// @file
/// The engine's half of a layer on a GPU: attention of own rows, FFN of all ranks' rows, tokens.
/// Nothing here communicates; all of it may be captured.

#include "../model.hpp"
#include "attention.cuh"
#include "device_model.cuh"
#include "gemm.cuh"
#include "kernels.cuh"
#include "moe.cuh"
#include "step_inputs.cuh"
#include "tails.cuh"

#include <dpgather/device/masks.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>

namespace engine::gpu {

/// Sizes, fixed for a run.
struct forward_sizes {
  std::int64_t local_rows = 0;  ///< most of this rank, tails included
  std::int64_t global_rows = 0; ///< most of all ranks
  std::int64_t cache_slots = 0;
};

class forward {
public:
  using floats = serve::device_array<float>; ///< rows of `hidden` values

  forward(const dg::topology& where, const forward_sizes& sizes, numbers kind, bool poison,
          bool plant_leak)
      : shard_{where, kind == numbers::on_grid}, kind_{kind}, plant_leak_{plant_leak},
        brings_residual_{where.tp_rank == 0}, weights_{shard_}, sizes_{sizes},
        guard_{poison, where.world_rank()}, residual_{local(hidden)}, attended_{local(hidden)},
        combined_{local(hidden)}, normed_{local(hidden)}, qkv_{local(3 * columns())},
        context_{local(columns())}, global_residual_{global(hidden)}, ffn_input_{global(hidden)},
        sums_{std::max(global(std::max(units(), experts)), local(vocabulary))},
        activated_{global(std::max(units(), hidden))}, chosen_{global(top_k)},
        gates_{global(top_k)}, counts_{static_cast<std::size_t>(shard_.own_experts.count)},
        lists_{global(shard_.own_experts.count)}, outputs_{global(top_k * hidden)}, rows_run_{1} {
    for (std::int32_t l = 0; l < layers; ++l) {
      caches_.emplace_back(static_cast<std::size_t>(sizes.cache_slots) * 2 *
                           static_cast<std::size_t>(columns()));
      dg::throw_if_failed(dg::cuda_status(
          cudaMemset(caches_.back().data(), poison ? 0xff : 0, caches_.back().bytes()),
          "cudaMemset"));
    }
    dg::throw_if_failed(
        dg::cuda_status(cudaMemset(rows_run_.data(), 0, rows_run_.bytes()), "cudaMemset"));
    // The rank's stream does not wait for the null stream.
    dg::throw_if_failed(dg::cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  }

  /// Before graphs are captured; see `gemm::warm_up`. Waits until it is done.
  [[nodiscard]] dg::status warm_up(cudaStream_t stream) {
    const std::int64_t most = std::max(sizes_.local_rows, sizes_.global_rows);
    const auto count = static_cast<std::size_t>(most) * vocabulary;
    const serve::device_array<bf16> in{count};
    const serve::device_array<float> out{count};
    const dg::status done = gemm_.warm_up(weights_.matrices(), most, in.data(), out.data(), stream);
    const dg::status waited = dg::cuda_status(cudaStreamSynchronize(stream), "warm_up");
    return done.ok() ? waited : done;
  }

  [[nodiscard]] gpu_tail_guard& guard() noexcept { return guard_; }
  [[nodiscard]] const gpu_tail_guard& guard() const noexcept { return guard_; }
  [[nodiscard]] const floats& residual() const noexcept { return residual_; } ///< own rows
  [[nodiscard]] const floats& attended() const noexcept { return attended_; } ///< own, partial
  [[nodiscard]] const floats& combined() const noexcept { return combined_; } ///< own rows
  [[nodiscard]] const floats& global_residual() const noexcept { return global_residual_; }

  // --- own rows -------------------------------------------------------------------------------

  void embed_rows(enqueuer& to, const device_batch& batch, const real_rows& rows) {
    to.launch(embed, rows.rows * hidden, batch.tokens, batch.positions, weights_.embedding(),
              rows.rows, residual_.data());
    guard_.pass(to, 0, tensor_name::hidden_rows, residual_.data(), hidden, rows);
  }
  /// Leaves `8 * residual + output` in `attended()`, of which attention-TP peers have parts.
  void attention(enqueuer& to, std::int32_t l, const device_batch& batch, const real_rows& rows) {
    const device_layer& w = weights_.layer[static_cast<std::size_t>(l)];
    const std::int32_t wide = columns();
    float* const cache = caches_[static_cast<std::size_t>(l)].data();
    to.launch(normalise, rows.rows * hidden, kind_, residual_.data(), rows.rows, normed_.data());
    guard_.pass(to, l, tensor_name::normed, normed_.data(), hidden, rows);
    gemm_.run(to, normed_.data(), w.qkv, {rows.rows}, qkv_.data());
    guard_.pass(to, l, tensor_name::qkv, qkv_.data(), 3 * wide, rows);
    to.launch(store_keys, rows.rows * 3 * wide, kind_, batch, rows.rows, wide, qkv_.data(), cache);
    to.launch(attend, rows.rows * (wide / head_dim) * 32, kind_, batch, rows.rows, wide,
              qkv_.data(), cache, context_.data());
    guard_.pass(to, l, tensor_name::context, context_.data(), wide, rows);
    gemm_.run(to, context_.data(), w.output, {rows.rows}, attended_.data());
    if (brings_residual_)
      to.launch(bring_residual, rows.rows * hidden, residual_.data(), rows.rows, 8.0F,
                attended_.data());
    guard_.pass(to, l, tensor_name::attention_addends, attended_.data(), hidden, rows);
  }
  void add_ffn_output(enqueuer& to, std::int32_t l, const real_rows& rows) {
    guard_.pass(to, l, tensor_name::combined, combined_.data(), hidden, rows);
    to.launch(add_ffn, rows.rows * hidden, kind_, combined_.data(), rows.rows, residual_.data());
    guard_.poison(to, residual_.data(), hidden, rows);
  }
  void pick_tokens(enqueuer& to, const real_rows& rows, std::int32_t* tokens) {
    to.launch(normalise, rows.rows * hidden, kind_, residual_.data(), rows.rows, normed_.data());
    gemm_.run(to, normed_.data(), weights_.logits, {rows.rows}, sums_.data());
    to.launch(pick_token, rows.rows, sums_.data(), rows.rows, tokens);
  }

  // --- all ranks' rows ------------------------------------------------------------------------

  /// From what was gathered: the residual of all rows, in `global_residual()`, and the FFN's input.
  void take(enqueuer& to, std::int32_t l, float* gathered, const row_count& count,
            const real_rows& rows) {
    guard_.pass(to, l, tensor_name::gathered, gathered, hidden, rows);
    to.launch(take_gathered, rows.rows * hidden, kind_, gathered, count, global_residual_.data(),
              ffn_input_.data());
    guard_.pass(to, l, tensor_name::ffn_input, ffn_input_.data(), hidden, rows);
    guard_.poison(to, global_residual_.data(), hidden, rows);
  }
  /// This rank's addends.
  void ffn(enqueuer& to, std::int32_t l, float* addends, const row_count& count,
           const real_rows& rows) {
    const device_layer& w = weights_.layer[static_cast<std::size_t>(l)];
    if (is_moe(l)) {
      mixture(to, w, addends, count, rows);
    } else {
      gemm_.run(to, ffn_input_.data(), w.up, count, sums_.data());
      to.launch(activate, rows.rows * units(), kind_, sums_.data(), count, units(),
                activated_.data());
      guard_.pass(to, l, tensor_name::activated, activated_.data(), units(), rows);
      gemm_.run(to, activated_.data(), w.down, count, addends);
    }
    guard_.pass(to, l, tensor_name::ffn_addends, addends, hidden, rows);
  }

  // --------------------------------------------------------------------------------------------

  /// Nothing that an earlier step has left in this rank's own tensors may be read for this one;
  /// gathered rows and addends are the channel's.
  void poison_everything(enqueuer& to) noexcept {
    if (!guard_.on()) return;
    for (auto* each :
         {&residual_, &attended_, &combined_, &qkv_, &global_residual_, &sums_, &outputs_})
      to.set(each->data(), 0xff, each->bytes());
    for (auto* each : {&normed_, &context_, &ffn_input_, &activated_})
      to.set(each->data(), 0xff, each->bytes());
  }
  /// A page that nobody owns any more.
  void poison_page(enqueuer& to, std::int32_t page) noexcept {
    if (!guard_.on()) return;
    const std::size_t count =
        std::size_t{kv_cache::page_slots} * 2 * static_cast<std::size_t>(columns());
    for (auto& each : caches_)
      to.set(each.data() + static_cast<std::size_t>(page) * count, 0xff, count * sizeof(float));
  }
  /// Rows that this rank's experts have run on, once the stream has passed.
  [[nodiscard]] std::int64_t expert_rows() const {
    unsigned long long out = 0;
    dg::throw_if_failed(dg::cuda_status(
        cudaMemcpy(&out, rows_run_.data(), sizeof out, cudaMemcpyDeviceToHost), "cudaMemcpy"));
    return static_cast<std::int64_t>(out);
  }
  [[nodiscard]] dg::status forget_counts(cudaStream_t stream) noexcept {
    if (dg::status bad = dg::cuda_status(
            cudaMemsetAsync(rows_run_.data(), 0, rows_run_.bytes(), stream), "cudaMemsetAsync");
        !bad)
      return bad;
    return guard_.forget(stream);
  }

private:
  [[nodiscard]] std::size_t local(std::int32_t width) const noexcept {
    return static_cast<std::size_t>(sizes_.local_rows) * static_cast<std::size_t>(width);
  }
  [[nodiscard]] std::size_t global(std::int32_t width) const noexcept {
    return static_cast<std::size_t>(sizes_.global_rows) * static_cast<std::size_t>(width);
  }
  [[nodiscard]] std::int32_t columns() const noexcept { return shard_.head_columns(); }
  [[nodiscard]] std::int32_t units() const noexcept { return shard_.own_units.count; }

  void mixture(enqueuer& to, const device_layer& w, float* addends, const row_count& count,
               const real_rows& rows) {
    const routing r{.chosen = chosen_.data(),
                    .gates = gates_.data(),
                    .counts = counts_.data(),
                    .lists = lists_.data(),
                    .outputs = outputs_.data(),
                    .capacity = sizes_.global_rows,
                    .first_expert = shard_.own_experts.first,
                    .own_experts = shard_.own_experts.count,
                    .rows_run = rows_run_.data()};
    gemm_.run(to, ffn_input_.data(), w.router, count, sums_.data());
    to.launch(choose_experts, rows.rows, sums_.data(), count, r);
    if (rows.rows > 0) {
      const dg::row_masks masks{
          .places = rows.places, .topk_ids = r.chosen, .topk = top_k, .pad_expert = -1};
      to.call([&]() noexcept { return dg::write_masks(masks, to.stream()); });
    }
    to.set(counts_.data(), 0, counts_.bytes());
    to.launch(permute_rows, rows.rows * top_k, count, r);
    to.launch(run_experts, rows.rows * r.own_experts * 32, kind_, ffn_input_.data(), w.experts_up,
              w.experts_down, rows.rows, r, rows.places, plant_leak_);
    to.launch(add_experts, rows.rows * hidden, count, r, addends);
  }

  model_shard shard_;
  numbers kind_;
  bool plant_leak_, brings_residual_;
  device_model weights_;
  forward_sizes sizes_;
  gemm gemm_;
  gpu_tail_guard guard_;
  floats residual_, attended_, combined_; ///< `[local rows, hidden]`
  serve::device_array<bf16> normed_;
  serve::device_array<float> qkv_;
  serve::device_array<bf16> context_;
  floats global_residual_; ///< `[global rows, hidden]`
  serve::device_array<bf16> ffn_input_;
  serve::device_array<float> sums_;
  serve::device_array<bf16> activated_;
  serve::device_array<std::int32_t> chosen_;
  serve::device_array<float> gates_;
  serve::device_array<std::int32_t> counts_, lists_;
  serve::device_array<float> outputs_;
  serve::device_array<unsigned long long> rows_run_;
  std::deque<serve::device_array<float>> caches_; ///< by layer: `[slots, 2 * columns]`
};

} // namespace engine::gpu
