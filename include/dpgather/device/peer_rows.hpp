#pragma once

/// @file
/// What gather and combine over peers have in common: whose rows lie where, by counts that a block
/// has made sure of.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/options.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/protocol/peer_call.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// The shape of a call over peers, and where its counts are. Trivially copyable.
struct peer_rows {
  peer_lane lane{};
  placement places{};          ///< of the shape; `live` below
  count_set* live = nullptr;   ///< the channel's, in memory that the job can read and write
  counts_kind source = counts_kind::agreed;
  std::uint32_t shape = 0;     ///< what this rank takes the call to be
  std::int64_t local_rows = 0; ///< of the local view

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t tp() const noexcept { return places.tp_size(); }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t dp_rank() const noexcept {
    return lane.rank() / tp();
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t tp_rank() const noexcept {
    return lane.rank() % tp();
  }
  /// Rows that world rank `r` speaks for, among those of its data-parallel rank.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range share(const placement& now,
                                                     std::int32_t r) const noexcept {
    return now.share(r / tp(), r % tp());
  }
  /// The same among the rows of the global tensor.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range share_in_view(const placement& now,
                                                             std::int32_t r) const noexcept {
    const row_range own = share(now, r);
    return {now.offset(r / tp()) + own.first, own.count};
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE bool in_lines(row_range rows) const noexcept {
    return rows.count <= lane.layout.line_rows;
  }
  /// Lines of rank `from` at rank `at`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* lines(std::int32_t at, std::uint64_t slot,
                                                      std::int32_t from,
                                                      std::int32_t tensor) const noexcept {
    const peer_layout& l = lane.layout;
    return lane.at(at, l.lines + ((slot * static_cast<std::uint64_t>(l.ranks) +
                                   static_cast<std::uint64_t>(from)) *
                                      l.source_lines +
                                  l.first_line[tensor]) *
                                     line_bytes);
  }
  /// Lines of attention-TP rank `from` at world rank `at`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* tp_lines(std::int32_t at, std::uint64_t slot,
                                                         std::int32_t from) const noexcept {
    const peer_layout& l = lane.layout;
    return lane.at(at, l.tp_lines + (slot * static_cast<std::uint64_t>(l.tp_size) +
                                     static_cast<std::uint64_t>(from)) *
                                        l.tp_source_lines * line_bytes);
  }
  /// A tensor's global rows at rank `at`.
  [[nodiscard]] DPGATHER_HOST_DEVICE detail::row_places<std::byte>
  view(std::int32_t at, std::int32_t tensor) const noexcept {
    const std::uint64_t row_bytes = lane.layout.row_bytes[tensor];
    return {lane.at(at, lane.layout.views[tensor]), row_bytes, row_bytes};
  }

  /// Reads this rank's count, or everybody's, into `counts`; every thread some. Sync before use.
  template <class Block>
  DPGATHER_HOST_DEVICE void read_counts(Block& block, count_set& counts,
                                        bool everybodys) const noexcept {
    for (std::uint32_t d = block.thread(); d < static_cast<std::uint32_t>(places.dp_size());
         d += block.threads()) {
      if (everybodys || static_cast<std::int32_t>(d) == dp_rank())
        counts.rows[d] = block.word(&live->rows[d]);
    }
  }
  /// Offsets and total; every thread some. Sync before and after.
  template <class Block>
  DPGATHER_HOST_DEVICE void sum_counts(const Block& block, count_set& counts) const noexcept {
    const auto ranks = static_cast<std::uint32_t>(places.dp_size());
    for (std::uint32_t d = block.thread(); d <= ranks; d += block.threads()) {
      std::int64_t sum = 0;
      for (std::uint32_t i = 0; i < d; ++i) sum += counts.rows[i];
      counts.offset[d] = sum;
      if (d == ranks) counts.total = sum;
    }
  }
  /// Whether the counts fit what was configured; an error of the call when not. One thread's work.
  template <class Block>
  DPGATHER_HOST_DEVICE void check_counts(peer_call<Block>& call,
                                         const count_set& counts) const noexcept {
    const std::int64_t most =
        places.slot_rows() > 0 ? places.slot_rows() : lane.layout.rank_rows;
    for (std::int32_t d = 0; d < places.dp_size(); ++d) {
      if (counts.rows[d] < 0 || counts.rows[d] > lane.layout.rank_rows || counts.rows[d] > most) {
        call.fail(errc::count_out_of_range, subject::counts, d * tp(), counts.rows[d],
                  most < lane.layout.rank_rows ? most : lane.layout.rank_rows);
        return;
      }
    }
    if (places.slot_rows() == 0 && counts.total > places.global_rows()) {
      call.fail(errc::capacity_exceeded, subject::global, -1, counts.total, places.global_rows());
    } else if (counts.rows[dp_rank()] > local_rows) {
      call.fail(errc::capacity_exceeded, subject::local, -1, counts.rows[dp_rank()], local_rows);
    }
  }
  /// What a peer says of its rows is what this rank holds for true.
  template <class Block>
  DPGATHER_HOST_DEVICE void check_header(peer_call<Block>& call, const count_set& counts,
                                         std::int32_t r, const peer_flag& header) const noexcept {
    const std::int32_t known = counts.rows[r / tp()];
    if (header.rows != static_cast<std::uint32_t>(known))
      call.fail(errc::plan_mismatch, subject::counts, r, known,
                static_cast<std::int64_t>(header.rows));
  }

  /// A thread's number among all of the rank, for jobs.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE static worker_id worker(const Block& block) noexcept {
    return {std::uint64_t{block.block()} * block.threads() + block.thread(),
            std::uint64_t{block.blocks()} * block.threads()};
  }
};

} // namespace dpgather::inline v0
