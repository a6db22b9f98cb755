#pragma once

/// @file
/// One rank of the engine on a GPU: a step from records to tokens, replayed where a captured size
/// holds it.
///
/// `local` and `shared` are a layer as `dpgather::step_graphs` takes it, and have all that the
/// library does on the GPU: `pad`, `gather`, `scatter`, the expert masks, `combine`. `step` is what
/// the host does.

#include "../decode_rank.hpp"
#include "forward.cuh"
#include "rank_channel.cuh"
#include "step_inputs.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/step_graphs.cuh>
#include <dpgather/throw.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace engine::gpu {

template <class Switch>
class gpu_rank {
  using policy = typename Switch::policy;
  using way = typename Switch::way;
  using channel_type = rank_channel<Switch>;
  static constexpr bool counts_on_device = std::is_same_v<way, dg::graph_way::device_rows>;

public:
  /// Collective, on the thread of the rank, whose GPU is current. Throws `dpgather::error`.
  gpu_rank(dg::host_communicator ranks, const dg::gather_config& config,
           const rank_options& options, numbers kind, const std::vector<serve::request>& trace,
           std::vector<std::vector<std::int32_t>>& streams)
      : ranks_{ranks}, where_{config.topology}, trace_{trace}, streams_{streams},
        rules_{dg::value_or_throw(dg::planner<policy>::make(config))},
        cache_{static_cast<std::int32_t>(trace.size()),
               options.max_running + 1,
               options.longest,
               0,
               0,
               tail_guard{false, 0}},
        batch_{rules_.max_padded_rows()}, last_token_(trace.size()),
        forward_{where_,
                 {.local_rows = rules_.max_padded_rows(),
                  .global_rows = rules_.max_global_rows(),
                  .cache_slots = (std::int64_t{options.max_running + 1} * cache_.pages_each() + 1) *
                                 kv_cache::page_slots},
                 kind,
                 options.poison,
                 options.plant_leak},
        inputs_{rules_.max_padded_rows(), cache_}, channel_{ranks_, config, rules_},
        graphs_{dg::graph_ladders::of(rules_), {.total = &dp().live_counts()->total}} {
    forward_.guard().watch(inputs_.number());
    prepare();
  }
  gpu_rank(const gpu_rank&) = delete;
  gpu_rank& operator=(const gpu_rank&) = delete;

  // --- once a step ----------------------------------------------------------------------------

  /// A step in which all ranks take part, with rows or without. Answers its plan.
  dg::step_plan step(const serve::rank_step& mine, std::uint64_t number) {
    const cudaStream_t stream = link().stream();
    // 1. Announce, agree, plan. Counts go to where kernels read them.
    dg::step_record record = dp().record(number);
    record.tokens = mine.tokens;
    record.requests = mine.requests;
    record.phase = static_cast<dg::phase>(mine.phase);
    record.votes = dg::is_prefill(record.phase) ? 0 : dg::step_record::graph_vote;
    const dg::step_plan plan =
        dg::value_or_throw(dp().plan(dg::value_or_throw(dp().agree(ranks_, record))));
    dg::throw_if_failed(dp().refresh_counts(plan, stream));

    // 2. The batch.
    batch_.load(mine, trace_, cache_, last_token_);
    dg::throw_if_failed(inputs_.upload(batch_, static_cast<std::int32_t>(number), cache_, stream));
    enqueuer before{stream};
    forward_.poison_everything(before);
    dg::throw_if_failed(before.done());

    // 3. The forward: replayed, or call by call in the plan's own shape.
    if (plan.in_graph()) {
      dg::throw_if_failed(graphs_.launch(sizes_of(plan), stream));
    } else {
      eager_ = &plan;
      for (std::int32_t l = 0; l < engine::layers; ++l) {
        dg::throw_if_failed(local(l, 0, stream));
        dg::throw_if_failed(shared(l, 0, stream));
      }
      dg::throw_if_failed(finish(0, stream));
      eager_ = nullptr;
    }

    // 4. A token for each request that is due one.
    dg::throw_if_failed(inputs_.fetch(mine.tokens, stream));
    dg::throw_if_failed(link().wait());
    for (const batch::sample& due : batch_.samples) {
      const auto request = static_cast<std::size_t>(due.request);
      last_token_[request] = inputs_.token(due.row);
      if (where_.tp_rank == 0) streams_[request].push_back(last_token_[request]);
    }
    release_finished();
    return plan;
  }

  // --- a layer, for `step_graphs` -------------------------------------------------------------

  [[nodiscard]] std::int32_t layers() const noexcept { return engine::layers; }

  /// Data-parallel: own rows only.
  [[nodiscard]] dg::status local(std::int32_t l, std::int32_t own, cudaStream_t stream) {
    enqueuer to{stream};
    const real_rows rows = own_rows(own);
    if (l == 0) {
      to.call([&] {
        return inputs_.pad(static_cast<std::int32_t>(rows.rows), dp().live_rows(), stream);
      });
      forward_.embed_rows(to, inputs_.on_device(), rows);
    } else {
      forward_.add_ffn_output(to, l - 1, rows);
    }
    forward_.attention(to, l, inputs_.on_device(), rows);
    return to.done();
  }

  /// Everybody's rows: gather, this rank's part of the FFN, combine.
  [[nodiscard]] dg::status shared(std::int32_t l, std::int32_t size, cudaStream_t stream) {
    const dg::result<dg::step_plan> plan = plan_of(size);
    if (!plan) return plan.status();
    const std::int64_t global = plan->global_rows;
    const real_rows rows{.rows = global, .places = dp().live_places(*plan)};
    const row_count count{global, counts_on_device ? &dp().live_counts()->total : nullptr};
    const auto gathered = channel_.gather(forward_.attended(), *plan, stream);
    if (!gathered) return gathered.status();

    enqueuer to{stream};
    forward_.take(to, l, reinterpret_cast<float*>(gathered->data()), count, rows);
    to.call([&] {
      return channel_.scatter(forward_.global_residual(), forward_.residual(), *plan, stream);
    });
    const dg::token_rows<dg::partial> addends = channel_.addends(*plan);
    forward_.ffn(to, l, reinterpret_cast<float*>(addends.data()), count, rows);
    to.call([&] { return channel_.combine(addends, forward_.combined(), *plan, stream); });
    return to.done();
  }

  [[nodiscard]] dg::status finish(std::int32_t own, cudaStream_t stream) {
    enqueuer to{stream};
    const real_rows rows = own_rows(own);
    forward_.add_ffn_output(to, engine::layers - 1, rows);
    forward_.pick_tokens(to, rows, inputs_.picked());
    return to.done();
  }

  // --- after ----------------------------------------------------------------------------------

  /// Graphs go before what their calls use. Collective.
  void close() {
    dg::throw_if_failed(link().wait());
    graphs_.clear();
    dg::throw_if_failed(link().close());
  }
  [[nodiscard]] const dg::graph_report& graphs() const noexcept { return graphs_.report(); }
  /// What graphs have cost, also when they are gone.
  [[nodiscard]] const dg::graph_cost& cost() const noexcept { return cost_; }
  [[nodiscard]] const forward& results() const noexcept { return forward_; }

private:
  /// Whatever waits for the GPU (memory, modules, NCCL's connections) is done before a kernel of a
  /// peer can wait for this rank.
  void prepare() {
    const cudaStream_t stream = link().stream();
    dg::throw_if_failed(forward_.warm_up(stream));
    if constexpr (dg::has_graphs<policy>) {
      dg::throw_if_failed(ranks_.barrier());
      if constexpr (!channel_type::moves_rows) { // NCCL connects for a size when it first comes
        for (const std::int32_t size : graphs_.ladders().shared.span()) {
          dg::throw_if_failed(
              dp().refresh_counts(dg::value_or_throw(dp().capture_plan(size)), stream));
          dg::throw_if_failed(shared(0, size, stream));
        }
        dg::throw_if_failed(link().wait());
      }
      dg::throw_if_failed(graphs_.capture(*this, stream));
      cost_ = graphs_.report().cost;
      dg::throw_if_failed(dp().refresh_counts(
          dg::value_or_throw(dp().capture_plan(graphs_.ladders().shared.largest())), stream));
    }
    dg::throw_if_failed(forward_.forget_counts(stream));
    dg::throw_if_failed(link().wait());
    dg::throw_if_failed(ranks_.barrier());
  }

  [[nodiscard]] auto& link() noexcept { return channel_.link(); }
  [[nodiscard]] auto& dp() noexcept { return channel_.dp(); }
  [[nodiscard]] const auto& dp() const noexcept { return channel_.dp(); }

  [[nodiscard]] dg::graph_sizes sizes_of(const dg::step_plan& plan) const noexcept {
    if (std::is_same_v<way, dg::graph_way::coupled>)
      return {.own = plan.shared_bucket, .shared = plan.shared_bucket};
    return dg::graph_sizes::of(plan, where_.dp_rank);
  }
  /// The shape of calls: the eager step's, or that of a captured size.
  [[nodiscard]] dg::result<dg::step_plan> plan_of(std::int32_t size) const noexcept {
    if (eager_ != nullptr) return *eager_;
    return dp().capture_plan(size);
  }
  [[nodiscard]] real_rows own_rows(std::int32_t own) const noexcept {
    return {.rows = eager_ != nullptr ? eager_->padded[where_.dp_rank] : own,
            .local = dp().live_rows()};
  }
  void release_finished() {
    enqueuer to{link().stream()};
    for (const std::int32_t request : batch_.finished) {
      cache_.for_each_page(request, [&](std::int32_t page) { forward_.poison_page(to, page); });
      cache_.release(request, tail_guard{false, 0});
    }
    dg::throw_if_failed(to.done());
  }

  dg::host_communicator ranks_;
  dg::topology where_;
  const std::vector<serve::request>& trace_;
  std::vector<std::vector<std::int32_t>>& streams_;
  dg::planner<policy> rules_;
  kv_cache cache_; ///< its pages and tables; keys and values are `forward_`'s
  batch batch_;
  std::vector<std::int32_t> last_token_; ///< by request
  forward forward_;
  step_inputs inputs_;
  channel_type channel_;
  dg::step_graphs<way> graphs_;
  dg::graph_cost cost_;
  const dg::step_plan* eager_ = nullptr; ///< of the step that is enqueued call by call
};

} // namespace engine::gpu
