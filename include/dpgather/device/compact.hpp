#pragma once

/// @file
/// From slots to packed: the real rows of every rank, one behind the other. The body is one text
/// for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace dpgather::inline v0 {

/// Rows of every rank from slots to packed. Trivially copyable.
/// Shapes: source [ranks, slot_rows, row_bytes], destination [destination_rows, row_bytes], both
/// dense. Row i of rank r goes from row `r * slot_rows + i` to row `offsets[r] + i`.
/// Ownership: borrows all four pointers. `counts` are *real* rows.
struct compact_rows {
  const void* source = nullptr;
  void* destination = nullptr;
  const std::int32_t* counts = nullptr;  ///< [ranks] real rows of each slot
  const std::int64_t* offsets = nullptr; ///< [ranks] or longer; ascending, holes are legal
  std::int32_t ranks = 0;
  std::int32_t slot_rows = 0; ///< rows from the start of a slot to the next one
  std::size_t row_bytes = 0;
  std::int64_t destination_rows = 0; ///< room at the destination
};

namespace detail {

/// Width of the words to move, see `byte_runs`.
[[nodiscard]] DPGATHER_HOST_DEVICE inline std::uint64_t word_bytes(const compact_rows& r) noexcept {
  return lowest_bit(16 | reinterpret_cast<std::uintptr_t>(r.source) |
                    reinterpret_cast<std::uintptr_t>(r.destination) | r.row_bytes);
}

template <class Word>
DPGATHER_HOST_DEVICE void compact_words(const compact_rows& rows, std::uint64_t worker,
                                        std::uint64_t workers) noexcept {
  const std::uint64_t row_words = rows.row_bytes / sizeof(Word);
  std::uint64_t at = worker; // in words of this rank; the count runs on from rank to rank
  for (std::int32_t r = 0; r < rows.ranks; ++r) {
    const std::int64_t offset = rows.offsets[r];
    const std::int64_t room = offset < 0 ? 0 : rows.destination_rows - offset;
    std::int64_t count = rows.counts[r];
    if (count > rows.slot_rows) count = rows.slot_rows;
    if (count > room) count = room;
    if (count <= 0) continue;
    const auto first = static_cast<std::uint64_t>(std::int64_t{r} * rows.slot_rows);
    const auto* const from = static_cast<const std::byte*>(rows.source) + first * rows.row_bytes;
    auto* const to = static_cast<std::byte*>(rows.destination) +
                     static_cast<std::uint64_t>(offset) * rows.row_bytes;
    if (to == from) continue;
    const std::uint64_t words = static_cast<std::uint64_t>(count) * row_words;
    for (; at < words; at += workers) {
      copy_word<Word>(to + at * sizeof(Word), from + at * sizeof(Word));
    }
    at -= words;
  }
}

} // namespace detail

/// Checks a compaction, counts and offsets included: they must be readable by the CPU.
/// Errors, where `rank` is the rank whose slot is at fault:
/// - `count_out_of_range`: a count outside [0, slot_rows], a first offset below 0, a negative
///   `ranks`, `slot_rows` or `destination_rows`, or no `row_bytes`; `too_many_ranks`;
/// - `capacity_exceeded{value = need, limit = have}`: a rank ends behind `destination_rows`;
/// - `aliasing`: a rank starts before its predecessor (`peer`) ends; or, without a rank, the rows
///   written overlap the extent of the slots' real rows. A destination that *is* the source is
///   legal when no row moves;
/// - `null_pointer`: lists null with ranks, tensors null with rows; `size_overflow`.
[[nodiscard]] inline status validate(const compact_rows& rows) noexcept {
  const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit,
                         const char* name, std::int32_t rank = -1, std::int32_t peer = -1) {
    return status{.code = code,
                  .about = about,
                  .rank = rank,
                  .peer = peer,
                  .value = value,
                  .limit = limit,
                  .value_name = name,
                  .where = "compact"};
  };
  const auto out_of_range = [&](subject about, std::int64_t value, const char* name) {
    return refuse(errc::count_out_of_range, about, value, 0, name);
  };
  if (rows.ranks < 0) return out_of_range(subject::dp_size, rows.ranks, "ranks");
  if (rows.slot_rows < 0) return out_of_range(subject::tensor, rows.slot_rows, "slot_rows");
  if (rows.destination_rows < 0) {
    return out_of_range(subject::tensor, rows.destination_rows, "destination_rows");
  }
  if (rows.ranks > max_ranks) {
    return refuse(errc::too_many_ranks, subject::counts, rows.ranks, max_ranks, nullptr);
  }
  if (rows.ranks > 0 && (rows.counts == nullptr || rows.offsets == nullptr)) {
    return refuse(errc::null_pointer, subject::counts, rows.ranks, 0, "ranks");
  }
  const std::int64_t slots = std::int64_t{rows.ranks} * rows.slot_rows;
  const std::int64_t most = std::max<std::int64_t>({slots, rows.destination_rows, 1});
  constexpr std::int64_t bytes = std::numeric_limits<std::int64_t>::max();
  if (rows.row_bytes > static_cast<std::uint64_t>(bytes / most)) {
    return refuse(errc::size_overflow, subject::row_bytes, most, bytes, "rows");
  }
  std::int64_t end = 0;       // of the destination rows written so far
  std::int64_t first = -1;    // destination row written first
  std::int64_t slots_end = 0; // of the source rows read so far
  bool moves = false;
  for (std::int32_t r = 0; r < rows.ranks; ++r) {
    const std::int64_t count = rows.counts[r];
    const std::int64_t offset = rows.offsets[r];
    if (count < 0 || count > rows.slot_rows) {
      return refuse(errc::count_out_of_range, subject::counts, count, rows.slot_rows, "rows", r);
    }
    if (offset < end) {
      const errc code = r == 0 ? errc::count_out_of_range : errc::aliasing;
      return refuse(code, subject::counts, offset, end, "offset", r, r - 1);
    }
    end = offset + count;
    if (end > rows.destination_rows) {
      return refuse(errc::capacity_exceeded, subject::tensor, end, rows.destination_rows,
                    "destination_rows", r);
    }
    if (count == 0) continue;
    if (first < 0) first = offset;
    slots_end = std::int64_t{r} * rows.slot_rows + count;
    moves = moves || offset != std::int64_t{r} * rows.slot_rows;
  }
  if (slots_end == 0) return {};
  if (rows.row_bytes == 0) return out_of_range(subject::row_bytes, 0, nullptr);
  if (rows.source == nullptr || rows.destination == nullptr) {
    return refuse(errc::null_pointer, subject::tensor, end - first, 0, "rows");
  }
  const auto bytes_of = [&](std::int64_t n) {
    return static_cast<std::uint64_t>(n) * rows.row_bytes;
  };
  const detail::byte_runs read = detail::one_run(rows.source, bytes_of(slots_end));
  const detail::byte_runs written = detail::one_run(
      static_cast<const std::byte*>(rows.destination) + bytes_of(first), bytes_of(end - first));
  if ((moves || rows.source != rows.destination) && detail::overlap(read, written)) {
    return refuse(errc::aliasing, subject::tensor, first, end, "destination row");
  }
  return {};
}

/// One worker's share of a compaction; see `trim_share`. Counts and offsets are read here, from
/// wherever they lie: in a captured kernel from device memory at replay, unseen by `validate`. So
/// they are clamped: no row behind a slot is read, none behind `destination_rows` is written.
DPGATHER_HOST_DEVICE inline void compact_share(const compact_rows& rows, std::uint64_t worker,
                                               std::uint64_t workers) noexcept {
  detail::with_word(detail::word_bytes(rows), [&](auto word) noexcept {
    detail::compact_words<decltype(word)>(rows, worker, workers);
  });
}

/// Moves the real rows of every slot to their packed place. The destination's other rows stay as
/// they are: its tail is the caller's to pad. Validates first; on an error nothing is written.
/// Host memory, calling thread.
/// Errors: those of `validate`.
[[nodiscard]] inline status compact(const compact_rows& rows) noexcept {
  if (const status s = validate(rows); !s) return s;
  compact_share(rows, 0, 1);
  return {};
}

} // namespace dpgather::inline v0
