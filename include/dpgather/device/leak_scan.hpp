#pragma once

/// @file
/// Looks for the poison of pads in rows that are real. One text for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/tensor_lists.hpp>
#include <dpgather/element.hpp>
#include <dpgather/status.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// The first leak that any scan has found: of the earliest step the first tensor, of that the first
/// row, whatever order threads ran in. Memory that jobs write and the host reads: pinned and
/// mapped, or managed; any memory without a GPU. Ownership: the engine's.
struct leak_record {
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  std::uint64_t first = none; ///< `key(step, tensor, row)`, the least one

  static constexpr std::uint64_t most_steps = (std::uint64_t{1} << 24) - 1;

  /// 24 bits of step, 8 of tensor, 32 of row. Later steps than `most_steps` count as that one.
  [[nodiscard]] DPGATHER_HOST_DEVICE static constexpr std::uint64_t
  key(std::uint64_t step, std::uint32_t tensor, std::uint64_t row) noexcept {
    return ((step < most_steps ? step : most_steps) << 40) | std::uint64_t{tensor} << 32 | row;
  }
  [[nodiscard]] static constexpr std::uint64_t step_of(std::uint64_t key) noexcept {
    return key >> 40;
  }
  [[nodiscard]] static constexpr std::uint32_t tensor_of(std::uint64_t key) noexcept {
    return static_cast<std::uint32_t>(key >> 32) & 0xff;
  }
  [[nodiscard]] static constexpr std::uint32_t row_of(std::uint64_t key) noexcept {
    return static_cast<std::uint32_t>(key);
  }
};

/// Real rows of one tensor, to be looked through. Trivially copyable.
/// Shapes: `rows` rows of `row_bytes` bytes, `row_stride` bytes apart, of aligned elements.
struct scanned_rows {
  const std::byte* data = nullptr;
  std::int32_t rows = 0;
  std::size_t row_bytes = 0;
  std::size_t row_stride = 0;
  element type = element::f32; ///< not `u8`, every value of which may be right
  std::uint64_t key = 0;       ///< of row 0
  leak_record* found = nullptr;
};

namespace detail {

/// Whether an element holds poison: any NaN, not only the one written, since sums and products of
/// it are others; of integers the most negative one.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr bool is_poison(element type,
                                                            std::uint64_t bits) noexcept {
  switch (type) {
  case element::f16:
    return (bits & 0x7fff) > 0x7c00;
  case element::bf16:
    return (bits & 0x7fff) > 0x7f80;
  case element::f32:
    return (bits & 0x7fffffff) > 0x7f800000;
  case element::f64:
    return (bits & ~(std::uint64_t{1} << 63)) > std::uint64_t{0x7ff} << 52;
  case element::i32:
    return bits == std::uint64_t{1} << 31;
  case element::i64:
    return bits == std::uint64_t{1} << 63;
  case element::u8:
    break;
  }
  return false;
}

/// Bytes of an element, where kernels can call it.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::uint32_t element_bytes(element type) noexcept {
  if (type == element::f16 || type == element::bf16) return 2;
  return type == element::i32 || type == element::f32 ? 4 : 8;
}

/// Whether one of the elements in the low `bytes` bytes holds poison.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr bool has_poison(element type, std::uint64_t word,
                                                             std::uint32_t bytes) noexcept {
  const std::uint32_t size = element_bytes(type);
  const std::uint64_t mask = ~std::uint64_t{0} >> (64 - 8 * size);
  for (std::uint32_t at = 0; at < bytes; at += size) {
    if (is_poison(type, (word >> (8 * at)) & mask)) return true;
  }
  return false;
}

/// Keeps the least key. Atomic among the jobs of one device; the host reads when they are done.
DPGATHER_HOST_DEVICE inline void report_leak(leak_record* to, std::uint64_t key) noexcept {
#if defined(__CUDA_ARCH__)
  atomicMin(reinterpret_cast<unsigned long long*>(&to->first), key);
#else
  std::atomic_ref first{to->first};
  std::uint64_t seen = first.load(std::memory_order_relaxed);
  while (key < seen && !first.compare_exchange_weak(seen, key, std::memory_order_relaxed)) {
  }
#endif
}

template <class Word>
DPGATHER_HOST_DEVICE void scan_words(const scanned_rows& t, std::uint64_t worker,
                                     std::uint64_t workers) noexcept {
  share_walk at{static_cast<std::uint64_t>(t.rows), t.row_bytes / sizeof(Word), worker, workers};
  for (; at.slice < 1; at.next()) {
    const Word word = load_word<Word>(t.data + at.run * t.row_stride + at.word * sizeof(Word));
    bool found = false;
    if constexpr (sizeof(Word) == 16) {
      found = has_poison(t.type, word.low, 8) || has_poison(t.type, word.high, 8);
    } else {
      found = has_poison(t.type, word, sizeof(Word));
    }
    if (found) return report_leak(t.found, t.key + at.run); // rows only grow: this one is the first
  }
}

} // namespace detail

/// One worker's share of the search.
DPGATHER_HOST_DEVICE inline void scan_share(const scanned_rows& t, std::uint64_t worker,
                                            std::uint64_t workers) noexcept {
  if (t.rows <= 0 || t.row_bytes == 0 || t.type == element::u8) return;
  const detail::byte_runs rows{reinterpret_cast<std::uintptr_t>(t.data),
                               1,
                               0,
                               static_cast<std::uint64_t>(t.rows),
                               t.row_stride,
                               t.row_bytes};
  detail::with_word(rows.word_bytes(), [&](auto word) noexcept {
    detail::scan_words<decltype(word)>(t, worker, workers);
  });
}

/// Tensors that one launch looks through.
inline constexpr std::size_t most_scanned_tensors = 32;

namespace detail {

/// As an element of a list of jobs.
struct rows_to_scan : scanned_rows {};

[[nodiscard]] inline std::uint64_t words_of(const rows_to_scan& t) noexcept {
  return t.rows <= 0 ? 0 : (static_cast<std::uint64_t>(t.rows) * t.row_bytes + 15) / 16;
}
DPGATHER_HOST_DEVICE inline void do_share(const rows_to_scan& t, worker_id worker) noexcept {
  scan_share(t, worker.index, worker.count);
}

} // namespace detail

/// Looks through real rows for poison, in one launch; `leak_record::first` tells what was found.
/// Precondition: at most `most_scanned_tensors`, elements aligned.
/// Stream: ordered; read the record when the stream has passed. Capture: safe; rows and keys are
/// frozen. Errors: `native_error`.
template <class Stream>
[[nodiscard]] status scan(std::span<const scanned_rows> tensors, Stream stream) noexcept {
  detail::tensor_list<detail::rows_to_scan, most_scanned_tensors> list;
  for (const scanned_rows& tensor : tensors) list.add(detail::rows_to_scan{tensor});
  return executor<Stream>::run(list, 0, stream);
}

} // namespace dpgather::inline v0
