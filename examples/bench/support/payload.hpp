#pragma once

/// @file
/// Rows of whole numbers as bf16, different for every rank, buffer, row and column, and small
/// enough that their sum over 16 ranks is exact in any order.

#include <dpgather/config.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

namespace bench {

/// Which row: of whom, of which of its buffers.
struct row_name {
  std::int32_t rank = 0;
  std::int32_t buffer = 0;
  std::int64_t row = 0;
};

inline constexpr std::int32_t most_exact_ranks = 16;

/// In [-15, 15].
[[nodiscard]] DPGATHER_HOST_DEVICE inline std::int32_t payload(const row_name& of,
                                                               std::int32_t column) {
  std::uint32_t x = static_cast<std::uint32_t>(of.row) * 0x9e3779b1u +
                    static_cast<std::uint32_t>(of.rank) * 0x85ebca77u +
                    static_cast<std::uint32_t>(of.buffer) * 0xc2b2ae3du +
                    static_cast<std::uint32_t>(column);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return static_cast<std::int32_t>((x ^ (x >> 16)) % 31) - 15;
}

/// The bits of a whole number of at most 256 as bf16.
[[nodiscard]] DPGATHER_HOST_DEVICE inline std::uint16_t bf16_bits(std::int32_t value) {
  const auto wide = static_cast<float>(value);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &wide, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}

/// `rows` rows, from row 0 of a rank's buffer on.
[[nodiscard]] inline std::vector<std::uint16_t>
payload_rows(std::int32_t rank, std::int32_t buffer, std::int64_t rows, std::int32_t hidden) {
  std::vector<std::uint16_t> out;
  out.reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int32_t c = 0; c < hidden; ++c)
      out.push_back(bf16_bits(payload({rank, buffer, r}, c)));
  }
  return out;
}

/// Elements of `got` that are not the bits that `want(row, column)` says. Prints the first.
template <class Want>
[[nodiscard]] std::int64_t count_wrong(std::span<const std::uint16_t> got, std::int32_t hidden,
                                       Want want) {
  std::int64_t wrong = 0;
  std::size_t i = 0;
  for (std::int64_t row = 0; i < got.size(); ++row) {
    for (std::int32_t column = 0; column < hidden && i < got.size(); ++column, ++i) {
      const std::uint16_t right = want(row, column);
      if (got[i] == right) continue;
      if (wrong++ == 0)
        std::fprintf(stderr, "row %lld, column %d: bits %04x instead of %04x\n",
                     static_cast<long long>(row), column, got[i], right);
    }
  }
  return wrong;
}

} // namespace bench
