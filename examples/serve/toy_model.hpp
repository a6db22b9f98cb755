#pragma once

/// @file
/// A model small enough to check in full: token and position to a hidden row, and a sharded
/// feed-forward network whose sums are exact, so that any order of summation gives the same bits.

#include <dpgather/config.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace serve {

inline constexpr std::int32_t hidden = 8; ///< floats in a row
inline constexpr std::int32_t inner = 64; ///< hidden units of the FFN, dealt to the ranks

/// The token at a position of a request: a made-up prompt and answer.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::int32_t token_at(std::int32_t request,
                                                                   std::int32_t position) noexcept {
  const auto mixed = static_cast<std::uint32_t>(request) * 2654435761u ^
                     static_cast<std::uint32_t>(position) * 40503u;
  return static_cast<std::int32_t>(mixed >> 8 & 0x7fff) + 1;
}

/// The hidden row of a token at a position: whole numbers from -4 to 4.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float embed(std::int32_t token, std::int32_t position,
                                                         std::int32_t column) noexcept {
  const auto mixed = (static_cast<std::uint32_t>(token) * 2246822519u +
                      static_cast<std::uint32_t>(position) * 3266489917u +
                      static_cast<std::uint32_t>(column) * 668265263u);
  return static_cast<float>(static_cast<std::int32_t>(mixed >> 13) % 5) -
         static_cast<float>((mixed >> 3) % 3);
}

/// Weights of the two layers: -1, 0 or 1. With rows as above a unit is at most 32 * hidden, a sum
/// over all units at most 2^14: far below 2^24, so every fp32 sum is exact.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float weight_in(std::int32_t unit,
                                                             std::int32_t column) noexcept {
  return static_cast<float>((unit * 7 + column * 5) % 3 - 1);
}
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr float weight_out(std::int32_t unit,
                                                              std::int32_t column) noexcept {
  return static_cast<float>((unit * 11 + column * 2) % 3 - 1);
}

struct ffn_weights {
  std::array<std::array<float, hidden>, inner> in{}, out{};
};
inline constexpr ffn_weights weights = [] {
  ffn_weights w;
  for (std::int32_t u = 0; u < inner; ++u) {
    for (std::int32_t c = 0; c < hidden; ++c) {
      const auto unit = static_cast<std::size_t>(u);
      const auto column = static_cast<std::size_t>(c);
      w.in[unit][column] = weight_in(u, c);
      w.out[unit][column] = weight_out(u, c);
    }
  }
  return w;
}();

/// Adds units `first` to `last` of the FFN of row `x` to row `y`.
inline void ffn(const float* x, float* y, std::size_t first, std::size_t last) noexcept {
  for (std::size_t u = first; u < last; ++u) {
    float sum = 0;
    for (std::size_t c = 0; c < hidden; ++c) sum += weights.in[u][c] * x[c];
    if (sum <= 0) continue;
    for (std::size_t c = 0; c < hidden; ++c) y[c] += weights.out[u][c] * sum;
  }
}

} // namespace serve
