#pragma once

/// @file
/// A GEMM as an engine has them beside its collectives, from cuBLAS where the build has it.

#include "../support/captured_graph.cuh"
#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/device_rows.cuh"
#include "../support/payload.hpp"

#include <cuda_runtime_api.h>
#ifdef DPGATHER_BENCH_CUBLAS
#include <cublas_v2.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace bench {

/// Rows, columns of the weights, and what is summed over.
struct gemm_shape {
  std::int32_t m = 2048, n = 7168, k = 2048;
  [[nodiscard]] double operations() const { return 2.0 * m * n * k; }
};

#ifdef DPGATHER_BENCH_CUBLAS

inline constexpr bool has_gemm = true;

inline void must(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s: %s\n", what, cublasGetStatusName(code));
  give_up(4);
}

namespace detail {

/// Whole numbers as bf16.
struct gemm_payload {
  std::int32_t matrix = 0;
  DPGATHER_HOST_DEVICE std::uint16_t operator()(std::int64_t row, std::int32_t column) const {
    return bf16_bits(payload({matrix, 0, row}, column));
  }
};

} // namespace detail

/// bf16 times bf16, sums in fp32, on a stream of the lowest priority. Its memory, cuBLAS's
/// included, is allocated and its kernel loaded here, while nothing waits for a peer.
class gemm {
public:
  explicit gemm(const gemm_shape& shape)
      : shape_{shape}, rows_{bytes(shape.m, shape.k)}, weights_{bytes(shape.n, shape.k)},
        out_{bytes(shape.m, shape.n)}, workspace_{std::size_t{32} << 20} {
    must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    must(cublasCreate(&handle_), "cublasCreate");
    must(cublasSetStream(handle_, stream_), "cublasSetStream");
    must(cublasSetWorkspace(handle_, workspace_.data(), workspace_.size()), "cublasSetWorkspace");
    write_rows(rows_.data(), shape.m, shape.k, detail::gemm_payload{0}, stream_);
    write_rows(weights_.data(), shape.n, shape.k, detail::gemm_payload{1}, stream_);
    enqueue();
    must(cudaStreamSynchronize(stream_), "GEMM");
    graph_ = captured_graph{stream_, [this] {
                              for (std::int32_t i = 0; i < in_graph; ++i) enqueue();
                            }};
    must(cudaStreamSynchronize(stream_), "GEMM");
  }
  gemm(const gemm&) = delete;
  gemm& operator=(const gemm&) = delete;
  ~gemm() {
    graph_ = {};
    (void)cublasDestroy(handle_);
    (void)cudaStreamDestroy(stream_);
  }

  static constexpr std::int32_t in_graph = 10;
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] const gemm_shape& shape() const { return shape_; }
  /// `in_graph` of them.
  void replay() const { graph_.replay(stream_); }

private:
  [[nodiscard]] static std::size_t bytes(std::int32_t rows, std::int32_t columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * 2;
  }
  void enqueue() {
    const float one = 1;
    const float zero = 0;
    // Rows are cuBLAS's columns: out [m, n] = rows [m, k] times weights [n, k], transposed.
    must(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, shape_.n, shape_.m, shape_.k, &one,
                      weights_.data(), CUDA_R_16BF, shape_.k, rows_.data(), CUDA_R_16BF, shape_.k,
                      &zero, out_.data(), CUDA_R_16BF, shape_.n, CUBLAS_COMPUTE_32F,
                      CUBLAS_GEMM_DEFAULT),
         "cublasGemmEx");
  }

  gemm_shape shape_;
  device_memory rows_, weights_, out_, workspace_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t handle_ = nullptr;
  captured_graph graph_;
};

#else

inline constexpr bool has_gemm = false;

/// There is none.
class gemm {
public:
  explicit gemm(const gemm_shape& shape) : shape_{shape} {}
  static constexpr std::int32_t in_graph = 1;
  [[nodiscard]] cudaStream_t stream() const { return nullptr; }
  [[nodiscard]] const gemm_shape& shape() const { return shape_; }
  void replay() const {}

private:
  gemm_shape shape_;
};

#endif

} // namespace bench
