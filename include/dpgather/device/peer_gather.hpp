#pragma once

/// @file
/// The gather over peers: every rank's real rows into every rank's view, in one launch, by counts
/// that are read when it runs.

#include <dpgather/config.hpp>
#include <dpgather/device/masks.hpp>
#include <dpgather/device/peer_lines.hpp>
#include <dpgather/device/peer_rows.hpp>
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
/// it is follows from the rank's count, so everybody knows of everybody.
template <class Sum>
struct peer_gather {
  peer_rows rows{};
  detail::row_places<const std::byte> local[max_peer_tensors]{};
  fill_word fill[max_peer_tensors]{};
  std::int32_t tensors = 1; ///< of this call; with a sum the hidden rows alone
  row_masks masks{};        ///< `places` is set by the job
  bool writes_masks = false;

  static constexpr bool owes_sum = !std::is_same_v<Sum, no_sum>;

  template <class Block>
  DPGATHER_HOST_DEVICE void operator()(Block& block) const noexcept {
    using rules = typename Block::rules_type;
    peer_call<Block> call{block, rows.lane, rows.shape};
    count_set& counts = block.counts();

    // 1. Nothing is sent once an error stands. Counts: this rank's, and those it knows of others.
    rows.read_counts(block, counts, rows.source != counts_kind::exchanged);
    const std::uint64_t used = block.word(&call.state().view_used);
    (void)call.poisoned();
    if (block.sync_or(call.failed())) return empty(block);
    const bool exchanged = rows.source == counts_kind::exchanged;
    if (!exchanged) rows.sum_counts(block, counts);
    if (!exchanged) block.sync();
    if (!exchanged && block.thread() == 0) rows.check_counts(call, counts);
    if (!exchanged && block.sync_or(call.failed())) return empty(block);

    const std::int32_t own = rows.lane.rank();
    call.send_headers(static_cast<std::uint32_t>(counts.rows[rows.dp_rank()]), false);
    if (exchanged) {
      // One more way over the wire: nobody knows where its rows begin before.
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        if (r / rows.tp() != rows.dp_rank())
          counts.rows[r / rows.tp()] = static_cast<std::int32_t>(header.rows);
        else
          rows.check_header(call, counts, r, header);
      });
      if (block.sync_or(call.failed())) return empty(block);
      rows.sum_counts(block, counts);
      block.sync();
      if (block.thread() == 0) rows.check_counts(call, counts);
      if (block.sync_or(call.failed())) return empty(block);
    }
    const placement now = rows.places.sharing_real_rows().with(counts);
    const row_range share = rows.share(now, own);
    const bool lines = rows.in_lines(share);

    // 2. A view that the last call gave away may still be read: its owner's header says when not.
    if (!lines && rules::handshakes && used + 1 == call.epoch() && !exchanged) {
      call.wait_headers(false, [](std::int32_t, const peer_flag&) {});
      if (block.sync_or(call.failed())) return empty(block);
    }

    // 3. Rows out.
    bool ok = true;
    if constexpr (owes_sum) {
      ok = send_sums(block, call, now, share, lines);
    } else {
      for (std::int32_t t = 0; t < tensors; ++t) {
        if (lines) {
          send_in_lines(block, call, t, share);
        } else {
          store(block, t, share, rows.share_in_view(now, own).first);
        }
      }
    }
    block.rules().at(peer_point::sent, block);
    if (!lines) {
      if (block.sync_or(!ok)) return empty(block);
      call.publish_flags();
    }
    block.rules().at(peer_point::published, block);

    // 4. What is nobody else's: own rows, tails, masks.
    if constexpr (!owes_sum) copy_own(block, now);
    if (rules::fills_tails) fill_view_tails(block, now);
    if (writes_masks) {
      row_masks all = masks;
      all.places = now;
      all(0, rows.worker(block));
    }
    if (block.block() == 0 && rows.source != counts_kind::agreed) tell_counts(block, counts);
    block.rules().at(peer_point::waiting, block);

    // 5. Rows in.
    for (std::int32_t i = 1; ok && i < rows.lane.ranks(); ++i) {
      const std::int32_t r = rows.lane.neighbour(i);
      if (!brings(r) || !rows.in_lines(rows.share(now, r))) continue;
      for (std::int32_t t = 0; ok && t < tensors; ++t)
        ok = receive(block, call, t, r, rows.share_in_view(now, r));
    }
    if (ok)
      call.wait_flags([&](std::int32_t r) {
        return brings(r) && !rows.in_lines(rows.share(now, r));
      });
    if (ok && block.block() == 0 && !exchanged)
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        rows.check_header(call, counts, r, header);
      });
    if (!call.end(false)) return empty(block);
    if (block.block() == 0 && block.thread() == 0)
      block.set(&call.state().view_used, call.epoch());
  }

private:
  /// Whether rank `r` sends rows that are not here already.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool brings(std::int32_t r) const noexcept {
    return owes_sum || r / rows.tp() != rows.dp_rank();
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void send_in_lines(Block& block, peer_call<Block>& call, std::int32_t t,
                                          row_range share) const noexcept {
    const row_words<const std::byte> from{local[t], share};
    const auto deliver = [&](auto store) {
      for (std::int32_t i = 1; i < rows.lane.ranks(); ++i) {
        const std::int32_t r = rows.lane.neighbour(i);
        if (brings(r)) store(rows.lines(r, call.slot(), rows.lane.rank(), t));
      }
    };
    if (are_few(block, peer_layout::lines_of(from.bytes()))) {
      send_lines<1>(block, call.epoch(), from, deliver);
    } else {
      send_lines<Block::lines_at_once>(block, call.epoch(), from, deliver);
    }
  }
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool receive(Block& block, peer_call<Block>& call,
                                                  std::int32_t t, std::int32_t r,
                                                  row_range place) const noexcept {
    const row_words<std::byte> to{rows.view(rows.lane.rank(), t), place};
    const std::byte* const from = rows.lines(rows.lane.rank(), call.slot(), r, t);
    if (are_few(block, peer_layout::lines_of(to.bytes())))
      return receive_lines<1>(block, call, r, from, to);
    return receive_lines<Block::lines_at_once>(block, call, r, from, to);
  }

  /// Many rows, straight into the peers' views.
  template <class Block>
  DPGATHER_HOST_DEVICE void store(Block& block, std::int32_t t, row_range share,
                                  std::int64_t place) const noexcept {
    std::byte* to[max_peer_ranks];
    std::int32_t receivers = 0;
    for (std::int32_t i = 1; i < rows.lane.ranks(); ++i) {
      const std::int32_t r = rows.lane.neighbour(i);
      if (brings(r))
        to[receivers++] =
            rows.view(r, t).data + static_cast<std::uint64_t>(place) * rows.lane.layout.row_bytes[t];
    }
    block.push(local[t], share, to, receivers);
  }

  /// This rank's own rows; all of its data-parallel rank's, which every attention-TP peer has.
  template <class Block>
  DPGATHER_HOST_DEVICE void copy_own(Block& block, const placement& now) const noexcept {
    const std::int32_t d = rows.dp_rank();
    for (std::int32_t t = 0; t < tensors; ++t)
      detail::move_rows(local[t], 0, rows.view(rows.lane.rank(), t), now.offset(d), now.rows(d),
                        rows.worker(block));
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void fill_view_tails(Block& block, const placement& now) const noexcept {
    for (std::int32_t t = 0; t < tensors; ++t) {
      if (fill[t].leave) continue;
      const detail::row_places<std::byte> view = rows.view(rows.lane.rank(), t);
      now.for_each_tail([&](row_range tail) noexcept {
        detail::fill_rows(view, tail, fill[t], rows.worker(block));
      });
    }
  }

  /// Partial rows: each attention-TP rank adds up its share of them and sends the sums.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool send_sums(Block& block, peer_call<Block>& call,
                                                    const placement& now, row_range share,
                                                    bool lines) const noexcept {
    const std::int32_t own = rows.lane.rank();
    const std::int32_t first = rows.dp_rank() * rows.tp();
    for (std::int32_t i = 1; i < rows.tp(); ++i) {
      const std::int32_t t = (rows.tp_rank() + i) % rows.tp();
      const row_words<const std::byte> addends{local[0], rows.share(now, first + t)};
      send_lines<1>(block, call.epoch(), addends, [&](auto store) {
        store(rows.tp_lines(first + t, call.slot(), rows.tp_rank()));
      });
    }
    const row_range place = rows.share_in_view(now, own);
    const row_words<std::byte> here{rows.view(own, 0), place};
    const auto source = [&](std::int32_t t) {
      sum_source out;
      out.rank = first + t;
      if (t == rows.tp_rank()) {
        out.rows = local[0];
        out.which = share;
      } else {
        out.lines = rows.tp_lines(own, call.slot(), t);
      }
      return out;
    };
    return sum_lines<Sum, 1, 4>(
        block, call, here.bytes(), rows.tp(), source,
        [&](const auto& window, const auto& sums) {
          for (std::int32_t i = 1; i < rows.lane.ranks(); ++i) {
            const std::int32_t r = rows.lane.neighbour(i);
            if (lines) {
              store_batch(block, window, sums, rows.lines(r, call.slot(), own, 0));
            } else {
              const row_words<std::byte> there{rows.view(r, 0), place};
              window.for_each_word(there.words(), [&](int u, int w, std::uint64_t word) {
                there.put(word, sums.word[u][w]);
              });
            }
          }
          window.for_each_word(here.words(), [&](int u, int w, std::uint64_t word) {
            here.put(word, sums.word[u][w]);
          });
        });
  }

  /// The counts that the ranks told each other, for the FFN and for the combine.
  template <class Block>
  DPGATHER_HOST_DEVICE void tell_counts(Block& block, const count_set& counts) const noexcept {
    const auto ranks = static_cast<std::uint32_t>(rows.places.dp_size());
    for (std::uint32_t d = block.thread(); d <= ranks; d += block.threads()) {
      if (rows.source == counts_kind::exchanged && d < ranks &&
          static_cast<std::int32_t>(d) != rows.dp_rank())
        block.set(&rows.live->rows[d], counts.rows[d]);
      rows.live->offset[d] = counts.offset[d];
      if (d == ranks) rows.live->total = counts.total;
    }
  }

  /// After an error: no rows, and zeros where the FFN would read some (not NaN: routers crash).
  template <class Block>
  DPGATHER_HOST_DEVICE void empty(Block& block) const noexcept {
    if (block.block() == 0) {
      const auto ranks = static_cast<std::uint32_t>(rows.places.dp_size());
      for (std::uint32_t d = block.thread(); d <= ranks; d += block.threads()) {
        if (d < ranks) block.set(&rows.live->rows[d], std::int32_t{0});
        rows.live->offset[d] = 0;
        if (d == ranks) rows.live->total = 0;
      }
    }
    for (std::int32_t t = 0; t < tensors; ++t)
      detail::fill_rows(rows.view(rows.lane.rank(), t), row_range{0, rows.places.global_rows()},
                        fill_word{}, rows.worker(block));
  }
};

} // namespace dpgather::inline v0
