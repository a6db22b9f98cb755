#pragma once

/// @file
/// The combine over peers: the sum of this rank's rows over all ranks' inputs, in rank order, into
/// its local tensor, in one launch, by counts that are read when it runs.

#include <dpgather/config.hpp>
#include <dpgather/device/peer_lines.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/protocol/peer_call.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// One rank's combine; inputs lie in the arena. A rank with few rows is sent its addends in lines;
/// one with many reads them where they are, which needs nobody's consent: an input may be rewritten
/// once its rank's next call has completed, and that one hears from every reader.
template <class Sum>
struct peer_combine {
  peer_rows rows{};
  detail::row_places<std::byte> local{};
  fill_word fill{};
  std::int32_t input = 0; ///< which; -1: the one that the last call did not read

  /// The input of a call whose epoch is `epoch`.
  [[nodiscard]] DPGATHER_HOST_DEVICE static std::int32_t
  choose(std::int32_t input, std::int32_t inputs, std::uint64_t first_used,
         std::uint64_t epoch) noexcept {
    return input >= 0 ? input : inputs > 1 && first_used + 1 == epoch ? 1 : 0;
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void operator()(Block& block) const noexcept {
    using rules = typename Block::rules_type;
    peer_call<Block> call{block, rows.lane, rows.shape};
    const peer_table& table = block.table();
    peer_state& state = call.state();
    const std::int32_t own = rows.lane.rank();

    const std::uint64_t used[2] = {block.word(&state.input_used[0]),
                                   block.word(&state.input_used[1])};
    const std::int32_t which =
        choose(input, rows.lane.layout.input_count, used[0], call.epoch());
    const auto count = [&](std::int32_t d) { return block.word(&rows.live->rows[d]); };
    if (!call.poisoned()) {
      // Peers with many rows read the input: what the FFN wrote must be there with the header.
      bool read_by_peers = false;
      for (std::int32_t d = 0; d < rows.dp_size; ++d)
        read_by_peers = read_by_peers || count(d) > rows.lane.layout.line_rows;
      call.send_headers(static_cast<std::uint32_t>(count(rows.dp_rank)), read_by_peers);
      rows.fill_table(call, block, count);
      if (rules::alternates && block.thread() == 0 && used[which] + 1 == call.epoch())
        call.fail(errc::aliasing, subject::global, -1, which, rows.lane.layout.input_count);
    }
    if (block.sync_or(call.failed())) return empty(block);
    const peer_share share = table.share[own];

    // 1. Addends out, to those who have few rows.
    for (std::int32_t i = 1; i < rows.lane.ranks(); ++i) {
      const std::int32_t r = rows.lane.neighbour(i);
      if (!table.share[r].lines) continue;
      const row_words<const std::byte> addends{addends_of(own, which), table.share[r].in_view()};
      const auto deliver = [&](auto store) { store(rows.lines(r, call.slot(), own, 0)); };
      if (are_few(block, peer_layout::lines_of(addends.bytes()))) {
        send_lines<1>(block, call.epoch(), addends, deliver);
      } else {
        send_lines<Block::lines_at_once>(block, call.epoch(), addends, deliver);
      }
    }
    block.rules().at(peer_point::sent, block);
    const std::int32_t n = table.counts.rows[rows.dp_rank];
    detail::fill_rows(local, row_range{n, rows.local_rows - n},
                      tail_fill<rules>(), rows.worker(block));
    block.rules().at(peer_point::waiting, block);

    // 2. The sum of this rank's share.
    bool ok = true;
    if (share.lines) {
      ok = sum_share(block, call, share.own, [&](std::int32_t r) {
        sum_source out;
        out.rank = r;
        if (r == own) {
          out.rows = addends_of(own, which);
          out.which = share.in_view();
        } else {
          out.lines = rows.lines(own, call.slot(), r, 0);
        }
        return out;
      });
    } else {
      call.wait_headers(true, [](std::int32_t, const peer_flag&) {});
      if (block.sync_or(call.failed())) return empty(block);
      const std::byte* from[max_peer_ranks];
      const std::uint64_t start = static_cast<std::uint64_t>(share.place) *
                                  rows.lane.layout.row_bytes[0];
      for (std::int32_t r = 0; r < rows.lane.ranks(); ++r)
        from[r] = addends_of(r, which).data + start;
      if (rows.tp_size > 1 || !block.template pull<Sum>(from, rows.lane.ranks(), local, share.own)) {
        ok = sum_share(block, call, share.own, [&](std::int32_t r) {
          sum_source out;
          out.rank = r;
          out.rows = addends_of(r, which);
          out.which = share.in_view();
          return out;
        });
      }
    }

    // 3. The shares of the attention-TP peers.
    for (std::int32_t i = 1; ok && i < rows.tp_size; ++i) {
      const std::int32_t t = rows.tp_neighbour(i);
      const std::int32_t r = rows.tp_peer(t);
      const row_words<std::byte> to{local, table.share[r].own};
      ok = receive_lines<1>(block, call, r, rows.tp_lines(own, call.slot(), t), to);
    }
    if (ok && block.block() == 0)
      call.wait_headers(false, [&](std::int32_t r, const peer_flag& header) {
        rows.check_header(call, table, r, header);
      });
    if (!call.end(!share.lines)) return empty(block);
    if (block.block() == 0 && block.thread() == 0)
      block.set(&state.input_used[which], call.epoch());
  }

private:
  template <class Rules>
  [[nodiscard]] DPGATHER_HOST_DEVICE fill_word tail_fill() const noexcept {
    fill_word out = fill;
    if constexpr (!Rules::fills_tails) out.leave = true;
    return out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE detail::row_places<const std::byte>
  addends_of(std::int32_t r, std::int32_t which) const noexcept {
    const std::uint64_t row_bytes = rows.lane.layout.row_bytes[0];
    return {rows.lane.at(r, rows.lane.layout.inputs[which]), row_bytes, row_bytes};
  }

  /// Sums this rank's share into `local`, and sends it to the attention-TP peers.
  template <class Block, class Source>
  [[nodiscard]] DPGATHER_HOST_DEVICE bool sum_share(Block& block, peer_call<Block>& call,
                                                    row_range share,
                                                    Source source) const noexcept {
    const row_words<std::byte> to{local, share};
    const auto deliver = [&](const auto& window, const auto& sums) {
      window.for_each_word(to.words(), [&](int u, int w, std::uint64_t word) {
        to.put(word, sums.word[u][w]);
      });
      for (std::int32_t i = 1; i < rows.tp_size; ++i)
        store_batch(block, window, sums,
                    rows.tp_lines(rows.tp_peer(rows.tp_neighbour(i)), call.slot(), rows.tp_rank));
    };
    if (rows.lane.ranks() > 2)
      return sum_lines<Sum, 1, 4>(block, call, to.bytes(), rows.lane.ranks(), source, deliver);
    if (are_few(block, peer_layout::lines_of(to.bytes())))
      return sum_lines<Sum, 1, 2>(block, call, to.bytes(), rows.lane.ranks(), source, deliver);
    return sum_lines<Sum, Block::lines_at_once, 2>(block, call, to.bytes(), rows.lane.ranks(),
                                                   source, deliver);
  }

  /// After an error: zeros, which no router crashes on.
  template <class Block>
  DPGATHER_HOST_DEVICE void empty(Block& block) const noexcept {
    detail::fill_rows(local, row_range{0, rows.local_rows}, fill_word{}, rows.worker(block));
  }
};

} // namespace dpgather::inline v0
