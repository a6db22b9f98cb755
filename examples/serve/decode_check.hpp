#pragma once

/// @file
/// The scalar reference of a decode step: what its rows and tails must be, bit for bit.

#include "graph_report.hpp"
#include "scheduler.hpp"
#include "toy_model.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace serve {

/// What one rank's step left in the host's memory; `bucket` rows each.
struct decode_outcome {
  std::int32_t bucket = 0;
  const std::int32_t* tokens = nullptr;
  const std::int32_t* positions = nullptr;
  const float* output = nullptr;  ///< `[bucket, hidden]`, tails included
  const float* trimmed = nullptr; ///< `[bucket, hidden]`, of which the real rows were written
};

/// The whole FFN of one row, by one thread, from request and position.
[[nodiscard]] inline std::array<float, hidden> reference_row(std::int32_t request,
                                                             std::int32_t position) noexcept {
  std::array<float, hidden> x{};
  std::array<float, hidden> y{};
  for (std::int32_t c = 0; c < hidden; ++c)
    x[static_cast<std::size_t>(c)] = embed(token_at(request, position), position, c);
  ffn(x.data(), y.data(), 0, inner);
  return y;
}

/// Counts values that differ from the reference: real rows, and tails, which are zero.
[[nodiscard]] inline std::int64_t wrong_values(const rank_step& mine,
                                               const decode_outcome& got) noexcept {
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  std::int64_t wrong = 0;
  std::size_t row = 0;
  mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
    const std::array<float, hidden> expected = reference_row(request, position);
    for (std::size_t c = 0; c < hidden; ++c) {
      wrong += bits(got.trimmed[row * hidden + c]) != bits(expected[c]);
      wrong += bits(got.output[row * hidden + c]) != bits(expected[c]);
    }
    ++row;
  });
  for (; row < static_cast<std::size_t>(got.bucket); ++row) {
    wrong += got.tokens[row] != 0 || got.positions[row] != 0;
    for (std::size_t c = 0; c < hidden; ++c) wrong += bits(got.output[row * hidden + c]) != 0;
  }
  return wrong;
}

/// Spells a step out as rank 0 saw it, if there is something to see: a pad row, and a real one that
/// the FFN makes something of.
inline void spell(const step& all, const decode_outcome& got, std::int64_t global_rows,
                  std::int32_t unwritten, spelled_step& out) {
  const rank_step& mine = all.ranks[0];
  if (mine.tokens == 0 || mine.tokens >= got.bucket) return;
  const std::array<float, hidden> expected =
      reference_row(mine.slices[0].request, mine.slices[0].position);
  if (expected == std::array<float, hidden>{}) return;
  const auto row_of = [&](const float* rows, std::int32_t row) {
    std::array<float, hidden> values{};
    for (std::size_t c = 0; c < hidden; ++c)
      values[c] = rows[static_cast<std::size_t>(row) * hidden + c];
    return values;
  };
  out.tick = all.tick;
  out.rows_of_rank.clear();
  for (const rank_step& each : all.ranks) out.rows_of_rank.push_back(each.tokens);
  out.bucket = got.bucket;
  out.global_rows = global_rows;
  out.pad_rows = global_rows - all.sum_rows;
  out.request = mine.slices[0].request;
  out.position = mine.slices[0].position;
  out.token = got.tokens[0];
  out.pad_token_before = unwritten;
  out.pad_token_after = got.tokens[mine.tokens];
  out.result = row_of(got.trimmed, 0);
  out.expected = expected;
  out.pad_result = row_of(got.output, mine.tokens);
}

} // namespace serve
