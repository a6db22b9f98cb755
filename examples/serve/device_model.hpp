#pragma once

/// @file
/// What kernels need besides `toy_model.hpp`, whose tables only the host can read. The scalar
/// reference stays there: nothing here is used to check what it computed itself.

#include "toy_model.hpp"

#include <dpgather/config.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

namespace serve {

/// What stands in a pad row: it spreads through every sum, so that none of it can go unseen.
inline constexpr float pad_row_value = std::numeric_limits<float>::quiet_NaN();

/// One rank's units of the FFN, in memory that the reader can read: `[units, hidden]` each.
struct ffn_slice {
  const float* in = nullptr;
  const float* out = nullptr;
  std::int32_t units = 0;
};

/// First unit of rank `rank`'s slice; that of the rank behind it is the end.
[[nodiscard]] constexpr std::int32_t first_unit(std::int32_t rank, std::int32_t ranks) noexcept {
  return inner * rank / ranks;
}

/// This slice's addend of the FFN of row `x`. Sums are exact, so a fused multiply-add and any order
/// give the bits of `ffn`.
DPGATHER_HOST_DEVICE inline void ffn_row(const ffn_slice& slice, const float* x,
                                         float* y) noexcept {
  for (std::int32_t c = 0; c < hidden; ++c) y[c] = 0;
  for (std::int32_t u = 0; u < slice.units; ++u) {
    const float* const in = slice.in + static_cast<std::ptrdiff_t>(u) * hidden;
    const float* const out = slice.out + static_cast<std::ptrdiff_t>(u) * hidden;
    float sum = 0;
    for (std::int32_t c = 0; c < hidden; ++c) sum += in[c] * x[c];
    if (sum <= 0) continue; // a NaN goes on
    for (std::int32_t c = 0; c < hidden; ++c) y[c] += out[c] * sum;
  }
}

} // namespace serve
