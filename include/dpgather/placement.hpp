#pragma once

/// @file
/// Where the rows of every world rank lie in the global tensor of one call. One text for the CPU
/// and for kernels, which read the counts where they run.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Layout, stride and real rows of one call. Trivially copyable; borrows the counts. The shape is
/// the plan's and frozen in a captured kernel; the counts are read when they are asked for, from
/// device memory in a kernel. Counts that no host has seen are clamped to the shape, so that no row
/// outside the global tensor is ever named.
class placement {
public:
  placement() noexcept = default;
  /// `counts`: in memory that the reader can read.
  placement(const step_plan& plan, const count_set& counts) noexcept
      : counts_{&counts}, stride_{plan.stride}, global_rows_{plan.global_rows},
        dp_size_{plan.dp_size}, tp_size_{plan.tp_size}, slots_{plan.layout == layout_kind::slots},
        shares_slots_{plan.mode == mode_kind::all_gather} {}

  /// The same shape with the counts elsewhere.
  [[nodiscard]] DPGATHER_HOST_DEVICE placement with(const count_set& counts) const noexcept {
    placement out = *this;
    out.counts_ = &counts;
    return out;
  }
  /// The same places, of which attention-TP ranks share the real rows only, whatever the mode.
  [[nodiscard]] DPGATHER_HOST_DEVICE placement sharing_real_rows() const noexcept {
    placement out = *this;
    out.shares_slots_ = false;
    return out;
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t global_rows() const noexcept {
    return global_rows_;
  }
  /// Rows from slot to slot; 0 when packed.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t slot_rows() const noexcept {
    return slots_ ? stride_ : 0;
  }
  /// Real rows of dp rank `d`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t rows(std::int32_t d) const noexcept {
    return between_zero_and(counts_->rows[d], slots_ ? stride_ : global_rows_ - counts_->offset[d]);
  }
  /// First global row of dp rank `d`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t offset(std::int32_t d) const noexcept {
    return slots_ ? d * stride_ : between_zero_and(counts_->offset[d], global_rows_);
  }
  /// The rows of dp rank `d` that its attention-TP rank `t` speaks for, counted from the first row
  /// of `d`. The all-gather has equal slices of the padded slot, the exact modes of the real rows.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range share(std::int32_t d,
                                                     std::int32_t t) const noexcept {
    const std::int64_t all = shares_slots_ ? stride_ : rows(d);
    const std::int64_t first = all * t / tp_size_;
    return {first, all * (t + 1) / tp_size_ - first};
  }
  /// All rows of dp rank `d`: its slot, or without slots its real rows.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range slot(std::int32_t d) const noexcept {
    return {offset(d), shares_slots_ ? stride_ : rows(d)};
  }
  /// The real rows among `range` of dp rank `d`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t real_in(std::int32_t d,
                                                          row_range range) const noexcept {
    return between_zero_and(rows(d) - range.first, range.count);
  }
  /// Calls `visit(row_range)` with every run of global rows that are not real.
  template <class Visitor>
  DPGATHER_HOST_DEVICE void for_each_tail(Visitor&& visit) const noexcept {
    if (!slots_) {
      const std::int64_t total = between_zero_and(counts_->total, global_rows_);
      visit(row_range{total, global_rows_ - total});
      return;
    }
    for (std::int32_t d = 0; d < dp_size_; ++d) {
      visit(row_range{offset(d) + rows(d), stride_ - rows(d)});
    }
  }
  /// The dp rank that holds global row `row`, or -1 for a row that is not real.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t owner(std::int64_t row) const noexcept {
    if (slots_) {
      if (stride_ == 0) return -1;
      const auto d = static_cast<std::int32_t>(row / stride_);
      return row - d * stride_ < rows(d) ? d : -1;
    }
    if (row >= counts_->total) return -1;
    // The last rank that starts at or before the row; ranks without rows start where the next does.
    std::int32_t low = 0, high = dp_size_;
    while (high - low > 1) {
      const std::int32_t middle = (low + high) / 2;
      (counts_->offset[middle] <= row ? low : high) = middle;
    }
    return low;
  }

private:
  [[nodiscard]] DPGATHER_HOST_DEVICE static std::int64_t
  between_zero_and(std::int64_t value, std::int64_t most) noexcept {
    return value < 0 || most < 0 ? 0 : value < most ? value : most;
  }

  const count_set* counts_ = nullptr;
  std::int64_t stride_ = 0;
  std::int64_t global_rows_ = 0;
  std::int32_t dp_size_ = 1;
  std::int32_t tp_size_ = 1;
  bool slots_ = false;
  bool shares_slots_ = false;
};

} // namespace dpgather::inline v0
