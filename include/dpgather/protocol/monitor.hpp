#pragma once

/// @file
/// A mutex and a condition on the monotonic clock. POSIX and not `<mutex>`, `<condition_variable>`
/// and `<chrono>`: those three cost every unit that includes the library 0.15 s of parsing with
/// g++ 12.

#include <dpgather/config.hpp>

#include <cstdint>

#include <pthread.h>
#include <time.h>

namespace dpgather::inline v0 {

/// Locked state that threads wait on. All members may be called from any thread.
class monitor {
public:
  monitor() noexcept {
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&changed_, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
  }
  monitor(const monitor&) = delete;
  monitor& operator=(const monitor&) = delete;
  ~monitor() {
    (void)pthread_cond_destroy(&changed_);
    (void)pthread_mutex_destroy(&mutex_);
  }

  /// Holds the lock for a scope.
  class lock {
  public:
    explicit lock(monitor& of) noexcept : of_{of} { (void)pthread_mutex_lock(&of_.mutex_); }
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;
    ~lock() { (void)pthread_mutex_unlock(&of_.mutex_); }

    /// Sleeps, unlocked meanwhile, until woken; may wake for no reason.
    void wait() noexcept { (void)pthread_cond_wait(&of_.changed_, &of_.mutex_); }
    /// The same until `deadline_ns` of `now_ns` at the latest.
    void wait_until(std::int64_t deadline_ns) noexcept {
      timespec at{};
      at.tv_sec = static_cast<time_t>(deadline_ns / 1'000'000'000);
      at.tv_nsec = static_cast<long>(deadline_ns % 1'000'000'000);
      (void)pthread_cond_timedwait(&of_.changed_, &of_.mutex_, &at);
    }

  private:
    monitor& of_;
  };

  void notify_all() noexcept { (void)pthread_cond_broadcast(&changed_); }

  /// The monotonic clock: a step of the system clock moves no deadline.
  [[nodiscard]] static std::int64_t now_ns() noexcept {
    timespec now{};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
  }

private:
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed_;
};

} // namespace dpgather::inline v0
