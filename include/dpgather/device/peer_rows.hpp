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
  std::int32_t first = 0, count = 0; ///< among its data-parallel rank's rows
  std::int32_t place = 0;            ///< of the first one in the global tensor
  std::int32_t dp_rank = 0;
  bool lines = false; ///< few enough to travel in lines
};

/// All shares, worked out once by a block.
struct peer_table {
  std::int32_t rows[max_peer_ranks]; ///< of data-parallel ranks, or of ranks while they tell them
  count_set counts;                  ///< the same with offsets
  peer_share share[max_peer_ranks];
  std::uint32_t digest; ///< of all counts: two ranks that differ in any know it from their headers
};

/// The shape of a call over peers, and where its counts are. Trivially copyable.
struct peer_rows {
  peer_lane lane{};
  placement places{};        ///< of the shape
  count_set* live = nullptr; ///< the channel's, in memory that the job can read and write
  counts_kind source = counts_kind::agreed;
  std::uint32_t shape = 0;                     ///< what this rank takes the call to be
  std::int32_t local_rows = 0;                 ///< of the local view
  std::int32_t global_rows = 0, slot_rows = 0; ///< of the shape
  std::int32_t dp_rank = 0, tp_rank = 0;
  std::int32_t dp_size = 1, tp_size = 1;

  [[nodiscard]] DPGATHER_HOST_DEVICE static peer_rows of(const peer_lane& lane,
                                                         const placement& places) noexcept {
    peer_rows out;
    out.lane = lane;
    out.places = places.sharing_real_rows();
    out.global_rows = static_cast<std::int32_t>(places.global_rows());
    out.slot_rows = static_cast<std::int32_t>(places.slot_rows());
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
    return lane.at(at, l.lines + l.tensor_lines[tensor] + (slot == 0 ? 0 : l.slot_bytes) +
                           static_cast<std::uint32_t>(from) * l.source_bytes);
  }
  /// Lines of attention-TP rank `from` at world rank `at`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* tp_lines(std::int32_t at, std::uint64_t slot,
                                                         std::int32_t from) const noexcept {
    const peer_layout& l = lane.layout;
    return lane.at(at, l.tp_lines + (slot == 0 ? 0 : l.tp_slot_bytes) +
                           static_cast<std::uint32_t>(from) * l.tp_source_bytes);
  }
  /// The part of `n` rows that attention-TP rank `t` speaks for: n * t / A to n * (t + 1) / A.
  [[nodiscard]] DPGATHER_HOST_DEVICE peer_share share_of(std::int32_t n,
                                                         std::int32_t t) const noexcept {
    peer_share out;
    out.count = n;
    if (tp_size > 1) {
      const std::int32_t whole = n / tp_size;
      const std::int32_t rest = n - whole * tp_size;
      out.first = whole * t + rest * t / tp_size;
      out.count = whole * (t + 1) + rest * (t + 1) / tp_size - out.first;
    }
    out.lines = out.count <= lane.layout.line_rows;
    return out;
  }
  /// Whether a count is one that a rank may have.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool fits(std::int32_t n) const noexcept {
    return n >= 0 && n <= lane.layout.rank_rows && (slot_rows == 0 || n <= slot_rows);
  }

  /// Works out shares and counts from `table.rows`, entry `d * step` for data-parallel rank d, and
  /// checks the counts against the shape. For the first lanes of one warp, which see `table.rows`;
  /// sync after, then ask whether the call has failed.
  template <class Block>
  DPGATHER_HOST_DEVICE void fill_table(peer_call<Block>& call, Block& block,
                                       std::int32_t step) const noexcept {
    peer_table& table = block.table();
    DPGATHER_ROLLED
    for (auto r = static_cast<std::int32_t>(block.thread()); r < lane.ranks();
         r += static_cast<std::int32_t>(block.threads())) {
      const std::int32_t d = tp_size == 1 ? r : r / tp_size;
      const std::int32_t t = r - d * tp_size;
      std::int32_t before = 0, all = 0, n = 0;
      std::uint32_t digest = 0;
      DPGATHER_ROLLED
      for (std::int32_t i = 0; i < dp_size; ++i) {
        const std::int32_t one = table.rows[i * step];
        digest = (digest ^ static_cast<std::uint32_t>(one)) * 0x9e3779b1u;
        if (i == d) before = all, n = one;
        all += fits(one) ? one : 0;
      }
      peer_share share = share_of(fits(n) ? n : 0, t);
      share.dp_rank = d;
      share.place = (slot_rows > 0 ? d * slot_rows : before) + share.first;
      table.share[r] = share;
      if (r == 0) table.digest = digest ^ (digest >> 15);
      if (t != 0) continue;
      check_counts(call, d, n, all);
      table.counts.rows[d] = n;
      table.counts.offset[d] = before;
      if (d == dp_size - 1) table.counts.offset[dp_size] = table.counts.total = all;
    }
  }
  /// A share's first row in a tensor at offset `at` of rank `r`'s arena.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::byte* place(std::int32_t r, std::uint64_t at,
                                                      std::int32_t tensor,
                                                      const peer_share& share) const noexcept {
    return lane.at(r, at) + static_cast<std::uint64_t>(static_cast<std::uint32_t>(share.place)) *
                                lane.layout.row_bytes[tensor];
  }
  /// Bytes of a tensor's rows.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint32_t bytes(std::int32_t tensor,
                                                         std::int32_t count) const noexcept {
    return static_cast<std::uint32_t>(count) * lane.layout.row_bytes[tensor];
  }
  /// What a peer says of the rows is what this rank holds for true: all counts, or while the ranks
  /// tell each other its own.
  template <class Block>
  DPGATHER_HOST_DEVICE void check_header(peer_call<Block>& call, const peer_table& table,
                                         std::int32_t r, const peer_flag& header,
                                         bool exchanged) const noexcept {
    const std::uint32_t known =
        exchanged ? static_cast<std::uint32_t>(table.counts.rows[table.share[r].dp_rank])
                  : table.digest;
    if (header.rows != known)
      call.fail(errc::plan_mismatch, subject::counts, r, known, header.rows);
  }

  /// A thread's number among all of the rank, for jobs.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE static worker_id worker(const Block& block) noexcept {
    return {std::uint64_t{block.block()} * block.threads() + block.thread(),
            std::uint64_t{block.blocks()} * block.threads()};
  }

private:
  template <class Block>
  DPGATHER_HOST_DEVICE void check_counts(peer_call<Block>& call, std::int32_t d, std::int32_t n,
                                         std::int32_t all) const noexcept {
    if (fits(n) && (slot_rows > 0 || all <= global_rows) && (d != dp_rank || n <= local_rows))
      return;
    if (!fits(n)) {
      call.fail(errc::count_out_of_range, subject::counts, d * tp_size, n,
                slot_rows > 0 && slot_rows < lane.layout.rank_rows ? slot_rows
                                                                   : lane.layout.rank_rows);
    } else if (d == dp_rank && n > local_rows) {
      call.fail(errc::capacity_exceeded, subject::local, -1, n, local_rows);
    } else {
      call.fail(errc::capacity_exceeded, subject::global, -1, all, global_rows);
    }
  }
};

} // namespace dpgather::inline v0
