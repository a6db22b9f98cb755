#pragma once

/// @file
/// The second table of a run on GPUs, and its plot.

#include "../../bench/support/svg_plot.hpp"
#include "gpu_result.hpp"

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine::gpu {

inline void print_gpu_head() {
  std::printf("\n%-18s %9s %10s %8s %8s %8s %7s %11s %9s\n", "on GPUs", "step us", "tokens/s",
              "FFN rows", "hits", "misses", "graphs", "capture ms", "KiB");
}

/// FFN rows: processed per real row, in replayed steps.
inline void print_gpu_line(const gpu_result& r) {
  std::printf(
      "%-18s %9.1f %10.0f %8.2f %8lld %8lld %7lld %11.1f %9lld\n", r.result.name.c_str(),
      r.median_us(), r.tokens_per_second(), r.ffn_rows(),
      static_cast<long long>(r.result.all.graph_steps),
      static_cast<long long>(r.result.all.missed + static_cast<std::int64_t>(r.graph_misses)),
      static_cast<long long>(r.graphs), static_cast<double>(r.capture_us) / 1e3,
      static_cast<long long>(r.graph_bytes / 1024));
}

inline void print_gpu_legend() {
  std::printf("step us: median of replayed decode steps, from the announcement to the tokens on "
              "the host; tokens/s: of all steps, prefill included\nFFN rows: that a rank's FFN ran "
              "on, per real row of all ranks, in replayed steps; hits: steps replayed; misses: "
              "steps that no captured size fitted\ngraphs, capture ms, KiB: of one rank, captured "
              "before the first step; wire, above: by the plans' formula, not counted\n\n");
}

/// Step time and FFN rows over the rows of a step. Throws `std::runtime_error`.
inline void write_plot(const std::string& file, const std::vector<gpu_result>& results) {
  bench::plot time{.title = "Decode step, replayed",
                   .x_title = "real rows of all ranks",
                   .y_title = "us, median",
                   .lines = {}};
  bench::plot rows{.title = "FFN rows processed",
                   .x_title = "real rows of all ranks",
                   .y_title = "per real row",
                   .lines = {}};
  for (const gpu_result& each : results) {
    bench::plot_line of_time{.name = each.result.name, .points = {}};
    bench::plot_line of_rows = of_time;
    for (const auto& [size, steps] : each.by_rows()) {
      std::vector<double> us, ratio;
      for (const timed_step& step : steps) {
        us.push_back(step.us);
        ratio.push_back(static_cast<double>(step.ffn_rows) / static_cast<double>(step.real_rows));
      }
      const auto add = [x = static_cast<double>(size)](bench::plot_line& to,
                                                       const bench::summary& of) {
        to.points.push_back({.x = x, .y = of.median, .low = of.low, .high = of.high});
      };
      add(of_time, bench::summarize(us));
      add(of_rows, bench::summarize(ratio));
    }
    if (of_time.points.empty()) continue;
    time.lines.push_back(of_time);
    rows.lines.push_back(of_rows);
  }
  std::FILE* const to = std::fopen(file.c_str(), "w");
  if (to == nullptr) throw std::runtime_error{"cannot write " + file};
  const std::string text = bench::svg_of("A decoder under each switch", {{time, rows}});
  const bool written = std::fwrite(text.data(), 1, text.size(), to) == text.size();
  if (std::fclose(to) != 0 || !written) throw std::runtime_error{"cannot write " + file};
}

} // namespace engine::gpu
