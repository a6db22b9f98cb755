#pragma once

/// @file
/// The results for people and for machines.

#include "backend.hpp"
#include "tally.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace serve {

/// What was run.
struct run_info {
  std::string source;
  std::int32_t ranks = 1;           ///< data-parallel
  std::int32_t attention_ranks = 1; ///< in each of them
  backend_choice backend;
  std::string launch;                ///< who started the ranks
  std::vector<std::string> left_out; ///< policies that the communicator cannot run
};

namespace detail {

/// "all_gather 12, all_reduce 3": the names that occur, with their counts.
template <class Kind, std::size_t N>
[[nodiscard]] std::string named(const std::array<std::int64_t, N>& counts, const char* quote,
                                const char* between) {
  std::string out;
  for (std::size_t i = 0; i < N; ++i) {
    if (counts[i] == 0) continue;
    if (!out.empty()) out += ", ";
    out += quote + std::string{name_of(static_cast<Kind>(i))} + quote + between +
           std::to_string(counts[i]);
  }
  return out;
}

inline void print_line(const std::string& name, const char* where, const tally& t) {
  if (t.plans.steps == 0 && t.buckets_missed == 0) return;
  std::printf("%-12s %-13s %6lld %9lld %7.2f %7.2f %7.2f %7.2f %6.2f %6lld %6lld  %s (%s)\n",
              name.c_str(), where, static_cast<long long>(t.plans.steps),
              static_cast<long long>(t.plans.real_rows), t.plans.per_real_row(t.gather_wire_rows),
              t.worst_gather, t.plans.per_real_row(t.combine_wire_rows),
              t.plans.per_real_row(static_cast<double>(t.plans.ffn_rows)), t.plans.waste(),
              static_cast<long long>(t.buckets_hit), static_cast<long long>(t.buckets_missed),
              named<dpgather::mode_kind>(t.plans.modes, "", " ").c_str(),
              named<dpgather::reason>(t.plans.reasons, "", " ").c_str());
}

inline void print_json(const char* where, const tally& t, bool& first) {
  std::printf("%s\n      \"%s\": {\"steps\": %lld, \"real_rows\": %lld, \"ffn_rows\": %lld, "
              "\"gather_wire_rows\": %.3f, \"combine_wire_rows\": %.3f, "
              "\"worst_gather_wire_per_real_row\": %.4f, \"buckets_hit\": %lld, "
              "\"buckets_missed\": %lld, \"modes\": {%s}, \"reasons\": {%s}}",
              first ? "" : ",", where, static_cast<long long>(t.plans.steps),
              static_cast<long long>(t.plans.real_rows), static_cast<long long>(t.plans.ffn_rows),
              t.gather_wire_rows, t.combine_wire_rows, t.worst_gather,
              static_cast<long long>(t.buckets_hit), static_cast<long long>(t.buckets_missed),
              named<dpgather::mode_kind>(t.plans.modes, "\"", ": ").c_str(),
              named<dpgather::reason>(t.plans.reasons, "\"", ": ").c_str());
  first = false;
}

/// Text as a JSON string.
[[nodiscard]] inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

/// As JSON has no 64-bit numbers that everybody reads alike: text.
[[nodiscard]] inline std::string hexadecimal(std::uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(value));
  return text;
}

} // namespace detail

inline void print_table(const std::vector<policy_result>& results, const run_info& info) {
  std::printf("%-12s %-13s %6s %9s %7s %7s %7s %7s %6s %6s %6s  %s\n", "policy", "steps of",
              "steps", "real rows", "gather", "worst", "combine", "FFN", "waste", "hit", "missed",
              "modes (why)");
  for (const policy_result& r : results) {
    detail::print_line(r.name, "eager decode", r.eager_decode);
    detail::print_line("", "eager prefill", r.eager_prefill);
    detail::print_line("", "graph decode", r.in_graph);
  }
  std::printf("\ngather, combine: rows received from other ranks, summed over ranks / (ranks - 1), "
              "per real row; worst: the worst step's gather\nFFN: rows of the global tensor per "
              "real row; waste: pad rows per real row; hit, missed: captured sizes\n\n");
  std::printf("%-12s %10s %10s %10s  %s\n", "policy", "mismatches", "refused", "seconds",
              "outputs");
  for (const policy_result& r : results) {
    std::printf("%-12s %10lld %10lld %10.2f  digest %s%s%s\n", r.name.c_str(),
                static_cast<long long>(r.mismatches), static_cast<long long>(r.refused), r.seconds,
                detail::hexadecimal(r.digest).c_str(), r.first_error.empty() ? "" : "  ",
                r.first_error.c_str());
  }
  for (const std::string& name : info.left_out)
    std::printf("%-12s left out: over NCCL a graph would freeze exact counts; --backend host runs "
                "it\n",
                name.c_str());
}

/// One object.
inline void print_json(const std::vector<policy_result>& results, const run_info& info) {
  std::string left_out;
  for (const std::string& name : info.left_out)
    left_out += (left_out.empty() ? "" : ", ") + detail::quoted(name);
  std::printf("{\n  \"source\": %s,\n  \"dp_ranks\": %d,\n  \"attention_tp_ranks\": %d,\n"
              "  \"communicator\": \"%s\",\n  \"communicator_why\": %s,\n"
              "  \"ranks_started_by\": %s,\n  \"left_out\": [%s],\n  \"policies\": [",
              detail::quoted(info.source).c_str(), info.ranks, info.attention_ranks,
              name_of(info.backend.kind), detail::quoted(info.backend.why).c_str(),
              detail::quoted(info.launch).c_str(), left_out.c_str());
  for (std::size_t i = 0; i < results.size(); ++i) {
    const policy_result& r = results[i];
    std::printf("%s\n    {\"name\": %s, \"mismatches\": %lld, \"refused\": %lld, "
                "\"digest\": \"%s\", \"seconds\": %.3f, \"error\": %s,",
                i == 0 ? "" : ",", detail::quoted(r.name).c_str(),
                static_cast<long long>(r.mismatches), static_cast<long long>(r.refused),
                detail::hexadecimal(r.digest).c_str(), r.seconds,
                detail::quoted(r.first_error).c_str());
    bool first = true;
    detail::print_json("eager_decode", r.eager_decode, first);
    detail::print_json("eager_prefill", r.eager_prefill, first);
    detail::print_json("graph_decode", r.in_graph, first);
    std::printf("}");
  }
  std::printf("\n  ]\n}\n");
}

} // namespace serve
