#pragma once

/// @file
/// What a layer does beside its GEMMs, and the numbers in its weights and rows.
///
/// Rows, weights and activations are small whole numbers, so every sum is exact in fp32, whatever
/// the order in which a GEMM of some size adds up. Then each method must leave the same bits.

#include "../support/device_rows.cuh"
#include "../support/payload.hpp"

#include <dpgather/config.hpp>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bench {

/// Which matrix. Attention's is the same on all ranks (`rank` 0).
enum class step_matrix : std::int32_t { attention, up, down };

/// -1, 0 or 1 for `write_rows`; different for every layer, rank and matrix.
struct step_weights {
  std::int32_t layer = 0;
  std::int32_t rank = 0;
  step_matrix matrix = step_matrix::attention;

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    return bf16_bits(
        payload({rank + 1, layer * 3 + static_cast<std::int32_t>(matrix), row}, column) % 2);
  }
};
/// The rows that a rank starts a step with: -4 to 4.
struct step_tokens {
  std::int32_t rank = 0;

  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    return bf16_bits(payload({rank, -1, row}, column) % 5);
  }
};

namespace detail {

/// Eight elements, 16 bytes.
struct alignas(16) bf16_octet {
  __nv_bfloat16 at[8];
};
inline constexpr std::int32_t octet = 8;

/// In place of a norm: whole numbers from -4 to 4 again.
__global__ void norm_rows(const bf16_octet* in, bf16_octet* out, std::int64_t octets, float scale) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < octets;
       i += step) {
    bf16_octet values = in[i];
    for (__nv_bfloat16& value : values.at)
      value = __float2bfloat16_rn(
          fminf(fmaxf(rintf(__fmul_rn(__bfloat162float(value), scale)), -4.f), 4.f));
    out[i] = values;
  }
}

/// Gate and up, side by side in a row, to silu(gate) * up, rounded to halves of -4 to 4 and
/// doubled: whole numbers from -8 to 8.
__global__ void silu_rows(const bf16_octet* in, bf16_octet* out, std::int64_t rows,
                          std::int32_t octets_of_row) {
  const std::int64_t all = rows * octets_of_row;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < all; i += step) {
    const std::int64_t row = i / octets_of_row;
    const std::int64_t from = row * octets_of_row + i; // a row of the input is twice as long
    const bf16_octet gates = in[from];
    const bf16_octet ups = in[from + octets_of_row];
    bf16_octet values;
    for (std::int32_t j = 0; j < octet; ++j) {
      const float gate = __bfloat162float(gates.at[j]);
      const float silu = __fdividef(gate, __fadd_rn(1.f, __expf(-gate)));
      const float product = __fmul_rn(__fmul_rn(2.f, silu), __bfloat162float(ups.at[j]));
      values.at[j] = __float2bfloat16_rn(fminf(fmaxf(rintf(product), -8.f), 8.f));
    }
    out[i] = values;
  }
}

/// Blocks of 256 threads for so many octets.
[[nodiscard]] inline std::int64_t blocks_for(std::int64_t octets) {
  return std::clamp<std::int64_t>((octets + 255) / 256, 1, 4096);
}

} // namespace detail

/// `[rows, hidden]` to `[rows, hidden]`, which may be the same. Stream: ordered.
inline void norm_rows(const std::byte* in, std::byte* out, std::int64_t rows, std::int32_t hidden,
                      float scale, cudaStream_t stream) {
  if (rows == 0) return;
  const std::int64_t octets = rows * hidden / detail::octet;
  launch(detail::norm_rows, detail::blocks_for(octets), 256, stream,
         reinterpret_cast<const detail::bf16_octet*>(in),
         reinterpret_cast<detail::bf16_octet*>(out), octets, scale);
}
/// `[rows, 2 * width]` to `[rows, width]`. Stream: ordered.
inline void silu_rows(const std::byte* in, std::byte* out, std::int64_t rows, std::int32_t width,
                      cudaStream_t stream) {
  if (rows == 0) return;
  launch(detail::silu_rows, detail::blocks_for(rows * width / detail::octet), 256, stream,
         reinterpret_cast<const detail::bf16_octet*>(in),
         reinterpret_cast<detail::bf16_octet*>(out), rows, width / detail::octet);
}

} // namespace bench
