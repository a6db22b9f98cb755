#pragma once

/// @file
/// Copies and fills of views, as jobs on a stream.

#include <dpgather/config.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Copies `count` rows through a row functor, from row `from_first` of one view to row `to_first`
/// of another with the same row size. Nothing is launched for zero rows.
template <class RowOp, row_state A, class AByte, row_state B, class Stream>
void copy_rows(const token_rows<A, AByte>& from, std::int64_t from_first, const token_rows<B>& to,
               std::int64_t to_first, std::int64_t count, Stream stream) noexcept {
  if (count <= 0) return;
  row_executor<Stream>::template copy<RowOp>({.from = from.row(from_first),
                                              .to = to.row(to_first),
                                              .row_bytes = to.row_bytes(),
                                              .from_stride = from.row_stride(),
                                              .to_stride = to.row_stride(),
                                              .rows = count},
                                             stream);
}

/// Fills a run of rows; nothing is launched for zero rows or for a fill that leaves things be.
template <row_state State, class Stream>
void fill_rows(const token_rows<State>& rows, row_range range, const fill_pattern& fill,
               Stream stream) noexcept {
  if (fill.leave || range.count <= 0) return;
  row_executor<Stream>::fill({.to = rows.row(range.first),
                              .row_bytes = rows.row_bytes(),
                              .stride = rows.row_stride(),
                              .rows = range.count,
                              .fill = fill},
                             stream);
}

} // namespace dpgather::inline v0
