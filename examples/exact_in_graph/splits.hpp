#pragma once

/// @file
/// Which rows every rank holds, step by step: from a request trace, or made up.

#include "../serve/scheduler.hpp"
#include "../serve/trace.hpp"
#include "../serve/usage_error.hpp"
#include "options.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace exact {

/// Rows of each rank in one step.
using split = std::vector<std::int32_t>;

[[nodiscard]] inline std::int32_t sum(const split& of) {
  return std::accumulate(of.begin(), of.end(), 0);
}
[[nodiscard]] inline std::int32_t longest(const split& of) {
  return *std::max_element(of.begin(), of.end());
}
/// "12+0+64".
[[nodiscard]] inline std::string text(const split& of) {
  std::string out;
  for (const std::int32_t rows : of) {
    if (!out.empty()) out += '+';
    out += std::to_string(rows);
  }
  return out;
}

namespace detail {

/// Decode steps of the trace's schedule, a sample of its first 10,000 as 05_graphs takes it.
/// Errors: `usage_error`, and those of the trace.
[[nodiscard]] inline std::vector<split> scheduled(const options& asked, std::int32_t ranks) {
  serve::schedule_options how;
  how.ranks = ranks;
  how.max_running = asked.rows;
  how.stride = static_cast<std::int32_t>(std::max<std::int64_t>(1, 10'000 / asked.steps));
  serve::scheduler source{serve::read_trace(asked.trace), how};
  std::vector<split> out;
  serve::step next;
  while (static_cast<std::int64_t>(out.size()) < asked.steps && source.next(next)) {
    if (next.prefill) continue;
    split now;
    for (const serve::rank_step& rank : next.ranks) now.push_back(rank.tokens);
    out.push_back(std::move(now));
  }
  if (out.empty()) throw serve::usage_error{"the trace has no decode step"};
  return out;
}

/// The corners first, then at random: a quarter of the ranks idle, a quarter full. The same on
/// every machine: the standard fixes this engine.
[[nodiscard]] inline std::vector<split> made_up(const options& asked, std::int32_t ranks) {
  const auto count = static_cast<std::size_t>(ranks);
  std::vector<split> out{split(count, 0), split(count, asked.rows), split(count, 1)};
  for (std::size_t r = 0; r < count; ++r) {
    out.emplace_back(count, 0)[r] = asked.rows; // alone
    out.emplace_back(count, asked.rows)[r] = 0; // all but one
  }
  std::mt19937_64 dice{1};
  const auto steps = static_cast<std::size_t>(asked.steps);
  while (out.size() < steps) {
    split now(count);
    for (std::int32_t& rows : now) {
      const std::uint64_t kind = dice() >> 62;
      const std::uint64_t any = dice() % (static_cast<std::uint64_t>(asked.rows) + 1);
      rows = kind == 0 ? 0 : kind == 1 ? asked.rows : static_cast<std::int32_t>(any);
    }
    out.push_back(std::move(now));
  }
  out.resize(steps);
  return out;
}

} // namespace detail

[[nodiscard]] inline std::vector<split> splits_of(const options& asked, std::int32_t ranks) {
  return asked.trace.empty() ? detail::made_up(asked, ranks) : detail::scheduled(asked, ranks);
}

/// At most five different ones to time: by total, the smallest, the largest, and between them.
[[nodiscard]] inline std::vector<split> a_few(const std::vector<split>& all) {
  std::vector<split> sorted;
  for (const split& each : std::set<split>(all.begin(), all.end()))
    if (sum(each) > 0) sorted.push_back(each);
  std::ranges::stable_sort(sorted, {}, sum);
  std::vector<split> out;
  for (std::size_t i = 0; i < 5 && !sorted.empty(); ++i) {
    const split& each = sorted[i * (sorted.size() - 1) / 4];
    if (out.empty() || out.back() != each) out.push_back(each);
  }
  return out;
}

} // namespace exact
