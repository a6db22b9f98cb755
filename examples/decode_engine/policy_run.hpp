#pragma once

/// @file
/// The whole trace under one policy, on a thread for each rank.

#include "../serve/launch.hpp"
#include "../serve/rank_group.hpp"
#include "../serve/scheduler.hpp"
#include "decode_rank.hpp"
#include "policy_result.hpp"

#include <dpgather/dpgather.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace engine {

/// What is served, and on how many ranks.
struct served {
  std::vector<serve::request> trace;
  dg::topology shape;               ///< rank numbers do not matter
  std::int32_t prefill_budget = 64; ///< prompt rows of a rank in a step
  std::int32_t max_running = 24;    ///< requests of a rank
  std::int32_t largest_graph = 12;  ///< requests; more are run eagerly
  double speed = 1;
  bool poison = false;
  bool plant_leak = false;

  [[nodiscard]] std::int32_t longest() const {
    std::int32_t out = 1;
    for (const serve::request& r : trace)
      out = std::max(out, r.prompt_tokens + std::max(r.output_tokens, 1));
    return out;
  }
  /// The steps of all ranks, until the last request is done.
  [[nodiscard]] std::vector<serve::step> schedule() const {
    serve::scheduler source{trace,
                            {.ranks = shape.dp_size,
                             .speed = speed,
                             .prefill_budget = prefill_budget,
                             .max_running = max_running,
                             .first_token_from_prefill = true}};
    std::vector<serve::step> out;
    for (serve::step next; source.next(next);) out.push_back(next);
    return out;
  }
  /// For the rank that `shape.at` makes of it.
  [[nodiscard]] dg::gather_config config() const {
    dg::gather_config out;
    out.topology = shape;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = prefill_budget + max_running;
    out.max_requests_per_rank = max_running;
    const dg::bucket_list sizes = dg::ladder::sglang<256>::sizes();
    for (const std::int32_t size : sizes.span()) {
      // Attention-TP peers share a graph's rows evenly.
      if (size <= largest_graph && size % shape.tp_size == 0) out.ladder.append(size);
    }
    return out;
  }
};

template <class Policy>
[[nodiscard]] policy_result run_policy(const std::string& name, const served& what) {
  policy_result out;
  out.name = name;
  out.streams.resize(what.trace.size());
  const std::vector<serve::step> steps = what.schedule();
  const std::int32_t world = what.shape.world_size();
  std::mutex mutex; // guards `out`, but for the streams, of which each has one writer
  const auto started = std::chrono::steady_clock::now();
  out.error = serve::run_as_launched(
      {.dp_size = what.shape.dp_size, .size = world}, what.shape, name,
      [&](serve::rank_group& ranks) {
        dg::gather_config config = what.config();
        config.topology = what.shape.at(ranks.rank());
        const bool leads = ranks.rank() == 0;
        decode_rank<Policy> rank{*ranks.threads(),
                                 config,
                                 {.max_running = what.max_running,
                                  .longest = what.longest(),
                                  .poison = what.poison,
                                  .plant_leak = what.plant_leak && ranks.rank() == world - 1},
                                 what.trace,
                                 out.streams};
        for (std::size_t i = 0; i < steps.size(); ++i) {
          const auto own = static_cast<std::size_t>(config.topology.dp_rank);
          const dg::step_plan plan = rank.step(steps[i].ranks[own], i + 1);
          if (!leads) continue;
          out.all.add(plan);
          if (plan.in_graph()) out.in_graph.add(plan);
        }
        const std::lock_guard lock{mutex};
        out.add(rank.guard());
        out.expert_rows += rank.expert_rows();
        out.wire_rows += static_cast<double>(rank.bytes_received()) /
                         static_cast<double>(config.row_bytes) / std::max(world - 1, 1);
      });
  out.seconds = std::chrono::duration<double>{std::chrono::steady_clock::now() - started}.count();
  return out;
}

} // namespace engine
