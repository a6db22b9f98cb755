#include <support/fault_world.hpp>

#include <dpgather/protocol/wait_clock.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using test_support::schedule_noise;
using test_support::watchdog;
using namespace std::chrono_literals;

constexpr std::int64_t never = INT64_MAX / 2;

/// Threads that are joined at the end of the scope.
class thread_group {
public:
  thread_group() = default;
  thread_group(const thread_group&) = delete;
  thread_group& operator=(const thread_group&) = delete;
  ~thread_group() { join(); }
  template <class Body>
  void start(Body body) {
    threads_.emplace_back(std::move(body));
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

private:
  std::vector<std::thread> threads_;
};

/// Threads pass a word round: thread `me` waits until it is its turn. Every turn needs one wake-up,
/// so a lost one stops all of them. Answers the time at which it ended.
void pass_round(wait_clock& clock, std::int32_t threads, std::int32_t rounds,
                std::vector<std::int32_t>& wrong, std::vector<std::uint64_t>& plain) {
  std::atomic<std::int32_t> turn{0};
  thread_group group;
  for (std::int32_t me = 0; me < threads; ++me) {
    group.start([&, me] {
      schedule_noise::seed(static_cast<std::uint64_t>(me) + 77);
      for (std::int32_t round = 0; round < rounds; ++round) {
        const std::int32_t mine = round * threads + me;
        for (;;) {
          const std::uint64_t seen = clock.version();
          if (turn.load(std::memory_order_acquire) == mine) break;
          clock.wait(seen, never);
        }
        // Written by one thread after the other, without a lock.
        for (std::uint64_t& word : plain) {
          if (word != static_cast<std::uint64_t>(mine)) ++wrong[static_cast<std::size_t>(me)];
          ++word;
        }
        turn.store(mine + 1, std::memory_order_release);
        clock.notify();
      }
      if (auto* manual = dynamic_cast<manual_wait_clock*>(&clock)) manual->leave();
    });
  }
}

} // namespace

TEST_CASE("manual clock: a lone sleeper wakes exactly at its time") {
  watchdog dog;
  manual_wait_clock clock{1};
  CHECK(clock.now_ns() == 0);
  clock.sleep_until(5);
  CHECK(clock.now_ns() == 5);
  clock.sleep_until(5); // not in the future: no time passes
  clock.sleep_until(3);
  CHECK(clock.now_ns() == 5);
  clock.wait(clock.version(), 3); // a deadline that has passed does not turn time back
  CHECK(clock.now_ns() == 5);
  clock.wait(clock.version(), 7);
  CHECK(clock.now_ns() == 7);
}

TEST_CASE("manual clock: a wait returns at once when something changed since the flags were read") {
  watchdog dog;
  manual_wait_clock clock{1};
  const std::uint64_t seen = clock.version();
  clock.notify();
  CHECK(clock.version() != seen);
  clock.wait(seen, never);
  CHECK(clock.now_ns() == 0);
}

TEST_CASE("manual clock: time stands still while any participant runs") {
  watchdog dog;
  manual_wait_clock clock{3};
  std::atomic<bool> woke{false};
  thread_group group;
  for (int i = 0; i < 2; ++i) {
    group.start([&] {
      clock.sleep_until(10);
      woke = true;
      clock.leave();
    });
  }
  // Real time passes, this participant runs on: nothing may happen, however long it takes.
  std::this_thread::sleep_for(30ms);
  CHECK(clock.now_ns() == 0);
  CHECK(!woke);
  // A notification wakes everybody and still moves no time.
  clock.notify();
  std::this_thread::sleep_for(10ms);
  CHECK(clock.now_ns() == 0);
  CHECK(!woke);
  clock.sleep_until(4); // all wait: on to the earliest deadline, which is this one
  CHECK(clock.now_ns() == 4);
  CHECK(!woke);
  std::this_thread::sleep_for(10ms);
  CHECK(clock.now_ns() == 4);
  clock.leave();
  group.join();
  CHECK(woke);
  CHECK(clock.now_ns() == 10);
}

TEST_CASE("manual clock: jumps to the earliest deadline, in the order of the deadlines") {
  watchdog dog;
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        const auto threads = random.between<std::int32_t>(1, 12);
        manual_wait_clock clock{threads};
        std::vector<std::vector<std::int64_t>> wake(static_cast<std::size_t>(threads));
        std::vector<std::vector<std::int64_t>> woken(wake.size());
        std::int64_t last = 0;
        for (auto& times : wake) {
          std::int64_t at = 0;
          for (auto n = random.between(0, 6); n > 0; --n) {
            at += random.between<std::int64_t>(0, 20);
            times.push_back(at);
          }
          last = std::max(last, at);
        }
        thread_group group;
        for (std::size_t t = 0; t < wake.size(); ++t) {
          group.start([&, t] {
            for (const std::int64_t at : wake[t]) {
              clock.sleep_until(at);
              woken[t].push_back(clock.now_ns());
            }
            clock.leave();
          });
        }
        group.join();
        REQUIRE(woken == wake);
        REQUIRE(clock.now_ns() == last);
      },
      std::min<std::uint64_t>(test_support::case_count(), 300));
}

TEST_CASE("manual clock: who leaves holds nobody up") {
  watchdog dog;
  manual_wait_clock clock{2};
  thread_group group;
  group.start([&] {
    clock.sleep_until(100);
    clock.leave();
  });
  std::this_thread::sleep_for(5ms);
  CHECK(clock.now_ns() == 0);
  clock.leave();
  group.join();
  CHECK(clock.now_ns() == 100);
}

TEST_CASE("manual clock: no wake-up is lost under stress") {
  watchdog dog;
  for (const std::int32_t threads : {2, 3, 7}) {
    manual_wait_clock clock{threads};
    std::vector<std::int32_t> wrong(static_cast<std::size_t>(threads));
    std::vector<std::uint64_t> plain(3);
    pass_round(clock, threads, 2000, wrong, plain);
    CHECK(wrong == std::vector<std::int32_t>(wrong.size(), 0));
    // A lost wake-up shows as time: it moves only when all wait for one another.
    CHECK(clock.now_ns() == 0);
  }
}

TEST_CASE("steady clock: no wake-up is lost under stress") {
  watchdog dog;
  for (const std::int32_t threads : {2, 3, 7}) {
    steady_wait_clock clock;
    std::vector<std::int32_t> wrong(static_cast<std::size_t>(threads));
    std::vector<std::uint64_t> plain(3);
    pass_round(clock, threads, 2000, wrong, plain);
    CHECK(wrong == std::vector<std::int32_t>(wrong.size(), 0));
  }
}

TEST_CASE("steady clock: follows real time and wakes at a deadline, not before") {
  watchdog dog;
  steady_wait_clock clock;
  const std::int64_t start = clock.now_ns();
  const auto real = std::chrono::steady_clock::now();
  const std::int64_t deadline = start + 20'000'000;
  // Nothing notifies, so a wake-up before the deadline would be for no reason; it is legal.
  while (clock.now_ns() < deadline) clock.wait(clock.version(), deadline);
  CHECK(clock.now_ns() >= deadline);
  CHECK(std::chrono::steady_clock::now() - real >= 20ms);
  clock.wait(clock.version(), deadline); // long past
  clock.wait(clock.version(), start - 1);
}

TEST_CASE("steady clock: wakes on a notification long before the deadline") {
  watchdog dog;
  steady_wait_clock clock;
  // Also with a deadline beyond the range of the clock's own arithmetic.
  for (const std::int64_t deadline : {clock.now_ns() + 3'000'000'000'000, INT64_MAX}) {
    std::atomic<bool> flag{false};
    std::atomic<bool> done{false};
    int looks = 0;
    thread_group group;
    group.start([&] {
      for (;; ++looks) {
        const std::uint64_t seen = clock.version();
        if (flag.load(std::memory_order_acquire)) break;
        clock.wait(seen, deadline);
      }
      done = true;
    });
    std::this_thread::sleep_for(5ms);
    CHECK(!done);
    flag.store(true, std::memory_order_release);
    clock.notify();
    group.join(); // the watchdog ends the test if it does not
    CHECK(done);
    CHECK(looks < 100); // slept in between
  }
}

TEST_CASE("steady clock: a notification between reading the version and waiting counts") {
  watchdog dog;
  steady_wait_clock clock;
  const std::uint64_t seen = clock.version();
  clock.notify();
  clock.wait(seen, INT64_MAX);
  CHECK(clock.version() != seen);
}
