#pragma once

/// @file
/// The results of all cases: tables for people, JSON for machines, plots.

#include "../support/json.hpp"
#include "../support/run_group.cuh"
#include "../support/table.hpp"
#include "../support/target.hpp"
#include "case_result.cuh"
#include "collective_case.hpp"
#include "collective_plots.cuh"
#include "goals.hpp"
#include "peer_methods.cuh"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

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
    begin(one.what.title(one.operation));
    print(one);
    write(one);
    cases_.push_back(std::move(one));
  }
  [[nodiscard]] const std::vector<case_result>& cases() const { return cases_; }
  [[nodiscard]] const floor_figures& floor() const { return floor_; }

  /// Prints the title of what comes next.
  void begin(const std::string& title) {
    std::printf("\n%s\n", title.c_str());
    goals_.begin(title);
  }
  /// An open list of the JSON text: one list after the other, each in one piece.
  [[nodiscard]] json_writer& list(const char* name) {
    if (open_ != name) {
      if (!open_.empty()) json_.close_list();
      json_.key(open_ = name).open_list();
    }
    return json_;
  }
  [[nodiscard]] judgements& goals() { return goals_; }

  /// The end of tables and JSON. Answers the JSON text.
  [[nodiscard]] const std::string& finish(bool bytes_right) {
    if (!open_.empty()) json_.close_list();
    goals_.finish(json_);
    std::printf("\n%s\n", bytes_right ? "all bytes are right" : "WRONG BYTES");
    json_.field("bytes_right", bytes_right).close_object();
    return json_.text();
  }
  [[nodiscard]] std::string svg(const std::string& title) const {
    return plots_of(title, cases_, floor_);
  }

private:
  [[nodiscard]] double floor_us(const case_result& one) const { return floor_.us(one.bytes); }

  void print(const case_result& one) {
    std::string counts;
    for (std::int32_t r = 0; r < one.what.ranks; ++r)
      counts.append(" ").append(std::to_string(one.what.counts[r]));
    if (one.what.shares == distribution::random)
      counts = " each 0 to " + std::to_string(one.what.rows) + ", averages below";
    std::printf("  rows of the ranks:%s; bytes: %.0f; floor: %.2f us\n", counts.c_str(), one.bytes,
                floor_us(one));
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
                                     fixed(one.goodput(us.median), 1),
                                     fixed(to_best_nccl(one, each), 3),
                                     fixed(quotient(us.median, floor_us(one)), 2)};
      if (engine != nullptr)
        cells.push_back(fixed(quotient(us.median, engine->measured.us.median), 3));
      cells.push_back(each.captured ? each.nodes.text() : "-");
      out.add(std::move(cells));
    }
    out.print(stdout);
    judge(one);
    std::fflush(stdout); // what is done is seen, whatever comes
  }
  void judge(const case_result& one) {
    const bool random = one.what.shares == distribution::random;
    const method_result* const ours =
        one.find(random ? peer_methods::name_one_graph : peer_methods::name);
    if (ours == nullptr || (!random && one.what.shares != distribution::equal)) return;
    const auto ratio = [&](const method_result& to) {
      return fixed(quotient(ours->measured.us.median, to.measured.us.median), 3);
    };
    if (const target goal = goal_against_nccl(one.operation, one.what); goal.exists())
      goals_.add("/ best NCCL", ratio(one.best_nccl()), goal, ours->measured,
                 one.best_nccl().measured);
    if (const method_result* const engine = one.find(engine_); engine != nullptr)
      goals_.add("/ engine", ratio(*engine), target::time_ratio(most_of_engine), ours->measured,
                 engine->measured);
    if (const method_result* const told = one.find(peer_methods::name_exchanged); told != nullptr)
      goals_.add("counts exchanged",
                 fixed(told->measured.us.median - ours->measured.us.median, 2, true) + " us",
                 target::extra_us(most_for_counts_us), told->measured, ours->measured);
  }
  [[nodiscard]] static double to_best_nccl(const case_result& one, const method_result& each) {
    return quotient(each.measured.us.median, one.best_nccl().measured.us.median);
  }

  void write_times(const summary& us) {
    json_.field("median_us", us.median).field("min_us", us.low).field("max_us", us.high);
  }
  void write(const case_result& one) {
    list("cases").open_object().field("operation", one.operation).field("rows", one.what.rows);
    json_.field("distribution", name_of(one.what.shares));
    if (one.what.shares != distribution::random) {
      json_.key("counts").open_list();
      for (std::int32_t r = 0; r < one.what.ranks; ++r) json_.value(one.what.counts[r]);
      json_.close_list().field("direct_bytes", one.what.direct_bytes());
    }
    json_.field("bytes", one.bytes).field("floor_us", floor_us(one));
    json_.field("best_nccl", one.best_nccl().name).key("methods").open_list();
    for (std::size_t m = 0; m < one.all.size(); ++m) {
      const method_result& each = one.all[m];
      const summary& us = each.measured.us;
      json_.open_object().field("method", each.name);
      json_.field("nccl", static_cast<std::int32_t>(m) < one.nccl_methods || is_again(each));
      write_times(us);
      json_.field("goodput_gb_per_s", one.goodput(us.median));
      json_.field("to_best_nccl", to_best_nccl(one, each));
      json_.field("to_floor", quotient(us.median, floor_us(one)));
      if (const method_result* const engine = one.find(engine_); engine != nullptr)
        json_.field("to_engine", quotient(us.median, engine->measured.us.median));
      json_.field("nodes", each.captured ? each.nodes.text() : "-").close_object();
    }
    json_.close_list().close_object();
  }

  json_writer json_;
  std::string engine_;
  floor_figures floor_;
  std::vector<case_result> cases_;
  judgements goals_;
  std::string open_; // list of the JSON text
};

} // namespace bench
