// A shared object, or a unit of a program, that embeds the library and launches its kernels.
#include <dpgather/dpgather.cuh>

#include <cstdint>
#include <vector>

namespace dg = dpgather;

// 0: right; 1: wrong values; 2: an error; 77: no GPU.
extern "C" __attribute__((visibility("default"))) int DPGATHER_TEST_ENTRY(int fill) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 77;
  constexpr int real = 5, padded = 300, capacity = 400;
  std::int32_t* values = nullptr;
  if (cudaMalloc(&values, capacity * sizeof *values) != cudaSuccess) return 2;
  if (cudaMemset(values, 0x11, capacity * sizeof *values) != cudaSuccess) return 2;
  const dg::pad_tensor list[] = {
      dg::pad_vector(values, {.real = real, .padded = padded, .capacity = capacity}, fill)};
  // The default stream: legacy, or the thread's own with --default-stream per-thread.
  if (const dg::status bad = dg::pad(list, cudaStream_t{}); !bad) return 2;
  std::vector<std::int32_t> got(capacity);
  if (cudaMemcpyAsync(got.data(), values, capacity * sizeof *values, cudaMemcpyDeviceToHost,
                      cudaStream_t{}) != cudaSuccess ||
      cudaStreamSynchronize(cudaStream_t{}) != cudaSuccess)
    return 2;
  cudaFree(values);
  for (int i = 0; i < capacity; ++i) {
    const bool tail = i >= real && i < padded;
    if (got[static_cast<std::size_t>(i)] != (tail ? fill : 0x11111111)) return 1;
  }
  return 0;
}
