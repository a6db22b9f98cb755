#pragma once

/// @file
/// The table, and the sentences about what went wrong.

#include "model.hpp"
#include "policy_result.hpp"

#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <string>

namespace engine {

namespace detail {

/// "8:12 16:3": sizes with their replays.
[[nodiscard]] inline std::string listed(const std::map<std::int32_t, std::int64_t>& sizes) {
  std::string out;
  for (const auto& [size, hits] : sizes) {
    if (!out.empty()) out += ' ';
    out += std::to_string(size);
    out += ':';
    out += std::to_string(hits);
  }
  return out;
}

} // namespace detail

inline void print_head() {
  std::printf("%-18s %6s %6s %5s %5s %6s %6s  %-12s %-12s %7s %7s  %-16s %s\n", "policy", "tokens",
              "steps", "graph", "idle", "missed", "wire", "attention", "FFN", "experts", "seconds",
              "digest", "streams");
}

/// One line: rows are per real row, of all steps and of those in graphs.
inline void print_line(const policy_result& r, const std::string& against_reference) {
  const auto both = [&](std::int64_t step_sums::*rows) {
    char text[40];
    std::snprintf(text, sizeof text, "%.2f (%.2f)", r.all.per_real_row(r.all.*rows),
                  r.in_graph.per_real_row(r.in_graph.*rows));
    return std::string{text};
  };
  std::printf("%-18s %6lld %6lld %5lld %5lld %6lld %6.2f  %-12s %-12s %7.2f %7.2f  %016llx %s\n",
              r.name.c_str(), static_cast<long long>(r.tokens()),
              static_cast<long long>(r.all.steps), static_cast<long long>(r.all.graph_steps),
              static_cast<long long>(r.all.idle), static_cast<long long>(r.all.missed),
              r.all.real_rows == 0 ? 0
                                   : r.wire_rows / static_cast<double>(r.all.real_rows) / layers,
              both(&step_sums::attention_rows).c_str(), both(&step_sums::ffn_rows).c_str(),
              r.all.per_real_row(r.expert_rows) / (layers / 2), r.seconds,
              static_cast<unsigned long long>(r.digest()), against_reference.c_str());
}

inline void print_legend() {
  std::printf(
      "\nidle: ranks without a row that took part in a step; missed: steps that no captured "
      "size fitted, run eagerly\nwire: rows received from other ranks by a layer's gather and "
      "combine, summed over ranks / (ranks - 1), per real row\nattention, FFN: rows that kernels "
      "ran on, per real row, "
      "tails included; in brackets: steps in graphs\nexperts: rows that experts ran on, "
      "per real row and layer; no tail is routed, so always %d\n\n",
      top_k);
}

inline void print_sizes(const policy_result& r) {
  std::printf(
      "%-18s graphs replayed, size:times  %s%s%s\n", r.name.c_str(),
      r.all.own_sizes.empty() ? "attention and FFN " : "FFN ",
      detail::listed(r.all.shared_sizes).c_str(),
      r.all.own_sizes.empty() ? "" : (";  attention " + detail::listed(r.all.own_sizes)).c_str());
}

[[nodiscard]] inline std::size_t distinct_tokens(const policy_result& r) {
  std::set<std::int32_t> distinct;
  for (const auto& each : r.streams) distinct.insert(each.begin(), each.end());
  return distinct.size();
}
/// How much of the vocabulary the answers use: comparing streams of one token would prove little.
inline void print_variety(const policy_result& r) {
  std::printf("answers use %zu of %d tokens\n", distinct_tokens(r), vocabulary);
}

inline void print_leaks(const policy_result& r) {
  std::printf("%-18s %lld leaks in %lld real rows looked through%s%s\n", r.name.c_str(),
              static_cast<long long>(r.leaks), static_cast<long long>(r.checked),
              r.leaks == 0 ? "" : "; the first leak: ",
              r.leaks == 0 ? "" : r.first_leak.sentence().c_str());
}

} // namespace engine
