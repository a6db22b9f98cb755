#pragma once

/// @file
/// The results of all cases: tables for people, JSON for machines, plots.

#include "../support/json.hpp"
#include "../support/run_group.cuh"
#include "../support/svg_plot.hpp"
#include "../support/table.hpp"
#include "../support/target.hpp"
#include "collective_case.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// What no collective can be faster than, as far as it was measured.
struct floor_figures {
  double barrier_us = 0;
  double store_rate = 0; ///< bytes per microsecond, both ways at once, at the best number of blocks

  [[nodiscard]] double us(double bytes) const { return barrier_us + quotient(bytes, store_rate); }
};

/// One case and what came of it. The first `nccl_methods` are NCCL's.
struct case_result {
  std::string operation; ///< "gather" or "combine"
  collective_case what;
  std::int32_t nccl_methods = 0;
  std::vector<method_result> all;

  [[nodiscard]] const method_result& best_nccl() const {
    return *std::min_element(all.begin(), all.begin() + nccl_methods,
                             [](const method_result& a, const method_result& b) {
                               return a.measured.us.median < b.measured.us.median;
                             });
  }
  /// The method of that name, or null.
  [[nodiscard]] const method_result* find(std::string_view name) const {
    const auto at = std::find_if(all.begin(), all.end(),
                                 [name](const method_result& each) { return each.name == name; });
    return at == all.end() ? nullptr : &*at;
  }
};

/// Prints each case when it is done. `engine`: the name of the method that is called what an engine
/// runs.
class collective_report {
public:
  collective_report(const char* benchmark, std::string engine) : engine_{std::move(engine)} {
    json_.open_object().field("benchmark", benchmark);
  }

  /// For what belongs to the whole run; an object is open until the first case.
  [[nodiscard]] json_writer& json() { return json_; }

  /// Once, before all cases: the results of `peer_floors`. Of the barriers the first counts.
  void add_floors(const std::vector<method_result>& latencies, std::size_t first_barrier,
                  const std::vector<method_result>& stores) {
    std::printf("\nfloors\n");
    table out{{"us per call", "median", "min", "max", "GB/s"}};
    json_.key("floors").open_list();
    const auto add = [&](const method_result& one) {
      const summary& us = one.measured.us;
      const double rate = one.measured.written_rate();
      out.add({one.name, fixed(us.median, 2), fixed(us.low, 2), fixed(us.high, 2),
               rate > 0 ? fixed(rate * 1e-3, 1) : std::string{"-"}});
      json_.open_object().field("floor", one.name);
      write_times(us);
      if (rate > 0) json_.field("gb_per_s", rate * 1e-3);
      json_.close_object();
    };
    for (const method_result& each : latencies) add(each);
    for (const method_result& each : stores) add(each);
    out.print(stdout);
    json_.close_list();
    floor_.barrier_us = latencies[first_barrier].measured.us.median;
    for (const method_result& each : stores)
      floor_.store_rate = std::max(floor_.store_rate, each.measured.written_rate());
    std::printf("floor = %.2f us + bytes / %.1f GB/s\n", floor_.barrier_us,
                floor_.store_rate * 1e-3);
    std::fflush(stdout);
    json_.field("floor_barrier_us", floor_.barrier_us);
    json_.field("floor_gb_per_s", floor_.store_rate * 1e-3);
  }

  void add(case_result one) {
    print(one);
    write(one);
    cases_.push_back(std::move(one));
  }

  /// The end of tables and JSON. Answers the JSON text.
  [[nodiscard]] const std::string& finish(bool bytes_right) {
    std::printf("\n%s\n", bytes_right ? "all bytes are right" : "WRONG BYTES");
    if (!cases_.empty()) json_.close_list();
    json_.field("bytes_right", bytes_right).close_object();
    return json_.text();
  }
  /// Time and goodput over rows, a pair of plots for each operation and distribution.
  [[nodiscard]] std::string svg(const std::string& title) const {
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
  [[nodiscard]] double floor_us(const case_result& one) const {
    return floor_.us(one.what.least_bytes());
  }
  [[nodiscard]] static double goodput(const case_result& one, double us) {
    return quotient(one.what.least_bytes(), us) * 1e-3; // GB/s
  }

  void print(const case_result& one) const {
    std::string counts;
    for (std::int32_t r = 0; r < one.what.ranks; ++r)
      counts.append(" ").append(std::to_string(one.what.counts[r]));
    std::printf("\n%s\n  rows of the ranks:%s; bytes: %.0f; floor: %.2f us\n",
                one.what.title(one.operation.c_str()).c_str(), counts.c_str(),
                one.what.least_bytes(), floor_us(one));
    const method_result* const engine = one.find(engine_);
    std::vector<std::string> head{"us per call", "median",      "min",    "max",
                                  "GB/s",        "/ best NCCL", "/ floor"};
    if (engine != nullptr) head.emplace_back("/ engine");
    head.emplace_back("nodes of rank 0");
    table out{head};
    for (const method_result& each : one.all) {
      const summary& us = each.measured.us;
      std::vector<std::string> cells{each.name,
                                     fixed(us.median, 2),
                                     fixed(us.low, 2),
                                     fixed(us.high, 2),
                                     fixed(goodput(one, us.median), 1),
                                     fixed(to_best_nccl(one, each), 3),
                                     fixed(quotient(us.median, floor_us(one)), 2)};
      if (engine != nullptr)
        cells.push_back(fixed(quotient(us.median, engine->measured.us.median), 3));
      cells.push_back(each.captured ? each.nodes.text() : "-");
      out.add(std::move(cells));
    }
    out.print(stdout);
    std::fflush(stdout); // what is done is seen, whatever comes
  }
  [[nodiscard]] static double to_best_nccl(const case_result& one, const method_result& each) {
    return quotient(each.measured.us.median, one.best_nccl().measured.us.median);
  }

  /// One of NCCL's, a second time.
  [[nodiscard]] static bool is_again(const method_result& one) {
    return one.name.ends_with(", again");
  }

  void write_times(const summary& us) {
    json_.field("median_us", us.median).field("min_us", us.low).field("max_us", us.high);
  }
  void write(const case_result& one) {
    if (cases_.empty()) json_.key("cases").open_list();
    json_.open_object().field("operation", one.operation).field("rows", one.what.rows);
    json_.field("distribution", name_of(one.what.shares)).key("counts").open_list();
    for (std::int32_t r = 0; r < one.what.ranks; ++r) json_.value(one.what.counts[r]);
    json_.close_list().field("bytes", one.what.least_bytes());
    json_.field("direct_bytes", one.what.direct_bytes()).field("floor_us", floor_us(one));
    json_.field("best_nccl", one.best_nccl().name).key("methods").open_list();
    for (std::size_t m = 0; m < one.all.size(); ++m) {
      const method_result& each = one.all[m];
      const summary& us = each.measured.us;
      json_.open_object().field("method", each.name);
      json_.field("nccl", static_cast<std::int32_t>(m) < one.nccl_methods || is_again(each));
      write_times(us);
      json_.field("goodput_gb_per_s", goodput(one, us.median));
      json_.field("to_best_nccl", to_best_nccl(one, each));
      json_.field("to_floor", quotient(us.median, floor_us(one)));
      if (const method_result* const engine = one.find(engine_); engine != nullptr)
        json_.field("to_engine", quotient(us.median, engine->measured.us.median));
      json_.field("nodes", each.captured ? each.nodes.text() : "-").close_object();
    }
    json_.close_list().close_object();
  }

  [[nodiscard]] std::vector<plot> plots(const std::string& operation, distribution shares) const {
    const std::string title = operation + ", rows: " + words_for(shares);
    const char* const rows = "rows of the longest rank";
    plot times{title, rows, "us per call", true, {}};
    plot rates{title, rows, "goodput on exact bytes, GB/s", false, {}};
    const auto add = [&](const std::string& name, const case_result& one, const summary& us,
                         bool reference) {
      const auto x = static_cast<double>(one.what.rows);
      point_of(times, name, reference, {x, us.median, us.low, us.high});
      point_of(rates, name, reference,
               {x, goodput(one, us.median), goodput(one, us.high), goodput(one, us.low)});
    };
    for (const case_result& one : cases_) {
      if (one.operation != operation || one.what.shares != shares) continue;
      for (const method_result& each : one.all) {
        if (!is_again(each)) add(each.name, one, each.measured.us, false);
      }
    }
    for (const case_result& one : cases_) { // the last line in the legend
      if (one.operation != operation || one.what.shares != shares) continue;
      const double us = floor_us(one);
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

  json_writer json_;
  std::string engine_;
  floor_figures floor_;
  std::vector<case_result> cases_;
};

} // namespace bench
