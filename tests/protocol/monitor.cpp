#include <dpgather/protocol/monitor.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace dg = dpgather;

TEST_CASE("one thread at a time") {
  dg::monitor shared;
  std::int64_t sum = 0; // guarded by it
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        const dg::monitor::lock held{shared};
        ++sum;
      }
    });
  }
  for (std::thread& each : threads) each.join();
  CHECK(sum == 80'000);
}

TEST_CASE("who waits is woken, all of them") {
  dg::monitor shared;
  bool go = false; // guarded by it
  std::atomic<int> woken{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      dg::monitor::lock held{shared};
      while (!go) held.wait();
      ++woken;
    });
  }
  {
    const dg::monitor::lock held{shared};
    go = true;
  }
  shared.notify_all();
  for (std::thread& each : threads) each.join();
  CHECK(woken == 3);
}

TEST_CASE("a deadline ends a wait, not before it, and one in the past at once") {
  dg::monitor shared;
  dg::monitor::lock held{shared};
  for (const std::int64_t wait : {std::int64_t{-5'000'000'000}, std::int64_t{0},
                                  std::int64_t{3'000'000}, std::int64_t{1'999'999}}) {
    const std::int64_t start = dg::monitor::now_ns();
    const std::int64_t deadline = start + wait;
    while (dg::monitor::now_ns() < deadline) held.wait_until(deadline);
    CHECK(dg::monitor::now_ns() >= deadline);
    CHECK(dg::monitor::now_ns() - start < 2'000'000'000);
  }
}
