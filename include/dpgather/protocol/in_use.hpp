#pragma once

/// @file
/// One user at a time, without waiting: a second one is refused instead of racing.

#include <dpgather/config.hpp>

#include <atomic>

namespace dpgather::inline v0 {

/// Holds a flag for a scope; false when somebody holds it already.
class in_use {
public:
  explicit in_use(std::atomic<bool>& flag) noexcept
      : flag_{flag}, entered_{!flag.exchange(true, std::memory_order_acquire)} {}
  in_use(const in_use&) = delete;
  in_use& operator=(const in_use&) = delete;
  ~in_use() {
    if (entered_) flag_.store(false, std::memory_order_release);
  }
  explicit operator bool() const noexcept { return entered_; }

private:
  std::atomic<bool>& flag_;
  bool entered_;
};

} // namespace dpgather::inline v0
