#pragma once

/// @file
/// The gather over peers: every rank's real rows into every rank's view, in one launch, by counts
/// that are read when it runs.

#include <dpgather/config.hpp>
#include <dpgather/device/masks.hpp>
#include <dpgather/device/peer_lines.hpp>
#include <dpgather/device/peer_relay.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/device/row_words.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/protocol/peer_call.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// The rows owe no sum to attention-TP peers.
struct no_sum {};

/// One rank's gather. `Sum`: how partial rows of the attention-TP peers are added up, or `no_sum`.
///
/// A rank with few rows sends them in lines; the receivers put them into their views. One with many
/// stores them there itself, and flags at the end of each block: about 7 % less on the wire. Which
/// it is follows from the rank's count, so everybody knows of everybody. One with many more rows
/// than the others has them relayed (peer_relay.hpp), unless they owe a sum.
template <class Sum, std::int32_t Ranks = 0>
struct peer_gather {
  basic_peer_rows<Ranks> rows{};
  detail::row_places<const std::byte> local[max_peer_tensors]{};
  fill_word fill[max_peer_tensors]{};
  std::int32_t tensors = 1; ///< of this call; with a sum the hidden rows alone
  row_masks masks{};        ///< `places` is set by the job
  bool writes_masks = false;

  static constexpr bool owes_sum = !std::is_same_v<Sum, no_sum>;
  static constexpr bool may_relay = !owes_sum;
  static constexpr bool may_exchange = true;
  static_assert(Ranks == 0 || !owes_sum, "plain rows owe no sum");

  template <class Block>
  DPGATHER_HOST_DEVICE void operator()(Block& block) const noexcept {
    using rules = typename Block::rules_type;
    static_assert(rules::ranks == Ranks);
    peer_call<Block> call{block, rows.lane, rows.shape};
    peer_table& table = block.table();
    const bool exchanged = rows.template exchanges<rules>();

    // 1. Counts: this rank's, and those that it knows of others. Loads together, before any is
    // used.
    const std::uint64_t used = block.word(&call.state().view_used);
    const std::int32_t mine = block.word(&rows.live->rows[rows.dp_rank]);
    if (!exchanged) rows.read_counts(block);
    // A hint, before anybody knows how many rows there are: what this warp is the first to send.
    const std::uint64_t ahead =
        std::uint64_t{block.warp()} * Block::lines_per_warp * (line_words * 8) +
        block.thread() % Block::lanes * 128;
    if (!owes_sum && block.thread() % Block::lanes <= Block::lines_per_warp &&
        ahead < static_cast<std::uint32_t>(rows.local_rows) * local[0].row_bytes)
      block.prefetch(local[0].data + ahead);
    const peer_share share = rows.share_of(rows.fits(mine) ? mine : 0, rows.tp_rank);
    if (!block.any(call.began_poisoned())) {
      call.claim(); // before anything is waited for
      if (exchanged) call.send_headers(static_cast<std::uint32_t>(mine), false);
      // In lines rows need nobody's count but their own: they leave before anything else is known.
      DPGATHER_ROLLED
      for (std::int32_t t = 0; !owes_sum && share.lines && mine <= rows.local_rows && t < count();
           ++t)
        send_in_lines(block, call, t, share);
      if (exchanged) {
        // One more way over the wire: nobody knows where its rows begin before.
        call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
          table.rows[r] = static_cast<std::int32_t>(header.rows);
        });
        if (block.thread() == 0) table.rows[rows.lane.rank()] = mine;
      }
    }

    // 2. Whose rows lie where. One warp has read the counts, and knows.
    if (exchanged && block.sync_or(call.failed())) return empty(block);
    block.sync_warp();
    rows.fill_table(call, block, exchanged ? rows.tp_size : 1,
                    owes_sum ? 0 : rows.ranks() - rows.tp_size);
    if (block.sync_or(call.failed())) return empty(block);
    if (exchanged) {
      // Its attention-TP peers go by the first one's count.
      if (block.thread() == 0 && mine != table.counts.rows[rows.dp_rank])
        call.fail(errc::plan_mismatch, subject::counts, rows.tp_peer(0), mine,
                  table.counts.rows[rows.dp_rank]);
    } else {
      call.expect(table.digest);
      call.send_headers(table.digest, false);
    }
    if constexpr (relays<rules>) {
      if (table.relays) return finish_relayed(block, call.part(), used);
    }
    // Not by `share`: warps have read the count each by itself, and after an error elsewhere it may
    // have changed between.
    finish<false>(block, call, !table.share[rows.lane.rank()].lines, used);
  }

private:
  template <class Rules>
  static constexpr bool relays = Rules::relays&& may_relay;

  /// All that follows once it is known whose rows lie where. `direct`: this rank stores its rows
  /// into its peers' views. `used`: the view, by which call.
  template <bool Relayed, class Block>
  DPGATHER_HOST_DEVICE void finish(Block& block, peer_call<Block>& call, bool direct,
                                   std::uint64_t used) const noexcept {
    using rules = typename Block::rules_type;
    const peer_table& table = block.table();
    const bool exchanged = rows.template exchanges<rules>();
    const bool stores = Relayed || direct; // its own rows or others'

    // 3. A view that the last call gave away may still be read: its owner's header says when not.
    if (stores && rules::handshakes && used + 1 == call.epoch() && !exchanged) {
      call.wait_headers(false, [](std::int32_t, const peer_flag&) {});
      if (block.sync_or(call.failed())) return empty(block);
    }

    // 4. Rows out.
    bool ok = true;
    if constexpr (owes_sum) {
      ok = send_sums(block, call, !direct);
    } else {
      DPGATHER_ROLLED
      for (std::int32_t t = 0; direct && t < count(); ++t) store<Relayed>(block, t);
      if constexpr (Relayed) ok = detail::relay_rows(block, call, rows, local, tensors);
    }
    block.rules().at(peer_point::sent, block);
    if (stores) {
      if (block.sync_or(!ok)) return empty(block);
      call.publish_flags();
    }
    block.rules().at(peer_point::published, block);

    // 5. What is nobody else's: own rows, tails, masks.
    const warp_roles roles = rows.roles_of(block, table);
    if (roles.has_rest(block.warp())) {
      const warp_group by = roles.rest(block);
      if (!owes_sum && !(direct && rows.tp_size == 1)) copy_own<Relayed>(block, by);
      if (rules::fills_tails) fill_view_tails(block, by);
      // Masks by those that have no rows, if there are any.
      const warp_group others{(by.index + by.count / 2) % by.count, by.count};
      if (writes_masks) masks.write(rows.places_of(table), rows.worker(block, others));
    }
    if (block.block() == 0 && rows.source != counts_kind::agreed) tell_counts(block);
    block.rules().at(peer_point::waiting, block);

    // 6. Rows in.
    bool stored = Relayed;
    const bool receives = roles.has_lines(block.warp());
    DPGATHER_ROLLED
    for (std::int32_t i = 1; receives && ok && i < rows.ranks(); ++i) {
      const std::int32_t r = rows.neighbour(i);
      if (!brings(r)) continue;
      if (!table.share[r].lines) {
        stored = true;
        continue;
      }
      DPGATHER_ROLLED
      for (std::int32_t t = 0; ok && t < count(); ++t) ok = receive<Relayed>(block, call, t, r);
    }
    if (ok && stored)
      call.wait_flags(
          [&](std::int32_t r) { return Relayed || (brings(r) && !table.share[r].lines); });
    if (ok && block.block() == 0)
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        rows.check_header(call, table, r, header, exchanged);
      });
    if (!call.end(false)) return empty(block);
    if (block.block() == 0 && block.thread() == 0) block.set(&call.state().view_used, call.epoch());
  }
  /// Out of line to its end: nothing is kept across it that a call with few rows would have to
  /// spill.
  template <class Block>
  DPGATHER_HOST_DEVICE __attribute__((noinline)) void
  finish_relayed(Block block, detail::peer_call_part part, std::uint64_t used) const noexcept {
    peer_call<Block> call{block, rows.lane, part};
    const peer_share& mine = block.table().share[rows.lane.rank()];
    finish<true>(block, call, !mine.lines && !mine.relayed, used);
  }

  /// Tensors of the call.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t count() const noexcept {
    return Ranks > 0 ? 1 : tensors;
  }
  /// Whether rank `r` sends rows that are not here already.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool brings(std::int32_t r) const noexcept {
    return owes_sum || rows.tp_size == 1 || r < rows.tp_peer(0) || r >= rows.tp_peer(rows.tp_size);
  }
  /// A share of the local rows.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_words<const std::byte>
  local_share(const peer_share& share, std::int32_t t) const noexcept {
    return rows.words(local[t].data + static_cast<std::uint32_t>(share.first) * local[t].stride,
                      rows.lane.layout.row_bytes[t], local[t].stride, rows.bytes(t, share.count));
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void send_in_lines(Block& block, peer_call<Block>& call, std::int32_t t,
                                          const peer_share& share) const noexcept {
    const std::uint32_t lines = lines_of(rows.bytes(t, share.count));
    const row_words<const std::byte> from = local_share(share, t);
    const auto deliver = [&](auto store) {
      DPGATHER_ROLLED
      for (std::int32_t i = 1; i < rows.ranks(); ++i) {
        const std::int32_t r = rows.neighbour(i);
        if (brings(r)) store(rows.lines(r, call.slot(), rows.lane.rank(), t));
      }
    };
    send_lines(block, call.epoch(), lines, from, deliver);
  }
  template <bool Relayed, class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool receive(Block& block, peer_call<Block>& call,
                                                  std::int32_t t, std::int32_t r) const noexcept {
    const peer_share& share = block.table().share[r];
    const std::uint32_t bytes = rows.bytes(t, share.count);
    const std::uint32_t lines = lines_of(bytes);
    const std::int32_t own = rows.lane.rank();
    const std::uint32_t row_bytes = rows.lane.layout.row_bytes[t];
    const row_words<std::byte> to = rows.words(rows.place(own, rows.lane.layout.views[t], t, share),
                                               row_bytes, row_bytes, bytes);
    const std::byte* const from = rows.lines(own, call.slot(), r, t);
    if constexpr (Relayed)
      return receive_lines<Block::lines_at_once>(block, call, r, lines, from, to);
    else
      return receive_lines(block, call, r, lines, from, to);
  }

  /// Many rows, straight into the peers' views.
  template <bool Relayed, class Block>
  DPGATHER_HOST_DEVICE void store(Block& block, std::int32_t t) const noexcept {
    const peer_share& share = block.table().share[rows.lane.rank()];
    std::byte* to[max_peer_ranks];
    std::int32_t receivers = 0;
    DPGATHER_ROLLED
    for (std::int32_t i = 1; i < rows.ranks(); ++i) {
      const std::int32_t r = rows.neighbour(i);
      if (brings(r)) to[receivers++] = rows.place(r, rows.lane.layout.views[t], t, share);
    }
    // Read once for all: the own view too, where these are all of its rows.
    if (rows.tp_size == 1) {
      std::byte* const here = rows.place(rows.lane.rank(), rows.lane.layout.views[t], t, share);
      if (here != local[t].data) to[receivers++] = here;
    }
    push<Relayed>(block, local[t], row_range{share.first, share.count}, to, receivers,
                  block.all_warps());
  }

  /// This rank's own rows; all of its data-parallel rank's, which every attention-TP peer has.
  template <bool Relayed, class Block>
  DPGATHER_HOST_DEVICE void copy_own(Block& block, warp_group by) const noexcept {
    const peer_table& table = block.table();
    DPGATHER_ROLLED
    for (std::int32_t t = 0; t < count(); ++t) {
      std::byte* const to =
          rows.place(rows.lane.rank(), rows.lane.layout.views[t], t, table.share[rows.tp_peer(0)]);
      if (to != local[t].data)
        push<Relayed>(block, local[t], row_range{0, table.counts.rows[rows.dp_rank]}, &to, 1, by);
    }
  }
  template <bool Relayed, class Block>
  DPGATHER_HOST_DEVICE static void
  push(Block& block, const detail::row_places<const std::byte>& from, row_range which,
       std::byte* const* to, std::int32_t receivers, warp_group by) noexcept {
    if constexpr (Relayed)
      block.forward(from, which, to, receivers, by); // no second copy of the code
    else
      block.push(from, which, to, receivers, by);
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void fill_view_tails(Block& block, warp_group by) const noexcept {
    rows.places_of(block.table()).for_each_tail([&](row_range tail) noexcept {
      DPGATHER_ROLLED
      for (std::int32_t t = 0; t < count(); ++t)
        if (!fill[t].leave) fill_view(t, tail, fill[t].bits, rows.worker(block, by));
    });
  }
  /// Global rows of a tensor.
  DPGATHER_HOST_DEVICE void fill_view(std::int32_t t, row_range which, std::uint64_t bits,
                                      worker_id worker) const noexcept {
    const std::uint64_t row_bytes = rows.lane.layout.row_bytes[t];
    detail::fill_rows_apart(rows.lane.mine(rows.lane.layout.views[t]) +
                                static_cast<std::uint64_t>(which.first) * row_bytes,
                            row_bytes, row_bytes, which.count, bits, worker);
  }

  /// Partial rows: each attention-TP rank adds up its share of them and sends the sums.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool send_sums(Block& block, peer_call<Block>& call,
                                                    bool lines) const noexcept {
    const peer_table& table = block.table();
    const std::int32_t own = rows.lane.rank();
    for (std::int32_t i = 1; i < rows.tp_size; ++i) {
      const std::int32_t r = rows.tp_peer(rows.tp_neighbour(i));
      const peer_share& share = table.share[r];
      send_lines<1, line_order::first_warps>(
          block, call.epoch(), lines_of(rows.bytes(0, share.count)), local_share(share, 0),
          [&](auto store) { store(rows.tp_lines(r, call.slot(), rows.tp_rank)); });
    }
    const peer_share& mine = table.share[own];
    const std::uint32_t row_bytes = rows.lane.layout.row_bytes[0];
    const std::uint32_t bytes = rows.bytes(0, mine.count);
    const std::uint64_t view = rows.lane.layout.views[0];
    const row_words<std::byte> here{rows.place(own, view, 0, mine), row_bytes, bytes};
    const auto source = [&](std::int32_t t) {
      sum_source out;
      out.rank = rows.tp_peer(t);
      if (t == rows.tp_rank) {
        out.data = local[0].data + static_cast<std::uint32_t>(mine.first) * local[0].stride;
        out.row_bytes = row_bytes;
        out.stride = local[0].stride;
      } else {
        out.lines = rows.tp_lines(own, call.slot(), t);
      }
      return out;
    };
    return sum_lines<Sum, 1, 4>(
        block, call, lines_of(bytes), bytes, rows.tp_size, source,
        [&](const auto& window, const auto& sums) {
          for (std::int32_t i = 1; i < rows.ranks(); ++i) {
            const std::int32_t r = rows.neighbour(i);
            if (lines) {
              store_batch(block, window, sums, rows.lines(r, call.slot(), own, 0));
            } else {
              const row_words<std::byte> there{rows.place(r, view, 0, mine), row_bytes, bytes};
              window.for_each_word(there.words(), [&](int u, int w, std::uint32_t word) {
                there.put(word, sums.word[u][w]);
              });
            }
          }
          window.for_each_word(here.words(), [&](int u, int w, std::uint32_t word) {
            here.put(word, sums.word[u][w]);
          });
        });
  }

  /// The counts that the ranks told each other, for the FFN and for the combine.
  template <class Block>
  DPGATHER_HOST_DEVICE void tell_counts(Block& block) const noexcept {
    const count_set& counts = block.table().counts;
    const auto ranks = static_cast<std::uint32_t>(rows.dp_size);
    for (std::uint32_t d = block.thread(); d <= ranks; d += block.threads()) {
      if (rows.template exchanges<typename Block::rules_type>() && d < ranks &&
          static_cast<std::int32_t>(d) != rows.dp_rank)
        block.set(&rows.live->rows[d], counts.rows[d]);
      block.set(&rows.live->offset[d], counts.offset[d]);
      if (d == ranks) block.set(&rows.live->total, counts.total);
    }
  }

  /// After an error: no rows, and zeros where the FFN would read some (not NaN: routers crash). In
  /// the very call that failed other blocks may have brought rows, or left older ones.
  template <class Block>
  DPGATHER_HOST_DEVICE __attribute__((noinline)) void empty(Block block) const noexcept {
    const auto ranks = static_cast<std::uint32_t>(rows.dp_size);
    DPGATHER_ROLLED
    for (std::uint32_t d = block.thread(); d <= ranks; d += block.threads()) {
      if (d < ranks) block.set(&rows.live->rows[d], std::int32_t{0});
      block.set(&rows.live->offset[d], std::int64_t{0});
      if (d == ranks) block.set(&rows.live->total, std::int64_t{0});
    }
    DPGATHER_ROLLED
    for (std::int32_t t = 0; t < count(); ++t)
      fill_view(t, row_range{0, rows.global_rows}, 0, rows.worker(block));
  }
};

} // namespace dpgather::inline v0
