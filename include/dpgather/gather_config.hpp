#pragma once

/// @file
/// The run-time half of an instantiation: sizes and limits, equal on all ranks but for the rank
/// numbers in the topology.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/element.hpp>
#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Sizes and limits of one user of the library. Equal on all ranks, `topology` aside.
struct gather_config {
  dpgather::v0::topology topology{};
  dpgather::v0::element element = dpgather::v0::element::bf16; ///< of hidden rows
  std::size_t row_bytes = 0;                                   ///< bytes of one hidden row
  std::int32_t max_rows_per_rank = 0;     ///< most real rows a rank may announce
  std::int32_t max_requests_per_rank = 0; ///< request pool, caps the ladder; 0: max_rows_per_rank
  std::int32_t draft_width = 1;           ///< draft rows per request inside a graph
  std::int64_t max_global_rows = 0;       ///< rows of the engine's global buffer; 0: no limit
  bool two_batch_overlap = false;         ///< ladder sizes must split in two
  double waste_limit = 0; ///< refuse a bucket above this many rows per real row; 0: off
  bucket_list ladder{};   ///< sizes for `ladder::from_config`
  /// With it, sizes for the sum over ranks; empty: derived from `ladder`.
  bucket_list sum_ladder{};

  /// Checks what does not depend on a policy.
  /// Errors: `bad_group`, `too_many_ranks`, `bad_config{field, value, limit}`, `misaligned` (row
  /// bytes are not whole elements), `size_overflow` (global rows or bytes do not fit 63 bits).
  [[nodiscard]] constexpr status validate() const noexcept {
    if (status bad = topology.validate(); !bad) return bad;
    const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit) {
      return status{.code = code,
                    .about = about,
                    .value = value,
                    .limit = limit,
                    .where = "gather_config::validate"};
    };
    constexpr std::uint64_t most_bytes = INT64_MAX;
    if (row_bytes == 0 || row_bytes > most_bytes)
      return refuse(errc::bad_config, subject::row_bytes, static_cast<std::int64_t>(row_bytes), 1);
    if (row_bytes % size_of(element) != 0)
      return refuse(errc::misaligned, subject::row_bytes, static_cast<std::int64_t>(row_bytes),
                    static_cast<std::int64_t>(size_of(element)));
    if (max_rows_per_rank < 1)
      return refuse(errc::bad_config, subject::max_rows, max_rows_per_rank, 1);
    if (max_requests_per_rank < 0)
      return refuse(errc::bad_config, subject::max_requests, max_requests_per_rank, 0);
    if (draft_width < 1) return refuse(errc::bad_config, subject::width, draft_width, 1);
    if (max_global_rows < 0)
      return refuse(errc::bad_config, subject::max_global_rows, max_global_rows, 0);
    if (!(waste_limit == 0 || waste_limit >= 1))
      return refuse(errc::bad_config, subject::waste_limit, waste_limit > 0 ? 0 : -1, 1);
    // Twice: the all-reduce moves the global tensor twice, and alignment may add rows.
    const std::uint64_t rows = 2 * static_cast<std::uint64_t>(topology.dp_size) *
                               (static_cast<std::uint64_t>(max_rows_per_rank) + 1);
    if (row_bytes > most_bytes / rows)
      return refuse(errc::size_overflow, subject::global, static_cast<std::int64_t>(rows),
                    static_cast<std::int64_t>(most_bytes / row_bytes));
    return {};
  }
};

} // namespace dpgather::inline v0
