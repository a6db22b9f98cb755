#pragma once

/// @file
/// What gather and combine over peers have in common: whose rows lie where, by counts that are read
/// when the call runs.

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

/// The rows that one world rank speaks for: all of its data-parallel rank's, or its part of them.
struct peer_share {
  row_range own{};          ///< among its data-parallel rank's rows
  std::int64_t place = 0;   ///< of the first one in the global tensor
  std::int32_t dp_rank = 0;
  bool lines = false; ///< few enough to travel in lines
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range in_view() const noexcept {
    return {place, own.count};
  }
};

/// All of it, worked out once by a block: a GPU divides in hundreds of cycles.
struct peer_table {
  count_set counts;
  peer_share share[max_peer_ranks];
};

/// The shape of a call over peers, and where its counts are. Trivially copyable.
struct peer_rows {
  peer_lane lane{};
  placement places{};        ///< of the shape
  count_set* live = nullptr; ///< the channel's, in memory that the job can read and write
  counts_kind source = counts_kind::agreed;
  std::uint32_t shape = 0;     ///< what this rank takes the call to be
  std::int64_t local_rows = 0; ///< of the local view
  std::int32_t dp_rank = 0, tp_rank = 0;
  std::int32_t dp_size = 1, tp_size = 1;

  [[nodiscard]] DPGATHER_HOST_DEVICE static peer_rows of(const peer_lane& lane, const placement& places) noexcept {
    peer_rows out;
    out.lane = lane;
    out.places = places.sharing_real_rows();
    out.tp_size = lane.layout.tp_size;
    out.dp_size = lane.layout.ranks / out.tp_size;
    out.dp_rank = lane.rank() / out.tp_size;
    out.tp_rank = lane.rank() % out.tp_size;
    return out;
  }

  /// World rank of this data-parallel rank's attention-TP rank `t`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t tp_peer(std::int32_t t) const noexcept {
    return lane.rank() - tp_rank + t;
  }
  /// Its attention-TP rank `distance` behind this one.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t
  tp_neighbour(std::int32_t distance) const noexcept {
    const std::int32_t t = tp_rank + distance;
    return t < tp_size ? t : t - tp_size;
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

  /// Works out the table from counts, `rows(d)` each, by the threads of a block, one rank each, and
  /// checks the counts against the shape. Sync before use, and ask whether the call has failed.
  template <class Block, class Rows>
  DPGATHER_HOST_DEVICE void fill_table(peer_call<Block>& call, Block& block,
                                       Rows rows) const noexcept {
    peer_table& table = block.table();
    for (auto r = static_cast<std::int32_t>(block.thread()); r < lane.ranks();
         r += static_cast<std::int32_t>(block.threads())) {
      const std::int32_t d = tp_size == 1 ? r : r / tp_size;
      const std::int32_t t = tp_size == 1 ? 0 : r - d * tp_size;
      std::int64_t before = 0, all = 0;
      std::int32_t n = 0;
      for (std::int32_t i = 0; i < dp_size; ++i) {
        const std::int32_t one = rows(i);
        before += i < d ? one : 0;
        n = i == d ? one : n;
        all += one;
      }
      check_counts(call, d, n, all);
      peer_share& out = table.share[r];
      out.dp_rank = d;
      out.own = share(n, t);
      out.lines = out.own.count <= lane.layout.line_rows;
      out.place = (places.slot_rows() > 0 ? d * places.slot_rows() : before) + out.own.first;
      if (t == 0) {
        table.counts.rows[d] = n;
        table.counts.offset[d] = before;
        if (d == dp_size - 1) table.counts.offset[d + 1] = table.counts.total = all;
      }
    }
  }
  /// What a peer says of its rows is what this rank holds for true.
  template <class Block>
  DPGATHER_HOST_DEVICE void check_header(peer_call<Block>& call, const peer_table& table,
                                         std::int32_t r, const peer_flag& header) const noexcept {
    const std::int32_t known = table.counts.rows[table.share[r].dp_rank];
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

private:
  /// n * t / A to n * (t + 1) / A, in 32 bits.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_range share(std::int32_t n,
                                                     std::int32_t t) const noexcept {
    if (tp_size == 1 || n <= 0) return {0, n < 0 ? 0 : n};
    const std::int32_t whole = n / tp_size;
    const std::int32_t rest = n - whole * tp_size;
    const std::int32_t first = whole * t + rest * t / tp_size;
    return {first, whole * (t + 1) + rest * (t + 1) / tp_size - first};
  }
  template <class Block>
  DPGATHER_HOST_DEVICE void check_counts(peer_call<Block>& call, std::int32_t d, std::int32_t n,
                                         std::int64_t all) const noexcept {
    const bool packed = places.slot_rows() == 0;
    const std::int64_t most = packed || places.slot_rows() > lane.layout.rank_rows
                                  ? lane.layout.rank_rows
                                  : places.slot_rows();
    if (n < 0 || n > most) {
      call.fail(errc::count_out_of_range, subject::counts, d * tp_size, n, most);
    } else if (packed && all > places.global_rows()) {
      call.fail(errc::capacity_exceeded, subject::global, -1, all, places.global_rows());
    } else if (d == dp_rank && n > local_rows) {
      call.fail(errc::capacity_exceeded, subject::local, -1, n, local_rows);
    }
  }
};

} // namespace dpgather::inline v0
