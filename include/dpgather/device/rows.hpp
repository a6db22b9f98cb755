#pragma once

/// @file
/// Copying rows and filling rows on the stream of a communicator. Bodies are the same text for the
/// CPU and for kernels; `row_executor<Stream>` runs them on one kind of stream.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/fill.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dpgather::inline v0 {

/// The stream of the CPU: work is done when the call returns.
struct host_stream {};

/// Rows to copy. Source and destination are equal or do not overlap.
struct row_copy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::size_t row_bytes = 0;
  std::size_t from_stride = 0; ///< bytes
  std::size_t to_stride = 0;   ///< bytes
  std::int64_t rows = 0;
};

/// Rows to fill with a pattern that divides `row_bytes`.
struct row_fill {
  std::byte* to = nullptr;
  std::size_t row_bytes = 0;
  std::size_t stride = 0; ///< bytes
  std::int64_t rows = 0;
  fill_word fill{};
};

/// Copies through a row functor; worker `worker` of `workers` takes every `workers`-th row.
template <class RowOp>
DPGATHER_HOST_DEVICE void copy_rows_body(const row_copy& job, std::int64_t worker,
                                         std::int64_t workers) noexcept {
  for (std::int64_t i = worker; i < job.rows; i += workers) {
    const auto row = static_cast<std::size_t>(i);
    RowOp::apply(job.from + row * job.from_stride, job.to + row * job.to_stride, job.row_bytes);
  }
}

/// Fills rows; every worker writes every `workers`-th word. Zero is written, not multiplied: what
/// was there does not matter.
DPGATHER_HOST_DEVICE inline void fill_rows_body(const row_fill& job, std::uint64_t worker,
                                                std::uint64_t workers) noexcept {
  if (job.fill.leave || job.rows <= 0 || job.row_bytes == 0) return;
  const auto rows = static_cast<std::uint64_t>(job.rows);
  const bool dense = job.stride == job.row_bytes;
  const detail::byte_runs to{.start = reinterpret_cast<std::uintptr_t>(job.to),
                             .slices = 1,
                             .slice_stride = 0,
                             .runs = dense ? 1 : rows,
                             .run_stride = job.stride,
                             .run_bytes = dense ? rows * job.row_bytes : job.row_bytes};
  detail::fill_runs(to, job.fill.bits, worker, workers);
}

/// Runs row jobs on one kind of stream. Specialised for `host_stream` here, for CUDA streams in the
/// `.cuh` of the same name.
template <class Stream>
struct row_executor;

template <>
struct row_executor<host_stream> {
  template <class RowOp>
  static void copy(const row_copy& job, host_stream) noexcept {
    copy_rows_body<RowOp>(job, 0, 1);
  }
  static void fill(const row_fill& job, host_stream) noexcept { fill_rows_body(job, 0, 1); }
};

} // namespace dpgather::inline v0
