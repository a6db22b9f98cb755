#pragma once

/// @file
/// Rows times weights, by cuBLAS.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace bench {

inline void must(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s: %s\n", what, cublasGetStatusName(code));
  give_up(4);
}

/// bf16 times bf16, sums in fp32 to the end. On one stream; memory is allocated here only, so calls
/// can be captured.
class row_gemm {
public:
  explicit row_gemm(cudaStream_t stream) : workspace_{std::size_t{32} << 20} {
    must(cublasCreate(&handle_), "cublasCreate");
    must(cublasSetStream(handle_, stream), "cublasSetStream");
    must(cublasSetWorkspace(handle_, workspace_.data(), workspace_.size()), "cublasSetWorkspace");
    must(cublasSetMathMode(handle_, cublasMath_t(CUBLAS_DEFAULT_MATH |
                                                 CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
         "cublasSetMathMode");
  }
  row_gemm(const row_gemm&) = delete;
  row_gemm& operator=(const row_gemm&) = delete;
  ~row_gemm() { (void)cublasDestroy(handle_); }

  /// `out[m, n] = scale * rows[m, k] * weights[n, k]` transposed. Nothing for no rows.
  void multiply(const std::byte* rows, const std::byte* weights, std::byte* out, std::int64_t m,
                std::int32_t n, std::int32_t k, float scale = 1) {
    if (m == 0) return;
    const float zero = 0;
    // Rows are cuBLAS's columns.
    must(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, n, static_cast<int>(m), k, &scale, weights,
                      CUDA_R_16BF, k, rows, CUDA_R_16BF, k, &zero, out, CUDA_R_16BF, n,
                      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
         "cublasGemmEx");
  }

private:
  device_memory workspace_;
  cublasHandle_t handle_ = nullptr;
};

} // namespace bench
