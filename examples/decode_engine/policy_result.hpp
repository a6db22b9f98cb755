#pragma once

/// @file
/// What a run under one policy came to.

#include "tail_guard.hpp"

#include <dpgather/hash.hpp>
#include <dpgather/step_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace engine {

/// The decoded tokens, by request.
using token_streams = std::vector<std::vector<std::int32_t>>;

/// Sums over steps, from their plans.
struct step_sums {
  std::int64_t steps = 0;
  std::int64_t graph_steps = 0;
  std::int64_t missed = 0; ///< a graph was wanted and no captured size fitted
  std::int64_t idle = 0;   ///< ranks without a row that took part in a step
  std::int64_t real_rows = 0;
  std::int64_t attention_rows = 0; ///< that the ranks' attention ran on, tails included
  std::int64_t ffn_rows = 0;       ///< that every rank's FFN ran on, tails included
  std::map<std::int32_t, std::int64_t> shared_sizes; ///< replays of each captured size
  std::map<std::int32_t, std::int64_t> own_sizes;    ///< the same of attention, where decoupled

  void add(const dpgather::step_plan& plan) {
    ++steps;
    missed += plan.bucket_missed;
    real_rows += plan.total_rows;
    ffn_rows += plan.global_rows;
    for (std::int32_t r = 0; r < plan.dp_size; ++r) {
      attention_rows += plan.padded[r];
      idle += plan.real[r] == 0;
    }
    if (!plan.in_graph()) return;
    ++graph_steps;
    ++shared_sizes[plan.shared_bucket];
    if (plan.padding == dpgather::padding_kind::max_len) return;
    for (std::int32_t r = 0; r < plan.dp_size; ++r) ++own_sizes[plan.own_bucket(r)];
  }
  [[nodiscard]] double per_real_row(std::int64_t rows) const noexcept {
    return real_rows == 0 ? 0 : static_cast<double>(rows) / static_cast<double>(real_rows);
  }
};

struct policy_result {
  std::string name;
  std::string error; ///< of the first rank that failed; empty: none
  token_streams streams;
  step_sums all, in_graph;
  std::int64_t expert_rows = 0; ///< of all ranks
  double wire_rows = 0;         ///< received from other ranks, divided by their number
  std::int64_t leaks = 0;       ///< real rows that a tail has reached
  std::int64_t checked = 0;     ///< real rows looked through
  leak first_leak;
  double seconds = 0;

  void add(const tail_guard& guard) { add(guard.leaks(), guard.checked(), guard.first()); }
  /// What one rank has found.
  void add(std::int64_t rows_leaked, std::int64_t rows_checked, const leak& other) {
    leaks += rows_leaked;
    checked += rows_checked;
    if (other.rank < 0) return;
    const auto when = [](const leak& l) { return std::pair{l.step, l.stage}; };
    if (first_leak.rank < 0 || when(other) < when(first_leak)) first_leak = other;
  }
  [[nodiscard]] std::int64_t tokens() const noexcept {
    std::int64_t sum = 0;
    for (const auto& each : streams) sum += static_cast<std::int64_t>(each.size());
    return sum;
  }
  [[nodiscard]] std::uint64_t digest() const noexcept {
    dpgather::digest_builder out;
    for (const auto& each : streams) {
      out.add(each.size());
      for (const std::int32_t token : each) out.add_signed(token);
    }
    return out.value();
  }
};

/// Where two sets of streams part first, token by token; empty where they are equal.
[[nodiscard]] inline std::string first_difference(const token_streams& a, const token_streams& b) {
  for (std::size_t r = 0; r < std::max(a.size(), b.size()); ++r) {
    const bool both = r < a.size() && r < b.size();
    if (both && a[r] == b[r]) continue;
    std::size_t at = 0;
    while (both && at < std::min(a[r].size(), b[r].size()) && a[r][at] == b[r][at]) ++at;
    return "request " + std::to_string(r) + ", token " + std::to_string(at);
  }
  return {};
}

} // namespace engine
