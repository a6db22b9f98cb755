#pragma once

/// @file
/// Memory, streams and launches of the examples that run on GPUs. Making something throws on
/// failure, which ends the example; using it answers a status.

#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/throw.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace serve {

namespace dg = dpgather;

enum class memory_kind : std::uint8_t {
  device, ///< of the device that is current at construction
  pinned, ///< of the host, page-locked: the only memory that asynchronous copies are asynchronous
          ///< in
};

/// Uninitialised memory for `count` elements. Ownership: owns it. Freeing waits for the device, so
/// whatever hangs on a stream must be ended before.
template <class T, memory_kind Kind>
class cuda_array {
public:
  explicit cuda_array(std::size_t count) : count_{count} {
    void* memory = nullptr;
    if constexpr (Kind == memory_kind::device) {
      dg::throw_if_failed(dg::cuda_status(cudaMalloc(&memory, bytes()), "cudaMalloc"));
    } else {
      dg::throw_if_failed(
          dg::cuda_status(cudaHostAlloc(&memory, bytes(), cudaHostAllocDefault), "cudaHostAlloc"));
    }
    data_ = static_cast<T*>(memory);
  }
  cuda_array(const cuda_array&) = delete;
  cuda_array& operator=(const cuda_array&) = delete;
  ~cuda_array() { (void)(Kind == memory_kind::device ? cudaFree(data_) : cudaFreeHost(data_)); }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return count_ * sizeof(T); }
  [[nodiscard]] std::span<T> span() const noexcept { return {data_, count_}; }
  /// Elements of pinned memory; those of device memory are for kernels.
  [[nodiscard]] T& operator[](std::size_t i) const noexcept requires(Kind == memory_kind::pinned) {
    return data_[i];
  }

private:
  T* data_ = nullptr;
  std::size_t count_;
};

template <class T>
using device_array = cuda_array<T, memory_kind::device>;
template <class T>
using pinned_array = cuda_array<T, memory_kind::pinned>;

/// A stream that neither waits for the null stream nor holds it up.
class cuda_stream {
public:
  cuda_stream() {
    dg::throw_if_failed(dg::cuda_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                                        "cudaStreamCreateWithFlags"));
  }
  cuda_stream(const cuda_stream&) = delete;
  cuda_stream& operator=(const cuda_stream&) = delete;
  ~cuda_stream() { (void)cudaStreamDestroy(stream_); }
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }

private:
  cudaStream_t stream_ = nullptr;
};

/// The first `count` elements, in stream order.
template <class T, memory_kind To, memory_kind From>
[[nodiscard]] dg::status copy(const cuda_array<T, To>& to, const cuda_array<T, From>& from,
                              std::size_t count, cudaStream_t stream) noexcept {
  return dg::cuda_status(
      cudaMemcpyAsync(to.data(), from.data(), count * sizeof(T), cudaMemcpyDefault, stream),
      "copy");
}

/// All bits of an array become ones, in stream order: NaN where it holds floats.
template <class T>
[[nodiscard]] dg::status poison_all(const device_array<T>& array, cudaStream_t stream) noexcept {
  return dg::cuda_status(cudaMemsetAsync(array.data(), 0xff, array.bytes(), stream), "poison");
}

/// One launch with at least `threads` threads. Capture: safe. Errors: those of the launch itself,
/// which `<<<...>>>` would leave in `cudaGetLastError`.
template <class... Parameters, class... Arguments>
[[nodiscard]] dg::status launch(void (*kernel)(Parameters...), std::int64_t threads,
                                cudaStream_t stream, Arguments&&... arguments) noexcept {
  constexpr unsigned block = 128;
  cudaLaunchConfig_t how{};
  how.gridDim = dim3{static_cast<unsigned>((threads + block - 1) / block)};
  how.blockDim = dim3{block};
  how.stream = stream;
  return dg::cuda_status(cudaLaunchKernelEx(&how, kernel, std::forward<Arguments>(arguments)...),
                         "launch");
}

} // namespace serve
