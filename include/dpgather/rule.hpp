#pragma once

/// @file
/// Named rules that choose between padding to the maximum and padding to the sum, per step.
///
/// A rule is a type with `static constexpr choice decide(const volume&)`. An engine may bring its
/// own. Rules see *padded* counts (rows rounded up to the attention-TP size).

#include <dpgather/config.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Why a mode was chosen; reported with every plan.
enum class reason : std::uint8_t {
  fixed,          ///< the policy names one mode
  graph_default,  ///< the policy names one mode for graphs
  max_moves_less, ///< `max * W` rows are fewer than `2 * sum`
  sum_moves_less, ///< `2 * sum` rows are fewer than `max * W`
  volumes_equal,  ///< a tie, decided by the rule
  prefill,        ///< a rank processes prompts, so the sum was taken
  idle_rank,      ///< a rank is idle, so the maximum was taken
  user_rule,      ///< for rules that an engine brings
};

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(reason r) noexcept {
  switch (r) {
  case reason::fixed:
    return "fixed";
  case reason::graph_default:
    return "graph_default";
  case reason::max_moves_less:
    return "max_moves_less";
  case reason::sum_moves_less:
    return "sum_moves_less";
  case reason::volumes_equal:
    return "volumes_equal";
  case reason::prefill:
    return "prefill";
  case reason::idle_rank:
    return "idle_rank";
  case reason::user_rule:
    return "user_rule";
  }
  return "unknown";
}

/// Number of reasons, for tables.
inline constexpr std::size_t reason_count = 8;

/// What a rule may look at. Rows are padded rows.
struct volume {
  std::int64_t max_rows = 0; ///< of the longest rank
  std::int64_t sum_rows = 0; ///< of all ranks
  std::int32_t ranks = 1;    ///< W
  bool any_prefill = false;  ///< some rank is in extend or mixed
  bool any_idle = false;     ///< some rank holds no row
};

enum class alternative : std::uint8_t { pad_to_max, pad_to_sum };

/// A rule's answer.
struct choice {
  alternative which = alternative::pad_to_max;
  reason why = reason::user_rule;
};

template <class Rule>
concept mode_rule = requires(const volume& v) {
  { Rule::decide(v) }
  noexcept->std::same_as<choice>;
};

namespace rule {

namespace detail {
/// Compares the rows that one worker moves: `max * W` for the all-gather, `2 * sum` for the
/// all-reduce (a reduce-scatter and an all-gather).
[[nodiscard]] constexpr choice by_volume(const volume& v, alternative on_tie) noexcept {
  const std::int64_t to_max = v.max_rows * v.ranks;
  const std::int64_t to_sum = 2 * v.sum_rows;
  if (to_sum > to_max) return {alternative::pad_to_max, reason::max_moves_less};
  if (to_sum < to_max) return {alternative::pad_to_sum, reason::sum_moves_less};
  return {on_tie, reason::volumes_equal};
}
} // namespace detail

/// All-gather iff `2 * sum > max * W`; a tie is an all-reduce. Source: SGLang PR #8278.
struct strict_volume {
  static constexpr choice decide(const volume& v) noexcept {
    return detail::by_volume(v, alternative::pad_to_sum);
  }
};

/// All-gather iff `2 * sum >= max * W`. Source: SGLang after PR #8278.
struct volume_or_tie {
  static constexpr choice decide(const volume& v) noexcept {
    return detail::by_volume(v, alternative::pad_to_max);
  }
};

/// Pads to the sum while any rank processes prompts, else asks `Base`. Source: SGLang today.
template <mode_rule Base>
struct sum_in_prefill {
  static constexpr choice decide(const volume& v) noexcept {
    if (v.any_prefill) return {alternative::pad_to_sum, reason::prefill};
    return Base::decide(v);
  }
};

/// Pads to the maximum while any rank is idle, else asks `Base`. Source: SGLang, for models whose
/// kernels need every rank in the all-gather.
template <mode_rule Base>
struct max_when_idle {
  static constexpr choice decide(const volume& v) noexcept {
    if (v.any_idle) return {alternative::pad_to_max, reason::idle_rank};
    return Base::decide(v);
  }
};

} // namespace rule

} // namespace dpgather::inline v0
