#pragma once

/// @file
/// The threads that run one block of a peer call, on the CPU or on the GPU, and the rules of the
/// protocol as a type, so that tests can break them one at a time.

#include <dpgather/config.hpp>
#include <dpgather/protocol/peer_arena.hpp>

#include <concepts>
#include <cstdint>
#include <utility>

namespace dpgather::inline v0 {

/// Some warps of a rank, numbered through all of its blocks: this thread's, of how many.
struct warp_group {
  std::uint32_t index = 0, count = 1;
};

/// Places where a test may hold a block up.
enum class peer_point : std::uint8_t {
  entered,   ///< before the header is sent
  sent,      ///< rows are on their way, flags are not
  published, ///< flags as well
  waiting,   ///< before rows of peers are waited for
  received,  ///< rows are here, the epoch is not counted yet
};

/// The rules of the protocol. A control derives and breaks one; each of them has been shown to
/// matter by a model (tests/models).
struct peer_rules {
  static constexpr std::uint64_t slots = peer_layout::slots;
  static constexpr bool releases = true;   ///< flags follow the rows they speak of
  static constexpr bool handshakes = true; ///< a view that the last call used is asked for first
  static constexpr bool alternates = true; ///< a combine refuses the last call's input
  static constexpr bool fills_tails = true;
  static constexpr bool counts_idle_blocks = true;
  static constexpr bool relays = true; ///< false is slower, not wrong: see device/peer_relay.hpp
  static constexpr bool waits_for_slices = true; ///< before they are passed on
  static constexpr std::int32_t ranks = 0;       ///< of the world; 0: any, and calls of any shape
  static constexpr bool may_exchange = true, must_exchange = false; ///< counts
  /// Called by every block at each point; the default does nothing.
  template <class Block>
  DPGATHER_HOST_DEVICE void at(peer_point, const Block&) const noexcept {}
};

/// The same for worlds in which nobody is ever relayed: kernels without that code are 0.4 us faster
/// in a call of few rows (measured on an H100).
struct direct_rules : peer_rules {
  static constexpr bool relays = false;
};

/// The same for plain calls of worlds of `Ranks` ranks: one attention-TP rank in each data-parallel
/// rank, one tensor, rows of whole aligned 8-byte words without gaps, counts that need no exchange.
/// What a kernel knows it does not work out: 0.5 us of a call of few rows (measured on two H200).
template <std::int32_t Ranks>
struct plain_rules : direct_rules {
  static constexpr std::int32_t ranks = Ranks;
  static constexpr bool may_exchange = false;
};
/// Plain but for counts that the ranks tell each other.
template <std::int32_t Ranks>
struct exchanging_rules : direct_rules {
  static constexpr std::int32_t ranks = Ranks;
  static constexpr bool must_exchange = true;
};
/// Sizes of worlds whose plain calls have kernels of their own.
using plain_worlds = std::integer_sequence<std::int32_t, 2, 4, 8>;

/// One rank's block.
///
/// - `thread() threads() block() blocks()`: who this thread is, of how many.
/// - `sync()`, `sync_or(x)`: all threads of the block meet; whether any said so.
/// - `warp() warps()`, `lanes`, `any(x)`: lanes that move in step share `lines_per_warp` lines;
/// warps
///   are numbered through all blocks of the rank, neighbours in different blocks.
/// - `push`, `forward`: rows to the same place at several ranks; `pull<Sum>`: sums rows that they
///   hold.
/// - `post(to, flag)`: stores a flag; `publish(to, flag)`: after everything that threads of this
///   block did before the last `sync`. `observe(from)`, `acquire(from)`: loads one; what follows an
///   acquired flag sees what went before its publication.
/// - `store_line`, `load_line`: this lane's part of a line, data words and epoch; when the lanes of
///   a warp have `parted()`, `store_line_parted`, `load_line_parted`.
/// - `prefetch(from)`: a hint.
/// - `word(from)`, `set(to, value)`, `take(from)`, `increment(word)`: single words; the last two
///   answer what was there.
/// - `poison(to, value)`: a word that arrives before anything the rank does after this kernel.
/// - `now()`: nanoseconds. `pause()`: between two looks. `rules()`: a `peer_rules`.
template <class B>
concept peer_block = requires(B& block, peer_flag* to, const peer_flag* from, std::uint64_t* word,
                              std::uint32_t* lock) {
  typename B::rules_type;
  { block.thread() } -> std::convertible_to<std::uint32_t>;
  { block.blocks() } -> std::convertible_to<std::uint32_t>;
  { block.sync_or(true) } -> std::same_as<bool>;
  block.post(to, peer_flag{});
  block.publish(to, peer_flag{});
  { block.observe(from) } -> std::same_as<peer_flag>;
  { block.acquire(from) } -> std::same_as<peer_flag>;
  { block.word(word) } -> std::same_as<std::uint64_t>;
  { block.take(lock) } -> std::same_as<bool>;
  { block.now() } -> std::same_as<std::uint64_t>;
};

} // namespace dpgather::inline v0
