#pragma once

/// @file
/// Runs of bytes at equal distances: what a padded axis, a column or a tail comes down to; how
/// workers share them, and how they are checked. One text for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace dpgather::inline v0 {

/// Units (tokens, requests, rows) of a tensor along the axis that is padded.
///
/// In a captured graph `padded` is frozen and the real units are not known yet: set `live`, and
/// they are read when the job runs, as `*live / rows_per_unit`, clamped to [0, padded]. `real` then
/// means nothing.
struct unit_counts {
  std::int32_t real = 0;              ///< units that mean something: [0, real)
  std::int32_t padded = 0;            ///< units the forward runs on; the tail is [real, padded)
  std::int32_t capacity = 0;          ///< units there is room for
  const std::int32_t* live = nullptr; ///< rows, in memory that the job can read, or null
  std::int32_t rows_per_unit = 1;     ///< e.g. tokens per request

  /// Real units at the time of the call, for the job that reads `live`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t real_now() const noexcept {
    if (live == nullptr) return real;
    const std::int32_t units = *live / rows_per_unit;
    return units < 0 ? 0 : units < padded ? units : padded;
  }
};

namespace detail {

[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::uint64_t lowest_bit(std::uint64_t x) noexcept {
  return x & (~x + 1);
}

/// Equal runs of contiguous bytes, `slices` times `runs` of them.
struct byte_runs {
  std::uintptr_t start = 0;
  std::uint64_t slices = 0, slice_stride = 0, runs = 0, run_stride = 0, run_bytes = 0;

  /// Dense units melt into one run per slice.
  [[nodiscard]] DPGATHER_HOST_DEVICE static constexpr byte_runs
  of(std::uintptr_t start, std::int32_t outer, std::size_t outer_stride, std::int32_t units,
     std::size_t unit_stride, std::size_t unit_bytes) noexcept {
    const auto slices = static_cast<std::uint64_t>(outer < 0 ? 0 : outer);
    const auto runs = static_cast<std::uint64_t>(units < 0 ? 0 : units);
    if (unit_stride != unit_bytes) {
      return {start, slices, outer_stride, runs, unit_stride, unit_bytes};
    }
    return {start, slices, outer_stride, 1, runs * unit_bytes, runs * unit_bytes};
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE constexpr bool empty() const noexcept {
    return slices == 0 || runs == 0 || run_bytes == 0;
  }
  /// Width of the words to move: the widest power of two, at most 16, that divides every address
  /// and length.
  [[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::uint64_t word_bytes() const noexcept {
    return lowest_bit(16 | start | run_bytes | (runs > 1 ? run_stride : 0) |
                      (slices > 1 ? slice_stride : 0));
  }
  /// Past the last byte; only of runs that `check_units` has let through.
  [[nodiscard]] constexpr std::uintptr_t end() const noexcept {
    return start + (slices - 1) * slice_stride + (runs - 1) * run_stride + run_bytes;
  }
};

/// One run of `bytes` bytes, for comparison with others.
[[nodiscard]] inline byte_runs one_run(const void* start, std::uint64_t bytes) noexcept {
  return {reinterpret_cast<std::uintptr_t>(start), 1, 0, 1, bytes, bytes};
}

/// Runs of the same shape as `from`, one behind the other from `start` on.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr byte_runs dense_like(const byte_runs& from,
                                                                  std::uintptr_t start) noexcept {
  return {.start = start,
          .slices = from.slices,
          .slice_stride = from.runs * from.run_bytes,
          .runs = from.runs,
          .run_stride = from.run_bytes,
          .run_bytes = from.run_bytes};
}

/// The widest word: a GPU's widest load and store.
struct alignas(16) wide_word {
  std::uint64_t low = 0, high = 0;
};

/// The words of equal runs that belong to one worker: every `workers`-th, so that neighbours touch
/// neighbouring words. Divides once, then only adds.
struct share_walk {
  std::uint64_t runs, words; ///< runs per slice, words per run
  std::uint64_t slice = 0, run = 0, word = 0;
  std::uint64_t slice_step = 0, run_step = 0, word_step = 0;

  DPGATHER_HOST_DEVICE constexpr share_walk(std::uint64_t runs_per_slice,
                                            std::uint64_t words_per_run, std::uint64_t worker,
                                            std::uint64_t workers) noexcept
      : runs{runs_per_slice}, words{words_per_run} {
    // A GPU divides 64 bits in a hundred instructions, 32 bits in twenty.
    if (((runs | words | worker | workers) >> 32) == 0) {
      split<std::uint32_t>(worker, slice, run, word);
      split<std::uint32_t>(workers, slice_step, run_step, word_step);
    } else {
      split<std::uint64_t>(worker, slice, run, word);
      split<std::uint64_t>(workers, slice_step, run_step, word_step);
    }
  }

  DPGATHER_HOST_DEVICE constexpr void next() noexcept {
    word += word_step;
    run += run_step;
    slice += slice_step;
    if (word >= words) word -= words, ++run;
    if (run >= runs) run -= runs, ++slice;
  }

private:
  template <class Number>
  DPGATHER_HOST_DEVICE constexpr void split(std::uint64_t number, std::uint64_t& in_slices,
                                            std::uint64_t& in_runs,
                                            std::uint64_t& in_words) const noexcept {
    const auto n = static_cast<Number>(number);
    const auto w = static_cast<Number>(words);
    const auto r = static_cast<Number>(runs);
    const Number whole = n / w;
    in_words = n - whole * w;
    in_slices = whole / r;
    in_runs = whole % r;
  }
};

/// Calls `visit` with a value of the word type that is `bytes` wide: 16, 8, 4, 2 or 1. The width is
/// known when the job runs, not when it is compiled: one branch that all threads take alike, where
/// a template would make five kernels.
template <class Visitor>
DPGATHER_HOST_DEVICE void with_word(std::uint64_t bytes, Visitor&& visit) noexcept {
  switch (bytes) {
  case 16:
    visit(wide_word{});
    break;
  case 8:
    visit(std::uint64_t{});
    break;
  case 4:
    visit(std::uint32_t{});
    break;
  case 2:
    visit(std::uint16_t{});
    break;
  default:
    visit(std::uint8_t{});
  }
}

/// A pattern of 8 bytes as a word.
template <class Word>
[[nodiscard]] DPGATHER_HOST_DEVICE Word repeated(std::uint64_t bits) noexcept {
  if constexpr (sizeof(Word) == 16) {
    return Word{bits, bits};
  } else {
    return static_cast<Word>(bits);
  }
}

template <class Word>
DPGATHER_HOST_DEVICE void fill_words(const byte_runs& to, std::uint64_t bits, std::uint64_t worker,
                                     std::uint64_t workers) noexcept {
  const Word value = repeated<Word>(bits);
  if (to.slices == 1 && to.runs == 1) { // no division
    auto* const words = reinterpret_cast<std::byte*>(to.start);
    for (std::uint64_t i = worker; i < to.run_bytes / sizeof(Word); i += workers) {
      std::memcpy(__builtin_assume_aligned(words + i * sizeof(Word), sizeof(Word)), &value,
                  sizeof(Word));
    }
    return;
  }
  share_walk at{to.runs, to.run_bytes / sizeof(Word), worker, workers};
  for (; at.slice < to.slices; at.next()) {
    auto* const word = reinterpret_cast<std::byte*>(
        to.start + at.slice * to.slice_stride + at.run * to.run_stride + at.word * sizeof(Word));
    std::memcpy(__builtin_assume_aligned(word, sizeof(Word)), &value, sizeof(Word));
  }
}

/// Reads and writes one aligned word.
template <class Word>
[[nodiscard]] DPGATHER_HOST_DEVICE Word load_word(const std::byte* from) noexcept {
  Word value;
  std::memcpy(&value, __builtin_assume_aligned(from, sizeof(Word)), sizeof(Word));
  return value;
}
template <class Word>
DPGATHER_HOST_DEVICE void store_word(std::byte* to, const Word& value) noexcept {
  std::memcpy(__builtin_assume_aligned(to, sizeof(Word)), &value, sizeof(Word));
}
/// Copies one aligned word.
template <class Word>
DPGATHER_HOST_DEVICE void copy_word(std::byte* to, const std::byte* from) noexcept {
  store_word(to, load_word<Word>(from));
}

/// Copies runs to runs of the same number and length in words that both sides allow; worker
/// `worker` of `workers` moves every `workers`-th word. Sides are apart.
template <class Word>
DPGATHER_HOST_DEVICE void copy_words(const byte_runs& to, const byte_runs& from,
                                     std::uint64_t worker, std::uint64_t workers) noexcept {
  const auto* const source = reinterpret_cast<const std::byte*>(from.start);
  auto* const target = reinterpret_cast<std::byte*>(to.start);
  if (to.slices == 1 && to.runs == 1) {
    // Four words in flight per worker: a store may alias the next load for all the compiler knows.
    // Values and no array, which would go through a kernel's local memory.
    const std::uint64_t words = to.run_bytes / sizeof(Word);
    const std::uint64_t step = workers * sizeof(Word);
    std::uint64_t i = worker;
    for (; i + 3 * workers < words; i += 4 * workers) {
      const std::byte* const from_word = source + i * sizeof(Word);
      std::byte* const to_word = target + i * sizeof(Word);
      const Word first = load_word<Word>(from_word);
      const Word second = load_word<Word>(from_word + step);
      const Word third = load_word<Word>(from_word + 2 * step);
      const Word fourth = load_word<Word>(from_word + 3 * step);
      store_word(to_word, first);
      store_word(to_word + step, second);
      store_word(to_word + 2 * step, third);
      store_word(to_word + 3 * step, fourth);
    }
    for (; i < words; i += workers)
      copy_word<Word>(target + i * sizeof(Word), source + i * sizeof(Word));
    return;
  }
  share_walk at{to.runs, to.run_bytes / sizeof(Word), worker, workers};
  for (; at.slice < to.slices; at.next()) {
    const std::uint64_t word = at.word * sizeof(Word);
    copy_word<Word>(target + at.slice * to.slice_stride + at.run * to.run_stride + word,
                    source + at.slice * from.slice_stride + at.run * from.run_stride + word);
  }
}

/// Fills all runs with a repeated word; worker `worker` of `workers` writes every `workers`-th
/// word, in the widest stores that all addresses and lengths allow.
DPGATHER_HOST_DEVICE inline void fill_runs(const byte_runs& to, std::uint64_t bits,
                                           std::uint64_t worker, std::uint64_t workers) noexcept {
  with_word(to.word_bytes(),
            [&](auto word) noexcept { fill_words<decltype(word)>(to, bits, worker, workers); });
}

/// Copies all runs, likewise.
DPGATHER_HOST_DEVICE inline void copy_runs(const byte_runs& to, const byte_runs& from,
                                           std::uint64_t worker, std::uint64_t workers) noexcept {
  with_word(lowest_bit(to.word_bytes() | from.word_bytes()),
            [&](auto word) noexcept { copy_words<decltype(word)>(to, from, worker, workers); });
}

/// True when a byte belongs to both. Costs one comparison when the extents are apart; interleaved
/// views, such as two columns of one array of structs, are looked at run by run.
[[nodiscard]] constexpr bool overlap(const byte_runs& a, const byte_runs& b) noexcept {
  if (a.empty() || b.empty() || a.end() <= b.start || b.end() <= a.start) return false;
  for (std::uint64_t i = 0; i < a.slices * a.runs; ++i) {
    const std::uintptr_t first = a.start + i / a.runs * a.slice_stride + i % a.runs * a.run_stride;
    for (std::uint64_t slice = 0; slice < b.slices; ++slice) {
      const std::uintptr_t start = b.start + slice * b.slice_stride;
      if (first + a.run_bytes <= start) continue;
      const std::uint64_t run =
          std::min((first + a.run_bytes - 1 - start) / b.run_stride, b.runs - 1);
      if (start + run * b.run_stride + b.run_bytes > first) return true;
    }
  }
  return false;
}

/// A refusal that names a tensor of a list: its index goes into `peer`.
[[nodiscard]] constexpr status refuse_tensor(errc code, std::size_t index, std::uint64_t value,
                                             std::uint64_t limit, const char* value_name,
                                             const char* where) noexcept {
  return {.code = code,
          .about = subject::tensor,
          .peer = static_cast<std::int32_t>(index),
          .value = static_cast<std::int64_t>(value),
          .limit = static_cast<std::int64_t>(limit),
          .value_name = value_name,
          .where = where};
}

/// What padding and trimming demand alike of `outer` slices of `units.capacity` units, of which
/// `touched` units need memory. Errors: see `validate`.
[[nodiscard]] inline status check_units(const void* data, std::int32_t touched,
                                        const unit_counts& units, std::size_t unit_bytes,
                                        std::size_t unit_stride, std::int32_t outer,
                                        std::size_t outer_stride, std::size_t index,
                                        const char* where) noexcept {
  const auto refuse = [&](errc code, std::uint64_t value, std::uint64_t limit, const char* name) {
    return refuse_tensor(code, index, value, limit, name, where);
  };
  const auto wide = [](std::int32_t count) { return static_cast<std::uint64_t>(count); };
  if (outer < 0) return refuse(errc::count_out_of_range, wide(outer), 0, "outer");
  if (units.live != nullptr && units.rows_per_unit < 1) {
    return refuse(errc::count_out_of_range, wide(units.rows_per_unit), 1, "rows_per_unit");
  }
  if (units.live == nullptr && (units.real < 0 || units.real > units.padded)) {
    return refuse(errc::count_out_of_range, wide(units.real), wide(units.padded), "real units");
  }
  if (units.padded < 0 || units.padded > units.capacity) {
    return refuse(errc::capacity_exceeded, wide(units.padded), wide(units.capacity),
                  "padded units");
  }
  if (data == nullptr && outer > 0 && touched > 0) {
    return refuse(errc::null_pointer, wide(touched), 0, "units");
  }
  if (unit_bytes == 0) return refuse(errc::count_out_of_range, 0, 1, "unit_bytes");
  if (unit_stride < unit_bytes) {
    return refuse(errc::misaligned, unit_stride, unit_bytes, "unit_stride");
  }
  if (outer == 0 || units.capacity == 0) return {};

  // Sums and products that stop at `over` instead of wrapping.
  constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::uint64_t over = most + 1;
  const auto times = [](std::uint64_t a, std::uint64_t b) {
    return b != 0 && a > most / b ? over : a * b;
  };
  const auto plus = [](std::uint64_t a, std::uint64_t b) {
    return a > most || b > most - a ? over : a + b;
  };
  const std::uint64_t slice = plus(times(wide(units.capacity - 1), unit_stride), unit_bytes);
  const std::uint64_t all = plus(times(wide(outer - 1), outer > 1 ? outer_stride : 0), slice);
  if (all > most || reinterpret_cast<std::uintptr_t>(data) > UINTPTR_MAX - all) {
    return refuse(errc::size_overflow, wide(units.capacity), most, "capacity");
  }
  const std::uint64_t rows = plus(times(wide(outer - 1), outer_stride), unit_bytes);
  if (outer > 1 && outer_stride < slice && (outer_stride < unit_bytes || unit_stride < rows)) {
    return refuse(errc::aliasing, outer_stride, slice, "outer_stride");
  }
  return {};
}

} // namespace detail

} // namespace dpgather::inline v0
