#pragma once

/// @file
/// Time and goodput over rows.

#include "../support/statistics.hpp"
#include "../support/svg_plot.hpp"
#include "case_result.cuh"
#include "collective_case.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace detail {

/// A pair of plots for each operation and distribution that there are cases of.
class case_plots {
public:
  case_plots(const std::vector<case_result>& cases, const floor_figures& floor)
      : cases_{cases}, floor_{floor} {}

  [[nodiscard]] std::string text(const std::string& title) const {
    std::vector<std::vector<plot>> rows;
    for (const char* const operation : {"gather", "combine"}) {
      for (const distribution shares : all_distributions) {
        std::vector<plot> pair = plots(operation, shares);
        if (!pair[0].lines.empty()) rows.push_back(std::move(pair));
      }
    }
    return svg_of(title, rows);
  }

private:
  [[nodiscard]] std::vector<plot> plots(const std::string& operation, distribution shares) const {
    const std::string title = operation + ", rows: " + words_for(shares);
    const char* const rows = shares == distribution::random ? "most rows that a rank may have"
                                                            : "rows of the longest rank";
    plot times{title, rows, "us per call", true, {}};
    plot rates{title, rows, "goodput on exact bytes, GB/s", false, {}};
    const auto add = [&](const std::string& name, const case_result& one, const summary& us,
                         bool reference) {
      const auto x = static_cast<double>(one.what.rows);
      point_of(times, name, reference, {x, us.median, us.low, us.high});
      point_of(rates, name, reference,
               {x, one.goodput(us.median), one.goodput(us.high), one.goodput(us.low)});
    };
    for (const case_result& one : cases_) {
      if (one.operation != operation || one.what.shares != shares) continue;
      for (const method_result& each : one.all) {
        if (!is_again(each)) add(each.name, one, each.measured.us, false);
      }
    }
    for (const case_result& one : cases_) { // the last line in the legend
      if (one.operation != operation || one.what.shares != shares) continue;
      const double us = floor_.us(one.bytes);
      add("floor: flag barrier + bytes / store rate", one, {us, us, us}, true);
    }
    for (plot* const each : {&times, &rates}) {
      for (plot_line& line : each->lines) std::ranges::sort(line.points, {}, &plot_point::x);
    }
    return {std::move(times), std::move(rates)};
  }
  static void point_of(plot& in, const std::string& name, bool reference, const plot_point& point) {
    const auto at = std::ranges::find(in.lines, name, &plot_line::name);
    plot_line& line =
        at != in.lines.end() ? *at : in.lines.emplace_back(plot_line{name, {}, reference});
    line.points.push_back(point);
  }

  const std::vector<case_result>& cases_;
  const floor_figures& floor_;
};

} // namespace detail

/// The text of an SVG file.
[[nodiscard]] inline std::string plots_of(const std::string& title,
                                          const std::vector<case_result>& cases,
                                          const floor_figures& floor) {
  return detail::case_plots{cases, floor}.text(title);
}

} // namespace bench
