#pragma once

/// @file
/// The whole trace by one switch, on a thread and a GPU for each rank, or on GPUs that they share.

#include "../policy_run.hpp"
#include "gpu_rank.cuh"
#include "gpu_result.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <type_traits>

namespace engine::gpu {

template <class Switch>
[[nodiscard]] gpu_result run_switch(const std::string& name, const served& what, numbers kind,
                                    std::int32_t gpus) {
  using clock = std::chrono::steady_clock;
  const auto since = [](clock::time_point begun) {
    return std::chrono::duration<double>{clock::now() - begun}.count();
  };
  gpu_result out;
  policy_result& result = out.result;
  result.name = name;
  result.streams.resize(what.trace.size());
  const std::vector<serve::step> steps = what.schedule();
  const std::int32_t world = what.shape.world_size();
  std::mutex mutex; // guards `out`, but for the streams and what only rank 0 writes
  const auto begun = clock::now();
  result.error = serve::run_as_launched(
      {.dp_size = what.shape.dp_size, .size = world}, what.shape, name,
      [&](serve::rank_group& ranks) {
        dg::throw_if_failed(dg::cuda_status(cudaSetDevice(ranks.rank() % gpus), "cudaSetDevice"));
        dg::gather_config config = what.config();
        config.topology = what.shape.at(ranks.rank());
        const bool leads = ranks.rank() == 0;
        gpu_rank<Switch> rank{*ranks.threads(),
                              config,
                              {.max_running = what.max_running,
                               .longest = what.longest(),
                               .poison = what.poison,
                               .plant_leak = what.plant_leak && ranks.rank() == world - 1},
                              kind,
                              what.trace,
                              result.streams};
        for (std::size_t i = 0; i < steps.size(); ++i) {
          const auto own = static_cast<std::size_t>(config.topology.dp_rank);
          const auto start = clock::now();
          dg::step_plan plan = rank.step(steps[i].ranks[own], i + 1);
          if (!leads) continue;
          const double seconds = since(start);
          out.step_seconds += seconds;
          // The rows that its kernels ran on, not those that the graph has room for.
          if (std::is_same_v<typename Switch::way, dg::graph_way::device_rows> && plan.in_graph())
            plan.global_rows = plan.total_rows;
          result.all.add(plan);
          if (world > 1)
            result.wire_rows +=
                static_cast<double>(plan.gather_wire_rows + plan.combine_wire_rows) * layers;
          if (!plan.in_graph()) continue;
          result.in_graph.add(plan);
          out.decode.push_back({plan.total_rows, plan.global_rows, seconds * 1e6});
        }
        const dg::graph_report report = rank.graphs();
        rank.close();
        const std::lock_guard lock{mutex};
        const gpu_tail_guard& guard = rank.results().guard();
        result.add(static_cast<std::int64_t>(guard.found().leaks),
                   static_cast<std::int64_t>(guard.found().checked), guard.first());
        result.expert_rows += rank.results().expert_rows();
        if (!leads) return;
        out.graphs = rank.cost().graphs;
        out.capture_us = rank.cost().capture_us;
        out.graph_bytes = rank.cost().bytes;
        out.graph_misses = report.misses;
      });
  result.seconds = since(begun);
  return out;
}

} // namespace engine::gpu
