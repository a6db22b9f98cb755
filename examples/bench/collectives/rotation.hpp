#pragma once

/// @file
/// Buffers that calls take in turn.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bench {

/// Where NCCL wants buffers of windows to begin; the others do too, so that all are alike.
inline constexpr std::size_t buffer_alignment = 4096;
[[nodiscard]] constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + buffer_alignment - 1) / buffer_alignment * buffer_alignment;
}

/// Cuts one piece of memory into buffers of one size. The same on all ranks, so that the buffer of
/// a call is.
class rotation {
public:
  rotation() = default;
  rotation(std::byte* memory, std::size_t room) : memory_{memory}, room_{room} {}
  /// Room for more than twice a cache, and for one buffer at least.
  [[nodiscard]] static constexpr std::size_t room(std::size_t cache_bytes, std::size_t most) {
    return aligned(2 * cache_bytes) + aligned(most);
  }

  /// From now on buffers of `bytes`: one for each call, or as many as there is room for.
  void cut(std::size_t bytes, std::int32_t calls) {
    stride_ = std::max(aligned(bytes), buffer_alignment);
    count_ = static_cast<std::int32_t>(
        std::clamp<std::size_t>(room_ / stride_, 1, static_cast<std::size_t>(calls)));
  }
  [[nodiscard]] std::int32_t count() const { return count_; }
  /// Which buffer the i-th call takes.
  [[nodiscard]] std::int32_t index(int call) const { return call % count_; }
  [[nodiscard]] std::byte* buffer(std::int32_t index) const {
    return memory_ + static_cast<std::size_t>(index) * stride_;
  }
  /// The buffer of the i-th call.
  [[nodiscard]] std::byte* at(int call) const { return buffer(index(call)); }

private:
  std::byte* memory_ = nullptr;
  std::size_t room_ = 0;
  std::size_t stride_ = buffer_alignment;
  std::int32_t count_ = 1;
};

} // namespace bench
