#pragma once

/// @file
/// The end of waiting. Kernels that wait for a peer, barriers of threads and calls of drivers have
/// no deadlines of their own; a thread beside them has one for all of them.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>

namespace bench {

/// Ends the process with exit code 3, and says during what, when all of it takes longer than
/// `start` allows or one step of it longer than the step does. Never stops, so that the end of
/// `main` is watched too; holds nothing that is destroyed there.
class watchdog {
public:
  static void start(std::int32_t seconds) {
    end_ = now() + std::int64_t{seconds} * 1000;
    step("start");
    std::thread{watch}.detach();
  }
  /// What begins now, by any thread. `what`: static storage.
  static void step(const char* what, std::int32_t seconds = 60) {
    what_ = what;
    step_end_ = now() + std::int64_t{seconds} * 1000;
  }

private:
  [[nodiscard]] static std::int64_t now() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  [[noreturn]] static void watch() {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::milliseconds{100});
      const bool all = now() > end_;
      if (!all && now() <= step_end_) continue;
      std::fprintf(stderr, "watchdog: out of time (%s) during: %s\n",
                   all ? "--timeout" : "one step", what_.load());
      std::fflush(stdout);
      _exit(3); // whatever hangs would hang an orderly end too
    }
  }

  inline static std::atomic<std::int64_t> end_{INT64_MAX};
  inline static std::atomic<std::int64_t> step_end_{INT64_MAX};
  inline static std::atomic<const char*> what_{"start"};
};

} // namespace bench
