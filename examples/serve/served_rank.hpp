#pragma once

/// @file
/// One rank's way through a step: records -> merge -> plan -> pad -> gather -> sharded FFN ->
/// combine -> trim -> compare. One text for the host and for GPUs; `place<Stream>` has what
/// differs.

#include "host_place.hpp"
#include "model_jobs.hpp"
#include "rank_group.hpp"
#include "scheduler.hpp"
#include "step_buffers.hpp"
#include "step_check.hpp"
#include "toy_model.hpp"
#include "traffic.hpp"

#include <dpgather/dpgather.hpp>
#include <dpgather/throw.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace serve {

/// Its buffers, sized once, its communicator, and its graphs where there are any. Members end from
/// the last to the first, as NCCL and CUDA demand: graphs, communicators, memory.
template <class Policy, class Stream>
class served_rank {
public:
  using here = place<Stream>;
  using policy = dg::rebind_comm<Policy, typename here::comm_tag>;
  using gather_type = dg::DpGather<policy>;

  /// Collective, in the rank's thread and with its device current. Throws `dpgather::error`.
  served_rank(rank_group& ranks, const dg::gather_config& config)
      : ranks_{ranks}, where_{config.topology}, rules_{dg::value_or_throw(
                                                    dg::planner<policy>::make(config))},
        buffers_{rules_.max_padded_rows(), rules_.max_global_rows(),
                 dg::value_or_throw(gather_type::workspace_bytes(config)), where_},
        link_{ranks, where_}, dp_{link_.communicator(), config,
                                  std::span<std::byte>{buffers_.workspace.data(),
                                                       buffers_.workspace.size()}} {
    dg::throw_if_failed(dp_.check());
    dg::throw_if_failed(buffers_.upload_weights(link_.stream()));
    dg::throw_if_failed(link_.wait());
    dg::throw_if_failed(capture());
  }

  /// What one step came to.
  struct outcome {
    dg::result<dg::step_plan> plan;
    traffic moved;
    std::int64_t mismatches = 0;
  };

  [[nodiscard]] outcome run(const rank_step& mine, std::uint64_t number, bool want_graph) noexcept {
    outcome out;
    // Announce, agree, plan.
    dg::step_record record = dp_.record(number);
    record.tokens = mine.tokens;
    record.requests = mine.requests;
    record.logits_tokens = mine.requests;
    record.phase = static_cast<dg::phase>(mine.phase);
    record.votes = want_graph ? dg::step_record::graph_vote : 0;
    const dg::result<dg::agreement> agreed = dp_.agree(ranks_, record);
    if (!agreed) return failed(out, agreed.status());
    out.plan = dp_.plan(*agreed);
    if (!out.plan) return out;
    const dg::step_plan plan = *out.plan;
    const std::int32_t padded = plan.padded[where_.dp_rank];

    if (dg::status bad = execute(mine, plan, out.moved); !bad) return failed(out, bad);
    if (dg::status bad = buffers_.download(mine.tokens, padded, link_.stream()); !bad)
      return failed(out, bad);
    if (dg::status bad = link_.wait(); !bad) return failed(out, bad);

    const std::span<const float> trimmed = buffers_.trimmed.on_host();
    out.mismatches =
        wrong_rows(mine, trimmed) + wrong_tail(mine.tokens, padded, buffers_.output.on_host());
    add_rows(digest_, trimmed.first(static_cast<std::size_t>(mine.tokens) * hidden));
    return out;
  }

  /// Of all trimmed outputs so far, in order.
  [[nodiscard]] std::uint64_t digest() const noexcept { return digest_.value(); }

  /// The end of a run in which nothing failed. Collective.
  [[nodiscard]] dg::status close() noexcept {
    if constexpr (here::captures) graphs_.clear();
    return link_.close();
  }

private:
  static outcome& failed(outcome& out, const dg::status& why) {
    out.plan = why;
    return out;
  }

  // --- the step -------------------------------------------------------------------------------

  /// Inputs to where kernels read them, and all calls of the step; nothing is waited for.
  [[nodiscard]] dg::status execute(const rank_step& mine, const dg::step_plan& plan,
                                   traffic& moved) noexcept {
    const std::int32_t padded = plan.padded[where_.dp_rank];
    if (dg::status bad = buffers_.poison(padded, plan.global_rows, link_.stream()); !bad)
      return bad;
    if (dg::status bad = buffers_.upload_inputs(mine, link_.stream()); !bad) return bad;
    if constexpr (here::captures) {
      if (plan.in_graph()) return replay(plan, units(mine.tokens, padded), moved);
    }
    if (dg::status bad = attention(units(mine.tokens, padded)); !bad) return bad;
    return shared(plan, units(mine.tokens, padded), moved);
  }

  /// This rank's half: the batch padded to what the plan says, in place, all tensors in one call.
  [[nodiscard]] dg::status attention(const dg::unit_counts& rows) noexcept {
    const dg::pad_tensor batch[] = {dg::pad_vector(buffers_.tokens.data(), rows),
                                    dg::pad_vector(buffers_.positions.data(), rows)};
    if (dg::status bad = dg::pad(batch, link_.stream()); !bad) return bad;
    return run_job(attention_job{.tokens = buffers_.tokens.data(),
                                 .positions = buffers_.positions.data(),
                                 .rows = buffers_.local.data(),
                                 .units = rows});
  }

  /// What all ranks do together. `moved` becomes what it brought this rank.
  [[nodiscard]] dg::status shared(const dg::step_plan& plan, const dg::unit_counts& rows,
                                  traffic& moved) noexcept {
    const auto stream = link_.stream();
    const std::uint64_t before = bytes_received();
    const auto gathered = dp_.gather(
        dg::rows_of<dg::replicated>(buffers_.local.data(), rows.padded, hidden),
        dg::rows_of<dg::replicated>(buffers_.global.data(), rules_.max_global_rows(), hidden), plan,
        stream);
    if (!gathered) return gathered.status();
    moved.gather = bytes_received() - before;

    if (dg::status bad = run_job(ffn_job{.slice = buffers_.slice(),
                                         .in = buffers_.global.data(),
                                         .out = buffers_.shard.data(),
                                         .rows = plan.global_rows});
        !bad)
      return bad;

    if (dg::status bad = dp_.combine(
            dg::rows_of<dg::partial>(buffers_.shard.data(), plan.global_rows, hidden),
            dg::rows_of<dg::replicated>(buffers_.output.data(), rows.padded, hidden), plan, stream);
        !bad)
      return bad;
    moved.combine = bytes_received() - before - moved.gather;

    const dg::trim_tensor back[] = {
        dg::trim_rows(buffers_.output.data(), hidden, buffers_.trimmed.span(), rows)};
    return dg::trim(back, stream);
  }

  template <class Job>
  [[nodiscard]] dg::status run_job(const Job& job) noexcept {
    return dg::executor<Stream>::run(job, 0, link_.stream());
  }
  [[nodiscard]] std::uint64_t bytes_received() noexcept {
    return link_.communicator().bytes_received();
  }
  [[nodiscard]] dg::unit_counts units(std::int32_t real, std::int32_t padded) const noexcept {
    return {.real = real,
            .padded = padded,
            .capacity = static_cast<std::int32_t>(rules_.max_padded_rows())};
  }

  // --- the step in graphs, where steps are captured -------------------------------------------

  /// Units whose real count is another one at every replay.
  [[nodiscard]] dg::unit_counts live_units(std::int32_t padded) const noexcept {
    dg::unit_counts out = units(0, padded);
    out.live = dp_.live_counts()->rows + where_.dp_rank; // an address; no kernel reads it yet
    return out;
  }

  [[nodiscard]] dg::status replay(const dg::step_plan& plan, const dg::unit_counts& rows,
                                  traffic& moved) noexcept {
    const auto stream = link_.stream();
    if (dg::status bad = dp_.refresh_counts(plan, stream); !bad) return bad;
    const std::int32_t own = plan.own_bucket(where_.dp_rank);
    // Under lookup::sum attention runs on its own rows, outside graphs.
    if (dg::status bad = own > 0 ? graphs_.attention(own, stream) : attention(rows); !bad)
      return bad;
    return graphs_.shared(plan.shared_bucket, stream, moved);
  }

  /// Captures all buckets, once, before the first step. Each size runs outside a graph before that:
  /// CUDA loads a kernel when it is first used, NCCL connects ranks then, and which of its
  /// algorithms it uses depends on the size. Neither may happen inside a capture.
  [[nodiscard]] dg::status capture() {
    if constexpr (here::captures && dg::has_graphs<policy>) {
      // NCCL connects without a deadline: nobody begins before all ranks have come this far.
      if (dg::status bad = ranks_.barrier(); !bad) return bad;
      const auto shared_at = [this](std::int32_t size, traffic& moved) {
        const dg::result<dg::step_plan> plan = dp_.capture_plan(size);
        if (!plan) return plan.status();
        // A local tensor of the largest size serves each rank whatever its own bucket is.
        return shared(*plan, live_units(rules_.ladder().largest()), moved);
      };
      const auto attention_at = [this](std::int32_t size) { return attention(live_units(size)); };

      traffic ignored;
      for (auto size = rules_.captured_sizes().span().rbegin();
           size != rules_.captured_sizes().span().rend(); ++size) {
        const dg::result<dg::step_plan> plan = dp_.capture_plan(*size);
        if (!plan) return plan.status();
        if (dg::status bad = dp_.refresh_counts(*plan, link_.stream()); !bad) return bad;
        if (dg::status bad = attention_at(rules_.ladder().largest()); !bad) return bad;
        if (dg::status bad = shared_at(*size, ignored); !bad) return bad;
        if (dg::status bad = link_.wait(); !bad) return bad;
      }
      return graphs_.capture(rules_.ladder(), rules_.captured_sizes(), link_.stream(), attention_at,
                             shared_at);
    } else {
      return {};
    }
  }

  rank_group& ranks_;
  dg::topology where_;
  dg::planner<policy> rules_;
  step_buffers<Stream> buffers_;
  typename here::link link_;
  gather_type dp_;
  typename here::graphs graphs_;
  dg::digest_builder digest_;
};

} // namespace serve
