#pragma once

/// @file
/// Rows in low-latency lines: data and epoch arrive together, so nobody fences and nobody waits for
/// more than its own lines. After NCCL's LL128: 15 words of data, one of epoch.

#include <dpgather/config.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/device/row_words.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/protocol/peer_call.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dpgather::inline v0 {

/// The elements of one word, summed one source after the other.
template <class Sum>
class word_sum {
public:
  static constexpr std::size_t elements = 8 / sizeof(typename Sum::storage);

  DPGATHER_HOST_DEVICE void start(std::uint64_t word) noexcept {
    for_each(word, [this](std::size_t i, auto value) { total_[i] = value; });
  }
  DPGATHER_HOST_DEVICE void add(std::uint64_t word) noexcept {
    for_each(word, [this](std::size_t i, auto value) {
      total_[i] = static_cast<typename Sum::accumulator>(total_[i] + value);
    });
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t get() const noexcept {
    std::uint64_t out = 0;
    for (std::size_t i = 0; i < elements; ++i) {
      const typename Sum::storage narrow = Sum::narrow(total_[i]);
      if constexpr (sizeof narrow == 8) {
        memcpy(&out, &narrow, 8);
      } else {
        std::uint32_t bits = 0;
        memcpy(&bits, &narrow, sizeof narrow);
        out |= std::uint64_t{bits} << (8 * sizeof narrow * i);
      }
    }
    return out;
  }

private:
  template <class Visit>
  DPGATHER_HOST_DEVICE static void for_each(std::uint64_t word, Visit visit) noexcept {
    for (std::size_t i = 0; i < elements; ++i) {
      typename Sum::storage narrow;
      if constexpr (sizeof narrow == 8) {
        memcpy(&narrow, &word, 8);
      } else {
        const auto bits = static_cast<std::uint32_t>(word >> (8 * sizeof narrow * i));
        memcpy(&narrow, &bits, sizeof narrow);
      }
      visit(i, Sum::widen(narrow));
    }
  }

  typename Sum::accumulator total_[elements];
};

/// Up to `Lines` lines that a warp has in hand: each lane holds its part of them.
template <class Block, int Lines>
struct line_batch {
  static constexpr int part_words = Block::part_words;

  std::uint64_t word[Lines][part_words];
};

/// Which lines a warp has in hand, of how many, and which words of them are this lane's. They lie
/// far apart, so that few lines are spread over all warps and many hide each other's latency.
template <class Block, int Lines>
class line_window {
public:
  static constexpr int part_words = Block::part_words;

  DPGATHER_HOST_DEVICE line_window(const Block& block, std::uint32_t base, std::uint32_t apart,
                                   std::uint32_t lines) noexcept
      : first_{base + block.line_in_warp()}, apart_{apart}, lines_{lines},
        part_{block.first_part()} {}

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint32_t line(int u) const noexcept {
    return first_ + static_cast<std::uint32_t>(u) * apart_;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE bool has(int u) const noexcept { return line(u) < lines_; }
  /// Its place among the lines at `first`.
  template <class Byte>
  [[nodiscard]] DPGATHER_HOST_DEVICE Byte* place(Byte* first, int u) const noexcept {
    return first + std::uint64_t{line(u)} * line_bytes;
  }
  /// Whether this lane's word `i` is the epoch.
  [[nodiscard]] DPGATHER_HOST_DEVICE bool is_epoch(int i) const noexcept {
    return part_ + static_cast<std::uint32_t>(i) == line_words;
  }
  /// Calls `visit(u, i, w)` for the data words that this lane holds, w below `words`.
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each_word(std::uint32_t words, Visit visit) const noexcept {
    for (int u = 0; u < Lines; ++u) {
      for (int i = 0; i < part_words; ++i) {
        const std::uint32_t w = line(u) * line_words + part_ + static_cast<std::uint32_t>(i);
        if (!is_epoch(i) && w < words) visit(u, i, w);
      }
    }
  }

private:
  std::uint32_t first_, apart_, lines_, part_;
};

/// Which warps take the first lines: two jobs that begin at different ends run side by side where
/// there are fewer lines than warps.
enum class line_order : bool { first_warps, last_warps };

/// Calls `visit(line_window)` for all windows of this warp. All lanes of a warp take every turn.
template <int Lines, line_order Order = line_order::first_warps, class Block, class Visit>
DPGATHER_HOST_DEVICE void for_each_window(const Block& block, std::uint32_t lines,
                                          Visit visit) noexcept {
  const std::uint32_t apart = block.warps() * Block::lines_per_warp;
  const std::uint32_t warp =
      Order == line_order::first_warps ? block.warp() : block.warps() - 1 - block.warp();
  DPGATHER_ROLLED
  for (std::uint32_t base = warp * Block::lines_per_warp; base < lines; base += apart * Lines)
    visit(line_window<Block, Lines>{block, base, apart, lines});
}

/// Whether so many lines are few: no warp has more than it holds at once. Then code for one at a
/// time is shorter; otherwise several at once hide each other's latency.
template <class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool are_few(const Block& block, std::uint32_t lines) noexcept {
  return lines <= block.warps() * Block::lines_per_warp;
}

/// Leaves nothing in a batch but the epoch.
template <int Lines, class Block>
DPGATHER_HOST_DEVICE void stamp(const line_window<Block, Lines>& window,
                                line_batch<Block, Lines>& batch, std::uint64_t epoch) noexcept {
  for (int u = 0; u < Lines; ++u) {
    for (int i = 0; i < Block::part_words; ++i) batch.word[u][i] = window.is_epoch(i) ? epoch : 0;
  }
}

/// Stores a batch of this lane's parts to the lines at `to`.
template <int Lines, class Block>
DPGATHER_HOST_DEVICE void store_batch(Block& block, const line_window<Block, Lines>& window,
                                      const line_batch<Block, Lines>& batch,
                                      std::byte* to) noexcept {
  if (block.parted()) {
    for (int u = 0; u < Lines; ++u)
      block.store_line_parted(window.place(to, u), batch.word[u], window.has(u));
    return;
  }
  for (int u = 0; u < Lines; ++u)
    block.store_line(window.place(to, u), batch.word[u], window.has(u));
}

/// Looks at the lines at `from`; whether all of this lane's are of the epoch. `parted`: whether the
/// lanes of a line may have looked one after the other.
template <int Lines, class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
load_batch(Block& block, const line_window<Block, Lines>& window, line_batch<Block, Lines>& batch,
           const std::byte* from, std::uint64_t epoch, bool& parted) noexcept {
  bool here = true;
  parted = parted || block.parted();
  for (int u = 0; u < Lines; ++u)
    block.load_line(window.place(from, u), batch.word[u], window.has(u));
  for (int u = 0; u < Lines; ++u) {
    for (int i = 0; i < Block::part_words; ++i)
      here = here && (!window.has(u) || !window.is_epoch(i) || batch.word[u][i] == epoch);
  }
  return here;
}
/// Reads again, in order, lines that have come.
template <int Lines, class Block>
DPGATHER_HOST_DEVICE void load_parted_batch(Block& block, const line_window<Block, Lines>& window,
                                            line_batch<Block, Lines>& batch,
                                            const std::byte* from) noexcept {
  for (int u = 0; u < Lines; ++u)
    block.load_line_parted(window.place(from, u), batch.word[u], window.has(u));
}

/// Fills a batch with words of rows, and the epoch behind them.
template <int Lines, class Block, class Byte>
DPGATHER_HOST_DEVICE void read_batch(const line_window<Block, Lines>& window,
                                     line_batch<Block, Lines>& batch, const row_words<Byte>& rows,
                                     std::uint64_t epoch) noexcept {
  stamp(window, batch, epoch);
  window.for_each_word(rows.words(),
                       [&](int u, int i, std::uint32_t w) { batch.word[u][i] = rows.get(w); });
}

/// Sends rows in lines. `deliver(store)` calls `store(lines)` with the place of the first line at
/// each receiver.
template <int Lines, line_order Order, class Block, class Deliver>
DPGATHER_HOST_DEVICE void send_lines(Block& block, std::uint64_t epoch, std::uint32_t lines,
                                     const row_words<const std::byte>& rows,
                                     Deliver deliver) noexcept {
  for_each_window<Lines, Order>(block, lines, [&](const line_window<Block, Lines>& window) {
    line_batch<Block, Lines> batch;
    read_batch(window, batch, rows, epoch);
    deliver([&](std::byte* to) { store_batch(block, window, batch, to); });
  });
}

/// The same, as many at once as pay.
template <line_order Order = line_order::first_warps, class Block, class Deliver>
DPGATHER_HOST_DEVICE void send_lines(Block& block, std::uint64_t epoch, std::uint32_t lines,
                                     const row_words<const std::byte>& rows,
                                     Deliver deliver) noexcept {
  if (are_few(block, lines)) {
    send_lines<1, Order>(block, epoch, lines, rows, deliver);
  } else {
    send_lines<Block::lines_at_once, Order>(block, epoch, lines, rows, deliver);
  }
}

/// Waits for the lines of `peer` at `from` and writes their words to rows; false when the call has
/// failed.
template <int Lines, class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
receive_lines(Block& block, peer_call<Block>& call, std::int32_t peer, std::uint32_t lines,
              const std::byte* from, const row_words<std::byte>& rows) noexcept {
  bool ok = true;
  for_each_window<Lines>(block, lines, [&](const line_window<Block, Lines>& window) {
    if (!ok) return;
    line_batch<Block, Lines> batch;
    bool parted = false;
    ok = call.wait_together(peer, peer_point::received, [&] {
      return block.all(load_batch(block, window, batch, from, call.epoch(), parted));
    });
    if (!ok) return;
    if (block.any(parted)) load_parted_batch(block, window, batch, from);
    window.for_each_word(rows.words(),
                         [&](int u, int i, std::uint32_t w) { rows.put(w, batch.word[u][i]); });
  });
  return ok;
}

/// The same, as many at once as pay.
template <class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
receive_lines(Block& block, peer_call<Block>& call, std::int32_t peer, std::uint32_t lines,
              const std::byte* from, const row_words<std::byte>& rows) noexcept {
  if (are_few(block, lines)) return receive_lines<1>(block, call, peer, lines, from, rows);
  return receive_lines<Block::lines_at_once>(block, call, peer, lines, from, rows);
}

/// One addend of a sum of rows: lines to wait for, or rows to read.
struct sum_source {
  std::int32_t rank = 0;
  const std::byte* lines = nullptr; ///< null: in rows
  const std::byte* data = nullptr;
  std::uint32_t row_bytes = 0;
  std::uint64_t stride = 0;
};

/// The rows of an addend that lies in rows.
template <class Block>
[[nodiscard]] DPGATHER_HOST_DEVICE row_words<const std::byte>
words_of(const sum_source& from, std::uint32_t bytes) noexcept {
  if constexpr (Block::rules_type::ranks > 0)
    return row_words<const std::byte>::whole(from.data, bytes);
  else
    return {from.data, from.row_bytes, from.stride, bytes};
}

/// Sums `bytes` bytes of rows of `sources` ranks in their order, `AtOnce` of them in flight (2:
/// there are no more). `source(i)` says where those of source i are. `deliver(window, batch)` gets
/// the sums, epoch included.
template <class Sum, int Lines, int AtOnce, class Block, class Source, class Deliver>
[[nodiscard]] DPGATHER_HOST_DEVICE bool
sum_lines(Block& block, peer_call<Block>& call, std::uint32_t lines, std::uint32_t bytes,
          std::int32_t sources, Source source, Deliver deliver) noexcept {
  bool ok = true;
  const std::uint32_t words = bytes / 8 + (bytes % 8 != 0 ? 1 : 0);
  for_each_window<Lines>(block, lines, [&](const line_window<Block, Lines>& window) {
    if (!ok) return;
    line_batch<Block, Lines> batch[AtOnce];
    // Up to `AtOnce` sources from `first` on: what need not be waited for is read first.
    const auto fetch = [&](std::int32_t first) {
      for (int k = 0; k < AtOnce; ++k) {
        if (first + k >= sources) continue;
        const sum_source from = source(first + k);
        if (from.lines == nullptr)
          read_batch(window, batch[k], words_of<Block>(from, bytes), call.epoch());
      }
      std::int32_t late = source(first).rank;
      bool parted = false;
      const bool came = call.wait_together(late, peer_point::received, [&] {
        bool here = true;
        for (int k = 0; k < AtOnce; ++k) {
          if (first + k >= sources) continue;
          const sum_source from = source(first + k);
          if (from.lines == nullptr) continue;
          if (!load_batch(block, window, batch[k], from.lines, call.epoch(), parted)) {
            here = false;
            late = from.rank;
          }
        }
        return block.all(here);
      });
      if (!came || !block.any(parted)) return came;
      for (int k = 0; k < AtOnce; ++k) {
        if (first + k >= sources) continue;
        const sum_source from = source(first + k);
        if (from.lines != nullptr) load_parted_batch(block, window, batch[k], from.lines);
      }
      return true;
    };
    line_batch<Block, Lines> sums;
    stamp(window, sums, call.epoch());
    if (sources <= AtOnce) {
      // All in hand: a sum lives no longer than its word.
      ok = fetch(0);
      if (!ok) return;
      window.for_each_word(words, [&](int u, int i, std::uint32_t) {
        word_sum<Sum> total;
        total.start(batch[0].word[u][i]);
        for (int k = 1; k < AtOnce; ++k)
          if (k < sources) total.add(batch[k].word[u][i]);
        sums.word[u][i] = total.get();
      });
    } else if constexpr (AtOnce > 2) {
      word_sum<Sum> total[Lines][Block::part_words];
      DPGATHER_ROLLED
      for (std::int32_t first = 0; first < sources; first += AtOnce) {
        ok = fetch(first);
        if (!ok) return;
        for (int k = 0; k < AtOnce; ++k) {
          if (first + k >= sources) continue;
          window.for_each_word(words, [&](int u, int i, std::uint32_t) {
            if (first + k == 0) {
              total[u][i].start(batch[k].word[u][i]);
            } else {
              total[u][i].add(batch[k].word[u][i]);
            }
          });
        }
      }
      window.for_each_word(
          words, [&](int u, int i, std::uint32_t) { sums.word[u][i] = total[u][i].get(); });
    }
    deliver(window, sums);
  });
  return ok;
}

} // namespace dpgather::inline v0
