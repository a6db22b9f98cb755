#include <dpgather/protocol/in_use.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace dg = dpgather;

TEST_CASE("a second user is refused, and leaving lets the next one in") {
  std::atomic<bool> flag{false};
  {
    const dg::in_use first{flag};
    CHECK(static_cast<bool>(first));
    {
      const dg::in_use second{flag};
      CHECK_FALSE(static_cast<bool>(second));
    }
    CHECK(flag); // the refused one let nobody in
  }
  CHECK(static_cast<bool>(dg::in_use{flag}));
}

TEST_CASE("threads: never two at once") {
  std::atomic<bool> flag{false};
  std::int64_t entered = 0; // guarded by it
  std::atomic<std::int64_t> refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        const dg::in_use mine{flag};
        if (mine) {
          ++entered;
        } else {
          ++refused;
        }
      }
    });
  }
  for (std::thread& each : threads) each.join();
  CHECK(entered + refused == 40'000);
  CHECK(entered > 0);
}
