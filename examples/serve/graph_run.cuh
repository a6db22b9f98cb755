#pragma once

/// @file
/// The way through a run in graphs: a schedule of decode steps, a thread for each rank, what it
/// came to.

#include "decode_buffers.cuh"
#include "decode_check.hpp"
#include "graph_options.hpp"
#include "graph_report.hpp"
#include "progress.hpp"
#include "scheduler.hpp"
#include "trace.hpp"

#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/dpgather.hpp>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

namespace serve {

namespace detail {

[[nodiscard]] inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The decode steps to run. Errors: `usage_error`, and those of the trace.
[[nodiscard]] inline std::vector<step> decode_steps(const graph_options& asked,
                                                    std::int32_t ranks) {
  schedule_options how;
  how.ranks = ranks;
  how.stride = static_cast<std::int32_t>(std::max<std::int64_t>(1, sampled_steps / asked.steps));
  scheduler source{asked.trace.empty() ? generate_trace({}) : read_trace(asked.trace), how};
  std::vector<step> out;
  step next;
  while (static_cast<std::int64_t>(out.size()) < asked.steps && source.next(next)) {
    if (!next.prefill) out.push_back(next);
  }
  if (out.empty()) throw usage_error{"the trace has no decode step"};
  return out;
}

/// All that one thread does. Throws what ends it early.
template <class Rank>
void run_rank(const dg::host_communicator& comm, const dg::gather_config& config,
              const std::vector<step>& steps, progress_bar& bar, graph_results& out) {
  const bool speaks = comm.rank() == 0;
  Rank rank{comm, config};
  if (speaks) print_buffers(rank.buffers());
  const auto begun = std::chrono::steady_clock::now();
  dg::throw_if_failed(rank.capture());
  out.capture_seconds = seconds_since(begun);
  out.graphs = rank.graphs().count();
  out.nodes = rank.graphs().nodes(rank.ladder().largest());
  if (speaks) print_capture(out);

  for (std::size_t i = 0; i < steps.size(); ++i) {
    const rank_step& mine = steps[i].ranks[static_cast<std::size_t>(comm.rank())];
    const auto start = std::chrono::steady_clock::now();
    const dg::result<dg::step_plan> plan = rank.run(mine, i + 1);
    const double seconds = seconds_since(start);
    if (speaks) bar.at(static_cast<std::int64_t>(i) + 1);
    if (plan.code() == dg::errc::no_bucket) { // an answer, the same on all ranks
      ++out.missed;
      continue;
    }
    dg::throw_if_failed(plan.status());
    ++out.steps;
    out.step_seconds += seconds;
    const decode_outcome got = dg::value_or_throw(rank.fetch(*plan));
    out.mismatches += wrong_values(mine, got);
    if (speaks && out.sample.tick < 0)
      spell(steps[i], got, plan->global_rows, decode_buffers::unwritten, out.sample);
  }
  for (const std::int32_t size : rank.ladder().span())
    out.replays.emplace_back(size, rank.graphs().replays(size));
  dg::throw_if_failed(rank.close());
}

} // namespace detail

/// Runs and prints; true when all values are right. `Rank` is what the tutorial is about.
template <class Rank>
[[nodiscard]] bool run_in_graphs(const graph_options& asked, std::int32_t ranks) {
  const std::vector<step> steps = detail::decode_steps(asked, ranks);
  dg::gather_config config;
  config.element = dg::element::f32;
  config.row_bytes = hidden * sizeof(float);
  config.max_rows_per_rank = config.max_requests_per_rank = schedule_options{}.max_running;
  config.ladder = dg::filtered(dg::ladder::sglang<256>::sizes(), 1, asked.largest);

  std::printf("%s, %zu decode steps on %d rank%s of a GPU each; policy pr8278, communicator nccl\n",
              asked.trace.empty() ? "generated requests" : asked.trace.c_str(), steps.size(), ranks,
              ranks == 1 ? "" : "s");
  std::fflush(stdout);
  std::vector<graph_results> results(static_cast<std::size_t>(ranks));
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = ranks}, clock};
  {
    progress_bar bar{"replaying", static_cast<std::int64_t>(steps.size())};
    dg::run_ranks(world, [&](const dg::host_communicator& comm) {
      graph_results& mine = results[static_cast<std::size_t>(comm.rank())];
      dg::gather_config of_rank = config;
      of_rank.topology = comm.topology();
      try {
        detail::run_rank<Rank>(comm, of_rank, steps, bar, mine);
      } catch (const std::exception& error) {
        mine.error = error.what(); // the others hear of it where they wait for this rank
      }
    });
  }
  return print_graph_results(results);
}

} // namespace serve
