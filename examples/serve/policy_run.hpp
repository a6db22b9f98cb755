#pragma once

/// @file
/// The main job, for one policy: every step of the schedule through
/// records -> merge -> plan -> pad -> gather -> sharded FFN -> combine -> trim -> compare.

#include "progress.hpp"
#include "scheduler.hpp"
#include "tally.hpp"
#include "toy_model.hpp"

#include <dpgather/dpgather.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

namespace serve {

namespace dg = dpgather;

/// One thread's rank: its buffers, sized once, and its way through a step.
template <class Policy>
class served_rank {
public:
  served_rank(dg::host_communicator comm, const dg::gather_config& config)
      : comm_{comm}, workspace_(workspace_for(config)), dp_{comm, config, workspace_},
        rows_(capacity_of(dp_)), token_ids_(rows_), positions_(rows_), local_(rows_ * hidden),
        output_(rows_ * hidden), trimmed_(rows_ * hidden),
        global_(static_cast<std::size_t>(dp_.rules().max_global_rows()) * hidden),
        shard_(global_.size()) {}

  [[nodiscard]] dg::status check() const { return dp_.check(); }

  /// What one step came to.
  struct outcome {
    dg::result<dg::step_plan> plan;
    std::uint64_t gather_bytes = 0;
    std::uint64_t combine_bytes = 0;
    std::int64_t mismatches = 0;
  };

  [[nodiscard]] outcome run(const rank_step& mine, std::uint64_t number, bool want_graph) {
    outcome out;
    // Announce, agree, plan.
    dg::step_record record = dp_.record(number);
    record.tokens = mine.tokens;
    record.requests = mine.requests;
    record.logits_tokens = mine.requests;
    record.phase = static_cast<dg::phase>(mine.phase);
    record.votes = want_graph ? dg::step_record::graph_vote : 0;
    const dg::result<dg::agreement> agreed = dp_.agree(comm_, record);
    if (!agreed) return failed(out, agreed.status());
    out.plan = dp_.plan(*agreed);
    if (!out.plan) return out;
    const dg::step_plan& plan = *out.plan;
    const std::int32_t real = mine.tokens;
    const std::int32_t padded = plan.padded[comm_.topology().dp_rank];

    // Fill the batch and pad it to what the plan says, in place, all tensors in one call.
    std::int32_t row = 0;
    mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
      const auto at = static_cast<std::size_t>(row++);
      token_ids_[at] = token_at(request, position);
      positions_[at] = position;
    });
    const dg::unit_counts units{
        .real = real, .padded = padded, .capacity = static_cast<std::int32_t>(rows_)};
    const dg::pad_tensor batch[] = {dg::pad_vector(token_ids_.data(), units),
                                    dg::pad_vector(positions_.data(), units)};
    if (dg::status bad = dg::pad(batch); !bad) return failed(out, bad);

    // "Attention": a row for each token. What it leaves in the pad rows must reach nobody.
    attention(real, padded);

    const std::uint64_t before = comm_.bytes_received();
    const auto global =
        dp_.gather(dg::rows_of<dg::replicated>(local_.data(), padded, hidden),
                   dg::rows_of<dg::replicated>(global_.data(), global_rows(), hidden), plan,
                   dg::host_stream{});
    if (!global) return failed(out, global.status());
    out.gather_bytes = comm_.bytes_received() - before;

    ffn_shard(global_.data(), shard_.data(), plan.global_rows, comm_.rank(), comm_.size());

    const dg::status combined = dp_.combine(
        dg::rows_of<dg::partial>(shard_.data(), plan.global_rows, hidden),
        dg::rows_of<dg::replicated>(output_.data(), padded, hidden), plan, dg::host_stream{});
    if (!combined) return failed(out, combined);
    out.combine_bytes = comm_.bytes_received() - before - out.gather_bytes;

    const dg::trim_tensor back[] = {dg::trim_rows(output_.data(), hidden, trimmed_, units)};
    if (dg::status bad = dg::trim(back); !bad) return failed(out, bad);
    out.mismatches = compare(mine) + tail_faults(real, padded);
    return out;
  }

private:
  static std::size_t workspace_for(const dg::gather_config& config) {
    const dg::result<std::size_t> bytes = dg::DpGather<Policy>::workspace_bytes(config);
    return bytes ? *bytes : 0;
  }
  static std::size_t capacity_of(const dg::DpGather<Policy>& dp) {
    return dp.check() ? static_cast<std::size_t>(dp.rules().max_padded_rows()) : 0;
  }
  [[nodiscard]] std::int64_t global_rows() const {
    return static_cast<std::int64_t>(global_.size()) / hidden;
  }
  static outcome& failed(outcome& out, const dg::status& why) {
    out.plan = why;
    return out;
  }

  void attention(std::int32_t real, std::int32_t padded) {
    for (std::int32_t r = 0; r < padded; ++r) {
      const auto at = static_cast<std::size_t>(r);
      for (std::int32_t c = 0; c < hidden; ++c) {
        local_[at * hidden + static_cast<std::size_t>(c)] =
            r < real ? embed(token_ids_[at], positions_[at], c)
                     : std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  /// The whole FFN of each real row, computed by this rank alone from request and position.
  [[nodiscard]] std::int64_t compare(const rank_step& mine) const {
    std::int64_t wrong = 0;
    std::size_t row = 0;
    mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
      float x[hidden];
      float y[hidden]{};
      for (std::int32_t c = 0; c < hidden; ++c)
        x[c] = embed(token_at(request, position), position, c);
      ffn(x, y, 0, inner);
      for (std::size_t c = 0; c < hidden; ++c) wrong += !(trimmed_[row * hidden + c] == y[c]);
      ++row;
    });
    return wrong;
  }
  /// Pad rows of the result that are not zero, as the tail policy says they are.
  [[nodiscard]] std::int64_t tail_faults(std::int32_t real, std::int32_t padded) const {
    std::int64_t wrong = 0;
    for (std::size_t i = static_cast<std::size_t>(real) * hidden;
         i < static_cast<std::size_t>(padded) * hidden; ++i)
      wrong += !(output_[i] == 0.0f);
    return wrong;
  }

  dg::host_communicator comm_;
  std::vector<std::byte> workspace_;
  dg::DpGather<Policy> dp_;
  std::size_t rows_;
  std::vector<std::int32_t> token_ids_, positions_;
  std::vector<float> local_, output_, trimmed_, global_, shard_;
};

/// Runs all steps under one policy: each eagerly, and those without prefill in a graph as well
/// where the policy has graphs.
template <class Policy>
[[nodiscard]] policy_result run_policy(const std::string& name, const dg::gather_config& base,
                                       const std::vector<step>& steps) {
  policy_result out;
  out.name = name;
  const auto started = std::chrono::steady_clock::now();
  dg::steady_wait_clock clock;
  dg::host_world world{base.topology, clock};
  progress_bar bar{name, static_cast<std::int64_t>(steps.size())};
  std::mutex mutex; // guards out
  // Bytes that all ranks received, per step and situation: gather, combine.
  struct moved {
    std::atomic<std::uint64_t> gather{0}, combine{0};
  };
  std::vector<moved> bytes(2 * steps.size());
  std::vector<dg::result<dg::step_plan>> plans(2 * steps.size()); // rank 0's

  dg::run_ranks(world, [&](dg::host_communicator comm) {
    dg::gather_config config = base;
    config.topology = comm.topology();
    served_rank<Policy> rank{comm, config};
    std::int64_t mismatches = 0;
    std::string error = rank.check() ? "" : rank.check().message().c_str();
    for (std::size_t i = 0; i < steps.size() && error.empty(); ++i) {
      for (const bool graph : {false, true}) {
        if (graph && (!dg::has_graphs<Policy> || steps[i].prefill)) continue;
        const std::size_t slot = 2 * i + graph;
        const auto done = rank.run(
            steps[i].ranks[static_cast<std::size_t>(config.topology.dp_rank)], slot + 1, graph);
        bytes[slot].gather += done.gather_bytes;
        bytes[slot].combine += done.combine_bytes;
        mismatches += done.mismatches;
        if (comm.rank() == 0) plans[slot] = done.plan;
        // A missing bucket is an answer, the same on all ranks; anything else ends the run.
        if (!done.plan && done.plan.code() != dg::errc::no_bucket)
          error = done.plan.status().message().c_str();
      }
      if (comm.rank() == 0) bar.at(static_cast<std::int64_t>(i) + 1);
    }
    const std::lock_guard lock{mutex};
    out.mismatches += mismatches;
    if (out.first_error.empty()) out.first_error = error;
  });

  const double peers = base.topology.world_size() > 1 ? base.topology.world_size() - 1 : 1;
  const double row_bytes = static_cast<double>(base.row_bytes);
  for (std::size_t slot = 0; slot < plans.size(); ++slot) {
    const step& of = steps[slot / 2];
    const bool graph = slot % 2 == 1;
    if (graph && (!dg::has_graphs<Policy> || of.prefill)) continue;
    tally& sums = graph ? out.in_graph : of.prefill ? out.eager_prefill : out.eager_decode;
    if (!plans[slot]) {
      out.refused += 1;
      sums.buckets_missed += plans[slot].code() == dg::errc::no_bucket;
      continue;
    }
    sums.add(*plans[slot], static_cast<double>(bytes[slot].gather) / peers / row_bytes,
             static_cast<double>(bytes[slot].combine) / peers / row_bytes);
  }
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return out;
}

} // namespace serve
