#pragma once

/// @file
/// All switches on GPUs, against the streams of a single rank.

#include "../options.hpp"
#include "../report.hpp"
#include "gpu_report.hpp"
#include "gpu_run.cuh"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace engine::gpu {

/// GPUs of this process that reach each other's memory, from the first on; 0: none.
[[nodiscard]] inline std::int32_t usable_gpus() {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess) return 0;
  for (int n = 1; n < gpus; ++n) {
    for (int before = 0; before < n; ++before) {
      int there = 0, back = 0;
      if (cudaDeviceCanAccessPeer(&there, n, before) != cudaSuccess ||
          cudaDeviceCanAccessPeer(&back, before, n) != cudaSuccess || there == 0 || back == 0)
        return n;
    }
  }
  return gpus;
}

/// What a run is judged by, and what it leaves.
struct gpu_verdict {
  bool right = true;
  std::vector<gpu_result> results;
};

/// Runs what was asked for, prints a line each. `reference`: streams of a single rank, computed
/// without a GPU.
[[nodiscard]] inline gpu_verdict run_all(const options& asked, const served& what,
                                         const served& on_one, const policy_result& reference,
                                         std::int32_t gpus) {
  gpu_verdict out;
  const bool shares = what.shape.world_size() > gpus;
  const auto judge = [&](gpu_result run) {
    const policy_result& result = run.result;
    const std::string differs = first_difference(result.streams, reference.streams);
    print_line(result, differs.empty() ? "equal" : "DIFFER from " + differs);
    if (!result.error.empty()) std::printf("  %s\n", result.error.c_str());
    const bool routed_right = result.expert_rows == expert_rows_of(result.all.real_rows);
    if (!routed_right) std::printf("  experts ran on other rows than the real ones\n");
    out.right =
        out.right && differs.empty() && result.leaks == 0 && result.error.empty() && routed_right;
    std::fflush(stdout);
    out.results.push_back(std::move(run));
  };
  judge(run_switch<alone>("single_rank", on_one, numbers::on_grid, gpus));
  for_each_switch(
      [&]<class Switch>(Switch, const char* policy, const char* name, bool needs_own_gpus) {
        if (!asked.policies.empty() && std::ranges::count(asked.policies, policy) == 0) return;
        if (needs_own_gpus && shares) {
          std::printf("%-18s skipped: NCCL wants a GPU for each rank, %d for %d\n", name, gpus,
                      what.shape.world_size());
          return;
        }
        judge(run_switch<Switch>(name, what, numbers::on_grid, gpus));
      });
  return out;
}

/// Once more in numbers that are on no grid, where the order of a sum counts: tokens that are those
/// of a single rank.
[[nodiscard]] inline bool run_real_numbers(const options& asked, const served& what,
                                           const served& on_one, const policy_result& on_grid,
                                           std::int32_t gpus) {
  const gpu_result alone_run = run_switch<alone>("single_rank", on_one, numbers::real, gpus);
  bool ran = alone_run.result.error.empty();
  if (!ran) std::printf("real bf16, single_rank: %s\n", alone_run.result.error.c_str());
  // Agreement says something only where the tokens are many and another model's.
  std::printf(
      "real bf16, single_rank: %zu of %d tokens occur, %.4f of the answers are those of the "
      "model on the grid\n",
      distinct_tokens(alone_run.result), vocabulary,
      agreement_of(alone_run.result.streams, on_grid.streams));
  for_each_switch(
      [&]<class Switch>(Switch, const char* policy, const char* name, bool needs_own_gpus) {
        if (!asked.policies.empty() && std::ranges::count(asked.policies, policy) == 0) return;
        if (needs_own_gpus && what.shape.world_size() > gpus) return;
        const gpu_result run = run_switch<Switch>(name, what, numbers::real, gpus);
        ran = ran && run.result.error.empty() && run.result.leaks == 0 &&
              run.result.expert_rows == expert_rows_of(run.result.all.real_rows);
        std::printf("real bf16, %-18s %.4f of the tokens are those of a single rank%s%s\n", name,
                    agreement_of(run.result.streams, alone_run.result.streams),
                    run.result.error.empty() ? "" : "; ", run.result.error.c_str());
        std::fflush(stdout);
      });
  return ran;
}

} // namespace engine::gpu
