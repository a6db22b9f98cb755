#pragma once

/// @file
/// The counts of a step on their way to where kernels read them.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/device/executor.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Writes real rows, padded rows, offsets and total of a count set. The counts travel by value in
/// the launch itself: no pinned buffer whose reuse would have to wait for the stream, so any number
/// of steps may be under way.
struct write_counts {
  std::int32_t rows[max_ranks]{};
  std::int32_t padded[max_ranks]{};
  std::int32_t ranks = 0;
  count_set* to = nullptr;

  [[nodiscard]] static write_counts of(const count_set& counts, std::int32_t ranks,
                                       count_set* to) noexcept {
    write_counts out;
    for (std::int32_t r = 0; r < ranks; ++r) {
      out.rows[r] = counts.rows[r];
      out.padded[r] = counts.padded[r];
    }
    out.ranks = ranks;
    out.to = to;
    return out;
  }
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return static_cast<std::uint64_t>(ranks); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    for (std::uint64_t w = worker.index; w < static_cast<std::uint64_t>(ranks); w += worker.count) {
      const auto r = static_cast<std::int32_t>(w);
      to->rows[r] = rows[r];
      to->padded[r] = padded[r];
    }
    write_offsets(rows, ranks, *to, worker);
  }

  /// Offsets and total of `ranks` rows. Every worker adds up what lies before its ranks: at most
  /// 256 numbers, fewer than a scan's barriers cost.
  DPGATHER_HOST_DEVICE static void write_offsets(const std::int32_t* rows, std::int32_t ranks,
                                                 count_set& to, worker_id worker) noexcept {
    for (std::uint64_t w = worker.index; w <= static_cast<std::uint64_t>(ranks);
         w += worker.count) {
      std::int64_t sum = 0;
      for (std::uint64_t r = 0; r < w; ++r) sum += rows[r];
      to.offset[w] = sum;
      if (w == static_cast<std::uint64_t>(ranks)) to.total = sum;
    }
  }
};

/// Offsets and total of a count set whose `rows` somebody has written, in place.
struct sum_counts {
  count_set* counts = nullptr;
  std::int32_t ranks = 0;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(ranks) + 1;
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    write_counts::write_offsets(counts->rows, ranks, *counts, worker);
  }
};

} // namespace dpgather::inline v0
