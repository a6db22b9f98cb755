#pragma once

/// @file
/// What every rank does in one step: a value without pointers.

#include <dpgather/agreement.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/element.hpp>
#include <dpgather/ladder.hpp>
#include <dpgather/layout.hpp>
#include <dpgather/mode.hpp>
#include <dpgather/options.hpp>
#include <dpgather/padding.hpp>
#include <dpgather/phase.hpp>
#include <dpgather/rule.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// The plan of one step, bit-equal on every rank: a function of configuration, agreed records and
/// policy. Units: rows, unless a name says otherwise.
///
/// With `counts::device` and `counts::exchanged` the host knows one rank's count: `counts_known` is
/// false, `real` holds that count only (so the plans of two ranks differ in it, their digests do
/// not), sizes follow from capacities, waste and wire rows are reported afterwards.
struct step_plan {
  // What was decided, and why.
  mode_kind mode = mode_kind::exact;
  padding_kind padding = padding_kind::none;
  layout_kind layout = layout_kind::packed;
  dpgather::v0::situation situation = dpgather::v0::situation::eager;
  reason why = reason::fixed;
  counts_kind counts = counts_kind::agreed;
  combine_kind combine = combine_kind::reduce_scatter;
  row_kind kind = row_kind::hidden;
  dpgather::v0::element element = dpgather::v0::element::bf16;
  bool counts_known = true;
  bool bucket_missed = false;       ///< a graph was wanted, no bucket fitted, all ranks went eager
  bool attention_in_bucket = false; ///< in a graph: `padded` rows are a captured size per rank

  // Shape.
  std::int32_t dp_size = 1;
  std::int32_t tp_size = 1;
  std::int32_t width = 1;            ///< tokens per request
  std::int32_t rows_per_request = 1; ///< rows of this kind that a request has inside a graph
  std::int32_t shared_bucket = 0;    ///< requests: bucket of the maximum or of the sum; 0: none
  std::size_t row_bytes = 0;
  std::int64_t global_rows = 0; ///< rows of the global tensor, tails included
  std::int64_t stride = 0;      ///< rows from slot to slot; 0 when packed

  // Counts.
  std::uint64_t step = 0;
  real_rows real;     ///< n[r]
  padded_rows padded; ///< p[r]: rows of rank r's local work (attention)
  std::array<std::int64_t, max_ranks + 1> packed_offset{}; ///< prefix sum of real rows
  std::int64_t total_rows = 0;                             ///< sum of real rows

  // Cost, by the formulas of the field; `traffic` of a communicator counts what really moved.
  std::int64_t gather_wire_rows = 0;
  std::int64_t combine_wire_rows = 0;

  std::uint64_t digest = 0; ///< of the shape all ranks share; never of one rank's own bucket
  std::uint64_t agreed_digest =
      0; ///< of the agreed step: another's than the shape's in `with_counts_of`
  std::uint64_t counts_digest = 0; ///< of the agreed real rows; 0 when they are not known

  [[nodiscard]] constexpr bool in_graph() const noexcept {
    return situation == dpgather::v0::situation::in_graph;
  }
  /// First global row of rank `r`.
  [[nodiscard]] constexpr std::int64_t offset(std::int32_t r) const noexcept {
    return layout == layout_kind::slots ? r * stride : packed_offset[static_cast<std::size_t>(r)];
  }
  /// The captured size, in requests, that rank `r` runs its attention in; 0 outside graphs and
  /// where attention is launched eagerly. Ranks may differ.
  [[nodiscard]] constexpr std::int32_t own_bucket(std::int32_t r) const noexcept {
    return attention_in_bucket ? padded[r] / rows_per_request : 0;
  }
  /// Rows of the global tensor that are not real.
  [[nodiscard]] constexpr std::int64_t pad_rows() const noexcept {
    return global_rows - total_rows;
  }
  /// Pad rows per real row; 0 when there is no row at all.
  [[nodiscard]] constexpr double waste() const noexcept {
    return total_rows == 0 ? 0.0
                           : static_cast<double>(pad_rows()) / static_cast<double>(total_rows);
  }
  [[nodiscard]] constexpr std::size_t global_bytes() const noexcept {
    return static_cast<std::size_t>(global_rows) * row_bytes;
  }

  /// This plan's shape with the counts of `other`, a plan of the same rows and ranks: what a call
  /// takes that has the shape of a graph but is not captured.
  [[nodiscard]] constexpr step_plan with_counts_of(const step_plan& other) const noexcept {
    step_plan out = *this;
    out.counts_known = other.counts_known;
    out.step = other.step;
    out.real = other.real;
    out.padded = other.padded;
    out.packed_offset = other.packed_offset;
    out.total_rows = other.total_rows;
    out.counts_digest = other.counts_digest;
    out.agreed_digest = other.agreed_digest;
    if (mode == mode_kind::exact)
      out.gather_wire_rows = out.combine_wire_rows = other.total_rows;
    else if (mode == mode_kind::all_reduce && combine == combine_kind::reduce_scatter)
      out.combine_wire_rows = other.total_rows;
    return out;
  }

  friend constexpr bool operator==(const step_plan&, const step_plan&) = default;
};

} // namespace dpgather::inline v0
