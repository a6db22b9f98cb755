#pragma once

/// @file
/// A CPU thread as one block of a peer call: the protocol under ThreadSanitizer, on any clock.

#include <dpgather/config.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/protocol/wait_clock.hpp>
#include <dpgather/tensor.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace dpgather::inline v0 {

/// See `peer_block`. One thread; rank r has as many blocks as threads run its job.
template <class Rules>
class host_block {
public:
  using rules_type = Rules;
  static constexpr std::uint32_t looks_between = 16;
  static constexpr int part_words = 16;
  static constexpr int lines_per_warp = 1;
  static constexpr int lines_at_once = 2;
  static constexpr std::uint32_t lanes = 1;

  /// `clock` gives the time of deadlines, in nanoseconds; `table` is this block's alone.
  host_block(std::uint32_t index, std::uint32_t count, wait_clock& clock, peer_table& table,
             const Rules& rules = {}) noexcept
      : index_{index}, count_{count}, clock_{clock}, rules_{rules}, table_{&table} {}

  [[nodiscard]] static constexpr std::uint32_t thread() noexcept { return 0; }
  [[nodiscard]] static constexpr std::uint32_t threads() noexcept { return 1; }
  [[nodiscard]] std::uint32_t block() const noexcept { return index_; }
  [[nodiscard]] std::uint32_t blocks() const noexcept { return count_; }
  [[nodiscard]] const Rules& rules() const noexcept { return rules_; }
  [[nodiscard]] peer_table& table() noexcept { return *table_; }

  /// The same thread among the first `count` blocks only.
  [[nodiscard]] host_block narrowed(std::uint32_t count) const noexcept {
    return {index_, count, clock_, *table_, rules_};
  }

  static void sync() noexcept {}
  static void sync_warp() noexcept {}
  [[nodiscard]] static bool sync_or(bool mine) noexcept { return mine; }
  [[nodiscard]] static bool all(bool mine) noexcept { return mine; }
  [[nodiscard]] static bool any(bool mine) noexcept { return mine; }
  [[nodiscard]] std::uint32_t warp() const noexcept { return index_; }
  [[nodiscard]] std::uint32_t warps() const noexcept { return count_; }
  [[nodiscard]] warp_group all_warps() const noexcept { return {index_, count_}; }
  [[nodiscard]] static constexpr std::uint32_t line_in_warp() noexcept { return 0; }
  [[nodiscard]] static constexpr std::uint32_t first_part() noexcept { return 0; }

  /// Released here: a header also says that this rank's reads are over.
  static void post(peer_flag* to, const peer_flag& flag) noexcept {
    if constexpr (Rules::releases) {
      store(to, flag, std::memory_order_release);
    } else {
      store(to, flag, std::memory_order_relaxed);
    }
  }
  static void publish(peer_flag* to, const peer_flag& flag) noexcept {
    store(to, flag, std::memory_order_release);
  }
  [[nodiscard]] static peer_flag observe(const peer_flag* from) noexcept { return acquire(from); }
  [[nodiscard]] static peer_flag acquire(const peer_flag* from) noexcept {
    auto* const flag = const_cast<peer_flag*>(from); // atomic_ref of const is C++26
    peer_flag out;
    out.epoch = std::atomic_ref{flag->epoch}.load(std::memory_order_acquire);
    out.rows = std::atomic_ref{flag->rows}.load(std::memory_order_relaxed);
    out.shape = std::atomic_ref{flag->shape}.load(std::memory_order_relaxed);
    return out;
  }

  template <class Word>
  [[nodiscard]] static Word word(const Word* from) noexcept {
    return std::atomic_ref{*const_cast<Word*>(from)}.load(std::memory_order_acquire);
  }
  template <class Word>
  static void set(Word* to, Word value) noexcept {
    std::atomic_ref{*to}.store(value, std::memory_order_release);
  }
  [[nodiscard]] static bool take(std::uint32_t* lock) noexcept {
    return std::atomic_ref{*lock}.exchange(1) == 0;
  }
  [[nodiscard]] static std::uint64_t increment(std::uint64_t* word) noexcept {
    return std::atomic_ref{*word}.fetch_add(1);
  }
  static void publish_word(std::uint32_t* to, std::uint32_t value) noexcept { set(to, value); }
  static void poison(std::uint64_t* to, std::uint64_t value) noexcept { set(to, value); }
  [[nodiscard]] std::uint64_t now() const noexcept {
    return static_cast<std::uint64_t>(clock_.now_ns());
  }
  static void pause() noexcept { std::this_thread::yield(); }
  static void prefetch(const std::byte*) noexcept {}

  static void store_line(std::byte* line, const std::uint64_t (&part)[part_words],
                         bool has) noexcept {
    if (!has) return;
    auto* const words = reinterpret_cast<std::uint64_t*>(line);
    constexpr std::size_t epoch = part_words - 1; // last
    for (std::size_t i = 0; i < epoch; ++i)
      std::atomic_ref{words[i]}.store(part[i], std::memory_order_relaxed);
    std::atomic_ref{words[epoch]}.store(part[epoch], std::memory_order_release);
  }
  static void load_line(const std::byte* line, std::uint64_t (&part)[part_words],
                        bool has) noexcept {
    if (!has) return;
    auto* const words = const_cast<std::uint64_t*>(reinterpret_cast<const std::uint64_t*>(line));
    constexpr std::size_t epoch = part_words - 1; // first
    part[epoch] = std::atomic_ref{words[epoch]}.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < epoch; ++i)
      part[i] = std::atomic_ref{words[i]}.load(std::memory_order_relaxed);
  }
  [[nodiscard]] static constexpr bool parted() noexcept { return false; }
  static void store_line_parted(std::byte*, const std::uint64_t (&)[part_words], bool) noexcept {}
  static void load_line_parted(const std::byte*, std::uint64_t (&)[part_words], bool) noexcept {}

  static void push(const detail::row_places<const std::byte>& from, row_range which,
                   std::byte* const* to, std::int32_t receivers, warp_group by) noexcept {
    forward(from, which, to, receivers, by);
  }
  static void forward(const detail::row_places<const std::byte>& from, row_range which,
                      std::byte* const* to, std::int32_t receivers, warp_group by) noexcept {
    for (std::int32_t r = 0; r < receivers; ++r)
      detail::move_rows(from, which.first,
                        detail::row_places<std::byte>{to[r], from.row_bytes, from.row_bytes}, 0,
                        which.count, peer_rows::worker_of<host_block>(thread(), by));
  }
  /// As on the GPU: false when addresses are not aligned to 16 bytes.
  template <class Sum>
  [[nodiscard]] bool pull(const std::byte* const* from, std::int32_t sources,
                          const detail::row_places<std::byte>& to, row_range which) const noexcept {
    std::byte* const start = to.data + static_cast<std::uint64_t>(which.first) * to.stride;
    const std::size_t bytes = static_cast<std::size_t>(which.count) * to.row_bytes;
    const auto addresses =
        reinterpret_cast<std::uintptr_t>(start) | reinterpret_cast<std::uintptr_t>(from[0]) | bytes;
    if (to.stride != to.row_bytes || addresses % 16 != 0) return false;
    sum_elements<Sum>(start, from, sources, 0, bytes / sizeof(typename Sum::storage), index_,
                      count_);
    return true;
  }

private:
  static void store(peer_flag* to, const peer_flag& flag, std::memory_order order) noexcept {
    std::atomic_ref{to->rows}.store(flag.rows, std::memory_order_relaxed);
    std::atomic_ref{to->shape}.store(flag.shape, std::memory_order_relaxed);
    std::atomic_ref{to->epoch}.store(flag.epoch, order);
  }

  std::uint32_t index_, count_;
  wait_clock& clock_;
  Rules rules_;
  peer_table* table_;
};

} // namespace dpgather::inline v0
