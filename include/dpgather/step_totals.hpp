#pragma once

/// @file
/// What steps came to, added up: rows, pads, bytes, and why they were what they were.

#include <dpgather/config.hpp>
#include <dpgather/mode.hpp>
#include <dpgather/rule.hpp>
#include <dpgather/step_plan.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Sums over plans. Rows and bytes are those of all ranks together, so that every rank has the same
/// sums and one of them exports; on the wire by the formulas of `step_plan`.
struct step_totals {
  std::int64_t steps = 0;
  std::int64_t counts_unknown = 0; ///< steps whose counts no host knew: they add no rows below
  std::int64_t real_rows = 0;
  std::int64_t ffn_rows = 0;       ///< of the global tensors: what the FFN runs on
  std::int64_t attention_rows = 0; ///< what the ranks' attention runs on
  std::int64_t gather_wire_rows = 0;
  std::int64_t combine_wire_rows = 0;
  std::int64_t wire_bytes = 0; ///< of both
  std::array<std::int64_t, mode_count> modes{};
  std::array<std::int64_t, reason_count> reasons{};

  constexpr void add(const step_plan& plan) noexcept {
    ++steps;
    ++modes[static_cast<std::size_t>(plan.mode)];
    ++reasons[static_cast<std::size_t>(plan.why)];
    if (!plan.counts_known) {
      ++counts_unknown;
      return;
    }
    real_rows += plan.total_rows;
    ffn_rows += plan.global_rows;
    attention_rows += plan.padded.sum();
    gather_wire_rows += plan.gather_wire_rows;
    combine_wire_rows += plan.combine_wire_rows;
    wire_bytes += (plan.gather_wire_rows + plan.combine_wire_rows) *
                  static_cast<std::int64_t>(plan.row_bytes);
  }

  /// Rows of the global tensors that were not real.
  [[nodiscard]] constexpr std::int64_t pad_rows() const noexcept { return ffn_rows - real_rows; }
  /// `rows`, of this or of anything else, for every real row; 0 when there was none.
  [[nodiscard]] constexpr double per_real_row(double rows) const noexcept {
    return real_rows == 0 ? 0.0 : rows / static_cast<double>(real_rows);
  }
  /// Pad rows per real row.
  [[nodiscard]] constexpr double waste() const noexcept {
    return per_real_row(static_cast<double>(pad_rows()));
  }

  /// Calls `visit(std::int64_t& mine, std::int64_t theirs)` for every counter.
  template <class Visitor>
  constexpr void for_each_counter(const step_totals& other, Visitor&& visit) noexcept {
    for (const auto counter :
         {&step_totals::steps, &step_totals::counts_unknown, &step_totals::real_rows,
          &step_totals::ffn_rows, &step_totals::attention_rows, &step_totals::gather_wire_rows,
          &step_totals::combine_wire_rows, &step_totals::wire_bytes})
      visit(this->*counter, other.*counter);
    for (std::size_t i = 0; i < modes.size(); ++i) visit(modes[i], other.modes[i]);
    for (std::size_t i = 0; i < reasons.size(); ++i) visit(reasons[i], other.reasons[i]);
  }
  constexpr step_totals& operator+=(const step_totals& other) noexcept {
    for_each_counter(other, [](std::int64_t& mine, std::int64_t theirs) { mine += theirs; });
    return *this;
  }

  friend constexpr bool operator==(const step_totals&, const step_totals&) = default;
};

} // namespace dpgather::inline v0
