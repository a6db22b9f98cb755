#pragma once

/// @file
/// Rows of 16-bit elements that are written and compared where they lie: a host takes seconds for
/// what fills a GPU.

#include "check.cuh"
#include "device_memory.cuh"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <utility>

namespace bench {

/// Elements that differ, and the lowest index of one.
struct row_differences {
  unsigned long long count = 0;
  unsigned long long first = ~0ull;
};

namespace detail {

template <class Value>
__global__ void write_rows(std::uint16_t* to, std::int64_t rows, std::int32_t hidden, Value value) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (auto column = static_cast<std::int32_t>(threadIdx.x); column < hidden;
         column += static_cast<std::int32_t>(blockDim.x))
      to[row * hidden + column] = value(row, column);
  }
}

template <class Want>
__global__ void compare_rows(const std::uint16_t* got, std::int64_t rows, std::int32_t hidden,
                             Want want, row_differences* found) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (auto column = static_cast<std::int32_t>(threadIdx.x); column < hidden;
         column += static_cast<std::int32_t>(blockDim.x)) {
      if (got[row * hidden + column] == want(row, column)) continue;
      atomicAdd(&found->count, 1ull);
      atomicMin(&found->first, static_cast<unsigned long long>(row * hidden + column));
    }
  }
}

} // namespace detail

/// Launches a kernel of this program, which must succeed.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, std::int32_t threads,
            cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t how{};
  how.gridDim = dim3{static_cast<unsigned>(blocks)};
  how.blockDim = dim3{static_cast<unsigned>(threads)};
  how.stream = stream;
  must(cudaLaunchKernelEx(&how, kernel, static_cast<Parameters>(arguments)...), "launch");
}

/// Writes `rows` rows: `value(row, column)` answers the bits of an element, on both sides, and
/// `Value` is trivially copyable. Stream: ordered.
template <class Value>
void write_rows(std::byte* at, std::int64_t rows, std::int32_t hidden, const Value& value,
                cudaStream_t stream) {
  static_assert(std::is_trivially_copyable_v<Value>);
  if (rows <= 0) return;
  launch(detail::write_rows<Value>, rows < 4096 ? rows : 4096, 256, stream,
         reinterpret_cast<std::uint16_t*>(at), rows, hidden, value);
}

/// Compares rows of the device that was current when it was made. Made before anything is timed: it
/// has memory.
class row_checker {
public:
  row_checker() : found_{sizeof(row_differences)} {}

  /// Elements of `rows` rows that are not `want(row, column)`; see `write_rows`. Prints the first.
  /// Waits: the stream must hold nothing that waits for another rank.
  template <class Want>
  [[nodiscard]] std::int64_t wrong(const std::byte* at, std::int64_t rows, std::int32_t hidden,
                                   const Want& want, cudaStream_t stream) const {
    static_assert(std::is_trivially_copyable_v<Want>);
    if (rows <= 0) return 0;
    row_differences found;
    upload(found_.data(), &found, sizeof found, stream);
    launch(detail::compare_rows<Want>, rows < 4096 ? rows : 4096, 256, stream,
           reinterpret_cast<const std::uint16_t*>(at), rows, hidden, want,
           reinterpret_cast<row_differences*>(found_.data()));
    download(&found, found_.data(), sizeof found, stream);
    if (found.count == 0) return 0;
    const auto row = static_cast<std::int64_t>(found.first) / hidden;
    const auto column = static_cast<std::int32_t>(static_cast<std::int64_t>(found.first) % hidden);
    std::uint16_t got = 0;
    download(&got, at + found.first * sizeof got, sizeof got, stream);
    std::fprintf(stderr, "row %lld, column %d: bits %04x instead of %04x\n",
                 static_cast<long long>(row), column, got, want(row, column));
    return static_cast<std::int64_t>(found.count);
  }

private:
  device_memory found_;
};

} // namespace bench
