#pragma once

/// @file
/// Device memory with an owner, and how many buffers to take in turn.

#include "check.cuh"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace bench {

/// Memory of the device that was current when it was made. Freed when nothing uses it any more,
/// which is the owner's to know.
class device_memory {
public:
  device_memory() = default;
  explicit device_memory(std::size_t bytes) : size_{bytes} {
    must(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(bytes, 1)),
         "cudaMalloc");
  }
  device_memory(device_memory&& other) noexcept
      : data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)} {}
  device_memory& operator=(device_memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~device_memory() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> span() const { return {data_, size_}; }

private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Copies to the device, and waits: the stream must hold nothing that waits for another rank.
inline void upload(std::byte* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "upload");
  must(cudaStreamSynchronize(stream), "upload");
}
/// Copies to the host, likewise.
inline void download(void* to, const std::byte* from, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "download");
  must(cudaStreamSynchronize(stream), "download");
}

/// What outputs hold before a call that is verified: no number that a benchmark works with.
inline constexpr std::byte poison{0xcd};
inline void poison_bytes(std::byte* at, std::size_t bytes, cudaStream_t stream) {
  must(cudaMemsetAsync(at, std::to_integer<int>(poison), bytes, stream), "poison");
}

/// How many buffers of `bytes` to take in turn so that each comes from memory and not from a cache
/// of `cache_bytes`: together more than twice the cache, but no more than there are calls.
[[nodiscard]] inline std::int32_t buffers_in_turn(std::size_t bytes, std::size_t cache_bytes,
                                                  std::int32_t calls) {
  const std::size_t needed = 2 * cache_bytes / std::max<std::size_t>(bytes, 1) + 1;
  return static_cast<std::int32_t>(
      std::clamp<std::size_t>(needed, 1, static_cast<std::size_t>(calls)));
}

} // namespace bench
