#pragma once

/// @file
/// Time and sleep of a waiting CPU thread, behind one small interface, so that tests run on a clock
/// that they move themselves.

#include <dpgather/config.hpp>
#include <dpgather/protocol/monitor.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>

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
      const monitor::lock held{monitor_};
      version_.fetch_add(1, std::memory_order_acq_rel);
    }
    monitor_.notify_all();
  }

protected:
  monitor monitor_;
  std::atomic<std::uint64_t> version_{0};
};

/// Real time.
class steady_wait_clock final : public wait_clock {
public:
  [[nodiscard]] std::int64_t now_ns() noexcept override { return monitor::now_ns(); }
  void wait(std::uint64_t seen, std::int64_t deadline_ns) noexcept override {
    monitor::lock held{monitor_};
    while (version() == seen && now_ns() < deadline_ns) held.wait_until(deadline_ns);
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
    monitor::lock held{monitor_};
    if (version() != seen) return;
    ++waiting_;
    next_ = std::min(next_, deadline_ns);
    if (waiting_ == running_) {
      advance();
      return;
    }
    while (version() == seen) held.wait();
  }

  void notify() noexcept override {
    const monitor::lock held{monitor_};
    wake();
  }

  /// This participant waits no more.
  void leave() noexcept {
    const monitor::lock held{monitor_};
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
  // With the lock held: whoever waited for an older version no longer counts as waiting.
  void wake() noexcept {
    waiting_ = 0;
    next_ = INT64_MAX;
    version_.fetch_add(1, std::memory_order_acq_rel);
    monitor_.notify_all();
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
