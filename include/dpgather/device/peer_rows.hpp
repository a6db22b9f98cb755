#pragma once

/// @file
/// What gather and combine over peers have in common: whose rows lie where, by counts that are read
/// when the call runs.

#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/row_words.hpp>
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

/// Fewer peers that rows go to, or sums come from, are not worth a relay: nobody has a third one to
/// pass slices on to.
inline constexpr std::int32_t least_relay_copies = 3;

/// The rows that one world rank speaks for: all of its data-parallel rank's, or its part of them.
struct peer_share {
  std::int32_t first = 0, count = 0; ///< among its data-parallel rank's rows
  std::int32_t place = 0;            ///< of the first one in the global tensor
  std::int32_t dp_rank = 0;
  bool lines = false;   ///< few enough to travel in lines
  bool relayed = false; ///< so many that the peers help: see peer_relay.hpp
};

/// All shares, worked out once by a block.
struct peer_table {
  std::int32_t rows[max_peer_ranks]; ///< of data-parallel ranks, or of ranks while they tell them
  count_set counts;                  ///< the same with offsets
  peer_share share[max_peer_ranks];
  std::uint32_t digest; ///< of all counts: two ranks that differ in any know it from their headers
  std::int32_t most;    ///< the largest share
  bool relays;          ///< whether any share is relayed
};

/// Who does what in a call. One whose lines need no more than half of the warps gives them to the
/// first ones and everything else to the others, side by side: a warp spends most of a small call
/// on getting through the code, not on the wire. In other calls all warps do both.
struct warp_roles {
  std::uint32_t line_warps = 0;
  bool apart = false;

  [[nodiscard]] DPGATHER_HOST_DEVICE bool has_lines(std::uint32_t warp) const noexcept {
    return !apart || warp < line_warps;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE bool has_rest(std::uint32_t warp) const noexcept {
    return !apart || warp >= line_warps;
  }
  /// Those that do the rest, the last warp first.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE warp_group rest(const Block& block) const noexcept {
    return {block.warps() - 1 - block.warp(), block.warps() - (apart ? line_warps : 0)};
  }
};

/// Where the rows of a table lie in a global tensor: a `placement` in 32 bits, without divisions.
class table_places {
public:
  DPGATHER_HOST_DEVICE table_places(const peer_table& table, std::int32_t dp_size,
                                    std::int32_t tp_size, std::int32_t global_rows,
                                    std::int32_t slot_rows) noexcept
      : table_{table}, dp_size_{dp_size}, tp_size_{tp_size}, global_rows_{global_rows},
        slot_rows_{slot_rows} {}

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t global_rows() const noexcept {
    return global_rows_;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t rows(std::int32_t d) const noexcept {
    return table_.counts.rows[d];
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t offset(std::int32_t d) const noexcept {
    return table_.share[d * tp_size_].place;
  }
  /// The data-parallel rank that holds global row `row`, or -1.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t owner(std::int32_t row) const noexcept {
    std::int32_t out = -1;
    DPGATHER_ROLLED
    for (std::int32_t d = 0; d < dp_size_; ++d) {
      const std::int32_t i = row - offset(d);
      if (i >= 0 && i < rows(d)) out = d;
    }
    return out;
  }
  /// Calls `visit(row_range)` with every run of global rows that are not real.
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each_tail(Visit visit) const noexcept {
    DPGATHER_ROLLED
    for (std::int32_t d = slot_rows_ > 0 ? 0 : dp_size_ - 1; d < dp_size_; ++d) {
      const std::int32_t first = offset(d) + rows(d);
      const std::int32_t end = slot_rows_ > 0 ? (d + 1) * slot_rows_ : global_rows_;
      if (first < end) visit(row_range{first, end - first});
    }
  }

private:
  const peer_table& table_;
  std::int32_t dp_size_, tp_size_, global_rows_, slot_rows_;
};

/// How a world divides: what a call of any shape is told.
template <std::int32_t Ranks>
struct peer_sizes {
  std::int32_t tp_rank = 0;
  std::int32_t dp_size = 1, tp_size = 1;

  DPGATHER_HOST_DEVICE void set(const peer_lane& lane) noexcept {
    tp_size = lane.layout.tp_size;
    dp_size = lane.layout.ranks / tp_size;
    tp_rank = lane.rank() % tp_size;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t ranks() const noexcept {
    return dp_size * tp_size;
  }
};
/// And what the kernels of plain calls know, see `plain_rules`.
template <std::int32_t Ranks>
requires(Ranks > 0) struct peer_sizes<Ranks> {
  static constexpr std::int32_t tp_rank = 0;
  static constexpr std::int32_t dp_size = Ranks, tp_size = 1;

  DPGATHER_HOST_DEVICE void set(const peer_lane&) noexcept {}
  [[nodiscard]] DPGATHER_HOST_DEVICE static constexpr std::int32_t ranks() noexcept {
    return Ranks;
  }
};

/// The shape of a call over peers, and where its counts are. Trivially copyable. `Ranks`: of a
/// plain call (`plain_rules`); 0: any.
template <std::int32_t Ranks>
struct basic_peer_rows : peer_sizes<Ranks> {
  static constexpr bool is_plain = Ranks > 0;
  using peer_sizes<Ranks>::tp_rank;
  using peer_sizes<Ranks>::dp_size;
  using peer_sizes<Ranks>::tp_size;
  using peer_sizes<Ranks>::ranks;

  peer_lane lane{};
  count_set* live = nullptr; ///< the channel's, in memory that the job can read and write
  counts_kind source = counts_kind::agreed;
  std::uint32_t shape = 0;                     ///< what this rank takes the call to be
  std::int32_t local_rows = 0;                 ///< of the local view
  std::int32_t global_rows = 0, slot_rows = 0; ///< of the shape
  std::int32_t dp_rank = 0;

  [[nodiscard]] DPGATHER_HOST_DEVICE static basic_peer_rows of(const peer_lane& lane,
                                                               const placement& places) noexcept {
    basic_peer_rows out;
    out.lane = lane;
    out.global_rows = static_cast<std::int32_t>(places.global_rows());
    out.slot_rows = static_cast<std::int32_t>(places.slot_rows());
    out.set(lane);
    out.dp_rank = lane.rank() / out.tp_size;
    return out;
  }

  /// Whether the ranks tell each other their counts.
  template <class Rules>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool exchanges() const noexcept {
    return Rules::must_exchange || (Rules::may_exchange && source == counts_kind::exchanged);
  }
  /// As the lane's, by what a plain kernel knows.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t neighbour(std::int32_t distance) const noexcept {
    const std::int32_t r = lane.rank() + distance;
    return r < ranks() ? r : r - ranks();
  }
  /// Rows of a tensor as words.
  template <class Byte>
  [[nodiscard]] DPGATHER_HOST_DEVICE row_words<Byte> words(Byte* data, std::uint32_t row_bytes,
                                                           std::uint64_t stride,
                                                           std::uint32_t bytes) const noexcept {
    if constexpr (is_plain)
      return row_words<Byte>::whole(data, bytes);
    else
      return {data, row_bytes, stride, bytes};
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
    if (!is_plain && tp_size > 1) {
      const std::int32_t whole = n / tp_size;
      const std::int32_t rest = n - whole * tp_size;
      out.first = whole * t + rest * t / tp_size;
      out.count = whole * (t + 1) + rest * (t + 1) / tp_size - out.first;
    }
    out.lines = out.count <= lane.layout.line_rows;
    return out;
  }
  /// Whether a data-parallel rank's `n` rows of `all` are more than one and a half times the mean.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool are_most(std::int32_t n,
                                                   std::int32_t all) const noexcept {
    return n * dp_size - all > all / 2; // 2 n W > 3 all, in 32 bits
  }
  /// Whether a count is one that a rank may have.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool fits(std::int32_t n) const noexcept {
    return n >= 0 && n <= lane.layout.rank_rows && (slot_rows == 0 || n <= slot_rows);
  }

  /// Works out shares and counts from `table.rows`, entry `d * step` for data-parallel rank d, and
  /// checks the counts against the shape. `copies`: as many peers get or bring what a rank with
  /// many rows moves without lines; from `least_relay_copies` on it may be relayed. The threads
  /// that do it are of one warp, which sees `table.rows`; sync after, then ask whether the call has
  /// failed.
  template <class Block>
  DPGATHER_HOST_DEVICE void fill_table(peer_call<Block>& call, Block& block, std::int32_t step,
                                       std::int32_t copies) const noexcept {
    peer_table& table = block.table();
    const bool may_relay = Block::rules_type::relays && copies >= least_relay_copies;
    if constexpr (Block::lanes == 1) {
      for (std::int32_t r = 0; r < ranks(); ++r) fill_entry(call, table, r, step, may_relay);
    } else if (const std::int32_t r = entry_of(block); r < ranks()) {
      fill_entry(call, table, r, step, may_relay);
    }
  }
  /// The table's entry that this thread sees to: the last warp of a block, which has lines last.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE static std::int32_t entry_of(const Block& block) noexcept {
    return static_cast<std::int32_t>(block.threads() - 1 - block.thread());
  }
  /// Reads the counts of all data-parallel ranks, by the threads that fill the table.
  template <class Block>
  DPGATHER_HOST_DEVICE void read_counts(Block& block) const noexcept {
    DPGATHER_ROLLED
    for (std::int32_t d = entry_of(block); d < dp_size;
         d += static_cast<std::int32_t>(block.threads()))
      block.table().rows[d] = block.word(&live->rows[d]);
  }
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE warp_roles roles_of(const Block& block,
                                                         const peer_table& table) const noexcept {
    warp_roles out;
    if (table.most > lane.layout.line_rows) return out;
    const std::uint32_t lines =
        lines_of(static_cast<std::uint32_t>(table.most) * lane.layout.widest_row);
    out.line_warps = (lines + Block::lines_per_warp - 1) / Block::lines_per_warp;
    out.apart = out.line_warps * 2 <= block.warps();
    return out;
  }
  /// The table's rows in a global tensor.
  [[nodiscard]] DPGATHER_HOST_DEVICE table_places
  places_of(const peer_table& table) const noexcept {
    return {table, dp_size, tp_size, global_rows, slot_rows};
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

  /// The same among the threads of a group of warps.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE static worker_id worker(const Block& block,
                                                             warp_group by) noexcept {
    return worker_of<Block>(block.thread(), by);
  }
  /// The same for thread `thread` of its block.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE static constexpr worker_id worker_of(std::uint32_t thread,
                                                                          warp_group by) noexcept {
    return {std::uint64_t{by.index} * Block::lanes + thread % Block::lanes,
            std::uint64_t{by.count} * Block::lanes};
  }

private:
  /// Rank `r`'s part of the table.
  template <class Block>
  DPGATHER_HOST_DEVICE void fill_entry(peer_call<Block>& call, peer_table& table, std::int32_t r,
                                       std::int32_t step, bool may_relay) const noexcept {
    const std::int32_t d = tp_size == 1 ? r : r / tp_size;
    const std::int32_t t = r - d * tp_size;
    std::int32_t before = 0, all = 0, n = 0, most = 0;
    std::uint32_t digest = 0;
    DPGATHER_ROLLED
    for (std::int32_t i = 0; i < dp_size; ++i) {
      const std::int32_t one = table.rows[i * step];
      digest = (digest ^ static_cast<std::uint32_t>(one)) * 0x9e3779b1u;
      if (i == d) before = all, n = one;
      if (!fits(one)) continue;
      all += one;
      if (one > most) most = one;
    }
    const std::int32_t real = fits(n) ? n : 0;
    peer_share share = share_of(real, t);
    share.relayed = may_relay && !share.lines && are_most(real, all);
    share.dp_rank = d;
    share.place = (slot_rows > 0 ? d * slot_rows : before) + share.first;
    table.share[r] = share;
    if (r == 0) {
      table.digest = digest ^ (digest >> 15);
      table.most = tp_size == 1 ? most : (most + tp_size - 1) / tp_size;
      table.relays = may_relay && table.most > lane.layout.line_rows && are_most(most, all);
    }
    if (t != 0) return;
    check_counts(call, d, n, all);
    table.counts.rows[d] = n;
    table.counts.offset[d] = before;
    if (d == dp_size - 1) table.counts.offset[dp_size] = table.counts.total = all;
  }
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

/// Of a call of any shape.
using peer_rows = basic_peer_rows<0>;

} // namespace dpgather::inline v0
