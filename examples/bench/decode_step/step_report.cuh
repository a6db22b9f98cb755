#pragma once

/// @file
/// Cases for people and for machines.

#include "../support/json.hpp"
#include "../support/table.hpp"
#include "../support/target.hpp"
#include "step_methods.cuh"
#include "step_result.cuh"
#include "step_shape.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// Prints each case when it is done, and at the end once more what had a target.
class step_report {
public:
  explicit step_report(const char* benchmark) { json_.open_object().field("benchmark", benchmark); }

  /// For what belongs to the whole run; an object is open until the first case.
  [[nodiscard]] json_writer& json() { return json_; }
  [[nodiscard]] const std::vector<step_result>& cases() const { return cases_; }

  void add(const step_shape& shape, step_result one) {
    cases_.push_back(std::move(one));
    const step_result& of = cases_.back();
    std::printf("\nrows %s: %.1f real rows in a step\n", of.what.title().c_str(), of.rows);
    print(of, of.what.goal(shape.hidden));
    print_parts(of, shape.layers);
    std::fflush(stdout); // what is done is seen, whatever comes
    write(of, of.what.goal(shape.hidden), shape.layers);
  }
  /// The end of both. Answers the JSON text.
  [[nodiscard]] const std::string& finish(const step_shape& shape, bool rows_right) {
    if (!cases_.empty()) print_summary(shape);
    std::printf("%s\n", !rows_right        ? "WRONG ROWS"
                        : shape.ranks == 2 ? "all rows are right"
                                           : "all rows over peers are right; NCCL rounds on the "
                                             "way, its rows were not compared");
    if (!cases_.empty()) json_.close_list();
    json_.field("rows_right", rows_right).close_object();
    return json_.text();
  }

private:
  [[nodiscard]] static std::string verdict_of(const step_result& of, std::size_t m,
                                              const target& goal) {
    if (!of.is_judged(m) || !goal.exists()) return "-";
    return goal.verdict(of.all[m].measured, of.all[of.best_nccl()].measured);
  }

  static void print(const step_result& of, const target& goal) {
    table out{{"us per step", "median", "min", "max", "ratio", "tokens/s", "attention rows",
               "FFN rows", "per real row", "target", "verdict"}};
    for (std::size_t m = 0; m < of.all.size(); ++m) {
      const summary& us = of.all[m].measured.us;
      out.add({of.all[m].name + (m == of.best_nccl() ? " *" : ""), fixed(us.median, 1),
               fixed(us.low, 1), fixed(us.high, 1), fixed(of.ratio(m), 3),
               fixed(of.tokens_per_second(m), 0), std::to_string(of.runs_on[m].attention),
               std::to_string(of.runs_on[m].ffn), fixed(of.ffn_rows_per_row(m), 2),
               of.is_judged(m) ? goal.text() : "-", verdict_of(of, m, goal)});
    }
    out.print(stdout);
  }
  /// Their sum is not the step: what waits for a peer overlaps what the other rank still does.
  static void print_parts(const step_result& of, std::int32_t layers) {
    if (of.parts.empty()) return;
    std::vector<std::string> head{"us per layer"};
    for (const step_part part : step_parts) head.emplace_back(name_of(part));
    head.emplace_back("their sum");
    head.emplace_back("step");
    table out{head};
    for (std::size_t m = 0; m < of.all.size(); ++m) {
      std::vector<std::string> cells{of.all[m].name};
      double sum = 0;
      for (std::size_t p = 0; p < std::size(step_parts); ++p) {
        const double us = of.parts[m * std::size(step_parts) + p].measured.us.median / layers;
        sum += us;
        cells.push_back(fixed(us, 2));
      }
      cells.push_back(fixed(sum, 2));
      cells.push_back(fixed(of.all[m].measured.us.median / layers, 2));
      out.add(std::move(cells));
    }
    out.print(stdout);
  }
  void print_summary(const step_shape& shape) const {
    std::printf("\nall cases; exact, pads left, to the best over NCCL; last: exact to pr8278, both "
                "with pads cleared\n");
    table out{{"rows", "best over NCCL", "us", "exact, us", "ratio", "tokens/s", "times NCCL's",
               "target", "verdict", "cleared, ratio"}};
    std::int32_t targets = 0, missed = 0;
    for (const step_result& of : cases_) {
      const std::size_t judged = of.all.size() - 1, best = of.best_nccl();
      const target goal = of.what.goal(shape.hidden);
      const std::string verdict = verdict_of(of, judged, goal);
      targets += goal.exists() ? 1 : 0;
      missed += verdict == "MISSED" ? 1 : 0;
      out.add({of.what.title(), of.all[best].name, fixed(of.all[best].measured.us.median, 1),
               fixed(of.all[judged].measured.us.median, 1), fixed(of.ratio(judged), 3),
               fixed(of.tokens_per_second(judged), 0), fixed(quotient(1, of.ratio(judged)), 2),
               goal.text(), verdict, fixed(of.cleared_ratio(), 3)});
    }
    out.print(stdout);
    std::printf("%d targets, %d missed\n", targets, missed);
  }

  void write(const step_result& of, const target& goal, std::int32_t layers) {
    if (cases_.size() == 1) json_.key("cases").open_list();
    json_.open_object().field("rows", of.what.title()).field("real_rows", of.rows);
    json_.field("best_nccl", of.all[of.best_nccl()].name);
    json_.field("cleared_ratio_to_pr8278", of.cleared_ratio()).key("methods").open_list();
    for (std::size_t m = 0; m < of.all.size(); ++m) {
      const summary& us = of.all[m].measured.us;
      json_.open_object().field("method", of.all[m].name).field("median_us", us.median);
      json_.field("min_us", us.low).field("max_us", us.high).field("ratio", of.ratio(m));
      json_.field("tokens_per_s", of.tokens_per_second(m));
      json_.field("attention_rows", of.runs_on[m].attention).field("ffn_rows", of.runs_on[m].ffn);
      json_.field("nodes", of.all[m].nodes.text());
      if (of.is_judged(m) && goal.exists())
        json_.field("target", goal.text()).field("verdict", verdict_of(of, m, goal));
      json_.close_object();
    }
    json_.close_list();
    if (!of.parts.empty()) {
      json_.key("us_per_layer").open_object();
      for (const method_result& each : of.parts)
        json_.field(each.name, each.measured.us.median / layers);
      json_.close_object();
    }
    json_.close_object();
  }

  json_writer json_;
  std::vector<step_result> cases_;
};

} // namespace bench
