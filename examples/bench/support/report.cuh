#pragma once

/// @file
/// The results of all groups for people and for machines.

#include "json.hpp"
#include "run_group.cuh"
#include "table.hpp"
#include "target.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// Prints each group when it is done, and at the end once more what had a target.
class report {
public:
  explicit report(const char* benchmark) { json_.open_object().field("benchmark", benchmark); }

  /// For what belongs to the whole run; an object is open until the first group.
  [[nodiscard]] json_writer& json() { return json_; }

  void add(const std::string& title, const std::vector<method_result>& all) {
    std::printf("\n%s\n", title.c_str());
    print_times(all);
    print_rates(all);
    std::fflush(stdout); // what is done is seen, whatever comes
    write(title, all);
    for (std::size_t m = 0; m < all.size(); ++m) {
      if (!is_judged(all, m)) continue;
      std::vector<std::string> line{title + ": " + all[m].name};
      add_comparison(line, all, m);
      judged_.push_back(std::move(line));
      const method_result& mine = all[m];
      missed_ += mine.goal.verdict(mine.measured, baseline_of(all, m).measured) == missed_word;
    }
  }
  /// The end of both. Answers the JSON text.
  [[nodiscard]] const std::string& finish(bool bytes_right) {
    if (!judged_.empty()) {
      std::printf("\n");
      table out{{"targets", "us", "baseline us", "ratio", "extra us", "moved / baseline", "target",
                 "verdict"}};
      for (const std::vector<std::string>& line : judged_) out.add(line);
      out.print(stdout);
      std::printf("%zu targets, %d missed\n", judged_.size(), missed_);
    }
    std::printf("%s\n", bytes_right ? "all bytes are right" : "WRONG BYTES");
    if (in_groups_) json_.close_list();
    json_.field("bytes_right", bytes_right).close_object();
    return json_.text();
  }

private:
  using results = std::vector<method_result>;
  static constexpr std::string_view missed_word = "MISSED";

  [[nodiscard]] static const method_result& baseline_of(const results& all, std::size_t m) {
    return all[static_cast<std::size_t>(all[m].baseline)];
  }
  [[nodiscard]] static bool is_own_baseline(const results& all, std::size_t m) {
    return static_cast<std::size_t>(all[m].baseline) == m;
  }
  [[nodiscard]] static bool is_judged(const results& all, std::size_t m) {
    return !is_own_baseline(all, m) && all[m].goal.exists();
  }
  /// Whether a graph has the nodes of its baseline; nothing to say about calls outside graphs.
  [[nodiscard]] static const char* same_nodes(const results& all, std::size_t m) {
    const method_result& base = baseline_of(all, m);
    if (is_own_baseline(all, m) || !all[m].captured || !base.captured) return "-";
    return all[m].nodes == base.nodes ? "same" : "different";
  }
  [[nodiscard]] static std::string nodes_of(const method_result& one) {
    return one.captured ? one.nodes.text() : "-";
  }

  static void add_comparison(std::vector<std::string>& to, const results& all, std::size_t m) {
    const measurement& mine = all[m].measured;
    const measurement& base = baseline_of(all, m).measured;
    to.insert(to.end(), {fixed(mine.us.median, 2), fixed(base.us.median, 2),
                         fixed(quotient(mine.us.median, base.us.median), 3),
                         fixed(mine.us.median - base.us.median, 2, true),
                         mine.moved > 0 ? fixed(quotient(mine.moved_rate(), base.moved_rate()), 3)
                                        : std::string{"-"},
                         all[m].goal.text(), all[m].goal.verdict(mine, base)});
  }

  static void print_times(const results& all) {
    table out{{"us per call", "median", "min", "max", "ratio", "extra us", "target", "verdict",
               "graph nodes", "as baseline"}};
    for (std::size_t m = 0; m < all.size(); ++m) {
      const method_result& mine = all[m];
      const summary& us = mine.measured.us;
      std::vector<std::string> cells{mine.name, fixed(us.median, 2), fixed(us.low, 2),
                                     fixed(us.high, 2)};
      if (is_own_baseline(all, m)) {
        cells.insert(cells.end(), {"1", "-", "-", "-"});
      } else {
        const measurement& base = baseline_of(all, m).measured;
        cells.insert(cells.end(), {fixed(quotient(us.median, base.us.median), 3),
                                   fixed(us.median - base.us.median, 2, true), mine.goal.text(),
                                   mine.goal.verdict(mine.measured, base)});
      }
      cells.insert(cells.end(), {nodes_of(mine), same_nodes(all, m)});
      out.add(cells);
    }
    out.print(stdout);
  }

  static void print_rates(const results& all) {
    table out{{"GB/s", "written", "moved", "written / baseline", "moved / baseline"}};
    bool any = false;
    for (std::size_t m = 0; m < all.size(); ++m) {
      const measurement& mine = all[m].measured;
      const measurement& base = baseline_of(all, m).measured;
      any = any || mine.written > 0;
      out.add({all[m].name, fixed(mine.written_rate() * 1e-3, 0),
               fixed(mine.moved_rate() * 1e-3, 0),
               fixed(quotient(mine.written_rate(), base.written_rate()), 3),
               fixed(quotient(mine.moved_rate(), base.moved_rate()), 3)});
    }
    if (any) out.print(stdout);
  }

  void write(const std::string& title, const results& all) {
    if (!std::exchange(in_groups_, true)) json_.key("groups").open_list();
    json_.open_object().field("group", title).key("methods").open_list();
    for (std::size_t m = 0; m < all.size(); ++m) {
      const method_result& mine = all[m];
      const measurement& base = baseline_of(all, m).measured;
      const summary& us = mine.measured.us;
      json_.open_object().field("method", mine.name);
      json_.field("median_us", us.median).field("min_us", us.low).field("max_us", us.high);
      json_.field("captured", mine.captured).field("nodes", nodes_of(mine));
      if (mine.measured.written > 0)
        json_.field("written_bytes", mine.measured.written)
            .field("moved_bytes", mine.measured.moved);
      if (!is_own_baseline(all, m)) {
        json_.field("baseline", baseline_of(all, m).name);
        json_.field("ratio", quotient(us.median, base.us.median));
        json_.field("extra_us", us.median - base.us.median);
        json_.field("nodes_as_baseline", same_nodes(all, m));
        json_.field("target", mine.goal.text());
        json_.field("verdict", mine.goal.verdict(mine.measured, base));
      }
      json_.close_object();
    }
    json_.close_list().close_object();
  }

  json_writer json_;
  bool in_groups_ = false;
  std::vector<std::vector<std::string>> judged_;
  std::int32_t missed_ = 0;
};

} // namespace bench
