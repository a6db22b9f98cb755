#pragma once

/// @file
/// Time and sleep of a waiting CPU thread, behind one small interface, so that tests run on a clock
/// that they move themselves.

#include <dpgather/config.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace dpgather::inline v0 {

/// What a waiter needs: the time, and to sleep until something changed.
///
/// The waiting loop reads `version()` *before* it looks at the flags and hands it to `wait`, which
/// returns at once if `notify` was called in between: no wake-up is lost. Times are nanoseconds
/// since an arbitrary start. All members may be called from any thread.
class wait_clock {
public:
  wait_clock() noexcept = default;
  wait_clock(const wait_clock&) = delete;
  wait_clock& operator=(const wait_clock&) = delete;
  virtual ~wait_clock() = default;

  [[nodiscard]] virtual std::int64_t now_ns() noexcept = 0;
  [[nodiscard]] std::uint64_t version() const noexcept {
    return version_.load(std::memory_order_acquire);
  }
  /// Sleeps until `notify` is called after `seen` was read, or until `deadline_ns`; may wake early.
  virtual void wait(std::uint64_t seen, std::int64_t deadline_ns) noexcept = 0;
  /// Wakes all waiters. Call it after the flags that they look at were written.
  virtual void notify() noexcept {
    {
      const std::lock_guard lock{mutex_};
      version_.fetch_add(1, std::memory_order_acq_rel);
    }
    changed_.notify_all();
  }

protected:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<std::uint64_t> version_{0};
};

/// Real time.
class steady_wait_clock final : public wait_clock {
public:
  [[nodiscard]] std::int64_t now_ns() noexcept override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void wait(std::uint64_t seen, std::int64_t deadline_ns) noexcept override {
    std::unique_lock lock{mutex_};
    // A system clock step cannot shorten this: the steady clock is waited for. Capped, so that a
    // deadline far away does not overflow the clock's own arithmetic.
    constexpr std::int64_t longest = 3'600'000'000'000;
    const std::int64_t left = std::min(deadline_ns - now_ns(), longest);
    if (left <= 0) return;
    changed_.wait_until(lock, std::chrono::steady_clock::now() + std::chrono::nanoseconds{left},
                        [&] { return version() != seen; });
  }
};

/// Virtual time: it stands still while any participant runs and jumps to the next deadline when all
/// of them wait. Timeouts therefore take no real time and happen exactly when they should, whatever
/// the scheduler does.
///
/// Every thread that waits on the clock must be a participant for as long as it may still run:
/// construct with their number, and let each call `leave` once when it ends.
class manual_wait_clock final : public wait_clock {
public:
  explicit manual_wait_clock(std::int32_t participants) noexcept : running_{participants} {}

  [[nodiscard]] std::int64_t now_ns() noexcept override {
    return now_.load(std::memory_order_acquire);
  }

  void wait(std::uint64_t seen, std::int64_t deadline_ns) noexcept override {
    std::unique_lock lock{mutex_};
    if (version() != seen) return;
    ++waiting_;
    next_ = std::min(next_, deadline_ns);
    if (waiting_ == running_) {
      advance();
      return;
    }
    changed_.wait(lock, [&] { return version() != seen; });
  }

  void notify() noexcept override {
    const std::lock_guard lock{mutex_};
    wake();
  }

  /// This participant waits no more.
  void leave() noexcept {
    const std::lock_guard lock{mutex_};
    --running_;
    if (running_ > 0 && waiting_ == running_) advance();
  }

  /// Sleeps in virtual time.
  void sleep_until(std::int64_t time_ns) noexcept {
    for (;;) {
      const std::uint64_t seen = version();
      if (now_ns() >= time_ns) return;
      wait(seen, time_ns);
    }
  }

private:
  // With the mutex held: whoever waited for an older version no longer counts as waiting.
  void wake() noexcept {
    waiting_ = 0;
    next_ = INT64_MAX;
    version_.fetch_add(1, std::memory_order_acq_rel);
    changed_.notify_all();
  }
  void advance() noexcept {
    if (next_ != INT64_MAX) now_.store(std::max(next_, now_.load()), std::memory_order_release);
    wake();
  }

  std::atomic<std::int64_t> now_{0};
  std::int64_t next_ = INT64_MAX; // earliest deadline among the waiting
  std::int32_t running_;
  std::int32_t waiting_ = 0;
};

} // namespace dpgather::inline v0
