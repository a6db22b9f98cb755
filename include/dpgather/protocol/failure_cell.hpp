#pragma once

/// @file
/// The first error of a world of ranks, kept for good.

#include <dpgather/config.hpp>
#include <dpgather/protocol/monitor.hpp>
#include <dpgather/status.hpp>

#include <atomic>

namespace dpgather::inline v0 {

/// Sticky first failure, shared by every group of one world. Any thread may raise and read.
class failure_cell {
public:
  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  /// Keeps `cause` if it is the first, and answers the one that is.
  status raise(const status& cause) noexcept {
    const monitor::lock held{monitor_};
    if (!failed_.load(std::memory_order_relaxed)) {
      first_ = cause;
      failed_.store(true, std::memory_order_release);
    }
    return first_;
  }

  /// The first failure, or ok.
  [[nodiscard]] status first() const noexcept {
    if (!failed()) return {};
    const monitor::lock held{monitor_};
    return first_;
  }

  /// What a call answers that starts after the failure: `poisoned` with the first cause.
  [[nodiscard]] status poisoned() const noexcept { return first().as_poisoned(); }

private:
  mutable monitor monitor_;
  std::atomic<bool> failed_{false};
  status first_{};
};

} // namespace dpgather::inline v0
