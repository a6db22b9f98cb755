#pragma once

/// @file
/// How good this library's methods have to be, and how good they were.

#include "../support/json.hpp"
#include "../support/table.hpp"
#include "../support/target.hpp"
#include "collective_case.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// Against the best of NCCL, for equal counts. Measured limits of two H100 with rows of 7168 bf16
/// are behind the numbers; other shapes have no goal.
[[nodiscard]] inline target goal_against_nccl(std::string_view operation,
                                              const collective_case& what) {
  struct goal {
    std::int32_t rows;
    double gather, combine;
  };
  static constexpr std::array<goal, 6> goals{{{1, 1.15, 1.25},
                                              {8, 0.70, 0.80},
                                              {32, 0.72, 0.76},
                                              {128, 0.67, 0.65},
                                              {512, 0.70, 0.63},
                                              {2048, 0.73, 0.63}}};
  if (what.shares != distribution::equal || what.ranks != 2 || what.hidden != 7168) return {};
  const auto* const at = std::ranges::find(goals, what.rows, &goal::rows);
  if (at == goals.end()) return {};
  return target::time_ratio(operation == "gather" ? at->gather : at->combine);
}
/// Against what an engine runs, at every size.
inline constexpr double most_of_engine = 0.55;
/// What it may take to exchange counts inside the call.
inline constexpr double most_for_counts_us = 1.2;
/// Of the best bandwidth of stores, between two large numbers of rows.
inline constexpr double least_of_bandwidth = 0.90;
inline constexpr double least_of_bandwidth_in_16_blocks = 0.85;
/// What a late rank may cost beyond its delay.
inline constexpr double most_beyond_delay_us = 1.0;

/// Every figure that had a target: printed when it is there, and all of them at the end.
class judgements {
public:
  /// `figure`: as it is printed beside the target.
  void add(const std::string& what, const std::string& figure, const target& goal,
           const measurement& mine, const measurement& baseline) {
    all_.push_back({what, figure, goal.text(), goal.verdict(mine, baseline)});
    const line& added = all_.back();
    std::printf("  %s: %s, target %s: %s\n", added.what.c_str(), added.figure.c_str(),
                added.goal.c_str(), added.verdict.c_str());
  }
  /// What begins now, in front of each `add`'s words at the end.
  void begin(std::string title) {
    for (std::size_t i = titled_; i < all_.size(); ++i)
      all_[i].what.insert(0, title_.empty() ? "" : title_ + ": ");
    titled_ = all_.size();
    title_ = std::move(title);
  }
  void finish(json_writer& json) {
    begin({});
    json.key("targets").open_list();
    for (const line& each : all_) {
      json.open_object().field("what", each.what).field("figure", each.figure);
      json.field("target", each.goal).field("verdict", each.verdict).close_object();
    }
    json.close_list();
    if (all_.empty()) return;
    std::printf("\n");
    table out{{"targets", "figure", "target", "verdict"}};
    for (const line& each : all_) out.add({each.what, each.figure, each.goal, each.verdict});
    out.print(stdout);
    const auto missed = std::ranges::count(all_, std::string{"MISSED"}, &line::verdict);
    std::printf("%zu targets, %td missed\n", all_.size(), missed);
  }

private:
  struct line {
    std::string what, figure, goal, verdict;
  };
  std::vector<line> all_;
  std::size_t titled_ = 0;
  std::string title_;
};

} // namespace bench
