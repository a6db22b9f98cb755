#pragma once

/// @file
/// Memory of a test with a canary on both sides. Under AddressSanitizer the canaries may not even
/// be read while a call runs.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DPGATHER_TEST_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DPGATHER_TEST_HAS_ASAN 1
#endif
#endif
#if defined(DPGATHER_TEST_HAS_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace test_support {

/// Bytes, aligned to 64, that know when somebody wrote beside them. Reusable: `reset` keeps the
/// memory. Neither copied nor moved: views point into it.
class guarded_bytes {
public:
  static constexpr std::size_t canary_bytes = 64;

  guarded_bytes() = default;
  explicit guarded_bytes(std::size_t bytes, unsigned fill = 0xcd) { reset(bytes, fill); }
  guarded_bytes(const guarded_bytes&) = delete;
  guarded_bytes& operator=(const guarded_bytes&) = delete;
  ~guarded_bytes() { forbid(false); }

  /// `bytes` bytes of value `fill`. Not inlined: g++ 12 would follow sizes that cannot be and warn.
  [[gnu::noinline]] void reset(std::size_t bytes, unsigned fill = 0xcd) {
    forbid(false);
    const std::size_t needed = bytes + 3 * canary_bytes;
    if (memory_.size() < needed) memory_.resize(needed + needed / 2);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    start_ = memory_.data() + (canary_bytes - address % canary_bytes) + canary_bytes;
    size_ = bytes;
    std::memset(start_ - canary_bytes, 0xa5, canary_bytes);
    std::memset(start_, static_cast<int>(fill), size_);
    std::memset(start_ + size_, 0x5a, canary_bytes);
    forbid(true);
  }

  [[nodiscard]] std::byte* data() noexcept { return start_; }
  [[nodiscard]] const std::byte* data() const noexcept { return start_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// A copy of the bytes between the canaries.
  [[nodiscard]] std::vector<std::byte> snapshot() const { return {start_, start_ + size_}; }
  [[nodiscard]] bool equals(const std::vector<std::byte>& other) const {
    return other.size() == size_ && (size_ == 0 || std::memcmp(start_, other.data(), size_) == 0);
  }

  /// True while nobody wrote beside the bytes.
  [[nodiscard]] bool intact() {
    forbid(false);
    const auto is = [](unsigned wanted) {
      return [wanted](std::byte b) { return b == static_cast<std::byte>(wanted); };
    };
    const bool good = std::all_of(start_ - canary_bytes, start_, is(0xa5)) &&
                      std::all_of(start_ + size_, start_ + size_ + canary_bytes, is(0x5a));
    forbid(true);
    return good;
  }

private:
  void forbid([[maybe_unused]] bool on) noexcept {
#if defined(DPGATHER_TEST_HAS_ASAN)
    if (start_ == nullptr) return;
    if (on) {
      __asan_poison_memory_region(start_ - canary_bytes, canary_bytes);
      __asan_poison_memory_region(start_ + size_, canary_bytes);
    } else {
      __asan_unpoison_memory_region(start_ - canary_bytes, canary_bytes + size_ + canary_bytes);
    }
#endif
  }

  std::vector<std::byte> memory_;
  std::byte* start_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace test_support
