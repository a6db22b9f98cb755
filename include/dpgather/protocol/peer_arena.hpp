#pragma once

/// @file
/// What lies in a channel's arena, on every rank at the same offsets, and the words through which
/// the ranks' kernels speak.

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Blocks that a call may have: one flag each, from every rank.
inline constexpr std::int32_t max_peer_blocks = 128;
/// Tensors that one gather brings along (hidden rows, scales, expert ids, expert weights, ...).
inline constexpr std::int32_t max_peer_tensors = 8;

/// A word of one rank to another: in which call it is, how many rows it brings, what it takes the
/// call to be. 16 bytes that arrive as one store (measured over NVLink: 6.7e8 observations, none
/// torn). The epoch counts a channel's calls in 64 bits and never comes again, so that a flag needs
/// no order, only equality: zeroed memory, a block that slept, a writer of another generation all
/// hold another number.
struct alignas(16) peer_flag {
  std::uint64_t epoch = 0;
  std::uint32_t rows = 0;
  std::uint32_t shape = 0;
};

/// Bytes of a low-latency line: 15 words of data and one of epoch, so that neither fence nor
/// barrier is needed. A line that leaves as one store arrives whole (NCCL's LL128 relies on it over
/// NVLink; 8.7e9 observations here, none torn, also none between blocks of one GPU).
inline constexpr std::uint64_t line_bytes = 128;
/// Words of data in a line, 8 bytes each; the last word is the epoch.
inline constexpr std::uint32_t line_words = 15;
/// Lines for so many bytes of data.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::uint32_t lines_of(std::uint32_t data) noexcept {
  constexpr std::uint32_t of_line = line_words * 8;
  return data / of_line + (data % of_line != 0 ? 1 : 0);
}

/// A rank's own words. Peers write `poison` only.
struct peer_state {
  /// Calls that this block's number has seen. One word for each block, so that no block waits for
  /// another; block 0 counts for those that a call does without.
  std::uint64_t epoch[max_peer_blocks]{};
  /// Calls that this block's number has begun: as many as it has seen when the next one begins, or
  /// another kernel is in the channel.
  std::uint64_t begun[max_peer_blocks]{};
  std::uint64_t view_used = 0;           ///< epoch of the last gather
  std::uint64_t input_used[2]{};         ///< epochs of the last combines that read the inputs
  std::uint32_t failed = 0;              ///< taken by the first thread that finds an error
  alignas(128) std::uint64_t poison = 0; ///< 0, or the first error of this or another rank
};

/// A rank's words before its first call, which has epoch `start + 1`. Everything else at the front
/// of the arena holds an epoch that no call has: zeros, or `start`, in every 8 bytes.
[[nodiscard]] constexpr peer_state first_state(std::uint64_t start) noexcept {
  peer_state out;
  for (std::uint64_t& e : out.epoch) e = start;
  for (std::uint64_t& b : out.begun) b = start;
  out.view_used = out.input_used[0] = out.input_used[1] = start - 1; // by no call just before
  return out;
}

/// The first error of a rank, in memory that the host reads without CUDA.
struct peer_record {
  std::uint64_t epoch = 0;
  std::int64_t value = 0, limit = 0;
  std::uint32_t shape = 0, peer_shape = 0;
  std::int32_t rank = -1, peer = -1; ///< who failed; whom it speaks of
  std::uint32_t block = 0;
  std::uint8_t code = 0, about = 0, phase = 0;
  std::uint32_t written = 0; ///< last
};

/// What host and kernels share outside the arena: host memory that the device has mapped.
struct peer_control {
  peer_record first{};
  std::uint64_t budget_ns = 30'000'000'000; ///< how long a kernel waits; may change at any time
  std::uint64_t done = 0; ///< epoch of the last call that ended well, where the lane tells it
};

/// Sizes that decide an arena; equal on all ranks.
struct peer_limits {
  std::int32_t ranks = 1;                    ///< of the world
  std::int32_t tp_size = 1;                  ///< attention-TP ranks among them
  std::int64_t rank_rows = 0;                ///< most real rows of a data-parallel rank
  std::int64_t view_rows = 0;                ///< most rows of a global tensor
  std::size_t row_bytes[max_peer_tensors]{}; ///< hidden rows first
  std::int32_t tensors = 1;
  std::int32_t inputs = 2; ///< combine inputs; two where a combine may follow a combine
  /// Most bytes of one rank that travel in lines. Above, stores and loads move them without the
  /// lines' 7 %, for a fence at the end. Costs `2 * ranks` times as much memory.
  std::size_t most_line_bytes = std::size_t{8} << 20;
};

/// Offsets of everything in an arena.
struct peer_layout {
  std::uint64_t state = 0, headers = 0, flags = 0, slice_flags = 0, lines = 0, tp_lines = 0;
  std::uint64_t views[max_peer_tensors]{};
  std::uint64_t inputs[2]{};
  std::uint64_t bytes = 0;
  std::uint32_t row_bytes[max_peer_tensors]{};
  std::uint64_t tensor_lines[max_peer_tensors]{}; ///< bytes to a tensor's, in a source's lines
  std::uint64_t source_bytes = 0;                 ///< from source to source, in a slot's lines
  std::uint64_t slot_bytes = 0;                   ///< from slot to slot
  std::uint64_t tp_source_bytes = 0, tp_slot_bytes = 0;
  std::int32_t line_rows = 0;   ///< a rank with more rows than that moves them without lines
  std::uint32_t widest_row = 0; ///< the most bytes of a row of any tensor
  std::int32_t rank_rows = 0, view_rows = 0;
  std::int32_t ranks = 1, tp_size = 1, tensors = 1, input_count = 1;

  /// Errors: `too_many_ranks`, `bad_config`, `size_overflow`.
  [[nodiscard]] static constexpr result<peer_layout> of(const peer_limits& limits) noexcept {
    const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit) {
      return status{
          .code = code, .about = about, .value = value, .limit = limit, .where = "peer_layout"};
    };
    if (limits.ranks < 1 || limits.ranks > max_peer_ranks)
      return refuse(errc::too_many_ranks, subject::world, limits.ranks, max_peer_ranks);
    if (limits.tp_size < 1 || limits.ranks % limits.tp_size != 0)
      return refuse(errc::bad_config, subject::tp_size, limits.tp_size, limits.ranks);
    if (limits.tensors < 1 || limits.tensors > max_peer_tensors)
      return refuse(errc::bad_config, subject::tensor, limits.tensors, max_peer_tensors);
    if (limits.inputs < 1 || limits.inputs > 2)
      return refuse(errc::bad_config, subject::global, limits.inputs, 2);
    if (limits.rank_rows < 0 || limits.rank_rows > most_rank_rows)
      return refuse(errc::bad_config, subject::max_rows, limits.rank_rows, most_rank_rows);
    if (limits.view_rows < 0 || limits.view_rows > INT32_MAX)
      return refuse(errc::bad_config, subject::max_global_rows, limits.view_rows, INT32_MAX);
    std::uint64_t in_a_row = 0; // bytes of all tensors
    for (std::int32_t t = 0; t < limits.tensors; ++t) {
      if (limits.row_bytes[t] == 0 || limits.row_bytes[t] > most_row_bytes)
        return refuse(errc::bad_config, subject::row_bytes,
                      static_cast<std::int64_t>(limits.row_bytes[t]), most_row_bytes);
      in_a_row += limits.row_bytes[t];
    }
    // Kernels count the bytes of one rank's rows in 32 bits.
    if (static_cast<std::uint64_t>(limits.rank_rows) > UINT32_MAX / in_a_row)
      return refuse(errc::size_overflow, subject::max_rows, limits.rank_rows,
                    static_cast<std::int64_t>(UINT32_MAX / in_a_row));
    const auto view_rows = static_cast<std::uint64_t>(limits.view_rows);
    if (view_rows > static_cast<std::uint64_t>(INT64_MAX) / 8 / in_a_row)
      return refuse(errc::size_overflow, subject::global, limits.view_rows,
                    static_cast<std::int64_t>(INT64_MAX / 8 / in_a_row));

    peer_layout out;
    out.ranks = limits.ranks;
    out.tp_size = limits.tp_size;
    out.tensors = limits.tensors;
    out.input_count = limits.inputs;
    out.rank_rows = static_cast<std::int32_t>(limits.rank_rows);
    out.view_rows = static_cast<std::int32_t>(limits.view_rows);
    const auto in_lines = static_cast<std::int64_t>(limits.most_line_bytes / in_a_row);
    out.line_rows =
        static_cast<std::int32_t>(in_lines < limits.rank_rows ? in_lines : limits.rank_rows);
    for (std::int32_t t = 0; t < limits.tensors; ++t) {
      out.row_bytes[t] = static_cast<std::uint32_t>(limits.row_bytes[t]);
      if (out.row_bytes[t] > out.widest_row) out.widest_row = out.row_bytes[t];
      out.tensor_lines[t] = out.source_bytes;
      out.source_bytes += line_bytes * lines_of(static_cast<std::uint32_t>(out.line_rows) *
                                                static_cast<std::uint32_t>(limits.row_bytes[t]));
    }
    if (limits.tp_size > 1) {
      const std::int64_t share = (limits.rank_rows + limits.tp_size - 1) / limits.tp_size;
      out.tp_source_bytes = line_bytes * lines_of(static_cast<std::uint32_t>(share) *
                                                  static_cast<std::uint32_t>(limits.row_bytes[0]));
    }

    const auto ranks = static_cast<std::uint64_t>(limits.ranks);
    out.slot_bytes = ranks * out.source_bytes;
    out.tp_slot_bytes = static_cast<std::uint64_t>(limits.tp_size) * out.tp_source_bytes;
    const auto take = [&out](std::uint64_t size) {
      const std::uint64_t at = out.bytes;
      out.bytes += (size + 255) / 256 * 256;
      return at;
    };
    out.state = take(sizeof(peer_state));
    out.headers = take(slots * max_peer_ranks * sizeof(peer_flag));
    out.flags = take(slots * max_peer_ranks * max_peer_blocks * sizeof(peer_flag));
    out.slice_flags = take(slots * max_peer_ranks * max_peer_blocks * sizeof(peer_flag));
    out.lines = take(slots * out.slot_bytes);
    out.tp_lines = take(slots * out.tp_slot_bytes);
    for (std::int32_t t = 0; t < limits.tensors; ++t)
      out.views[t] = take(view_rows * limits.row_bytes[t]);
    for (std::int32_t i = 0; i < limits.inputs; ++i)
      out.inputs[i] = take(view_rows * limits.row_bytes[0]);
    return out;
  }

  /// Bytes at the front whose first contents matter: all words and lines.
  [[nodiscard]] constexpr std::uint64_t words_end() const noexcept { return views[0]; }

  /// Flags and lines come in two slots, for calls of even and odd epochs: a peer may be one call
  /// ahead, never two, since every call hears from every peer (one slot: wrong payload, modelled).
  static constexpr std::uint64_t slots = 2;
  static constexpr std::int64_t most_row_bytes = 1 << 20;
  static constexpr std::int64_t most_rank_rows =
      INT32_MAX / max_peer_ranks; ///< kernels add 32 bits
};

/// The input of a combine whose epoch is `epoch`: the one asked for, or with -1 one that the last
/// call did not read.
[[nodiscard]] DPGATHER_HOST_DEVICE inline std::int32_t choose_input(std::int32_t asked,
                                                                    std::int32_t inputs,
                                                                    std::uint64_t first_used,
                                                                    std::uint64_t epoch) noexcept {
  return asked >= 0 ? asked : inputs > 1 && first_used + 1 == epoch ? 1 : 0;
}

} // namespace dpgather::inline v0
