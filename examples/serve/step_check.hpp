#pragma once

/// @file
/// What a step left in a rank's memory, against the scalar reference.

#include "scheduler.hpp"
#include "toy_model.hpp"

#include <dpgather/hash.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace serve {

/// The whole FFN of each real row, computed by this rank alone from request and position. Answers
/// the values that differ.
[[nodiscard]] inline std::int64_t wrong_rows(const rank_step& mine,
                                             std::span<const float> trimmed) noexcept {
  std::int64_t wrong = 0;
  std::size_t row = 0;
  mine.for_each_row([&](std::int32_t request, std::int32_t position, bool) {
    float x[hidden];
    float y[hidden]{};
    for (std::int32_t c = 0; c < hidden; ++c)
      x[c] = embed(token_at(request, position), position, c);
    ffn(x, y, 0, inner);
    for (std::size_t c = 0; c < hidden; ++c) wrong += !(trimmed[row * hidden + c] == y[c]);
    ++row;
  });
  return wrong;
}

/// Pad rows of the result that are not zero, as the tail policy says they are.
[[nodiscard]] inline std::int64_t wrong_tail(std::int32_t real, std::int32_t padded,
                                             std::span<const float> output) noexcept {
  std::int64_t wrong = 0;
  for (auto i = static_cast<std::size_t>(real) * hidden;
       i < static_cast<std::size_t>(padded) * hidden; ++i)
    wrong += !(output[i] == 0.0f);
  return wrong;
}

/// The bits of all outputs in order, so that two runs can be compared.
inline void add_rows(dpgather::digest_builder& digest, std::span<const float> rows) noexcept {
  static_assert(hidden % 2 == 0);
  const auto bits = [](float x) { return std::uint64_t{std::bit_cast<std::uint32_t>(x)}; };
  for (std::size_t i = 0; i < rows.size(); i += 2)
    digest.add(bits(rows[i]) << 32 | bits(rows[i + 1]));
}

} // namespace serve
