#pragma once

/// @file
/// The combine over peers: the sum of this rank's rows over all ranks' inputs, in rank order, into
/// its local tensor, in one launch, by counts that are read when it runs.

#include <dpgather/config.hpp>
#include <dpgather/device/peer_lines.hpp>
#include <dpgather/device/peer_relay.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/device/row_words.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/protocol/peer_call.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// One rank's combine; inputs lie in the arena. A rank with few rows is sent its addends in lines;
/// one with many reads them where they are, which needs nobody's consent: an input may be rewritten
/// once its rank's next call has completed, and that one hears from every reader. One with many
/// more rows than the others has them summed by all (peer_relay.hpp), in its view.
template <class Sum, std::int32_t Ranks = 0>
struct peer_combine {
  basic_peer_rows<Ranks> rows{};
  detail::row_places<std::byte> local{};
  fill_word fill{};
  std::int32_t input = 0; ///< which; -1: the one that the last call did not read

  static constexpr bool may_relay = true;
  static constexpr bool may_exchange = false;

  template <class Block>
  DPGATHER_HOST_DEVICE void operator()(Block& block) const noexcept {
    using rules = typename Block::rules_type;
    static_assert(rules::ranks == Ranks);
    peer_call<Block> call{block, rows.lane, rows.shape};
    peer_table& table = block.table();
    peer_state& state = call.state();
    const std::int32_t own = rows.lane.rank();

    // 1. Counts, which the gather before has told, and whose rows lie where.
    const std::uint64_t used[2] = {block.word(&state.input_used[0]),
                                   block.word(&state.input_used[1])};
    rows.read_counts(block);
    const std::int32_t which =
        choose_input(input, rows.lane.layout.input_count, used[0], call.epoch());
    (void)call.began_poisoned();
    block.sync_warp();
    call.claim();
    rows.fill_table(call, block, 1,
                    rules::relays && detail::may_relay_sums(rows) ? rows.ranks() - 1 : 0);
    if (rules::alternates && block.thread() == 0 && used[which] + 1 == call.epoch())
      call.fail(errc::aliasing, subject::global, -1, which, rows.lane.layout.input_count);
    if (block.sync_or(call.failed())) return empty(block);
    if (block.block() == 0) {
      // Peers with many rows read the input: what the FFN wrote must be there with the header.
      bool read_by_peers = false;
      DPGATHER_ROLLED
      for (std::int32_t r = 0; r < rows.ranks(); ++r)
        read_by_peers = read_by_peers || !table.share[r].lines;
      call.send_headers(table.digest, read_by_peers);
    }
    call.expect(table.digest);
    const bool lines = table.share[own].lines;

    // 2. Addends out, to those who have few rows. Sums begin with the first warps, so the last ones
    // send.
    const warp_roles roles = rows.roles_of(block, table);
    const bool sends = !roles.apart || block.warps() - 1 - block.warp() < roles.line_warps;
    const std::uint32_t row_bytes = rows.lane.layout.row_bytes[0];
    const std::uint64_t inputs = rows.lane.layout.inputs[which];
    DPGATHER_ROLLED
    for (std::int32_t i = 1; sends && i < rows.ranks(); ++i) {
      const std::int32_t r = rows.neighbour(i);
      const peer_share& share = table.share[r];
      if (!share.lines) continue;
      const std::uint32_t bytes = rows.bytes(0, share.count);
      const std::uint32_t count = lines_of(bytes);
      const row_words<const std::byte> addends =
          rows.words(const_cast<const std::byte*>(rows.place(own, inputs, 0, share)), row_bytes,
                     row_bytes, bytes);
      const auto deliver = [&](auto store) { store(rows.lines(r, call.slot(), own, 0)); };
      send_lines<line_order::last_warps>(block, call.epoch(), count, addends, deliver);
    }
    block.rules().at(peer_point::sent, block);
    if (const std::int32_t n = table.counts.rows[rows.dp_rank];
        rules::fills_tails && n < rows.local_rows && !fill.leave && roles.has_rest(block.warp()))
      fill_local(n, fill.bits, rows.worker(block, roles.rest(block)));
    block.rules().at(peer_point::waiting, block);

    // 3. The sum of this rank's share.
    if constexpr (rules::relays) {
      if (table.relays) return finish_relayed(block, call.part(), which);
    }
    bool ok = true;
    const auto lies = [&](std::int32_t r) { // in the input of rank r
      sum_source out;
      out.rank = r;
      out.data = rows.place(r, inputs, 0, table.share[own]);
      out.row_bytes = row_bytes;
      out.stride = row_bytes;
      return out;
    };
    if (lines) {
      if (roles.has_lines(block.warp()))
        ok = sum_share(block, call, [&](std::int32_t r) {
          if (r == own) return lies(r);
          sum_source out;
          out.rank = r;
          out.lines = rows.lines(own, call.slot(), r, 0);
          return out;
        });
    } else {
      call.wait_headers(true, [](std::int32_t, const peer_flag&) {});
      if (block.sync_or(call.failed())) return empty(block);
      if (rows.tp_size > 1 || !pull(block, inputs)) ok = sum_share(block, call, lies);
    }

    // 4. The shares of the attention-TP peers.
    for (std::int32_t i = 1; ok && i < rows.tp_size; ++i) {
      const std::int32_t t = rows.tp_neighbour(i);
      const std::int32_t r = rows.tp_peer(t);
      const peer_share& share = table.share[r];
      ok = receive_lines<1>(block, call, r, lines_of(rows.bytes(0, share.count)),
                            rows.tp_lines(own, call.slot(), t), local_share(share));
    }
    if (ok && block.block() == 0)
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        rows.check_header(call, table, r, header, false);
      });
    if (!call.end(!lines)) return empty(block);
    if (block.block() == 0 && block.thread() == 0)
      block.set(&state.input_used[which], call.epoch());
  }

private:
  /// Steps 3 and 4 where some ranks are relayed. Out of line to its end: nothing is kept across it
  /// that a call with few rows would have to spill.
  template <class Block>
  DPGATHER_HOST_DEVICE __attribute__((noinline)) void
  finish_relayed(Block block, detail::peer_call_part part, std::int32_t which) const noexcept {
    peer_call<Block> call{block, rows.lane, part};
    const peer_table& table = block.table();
    const std::int32_t own = rows.lane.rank();
    const peer_share& mine = table.share[own];
    const std::uint64_t inputs = rows.lane.layout.inputs[which];
    bool ok = detail::relay_sums<Sum>(block, call, rows, local, inputs);
    if (ok && !mine.relayed &&
        (mine.lines ||
         !detail::pull_slice<Sum>(block, rows, inputs, mine, row_range{0, mine.count}, local))) {
      ok = sum_share<true>(block, call, [&](std::int32_t r) {
        sum_source out;
        out.rank = r;
        if (mine.lines && r != own) {
          out.lines = rows.lines(own, call.slot(), r, 0);
        } else {
          out.data = rows.place(r, inputs, 0, mine);
          out.row_bytes = rows.lane.layout.row_bytes[0];
          out.stride = out.row_bytes;
        }
        return out;
      });
    }
    if (ok && block.block() == 0)
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        rows.check_header(call, table, r, header, false);
      });
    if (!call.end(true)) return empty(block);
    if (block.block() != 0 || block.thread() != 0) return;
    block.set(&call.state().input_used[which], call.epoch());
    block.set(&call.state().view_used, call.epoch()); // by peers
  }

  /// A share of the local rows.
  [[nodiscard]] DPGATHER_HOST_DEVICE row_words<std::byte>
  local_share(const peer_share& share) const noexcept {
    return rows.words(local.data + static_cast<std::uint32_t>(share.first) * local.stride,
                      rows.lane.layout.row_bytes[0], local.stride, rows.bytes(0, share.count));
  }

  /// Sums rows that peers hold, in wide words; false when they do not fit, and nothing was done.
  template <class Block>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool pull(Block& block, std::uint64_t inputs) const noexcept {
    const peer_share& share = block.table().share[rows.lane.rank()];
    const std::byte* from[max_peer_ranks];
    DPGATHER_ROLLED
    for (std::int32_t r = 0; r < rows.ranks(); ++r) from[r] = rows.place(r, inputs, 0, share);
    return block.template pull<Sum>(from, rows.ranks(), local, row_range{share.first, share.count});
  }

  /// Sums this rank's share into `local`, and sends it to the attention-TP peers. `Many`: there are
  /// more than two ranks.
  template <bool Many = false, class Block, class Source>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool sum_share(Block& block, peer_call<Block>& call,
                                                    Source source) const noexcept {
    const peer_share& mine = block.table().share[rows.lane.rank()];
    const std::uint32_t bytes = rows.bytes(0, mine.count);
    const std::uint32_t lines = lines_of(bytes);
    const row_words<std::byte> to = local_share(mine);
    const auto deliver = [&](const auto& window, const auto& sums) {
      window.for_each_word(
          to.words(), [&](int u, int w, std::uint32_t word) { to.put(word, sums.word[u][w]); });
      for (std::int32_t i = 1; i < rows.tp_size; ++i)
        store_batch(block, window, sums,
                    rows.tp_lines(rows.tp_peer(rows.tp_neighbour(i)), call.slot(), rows.tp_rank));
    };
    const std::int32_t ranks = rows.ranks();
    if constexpr (Many) {
      return sum_lines<Sum, 1, 4>(block, call, lines, bytes, ranks, source, deliver);
    } else {
      if (ranks > 2) return sum_lines<Sum, 1, 4>(block, call, lines, bytes, ranks, source, deliver);
      if (are_few(block, lines))
        return sum_lines<Sum, 1, 2>(block, call, lines, bytes, ranks, source, deliver);
      return sum_lines<Sum, Block::lines_at_once, 2>(block, call, lines, bytes, ranks, source,
                                                     deliver);
    }
  }

  /// The local rows behind the first `n`.
  DPGATHER_HOST_DEVICE void fill_local(std::int32_t n, std::uint64_t bits,
                                       worker_id worker) const noexcept {
    detail::fill_rows_apart(local.data + static_cast<std::uint64_t>(n) * local.stride,
                            local.row_bytes, local.stride, rows.local_rows - n, bits, worker);
  }
  /// After an error: zeros, which no router crashes on.
  template <class Block>
  DPGATHER_HOST_DEVICE __attribute__((noinline)) void empty(Block block) const noexcept {
    fill_local(0, 0, rows.worker(block));
  }
};

} // namespace dpgather::inline v0
