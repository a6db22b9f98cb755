#pragma once

/// @file
/// Rows on their way into the global tensor and out of it: copies and the tails around them in one
/// launch. Where the rows lie is worked out when the job runs, from the counts it can read: a
/// captured kernel follows counts that its capture never saw.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

/// Rows of one view, as jobs hold them.
template <class Byte>
struct row_places {
  Byte* data = nullptr;
  std::size_t row_bytes = 0;
  std::size_t stride = 0; ///< bytes

  template <row_state State>
  [[nodiscard]] static row_places of(const token_rows<State, Byte>& rows) noexcept {
    return {rows.data(), rows.row_bytes(), rows.row_stride()};
  }
  /// Rows `range`; rows without gaps melt into one run.
  [[nodiscard]] DPGATHER_HOST_DEVICE byte_runs runs(row_range range) const noexcept {
    const auto count = static_cast<std::uint64_t>(range.count < 0 ? 0 : range.count);
    const std::uintptr_t start =
        reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uint64_t>(range.first) * stride;
    if (stride == row_bytes) return {start, 1, 0, 1, count * row_bytes, count * row_bytes};
    return {start, 1, 0, count, stride, row_bytes};
  }
  /// Words of `rows` rows: how many workers they keep busy.
  [[nodiscard]] std::uint64_t words(std::int64_t rows) const noexcept {
    return (static_cast<std::uint64_t>(rows < 0 ? 0 : rows) * row_bytes + 15) / 16;
  }
};

/// The runs of `a` in the shape of `b`: dense rows taken apart where the other side has gaps.
template <class Byte>
[[nodiscard]] DPGATHER_HOST_DEVICE byte_runs apart(const row_places<Byte>& a,
                                                   row_range range) noexcept {
  return {reinterpret_cast<std::uintptr_t>(a.data) +
              static_cast<std::uint64_t>(range.first) * a.stride,
          1,
          0,
          static_cast<std::uint64_t>(range.count),
          a.stride,
          a.row_bytes};
}

/// Copies `count` rows as they are; nothing when they lie at their place.
template <class From, class To>
DPGATHER_HOST_DEVICE void move_rows(const row_places<From>& from, std::int64_t from_first,
                                    const row_places<To>& to, std::int64_t to_first,
                                    std::int64_t count, worker_id worker) noexcept {
  if (count <= 0 || from.row_bytes == 0) return;
  const bool dense = from.stride == from.row_bytes && to.stride == to.row_bytes;
  const row_range source{from_first, count};
  const row_range target{to_first, count};
  const byte_runs a = dense ? from.runs(source) : apart(from, source);
  const byte_runs b = dense ? to.runs(target) : apart(to, target);
  if (a.start == b.start) return;
  copy_runs(b, a, worker.index, worker.count);
}

/// Fills rows: zero is written, not multiplied, so what was there does not matter.
template <class To>
DPGATHER_HOST_DEVICE void fill_rows(const row_places<To>& to, row_range range,
                                    const fill_word& fill, worker_id worker) noexcept {
  if (fill.leave || range.count <= 0 || to.row_bytes == 0) return;
  fill_runs(to.runs(range), fill.bits, worker.index, worker.count);
}

/// The same out of line, for kernels that have more urgent things to do: all word sizes and ways to
/// share runs are thousands of instructions, around which the others would have to be fetched.
DPGATHER_HOST_DEVICE __attribute__((noinline)) inline void
move_rows_apart(const std::byte* from, std::uint64_t stride, std::byte* to, std::uint64_t row_bytes,
                std::int64_t count, worker_id worker) noexcept {
  move_rows(row_places<const std::byte>{from, row_bytes, stride}, 0,
            row_places<std::byte>{to, row_bytes, row_bytes}, 0, count, worker);
}
DPGATHER_HOST_DEVICE __attribute__((noinline)) inline void
fill_rows_apart(std::byte* to, std::uint64_t row_bytes, std::uint64_t stride, std::int64_t count,
                std::uint64_t bits, worker_id worker) noexcept {
  fill_runs(row_places<std::byte>{to, row_bytes, stride}.runs({0, count}), bits, worker.index,
            worker.count);
}

} // namespace detail

/// Which rows of the global tensor `place_rows` writes.
enum class row_window : std::uint8_t {
  share, ///< those that this attention-TP rank speaks for
  slot,  ///< those of this data-parallel rank
  all,   ///< the whole tensor
};

/// This rank's real rows to their place in the global tensor, through a row functor; what else the
/// window has is filled, or left. Inputs are read, tails of inputs are not.
template <class RowOp>
struct place_rows {
  detail::row_places<const std::byte> local{};
  detail::row_places<std::byte> global{};
  placement places{};
  fill_word fill{};
  std::int32_t dp_rank = 0;
  std::int32_t tp_rank = 0;
  std::int64_t local_rows = 0; ///< of the view: none behind them is read, whatever the counts say
  std::int64_t most_rows = 0;  ///< of the window, from the shape
  row_window window = row_window::share;
  bool copies = true; ///< false: another attention-TP rank brings the rows

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return global.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    const std::int64_t start = places.offset(dp_rank);
    row_range own{0, places.rows(dp_rank)}; // local rows to copy
    row_range all = places.slot(dp_rank);   // global rows to write
    if (window == row_window::share) {
      const row_range share = places.share(dp_rank, tp_rank);
      own = {share.first, places.real_in(dp_rank, share)};
      all = {start + share.first, share.count};
    } else if (window == row_window::all) {
      all = {0, places.global_rows()};
    }
    if (own.first + own.count > local_rows)
      own.count = own.first < local_rows ? local_rows - own.first : 0;
    if (!copies) own.count = 0;
    const std::int64_t first = start + own.first; // global row of the first copied one
    copy(own, first, worker);
    const std::int64_t before = own.count == 0 ? all.count : first - all.first;
    const std::int64_t end = own.count == 0 ? all.first + all.count : first + own.count;
    detail::fill_rows(global, row_range{all.first, before}, fill, worker);
    detail::fill_rows(global, row_range{end, all.first + all.count - end}, fill, worker);
  }

private:
  DPGATHER_HOST_DEVICE void copy(row_range own, std::int64_t first,
                                 worker_id worker) const noexcept {
    if constexpr (RowOp::is_identity) {
      detail::move_rows(local, own.first, global, first, own.count, worker);
    } else { // a functor sees whole rows: one worker each
      for (auto i = static_cast<std::int64_t>(worker.index); i < own.count;
           i += static_cast<std::int64_t>(worker.count)) {
        RowOp::apply(local.data + static_cast<std::size_t>(own.first + i) * local.stride,
                     global.data + static_cast<std::size_t>(first + i) * global.stride,
                     global.row_bytes);
      }
    }
  }
};

/// All rows of the global tensor that are not real.
struct fill_tails {
  detail::row_places<std::byte> global{};
  placement places{};
  fill_word fill{};
  std::int64_t most_rows = 0; ///< of all tails together, from the shape

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return global.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    places.for_each_tail(
        [&](row_range tail) noexcept { detail::fill_rows(global, tail, fill, worker); });
  }
};

/// The tail of this attention-TP rank's share of its slot.
struct fill_share_tail {
  detail::row_places<std::byte> global{};
  placement places{};
  fill_word fill{};
  std::int32_t dp_rank = 0;
  std::int32_t tp_rank = 0;
  std::int64_t most_rows = 0; ///< of the share, from the shape

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return global.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    const row_range share = places.share(dp_rank, tp_rank);
    const std::int64_t real = places.real_in(dp_rank, share);
    detail::fill_rows(global,
                      row_range{places.offset(dp_rank) + share.first + real, share.count - real},
                      fill, worker);
  }
};

/// This rank's real rows out of sums or of a global tensor, and the local tail behind them.
struct take_rows {
  /// Where the real rows are; null data when they are in `local` already.
  detail::row_places<const std::byte> sums{};
  detail::row_places<std::byte> local{};
  placement places{};
  fill_word fill{};
  std::int32_t dp_rank = 0;
  bool from_global = false; ///< `sums` is a global tensor, not this rank's rows only
  std::int64_t local_rows = 0;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return local.words(local_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    std::int64_t rows = places.rows(dp_rank);
    if (rows > local_rows) rows = local_rows; // counts that no host has seen
    if (sums.data != nullptr)
      detail::move_rows(sums, from_global ? places.offset(dp_rank) : 0, local, 0, rows, worker);
    detail::fill_rows(local, row_range{rows, local_rows - rows}, fill, worker);
  }
};

/// The real rows of one global tensor to their places in another, and the tails around them there.
struct copy_global {
  detail::row_places<const std::byte> from{};
  detail::row_places<std::byte> to{};
  placement places{};
  fill_word fill{};
  std::int32_t dp_size = 1;
  std::int64_t most_rows = 0; ///< from the shape

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return to.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    for (std::int32_t d = 0; d < dp_size; ++d)
      detail::move_rows(from, places.offset(d), to, places.offset(d), places.rows(d), worker);
    places.for_each_tail(
        [&](row_range tail) noexcept { detail::fill_rows(to, tail, fill, worker); });
  }
};

/// This rank's local rows through a row functor.
template <class RowOp>
struct apply_rows {
  detail::row_places<const std::byte> from{};
  detail::row_places<std::byte> to{};
  placement places{};
  std::int32_t dp_rank = 0;
  std::int64_t most_rows = 0; ///< of the local view

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return to.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    std::int64_t rows = places.rows(dp_rank);
    if (rows > most_rows) rows = most_rows; // counts that no host has seen
    for (auto i = static_cast<std::int64_t>(worker.index); i < rows;
         i += static_cast<std::int64_t>(worker.count))
      RowOp::apply(from.data + static_cast<std::size_t>(i) * from.stride,
                   to.data + static_cast<std::size_t>(i) * to.stride, to.row_bytes);
  }
};

} // namespace dpgather::inline v0
