#pragma once

/// @file
/// A rank with many more rows than its peers is not left alone with them. Sent to every peer by
/// itself, its rows are as slow as if all ranks had as many: it has one way out. So it sends each
/// peer one slice, and the peers pass their slices on among themselves. A combine is the mirror of
/// it: every rank sums one slice of the rows and hands the sums to their owner.
///
/// Who is relayed follows from the counts, so everybody knows: a rank whose rows do not travel in
/// lines, are more than one and a half times the mean, and go to three peers or more. The rows go
/// through views, where a gather puts them anyway and where a combine finds a view that nobody
/// reads any more. Nothing here can wait in a circle: first hops wait for no slice.
///
/// Out of line, so that it costs calls with few rows neither registers nor time.

#include <dpgather/config.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/protocol/peer_call.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

/// Slice `k` of `slices` of a share's rows, whole rows: `count * k / slices` on.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr row_range slice_of(std::int32_t count, std::int32_t k,
                                                                std::int32_t slices) noexcept {
  const std::int32_t first = count * k / slices; // fits: see `peer_layout::most_rank_rows`
  return {first, count * (k + 1) / slices - first};
}

/// The ranks that world rank `of`'s gathered rows go to, which has `tp_size` ranks of a group
/// beside or around it that need none: the first ones behind the group, one slice each.
class slice_receivers {
public:
  DPGATHER_HOST_DEVICE slice_receivers(const peer_rows& rows, std::int32_t of) noexcept
      : ranks_{rows.lane.ranks()}, end_{of - of % rows.tp_size + rows.tp_size}, count_{
                                                                                    ranks_ -
                                                                                    rows.tp_size} {}

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t count() const noexcept { return count_; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t rank(std::int32_t k) const noexcept {
    return end_ + k < ranks_ ? end_ + k : end_ + k - ranks_;
  }
  /// Which slice is rank `r`'s; at least `count()` when it gets none.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t slice(std::int32_t r) const noexcept {
    return r < end_ ? r - end_ + ranks_ : r - end_;
  }

private:
  std::int32_t ranks_, end_, count_;
};

/// Calls `visit(k, warps)` for slices 0 to `slices` - 1, each with warps of its own, so that rows
/// leave for all receivers at once; where there are fewer warps than slices, one after the other.
template <class Block, class Visit>
DPGATHER_HOST_DEVICE void for_each_slice(const Block& block, std::int32_t slices,
                                         Visit visit) noexcept {
  const auto all = static_cast<std::uint32_t>(slices);
  const std::uint32_t warps = block.warps();
  DPGATHER_ROLLED
  for (std::uint32_t k = block.warp() % all; k < all; k += warps) {
    warp_group by;
    if (warps > all) by = {block.warp() / all, (warps - k + all - 1) / all};
    visit(static_cast<std::int32_t>(k), by);
  }
}

/// A gather's relayed rows, of this rank and through it; then flags tell of what it has stored.
/// False when the call has failed.
template <class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
relay_rows(Block& block, peer_call<Block>& call, const peer_rows& rows,
           const row_places<const std::byte>* local, std::int32_t tensors) noexcept {
  const peer_table& table = block.table();
  const std::int32_t own = rows.lane.rank();
  const auto place = [&](std::int32_t at, std::int32_t t, const peer_share& share,
                         row_range slice) {
    return rows.place(at, rows.lane.layout.views[t], t, share) +
           static_cast<std::uint64_t>(slice.first) * rows.lane.layout.row_bytes[t];
  };

  // 1. This rank's rows, a slice to each receiver.
  if (table.share[own].relayed) {
    const peer_share& share = table.share[own];
    const slice_receivers to{rows, own};
    for_each_slice(block, to.count(), [&](std::int32_t k, warp_group by) {
      const row_range slice = slice_of(share.count, k, to.count());
      DPGATHER_ROLLED
      for (std::int32_t t = 0; t < tensors; ++t) {
        std::byte* const there = place(to.rank(k), t, share, slice);
        block.forward(local[t], row_range{share.first + slice.first, slice.count}, &there, 1, by);
      }
    });
    block.sync();
    call.publish_slices([&](std::int32_t r) { return to.slice(r) < to.count(); });
  }

  // 2. This rank's slices of the others' rows, on to the other receivers. Everybody begins with
  // another rank.
  DPGATHER_ROLLED
  for (std::int32_t i = 1; i < rows.lane.ranks(); ++i) {
    const std::int32_t h = rows.lane.neighbour(i);
    const peer_share& share = table.share[h];
    const slice_receivers to{rows, h};
    const std::int32_t k = to.slice(own);
    if (!share.relayed || k >= to.count()) continue;
    call.wait_slices([h](std::int32_t r) { return r == h; });
    if (block.sync_or(call.failed())) return false;
    const row_range slice = slice_of(share.count, k, to.count());
    DPGATHER_ROLLED
    for (std::int32_t t = 0; t < tensors; ++t) {
      std::byte* there[max_peer_ranks];
      DPGATHER_ROLLED
      for (std::int32_t n = 1; n < to.count(); ++n)
        there[n - 1] = place(to.rank((k + n) % to.count()), t, share, slice);
      const std::uint32_t row_bytes = rows.lane.layout.row_bytes[t];
      block.forward({place(own, t, share, slice), row_bytes, row_bytes}, row_range{0, slice.count},
                    there, to.count() - 1, block.all_warps());
    }
  }
  return true;
}

/// Sums a slice of a share's rows over all ranks' inputs to the same rows of `to`; false when they
/// are not aligned for it, and nothing was done.
template <class Sum, class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE __attribute__((noinline)) bool
pull_slice(Block block, const peer_rows& rows, std::uint64_t inputs, const peer_share& share,
           row_range slice, row_places<std::byte> to) noexcept {
  const std::byte* from[max_peer_ranks];
  DPGATHER_ROLLED
  for (std::int32_t r = 0; r < rows.lane.ranks(); ++r)
    from[r] = rows.place(r, inputs, 0, share) +
              static_cast<std::uint64_t>(slice.first) * rows.lane.layout.row_bytes[0];
  return block.template pull<Sum>(from, rows.lane.ranks(), to, slice);
}

/// A combine's relayed rows: this rank's slice of each rank's sums, then the sums of its own rows,
/// which all ranks have put into its view. The view is nobody's by then: its readers are over when
/// its owner's next call, this one, has begun. False when the call has failed.
template <class Sum, class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
relay_sums(Block& block, peer_call<Block>& call, const peer_rows& rows,
           const row_places<std::byte>& local, std::uint64_t inputs) noexcept {
  const peer_table& table = block.table();
  const std::int32_t own = rows.lane.rank();
  const std::int32_t ranks = rows.lane.ranks();
  const std::uint32_t row_bytes = rows.lane.layout.row_bytes[0];
  const auto view = [&](std::int32_t of) {
    return row_places<std::byte>{rows.place(of, rows.lane.layout.views[0], 0, table.share[of]),
                                 row_bytes, row_bytes};
  };

  // 1. Inputs are complete, and views free, when headers are here.
  call.wait_headers(true, [](std::int32_t, const peer_flag&) {});
  if (block.sync_or(call.failed())) return false;

  // 2. Slices of the others' sums first, this rank's own last.
  DPGATHER_ROLLED
  for (std::int32_t i = 1; i <= ranks; ++i) {
    const std::int32_t h = rows.lane.neighbour(i);
    const peer_share& share = table.share[h];
    if (!share.relayed) continue;
    const row_range slice = slice_of(share.count, ranks - i, ranks);
    (void)pull_slice<Sum>(block, rows, inputs, share, slice, view(h)); // see `may_relay_sums`
    block.sync();
    call.publish_slices([h](std::int32_t r) { return r == h; });
  }

  // 3. The sums of this rank's rows.
  if (!table.share[own].relayed) return true;
  call.wait_slices([](std::int32_t) { return true; });
  if (block.sync_or(call.failed())) return false;
  move_rows(view(own), 0, local, 0, table.share[own].count, rows.worker(block));
  return true;
}

/// Whether sums of rows so long may be relayed: they are moved 16 bytes at a time, and rows that an
/// attention-TP group shares are not, since its ranks exchange their shares of the sums themselves.
template <std::int32_t Ranks>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
may_relay_sums(const basic_peer_rows<Ranks>& rows) noexcept {
  return rows.tp_size == 1 && rows.lane.layout.row_bytes[0] % 16 == 0;
}

} // namespace detail

} // namespace dpgather::inline v0
