#pragma once

/// @file
/// One rank of the engine: its weights, cache and tensors, and a step from records to tokens.
///
/// What is dpgather's: the record, the agreement, the plan, `pad`, the expert masks, and three
/// calls a layer: `gather`, `scatter`, `combine`. All else is the engine's.

#include "../serve/scheduler.hpp"
#include "attention.hpp"
#include "batch.hpp"
#include "dense_ffn.hpp"
#include "kernels.hpp"
#include "kv_cache.hpp"
#include "model.hpp"
#include "moe_ffn.hpp"
#include "tail_guard.hpp"
#include "tensor.hpp"

#include <dpgather/dpgather.hpp>
#include <dpgather/throw.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

/// What the rank of an engine needs to know besides the library's configuration.
struct rank_options {
  std::int32_t max_running = 1; ///< requests of this rank
  std::int32_t longest = 1;     ///< tokens of a request, prompt and answer
  bool poison = false;
  bool plant_leak = false; ///< in this rank's experts
};

template <class Policy>
class decode_rank {
public:
  /// `streams`: the decoded tokens of all requests; a rank appends to those of its own. Throws
  /// `dpgather::error`.
  decode_rank(dg::host_communicator comm, const dg::gather_config& config,
              const rank_options& options, const std::vector<serve::request>& trace,
              std::vector<std::vector<std::int32_t>>& streams)
      : comm_{comm}, where_{config.topology}, trace_{trace}, streams_{streams},
        rules_{dg::value_or_throw(dg::planner<Policy>::make(config))},
        workspace_(dg::value_or_throw(dg::DpGather<Policy>::workspace_bytes(config))),
        dp_{comm, config, workspace_}, model_{where_}, guard_{options.poison, where_.world_rank()},
        cache_{static_cast<std::int32_t>(trace.size()),
               options.max_running + 1,
               options.longest,
               layers,
               model_.head_columns(),
               guard_},
        batch_{rules_.max_padded_rows()},
        last_token_(trace.size()), attention_{rules_.max_padded_rows(), model_.head_columns(),
                                              options.longest},
        dense_{rules_.max_global_rows(), model_.own_units.count}, moe_{rules_.max_global_rows()},
        residual_{tensor_name::hidden_rows, rules_.max_padded_rows(), hidden},
        attended_{tensor_name::attention_addends, rules_.max_padded_rows(), hidden},
        combined_{tensor_name::combined, rules_.max_padded_rows(), hidden},
        gathered_{tensor_name::gathered, rules_.max_global_rows(), hidden},
        ffn_input_{tensor_name::ffn_input, rules_.max_global_rows(), hidden},
        addends_{tensor_name::ffn_addends, rules_.max_global_rows(), hidden}, logits_(vocabulary) {
    dg::throw_if_failed(dp_.check());
    if (options.plant_leak) moe_.plant_leak();
  }

  /// A step in which all ranks take part, with rows or without. Answers its plan, the same on all
  /// ranks. Throws `dpgather::error`.
  dg::step_plan step(const serve::rank_step& mine, std::uint64_t number) {
    guard_.begin(number);
    // 1. Announce, agree, plan. A rank with prompt rows votes against a graph.
    dg::step_record record = dp_.record(number);
    record.tokens = mine.tokens;
    record.requests = mine.requests;
    record.phase = static_cast<dg::phase>(mine.phase);
    record.votes = dg::is_prefill(record.phase) ? 0 : dg::step_record::graph_vote;
    const dg::step_plan plan =
        dg::value_or_throw(dp_.plan(dg::value_or_throw(dp_.agree(comm_, record))));

    // 2. The batch, padded to what the plan says: tails alone on an idle rank.
    const std::int32_t padded = plan.padded[where_.dp_rank];
    batch_.load(mine, trace_, cache_, last_token_);
    dg::throw_if_failed(batch_.pad(mine.tokens, padded));
    local_.set_local(mine.tokens, padded);
    poison_everything(plan);

    // 3. The forward, and a token for each request that is due one.
    embed();
    for (std::int32_t l = 0; l < layers; ++l) dg::throw_if_failed(layer(l, plan));
    sample();
    for (const std::int32_t request : batch_.finished) cache_.release(request, guard_);
    return plan;
  }

  [[nodiscard]] const tail_guard& guard() const noexcept { return guard_; }
  /// From other ranks, by gathers and combines.
  [[nodiscard]] std::uint64_t bytes_received() const noexcept { return comm_.bytes_received(); }
  [[nodiscard]] std::int64_t expert_rows() const noexcept { return moe_.rows_run(); }

private:
  /// Nothing that an earlier step has left may be read for this one.
  void poison_everything(const dg::step_plan& plan) noexcept {
    for (tensor* each : {&residual_, &attended_, &combined_})
      guard_.poison(*each, dg::row_range{0, local_.rows});
    for (tensor* each : {&gathered_, &ffn_input_, &addends_})
      guard_.poison(*each, dg::row_range{0, plan.global_rows});
  }

  void embed() noexcept {
    for (std::int64_t r = 0; r < local_.rows; ++r) {
      const auto at = static_cast<std::size_t>(r);
      const float* const token = model_.embedding.data() + batch_.tokens[at] * hidden;
      for (std::int32_t c = 0; c < hidden; ++c)
        residual_.row(r)[c] =
            token[c] + on_grid(9, static_cast<std::uint32_t>(batch_.positions[at]),
                               static_cast<std::uint32_t>(c), 3);
    }
    guard_.check(residual_, local_);
  }

  [[nodiscard]] dg::status layer(std::int32_t l, const dg::step_plan& plan) noexcept {
    const layer_weights& weights = model_.layer[static_cast<std::size_t>(l)];
    constexpr dg::host_stream stream{};
    guard_.enter_layer(l);

    // Data-parallel: own rows only.
    attention_.run(weights, batch_, cache_, l, residual_, attended_, local_, where_.tp_rank == 0,
                   guard_);

    // Everybody's rows, summed over the attention-TP peers on the way.
    guard_.poison(attended_, local_);
    if (const auto rows =
            dp_.gather(attended_.rows<dg::partial>(local_.rows),
                       gathered_.rows<dg::replicated>(plan.global_rows), plan, stream);
        !rows)
      return rows.status();
    const dg::placement places = dp_.live_places(plan);
    global_.set_global(places, where_.dp_size);
    guard_.check(gathered_, global_);

    // The sum is the new residual. Own rows come back without communication.
    guard_.poison(gathered_, global_);
    const std::int64_t values = plan.global_rows * hidden;
    requantise_all(gathered_.row(0), gathered_.row(0), values, 1 / addends_per_residual,
                   -residual_limit, residual_limit);
    requantise_all(gathered_.row(0), ffn_input_.row(0), values, 0.5F, -activation_limit,
                   activation_limit);
    if (dg::status bad = dp_.scatter(gathered_.rows<dg::replicated>(plan.global_rows),
                                     residual_.rows<dg::replicated>(local_.rows), plan, stream);
        !bad)
      return bad;
    guard_.check(residual_, local_);
    guard_.check(ffn_input_, global_);

    // This rank's part of the FFN, on everybody's rows.
    if (is_moe(l)) {
      if (dg::status bad = moe_.run(model_, weights, ffn_input_, addends_, global_, places, guard_);
          !bad)
        return bad;
    } else {
      dense_.run(weights, ffn_input_, addends_, global_, guard_);
    }

    // Own rows of the sum over all ranks.
    guard_.poison(addends_, global_);
    if (dg::status bad = dp_.combine(addends_.rows<dg::partial>(plan.global_rows),
                                     combined_.rows<dg::replicated>(local_.rows), plan, stream);
        !bad)
      return bad;
    guard_.check(combined_, local_);
    guard_.poison(combined_, local_);
    add_residual(combined_.row(0), residual_.row(0), local_.rows * hidden, 0.125F);
    guard_.check(residual_, local_);
    return {};
  }

  /// Greedy: the token with the largest logit.
  void sample() {
    for (const batch::sample& due : batch_.samples) {
      float normed[hidden];
      requantise_all(residual_.row(due.row), normed, hidden, 0.5F, -activation_limit,
                     activation_limit);
      matmul(normed, model_.logits.data(), logits_.data(), 1, hidden, vocabulary);
      const std::int32_t token = argmax(logits_.data(), vocabulary);
      const auto request = static_cast<std::size_t>(due.request);
      last_token_[request] = token;
      // Attention-TP peers have come to the same token.
      if (where_.tp_rank == 0) streams_[request].push_back(token);
    }
  }

  dg::host_communicator comm_;
  dg::topology where_;
  const std::vector<serve::request>& trace_;
  std::vector<std::vector<std::int32_t>>& streams_;
  dg::planner<Policy> rules_;
  std::vector<std::byte> workspace_;
  dg::DpGather<Policy> dp_;
  model_shard model_;
  tail_guard guard_;
  kv_cache cache_;
  batch batch_;
  std::vector<std::int32_t> last_token_; ///< by request
  attention attention_;
  dense_ffn dense_;
  moe_ffn moe_;
  tensor residual_, attended_, combined_; ///< `[padded rows, hidden]`
  tensor gathered_, ffn_input_, addends_; ///< `[global rows, hidden]`
  std::vector<float> logits_;             ///< `[vocabulary]`
  row_sets local_, global_;
};

} // namespace engine
