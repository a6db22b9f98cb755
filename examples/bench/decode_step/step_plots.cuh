#pragma once

/// @file
/// Time and tokens per second over rows.

#include "../support/svg_plot.hpp"
#include "step_case.hpp"
#include "step_result.cuh"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// The text of an SVG file: a row of plots for each way of sharing rows out.
[[nodiscard]] inline std::string plots_of(const std::string& title,
                                          const std::vector<step_result>& cases) {
  constexpr std::pair<step_shares, const char*> ways[] = {
      {step_shares::balanced, "rows: the same on all ranks"},
      {step_shares::skewed, "rows: an eighth on all ranks but the first"},
      {step_shares::one, "rows: none on all ranks but the first"}};
  std::vector<std::vector<plot>> rows;
  for (const auto& [shares, words] : ways) {
    plot times{words, "rows of the longest rank", "time, the best over NCCL is 1", false, {}};
    plot rates{words, "rows of the longest rank", "tokens per second", true, {}};
    for (const step_result& of : cases) {
      if (of.what.shares != shares) continue;
      const auto x = static_cast<double>(of.what.rows());
      const double best = of.all[of.best_nccl()].measured.us.median;
      for (std::size_t m = 0; m < of.all.size(); ++m) {
        for (plot* const each : {&times, &rates})
          if (each->lines.size() <= m) each->lines.push_back({of.all[m].name, {}, false});
        const summary& us = of.all[m].measured.us;
        times.lines[m].points.push_back({x, us.median / best, us.low / best, us.high / best});
        rates.lines[m].points.push_back(
            {x, of.tokens_per_second(m), of.rows / us.high * 1e6, of.rows / us.low * 1e6});
      }
    }
    for (plot* const each : {&times, &rates})
      for (plot_line& line : each->lines) std::ranges::sort(line.points, {}, &plot_point::x);
    if (!times.lines.empty()) rows.push_back({std::move(times), std::move(rates)});
  }
  return svg_of(title, rows);
}

} // namespace bench
