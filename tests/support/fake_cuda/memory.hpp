#pragma once

/// @file
/// Memory of the fake's devices: host memory with a red zone on both sides.

#include "world.hpp"

namespace fake_cuda::detail {

enum class memory_kind : std::uint8_t { unregistered, pinned, device };

struct memory_block {
  memory_block(memory_kind kind, int device, std::size_t size);
  memory_block(const memory_block&) = delete;
  memory_block& operator=(const memory_block&) = delete;
  ~memory_block();

  /// From now on nobody may touch it.
  void retire();
  /// False when somebody wrote beside it, or into it after `retire`.
  [[nodiscard]] bool intact();

  memory_kind kind;
  int device;
  std::size_t size;
  std::byte* data;

private:
  void forbid(bool on) const;

  std::size_t room_;
  std::byte* base_;
  bool retired_ = false;
};

/// What `bytes` bytes at an address are.
struct memory_range {
  memory_kind kind = memory_kind::unregistered;
  int device = any_device;
  bool fits = true; ///< they lie in one allocation

  [[nodiscard]] bool on_device() const { return kind == memory_kind::device; }
};
memory_range range_of(const world& w, const void* at, std::size_t bytes);

/// Writes beside or after allocations, as the canaries tell.
std::vector<std::string> broken_canaries(const world& w);

} // namespace fake_cuda::detail
