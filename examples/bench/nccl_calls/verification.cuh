#pragma once

/// @file
/// What outputs must hold after the calls [0, n) of a graph, of which the last is seen.

#include "../support/device_memory.cuh"
#include "../support/payload.hpp"
#include "nccl_rank.cuh"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace bench {

inline constexpr std::uint16_t poisoned_element = 0xcdcd;

/// Where the rows of the global tensor come from: rank r has `counts[r]` of them, one rank after
/// the other.
[[nodiscard]] inline std::vector<row_name> owners_of(std::span<const std::int32_t> counts,
                                                     std::int32_t buffer) {
  std::vector<row_name> out;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    for (std::int32_t i = 0; i < counts[r]; ++i)
      out.push_back({static_cast<std::int32_t>(r), buffer, i});
  }
  return out;
}

/// `rows` rows at `at` and the row behind them, on the host.
[[nodiscard]] inline std::vector<std::uint16_t>
download_rows(const nccl_rank& here, const std::byte* at, std::int64_t rows) {
  std::vector<std::uint16_t> out(static_cast<std::size_t>(rows + 1) *
                                 static_cast<std::size_t>(here.shape().hidden));
  download(out.data(), at, out.size() * 2, here.stream());
  return out;
}

/// Poisons that much.
inline void poison_rows(const nccl_rank& here, std::byte* at, std::int64_t rows) {
  poison_bytes(at, static_cast<std::size_t>(rows + 1) * here.shape().row_bytes(), here.stream());
}

/// After gathers: every rank's rows of `buffer`, then zeros up to `global_rows`, then nothing that
/// anybody wrote.
[[nodiscard]] inline std::int64_t wrong_after_gather(const nccl_rank& here,
                                                     std::span<const std::int32_t> counts,
                                                     std::int64_t global_rows,
                                                     std::int32_t buffer) {
  const std::vector<row_name> owners = owners_of(counts, buffer);
  const auto real = static_cast<std::int64_t>(owners.size());
  return count_wrong(download_rows(here, here.global(), global_rows), here.shape().hidden,
                     [&](std::int64_t row, std::int32_t column) -> std::uint16_t {
                       if (row >= global_rows) return poisoned_element;
                       if (row >= real) return 0;
                       return bf16_bits(payload(owners[static_cast<std::size_t>(row)], column));
                     });
}

/// After combines of `rows` rows per rank: this rank's rows of the sum over all ranks.
[[nodiscard]] inline std::int64_t wrong_after_combine(const nccl_rank& here, std::int32_t rows,
                                                      std::int32_t buffer) {
  const std::int64_t first = std::int64_t{here.rank()} * rows;
  return count_wrong(download_rows(here, here.local(), rows), here.shape().hidden,
                     [&](std::int64_t row, std::int32_t column) -> std::uint16_t {
                       if (row >= rows) return poisoned_element;
                       std::int32_t sum = 0;
                       for (std::int32_t r = 0; r < here.shape().ranks; ++r)
                         sum += payload({r, buffer, first + row}, column);
                       return bf16_bits(sum);
                     });
}

} // namespace bench
