#pragma once

/// @file
/// One tensor with a tail that fills the memory bus.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/method.hpp"
#include "../support/target.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// In bytes that the memory moves: a copy reads and writes each byte, padding only writes it.
inline constexpr target like_a_copy = target::moved_share(0.85);

/// Tensors of i64 with some real units, a tail of `tail_bytes` and some capacity behind it; as many
/// as come from memory and not from the cache when they are taken in turn.
class large_tails {
public:
  large_tails(std::size_t tail_bytes, std::size_t cache_bytes, std::int32_t calls,
              cudaStream_t stream)
      : tail_bytes_{tail_bytes}, stream_{stream} {
    const std::int32_t count = buffers_in_turn(tail_bytes, cache_bytes, calls);
    for (std::int32_t i = 0; i < count; ++i) {
      tensors_.emplace_back(before_tail + tail_bytes + behind_tail);
      sources_.emplace_back(tail_bytes);
      poison_bytes(sources_.back().data(), tail_bytes, stream);
      reset(tensors_.back());
    }
    must(cudaStreamSynchronize(stream), "large tails");
  }

  /// This object outlives the group.
  [[nodiscard]] group compare() {
    group out{"pad a tail of " + std::to_string(tail_bytes_ >> 20) + " MiB", {}};
    const auto bytes = static_cast<double>(tail_bytes_);
    const std::int32_t copy =
        out.add({.name = "cudaMemcpyAsync, device to device",
                 .call =
                     [this](int i) {
                       must(cudaMemcpyAsync(tail(i), sources_[in_turn(i)].data(), tail_bytes_,
                                            cudaMemcpyDeviceToDevice, stream_),
                            "cudaMemcpyAsync");
                     },
                 .written = bytes,
                 .moved = 2 * bytes});
    out.add({.name = "pad",
             .baseline = copy,
             .goal = like_a_copy,
             .call =
                 [this](int i) {
                   const dg::pad_tensor one = tensor(i);
                   must(dg::pad(std::span<const dg::pad_tensor>{&one, 1}, stream_), "pad");
                 },
             .prepare =
                 [this] {
                   for (const device_memory& each : tensors_) reset(each);
                 },
             .wrong = [this](int calls) { return wrong(calls); },
             .written = bytes,
             .moved = bytes});
    out.add({.name = "cudaMemsetAsync",
             .baseline = copy,
             .call =
                 [this](int i) {
                   must(cudaMemsetAsync(tail(i), 0, tail_bytes_, stream_), "cudaMemsetAsync");
                 },
             .written = bytes,
             .moved = bytes});
    out.add_again(copy);
    return out;
  }

private:
  static constexpr std::size_t before_tail = 8192;
  static constexpr std::size_t behind_tail = 256;
  static constexpr std::int64_t fill = 0x0123456789abcdef;

  [[nodiscard]] std::size_t in_turn(int call) const {
    return static_cast<std::size_t>(call) % tensors_.size();
  }
  [[nodiscard]] std::byte* tail(int call) const {
    return tensors_[in_turn(call)].data() + before_tail;
  }
  [[nodiscard]] dg::pad_tensor tensor(int call) const {
    const auto units = [](std::size_t bytes) { return static_cast<std::int32_t>(bytes / 8); };
    return dg::pad_vector(reinterpret_cast<std::int64_t*>(tensors_[in_turn(call)].data()),
                          {.real = units(before_tail),
                           .padded = units(before_tail + tail_bytes_),
                           .capacity = units(before_tail + tail_bytes_ + behind_tail)},
                          fill);
  }
  void reset(const device_memory& of) const { poison_bytes(of.data(), of.size(), stream_); }

  /// Words that are neither the fill in the tail nor poison around it.
  [[nodiscard]] std::int64_t wrong(int calls) const {
    std::int64_t poisoned = 0;
    std::memset(&poisoned, std::to_integer<int>(poison), sizeof poisoned);
    const std::size_t touched = std::min(tensors_.size(), static_cast<std::size_t>(calls));
    std::vector<std::int64_t> got((before_tail + tail_bytes_ + behind_tail) / 8);
    std::int64_t out = 0;
    for (std::size_t t = 0; t < touched; ++t) {
      download(got.data(), tensors_[t].data(), got.size() * 8, stream_);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool in_tail = i >= before_tail / 8 && i < (before_tail + tail_bytes_) / 8;
        out += got[i] != (in_tail ? fill : poisoned);
      }
    }
    return out;
  }

  std::size_t tail_bytes_;
  cudaStream_t stream_;
  std::vector<device_memory> tensors_;
  std::vector<device_memory> sources_;
};

} // namespace bench
