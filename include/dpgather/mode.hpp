#pragma once

/// @file
/// How rows travel: the classic two modes, the exact one, and the choice between modes per step.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>
#include <dpgather/padding.hpp>
#include <dpgather/rule.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// The mode of a plan, after every rule has spoken.
enum class mode_kind : std::uint8_t { all_gather, all_reduce, exact };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(mode_kind m) noexcept {
  switch (m) {
  case mode_kind::all_gather:
    return "all_gather";
  case mode_kind::all_reduce:
    return "all_reduce";
  case mode_kind::exact:
    return "exact";
  }
  return "unknown";
}

/// Number of modes, for tables.
inline constexpr std::size_t mode_count = 3;

namespace mode {

/// One all-gather of equal slots; a ring moves `max * W` rows per rank.
struct all_gather {
  using category = category::mode;
  static constexpr mode_kind kind = mode_kind::all_gather;
};

/// Rows are placed in a zeroed buffer, one all-reduce sums it; a ring moves twice its rows.
struct all_reduce {
  using category = category::mode;
  static constexpr mode_kind kind = mode_kind::all_reduce;
};

/// Only real rows move: gatherv, and its mirror for the sum.
struct exact {
  using category = category::mode;
  static constexpr mode_kind kind = mode_kind::exact;
};

/// One alternative of `choose`: a mode and the padding that comes with it.
template <class Mode, class Padding>
requires option_of<Mode, category::mode> && option_of<Padding, category::padding> && requires {
  Mode::kind;
}
struct with {
  using mode = Mode;
  using padding = Padding;
};

/// The rule picks one of two alternatives per step, from the agreed counts. `PadToMax` is the one
/// the rules call `pad_to_max`, `PadToSum` the other; both are compiled, nothing is erased.
/// Source: SGLang PR #8278.
template <mode_rule Rule, class PadToMax, class PadToSum>
struct choose {
  using category = category::mode;
  using rule = Rule;
  using pad_to_max = PadToMax;
  using pad_to_sum = PadToSum;
};

} // namespace mode

/// True for `mode::choose<...>`.
template <class Mode>
inline constexpr bool is_choice = false;
template <class Rule, class PadToMax, class PadToSum>
inline constexpr bool is_choice<mode::choose<Rule, PadToMax, PadToSum>> = true;

} // namespace dpgather::inline v0
