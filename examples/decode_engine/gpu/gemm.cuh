#pragma once

/// @file
/// `out[rows, n] = in[rows, k] * weights[k, n]`: bf16 operands, fp32 sums and output.
///
/// By cuBLAS, whose row count is the host's and frozen in a graph; by a kernel of one's own where
/// the row count is read in device memory, as cuBLAS cannot.

#include "kernels.cuh"
#include "launch.cuh"

#include <dpgather/throw.hpp>

#include <cublas_v2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine::gpu {

[[nodiscard]] inline dg::status cublas_status(cublasStatus_t code, const char* where) noexcept {
  if (code == CUBLAS_STATUS_SUCCESS) return {};
  return {.code = dg::errc::native_error,
          .native = static_cast<std::int32_t>(code),
          .value_name = cublasGetStatusName(code),
          .where = where};
}

/// Weights `[k, n]` in device memory.
struct weight_matrix {
  const bf16* data = nullptr;
  std::int32_t k = 0;
  std::int32_t n = 0;
};

/// A thread for each element; rows from the live count on are left alone.
__global__ void live_matmul(const bf16* in, weight_matrix weights, row_count rows, float* out) {
  const std::int64_t i = thread_number();
  const std::int64_t row = i / weights.n;
  if (row >= rows.now()) return;
  float sum = 0;
  for (std::int32_t k = 0; k < weights.k; ++k)
    sum += __bfloat162float(in[row * weights.k + k]) *
           __bfloat162float(weights.data[std::int64_t{k} * weights.n + i % weights.n]);
  out[i] = sum;
}

/// One rank's, on the GPU that is current. cuBLAS works in memory allocated here: in a capture
/// nothing may be.
class gemm {
public:
  gemm() : workspace_{std::size_t{32} << 20} {
    dg::throw_if_failed(cublas_status(cublasCreate(&handle_), "cublasCreate"));
  }
  gemm(const gemm&) = delete;
  gemm& operator=(const gemm&) = delete;
  ~gemm() { (void)cublasDestroy(handle_); }

  void run(enqueuer& to, const bf16* in, const weight_matrix& weights, const row_count& rows,
           float* out) noexcept {
    if (rows.rows == 0) return;
    if (rows.live != nullptr)
      return to.launch(live_matmul, rows.rows * weights.n, in, weights, rows, out);
    to.call([&]() noexcept { return by_cublas(to.stream(), in, weights, rows.rows, out); });
  }

  /// Every row count once, so that cuBLAS loads now what it will want: loading waits for the GPU,
  /// where another rank's kernel may be waiting for this rank.
  [[nodiscard]] dg::status warm_up(const std::vector<weight_matrix>& all, std::int64_t most_rows,
                                   const bf16* in, float* out, cudaStream_t stream) noexcept {
    enqueuer to{stream};
    for (const weight_matrix& weights : all)
      for (std::int64_t rows = 1; rows <= most_rows; ++rows) run(to, in, weights, {rows}, out);
    return to.done();
  }

private:
  /// Row-major as column-major: the transposed product of transposes.
  [[nodiscard]] dg::status by_cublas(cudaStream_t stream, const bf16* in,
                                     const weight_matrix& weights, std::int64_t rows,
                                     float* out) noexcept {
    constexpr float one = 1;
    constexpr float zero = 0;
    if (dg::status bad = cublas_status(cublasSetStream(handle_, stream), "cublasSetStream"); !bad)
      return bad;
    // A new stream brings cuBLAS's own workspace back.
    if (dg::status bad =
            cublas_status(cublasSetWorkspace(handle_, workspace_.data(), workspace_.bytes()),
                          "cublasSetWorkspace");
        !bad)
      return bad;
    return cublas_status(cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, weights.n,
                                      static_cast<int>(rows), weights.k, &one, weights.data,
                                      CUDA_R_16BF, weights.n, in, CUDA_R_16BF, weights.k, &zero,
                                      out, CUDA_R_32F, weights.n, CUBLAS_COMPUTE_32F,
                                      CUBLAS_GEMM_DEFAULT),
                         "cublasGemmEx");
  }

  serve::device_array<std::byte> workspace_;
  cublasHandle_t handle_ = nullptr;
};

} // namespace engine::gpu
