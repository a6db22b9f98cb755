#pragma once

/// @file
/// What a step must leave, computed by each rank alone: no row travels for it.

#include "../support/device_memory.cuh"
#include "../support/device_rows.cuh"
#include "step_kernels.cuh"
#include "step_model.cuh"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace bench {

namespace detail {

/// Adds bf16 to fp32, in the order of the calls; the last one rounds.
__global__ void add_rows(const __nv_bfloat16* addend, float* sum, __nv_bfloat16* rounded,
                         std::int64_t elements, bool first) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements;
       i += step) {
    sum[i] = (first ? 0.f : sum[i]) + __bfloat162float(addend[i]);
    if (rounded != nullptr) rounded[i] = __float2bfloat16_rn(sum[i]);
  }
}

__global__ void compare_bits(const std::uint16_t* got, const std::uint16_t* want,
                             std::int64_t elements, row_differences* found) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements;
       i += step) {
    if (got[i] == want[i]) continue;
    atomicAdd(&found->count, 1ull);
    atomicMin(&found->first, static_cast<unsigned long long>(i));
  }
}

} // namespace detail

/// The rows of one rank before and after a step of all layers, as many as any case has. A row owes
/// nothing to those beside it, so they serve every case. The weights of the other ranks' shards are
/// written anew for it, layer by layer.
class expected_rows {
public:
  expected_rows(step_model& model, std::int32_t rank)
      : shape_{model.shape()}, stream_{model.stream()}, tokens_{bytes(2)}, rows_{bytes(2)},
        found_{sizeof(row_differences)} {
    const device_memory gathered{bytes(2)}, addend{bytes(2)}, sum{bytes(4)};
    const device_memory up{2 * shape_.up_elements()}, down{2 * shape_.down_elements()};
    write_rows(tokens_.data(), shape_.most_rows, shape_.hidden, step_tokens{rank}, stream_);
    for (std::int32_t l = 0; l < shape_.layers; ++l) {
      model.attention(l, l == 0 ? tokens_.data() : rows_.data(), gathered.data(), shape_.most_rows);
      for (std::int32_t r = 0; r < shape_.ranks; ++r) {
        model.fill(up.data(), {l, r, step_matrix::up});
        model.fill(down.data(), {l, r, step_matrix::down});
        model.ffn_of(up.data(), down.data(), gathered.data(), addend.data(), shape_.most_rows);
        auto* const rounded = reinterpret_cast<__nv_bfloat16*>(rows_.data());
        launch(detail::add_rows, 1024, 256, stream_,
               reinterpret_cast<const __nv_bfloat16*>(addend.data()),
               reinterpret_cast<float*>(sum.data()), r + 1 == shape_.ranks ? rounded : nullptr,
               elements(shape_.most_rows), r == 0);
      }
    }
    must(cudaStreamSynchronize(stream_), "expected rows");
  }

  /// What every step begins with: `[most_rows, hidden]`.
  [[nodiscard]] const std::byte* tokens() const { return tokens_.data(); }
  /// Elements of the first `rows` rows that differ. Prints the first. Waits: the stream must hold
  /// nothing that waits for another rank.
  [[nodiscard]] std::int64_t wrong(const std::byte* got, std::int32_t rows) const {
    if (rows == 0) return 0;
    row_differences found;
    upload(found_.data(), &found, sizeof found, stream_);
    launch(detail::compare_bits, 1024, 256, stream_, reinterpret_cast<const std::uint16_t*>(got),
           reinterpret_cast<const std::uint16_t*>(rows_.data()), elements(rows),
           reinterpret_cast<row_differences*>(found_.data()));
    download(&found, found_.data(), sizeof found, stream_);
    if (found.count == 0) return 0;
    std::uint16_t bits[2]{};
    download(&bits[0], got + found.first * 2, 2, stream_);
    download(&bits[1], rows_.data() + found.first * 2, 2, stream_);
    const auto width = static_cast<unsigned long long>(shape_.hidden);
    std::fprintf(stderr, "row %llu, column %llu: bits %04x instead of %04x\n", found.first / width,
                 found.first % width, bits[0], bits[1]);
    return static_cast<std::int64_t>(found.count);
  }
  /// Whether the first two rows differ in most elements: equal ones would be right in any place.
  [[nodiscard]] bool tells_rows_apart() const {
    const auto width = static_cast<std::size_t>(shape_.hidden);
    std::vector<std::uint16_t> two(2 * width);
    download(two.data(), rows_.data(), 2 * shape_.row_bytes(), stream_);
    std::size_t different = 0;
    for (std::size_t i = 0; i < width; ++i) different += two[i] != two[width + i] ? 1 : 0;
    return 2 * different > width;
  }

private:
  [[nodiscard]] std::int64_t elements(std::int32_t rows) const {
    return std::int64_t{rows} * shape_.hidden;
  }
  [[nodiscard]] std::size_t bytes(std::int32_t of_element) const {
    return static_cast<std::size_t>(elements(shape_.most_rows) * of_element);
  }

  step_shape shape_;
  cudaStream_t stream_;
  device_memory tokens_, rows_, found_;
};

} // namespace bench
