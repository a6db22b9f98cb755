#pragma once

/// @file
/// The toy model as jobs: one text for the CPU and for kernels, run by `dpgather::executor` on
/// either kind of stream. An engine launches its own kernels here.

#include "device_model.hpp"
#include "toy_model.hpp"

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/executor.hpp>

#include <cstddef>
#include <cstdint>

namespace serve {

/// "Attention": a row for each real token. What it leaves in the pad rows must reach nobody, so it
/// leaves NaN. Inside a graph the count is read when the job runs.
struct attention_job {
  const std::int32_t* tokens = nullptr;
  const std::int32_t* positions = nullptr;
  float* rows = nullptr; ///< `[units.padded, hidden]`
  dpgather::unit_counts units{};

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(units.padded) * hidden;
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dpgather::worker_id worker) const noexcept {
    const auto values = static_cast<std::uint64_t>(units.padded) * hidden;
    const auto real = static_cast<std::uint64_t>(units.real_now());
    for (std::uint64_t i = worker.index; i < values; i += worker.count) {
      const std::uint64_t row = i / hidden;
      rows[i] = row < real
                    ? embed(tokens[row], positions[row], static_cast<std::int32_t>(i % hidden))
                    : pad_row_value;
    }
  }
};

/// This rank's shard of the FFN on all rows: an addend of the whole.
struct ffn_job {
  ffn_slice slice{};
  const float* in = nullptr;
  float* out = nullptr;
  std::int64_t rows = 0;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  /// A worker for each row: rows are long work, unlike the words of a copy.
  [[nodiscard]] std::uint64_t words() const noexcept {
    return 4 * static_cast<std::uint64_t>(rows < 0 ? 0 : rows);
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dpgather::worker_id worker) const noexcept {
    for (auto r = static_cast<std::int64_t>(worker.index); r < rows;
         r += static_cast<std::int64_t>(worker.count)) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * hidden;
      ffn_row(slice, in + at, out + at);
    }
  }
};

} // namespace serve
