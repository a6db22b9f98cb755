#pragma once

/// @file
/// Where the rows of every world rank lie in the global tensor of one call.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Layout, stride and real rows of one call. Borrows the counts.
class placement {
public:
  placement(const step_plan& plan, const count_set& counts) noexcept
      : plan_{plan}, counts_{counts} {}

  /// Real rows of dp rank `d`.
  [[nodiscard]] std::int64_t rows(std::int32_t d) const noexcept {
    return counts_.rows[static_cast<std::size_t>(d)];
  }
  /// First global row of dp rank `d`.
  [[nodiscard]] std::int64_t offset(std::int32_t d) const noexcept {
    return plan_.layout == layout_kind::slots ? d * plan_.stride
                                              : counts_.offset[static_cast<std::size_t>(d)];
  }
  /// The rows of dp rank `d` that its attention-TP rank `t` speaks for, counted from the first row
  /// of `d`. The all-gather has equal slices of the padded slot, the exact modes of the real rows.
  [[nodiscard]] row_range share(std::int32_t d, std::int32_t t) const noexcept {
    const std::int64_t all = plan_.mode == mode_kind::all_gather ? plan_.stride : rows(d);
    const std::int64_t first = all * t / plan_.tp_size;
    return {first, all * (t + 1) / plan_.tp_size - first};
  }
  /// The real rows among `range` of dp rank `d`.
  [[nodiscard]] std::int64_t real_in(std::int32_t d, row_range range) const noexcept {
    const std::int64_t left = rows(d) - range.first;
    return left < 0 ? 0 : left < range.count ? left : range.count;
  }
  /// Calls `visit(row_range)` with every run of global rows that are not real.
  template <class Visitor>
  void for_each_tail(Visitor&& visit) const noexcept {
    if (plan_.layout == layout_kind::packed) {
      visit(row_range{counts_.total, plan_.global_rows - counts_.total});
      return;
    }
    for (std::int32_t d = 0; d < plan_.dp_size; ++d) {
      visit(row_range{offset(d) + rows(d), plan_.stride - rows(d)});
    }
  }

private:
  const step_plan& plan_;
  const count_set& counts_;
};

} // namespace dpgather::inline v0
