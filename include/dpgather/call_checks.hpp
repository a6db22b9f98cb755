#pragma once

/// @file
/// What is looked at before a call moves anything.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/element.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/options.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/view_checks.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0::detail {

/// The checks of one call of one rank; each answers the first thing that is wrong.
class call_checks {
public:
  /// `written`: the counts of `counts::device`, null where they are in memory of the device.
  call_checks(const gather_config& config, const count_set* written, const step_plan& plan,
              const char* where) noexcept
      : config_{config}, written_{written}, plan_{plan}, where_{where} {}

  [[nodiscard]] status refuse(errc code, subject about, std::int64_t value,
                              std::int64_t limit) const noexcept {
    return {.code = code,
            .about = about,
            .rank = config_.topology.world_rank(),
            .value = value,
            .limit = limit,
            .where = where_};
  }

  /// `rows_read`: the rows of `local` that the call reads, at least the real ones.
  template <row_state State>
  [[nodiscard]] status gather(const const_token_rows<State>& local,
                              const token_rows<replicated>& global,
                              std::int64_t rows_read) const noexcept {
    if (status bad = plan_and_rows(local.rows(), global.rows()); !bad) return bad;
    const const_token_rows<State> real = local.first(rows_read);
    if (status bad = views(real, subject::local, global.first(plan_.global_rows), subject::global);
        !bad)
      return bad;
    if (status bad = dense(global); !bad) return bad;
    if (std::same_as<State, partial> && plan_.tp_size > 1 && !is_summable(local.element()))
      return refuse(errc::unsupported_type, subject::element,
                    static_cast<std::int64_t>(local.element()), 0);
    // One form of in-place: packed rows at their own place in the output, which nobody zeroes.
    const bool in_place = plan_.mode != mode_kind::all_reduce && plan_.counts_known &&
                          local.contiguous() &&
                          local.data() == global.row(plan_.offset(config_.topology.dp_rank));
    if (!in_place && overlap(real, global.first(plan_.global_rows)))
      return refuse(errc::aliasing, subject::global, real.rows(), 0);
    return {};
  }

  /// Combine and scatter.
  template <row_state State>
  [[nodiscard]] status back(const const_token_rows<State>& global,
                            const token_rows<replicated>& local,
                            std::size_t workspace_bytes) const noexcept {
    if (status bad = plan_and_rows(local.rows(), global.rows()); !bad) return bad;
    if (status bad = views(global.first(plan_.global_rows), subject::global, local, subject::local);
        !bad)
      return bad;
    if (status bad = dense(global); !bad) return bad;
    if (std::same_as<State, partial> && !is_summable(global.element()))
      return refuse(errc::unsupported_type, subject::element,
                    static_cast<std::int64_t>(global.element()), 0);
    if (overlap(global.first(plan_.global_rows), local))
      return refuse(errc::aliasing, subject::local, local.rows(), 0);
    if constexpr (std::same_as<State, partial>) { // a scatter stages nothing
      const std::size_t needed = staged_rows(local) * local.row_bytes();
      if (workspace_bytes < needed)
        return refuse(errc::capacity_exceeded, subject::workspace,
                      static_cast<std::int64_t>(needed),
                      static_cast<std::int64_t>(workspace_bytes));
    }
    return {};
  }

private:
  [[nodiscard]] std::int32_t real_rows_here() const noexcept {
    return plan_.real[config_.topology.dp_rank];
  }

  /// Rows that a combine stages: all sums, or this rank's when `local` cannot take them directly.
  [[nodiscard]] std::size_t staged_rows(const token_rows<replicated>& local) const noexcept {
    if (plan_.mode == mode_kind::all_reduce &&
        plan_.combine == combine_kind::all_reduce_then_scatter)
      return static_cast<std::size_t>(plan_.global_rows);
    if (plan_.mode == mode_kind::all_gather)
      return local.contiguous() && local.rows() >= plan_.stride
                 ? 0
                 : static_cast<std::size_t>(plan_.stride);
    return local.contiguous() ? 0 : static_cast<std::size_t>(real_rows_here());
  }

  [[nodiscard]] status plan_and_rows(std::int64_t local_rows,
                                     std::int64_t global_rows) const noexcept {
    const topology& topo = config_.topology;
    if (plan_.dp_size != topo.dp_size || plan_.tp_size != topo.tp_size)
      return refuse(errc::bad_group, subject::world, std::int64_t{plan_.dp_size} * plan_.tp_size,
                    topo.world_size());
    if (local_rows < real_rows_here())
      return refuse(errc::count_changed, subject::local, local_rows, real_rows_here());
    if (global_rows < plan_.global_rows)
      return refuse(errc::capacity_exceeded, subject::global, plan_.global_rows, global_rows);
    if (plan_.counts == counts_kind::device && written_ != nullptr) return written_counts();
    return {};
  }

  /// What the engine wrote is in range, and is what this rank announced.
  [[nodiscard]] status written_counts() const noexcept {
    for (std::int32_t d = 0; d < plan_.dp_size; ++d) {
      const std::int32_t rows = written_->rows[d];
      if (rows < 0 || rows > config_.max_rows_per_rank)
        return refuse(errc::count_out_of_range, subject::counts, rows, config_.max_rows_per_rank);
    }
    const std::int32_t mine = written_->rows[config_.topology.dp_rank];
    if (mine != real_rows_here())
      return refuse(errc::count_changed, subject::counts, mine, real_rows_here());
    return {};
  }

  template <row_state A, class AByte, row_state B, class BByte>
  [[nodiscard]] status views(const token_rows<A, AByte>& first, subject first_name,
                             const token_rows<B, BByte>& second,
                             subject second_name) const noexcept {
    view_fault fault = check_view(first, first_name);
    if (!fault) fault = check_view(second, second_name);
    if (!fault) fault = check_same_shape(first, second);
    return fault ? refuse(fault.code, fault.about, fault.value, fault.limit) : status{};
  }

  /// Collectives move whole ranges of the global tensor: its rows have no gaps.
  template <row_state State, class Byte>
  [[nodiscard]] status dense(const token_rows<State, Byte>& global) const noexcept {
    if (global.contiguous()) return {};
    return refuse(errc::shape_mismatch, subject::global,
                  static_cast<std::int64_t>(global.row_stride()),
                  static_cast<std::int64_t>(global.row_bytes()));
  }

  const gather_config& config_;
  const count_set* written_;
  const step_plan& plan_;
  const char* where_;
};

} // namespace dpgather::inline v0::detail
