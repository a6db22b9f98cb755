#include <support/fault_world.hpp>

#include <dpgather/protocol/rendezvous.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;
using test_support::schedule_noise;
using test_support::watchdog;

constexpr std::int64_t deadline = 1'000'000; // ns

/// One meeting point in virtual time, and threads that are its ranks.
class meeting_place {
public:
  explicit meeting_place(std::int32_t ranks, std::int32_t first_world_rank = 0)
      : clock{ranks}, point{ranks, first_world_rank, clock, failure} {}

  /// Runs `body(rank)` on a thread each. A body that returns takes no more part in time.
  void run(const std::function<void(std::int32_t)>& body, std::uint64_t noise = 1) {
    std::vector<std::thread> threads;
    for (std::int32_t rank = 0; rank < point.size(); ++rank) {
      threads.emplace_back([&, rank] {
        schedule_noise::seed(noise * 1000 + static_cast<std::uint64_t>(rank));
        body(rank);
        clock.leave();
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  status meet(std::int32_t rank, std::uint64_t call = 1, std::int64_t timeout = deadline) {
    return point.meet(rank, timeout, call, "test");
  }

  failure_cell failure;
  manual_wait_clock clock;
  rendezvous point;
};

/// All ranks meet `meetings` times and look at what the others wrote before, in plain memory.
/// Answers the first thing that was wrong.
std::string exchange(rendezvous& point, std::int64_t timeout, std::int32_t meetings,
                     std::uint64_t noise, const std::function<void()>& leave) {
  const auto ranks = static_cast<std::size_t>(point.size());
  std::vector<std::uint64_t> slots[2];
  for (auto& slot : slots) slot.assign(ranks, 0);
  std::vector<std::string> wrong(ranks);
  const auto stamp = [](std::int32_t meeting, std::size_t rank) {
    return static_cast<std::uint64_t>(meeting) * 1000 + rank + 1;
  };
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      schedule_noise::seed(noise + rank);
      const auto me = static_cast<std::int32_t>(rank);
      for (std::int32_t k = 0; k < meetings && wrong[rank].empty(); ++k) {
        if (point.epoch(me) != static_cast<std::uint64_t>(k)) wrong[rank] = "epoch";
        auto& slot = slots[static_cast<std::size_t>(k) % 2];
        slot[rank] = stamp(k, rank);
        const status met = point.meet(me, timeout, 1, "exchange");
        if (!met) wrong[rank] = met.message().c_str();
        for (std::size_t r = 0; r < ranks && wrong[rank].empty(); ++r) {
          if (slot[r] != stamp(k, r)) wrong[rank] = "stale data in meeting " + std::to_string(k);
        }
      }
      leave();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& w : wrong) {
    if (!w.empty()) return w;
  }
  return {};
}

} // namespace

TEST_CASE("rendezvous: thousands of meetings, two alternating slots, everything visible") {
  watchdog dog;
  for (const std::int32_t ranks : {1, 2, 3, 4, 5, 7, 8, 12, 16}) {
    for (std::uint64_t world = 0; world < 4; ++world) {
      CAPTURE(ranks);
      CAPTURE(world);
      dog.feed("stress of " + std::to_string(ranks) + " ranks");
      meeting_place place{ranks};
      CHECK(exchange(place.point, deadline, ranks < 5 ? 1000 : 250, world * 31,
                     [&] { place.clock.leave(); }) == "");
      // Time moves only when all sleep, so a lost wake-up shows even if nobody failed over it.
      CHECK(place.clock.now_ns() == 0);
      CHECK(!place.failure.failed());
    }
  }
}

TEST_CASE("rendezvous: the same in real time") {
  watchdog dog;
  for (const std::int32_t ranks : {2, 3, 8}) {
    CAPTURE(ranks);
    dog.feed("steady stress of " + std::to_string(ranks) + " ranks");
    steady_wait_clock clock;
    failure_cell failure;
    rendezvous point{ranks, 0, clock, failure};
    const std::int64_t start = clock.now_ns();
    constexpr std::int64_t long_enough = 30'000'000'000;
    REQUIRE(exchange(point, long_enough, ranks < 5 ? 1000 : 250, 5, [] {}) == "");
    REQUIRE(clock.now_ns() - start < long_enough); // nobody slept until a deadline
  }
}

TEST_CASE("rendezvous: a timeout names the rank that is missing, on every rank, at the deadline") {
  watchdog dog;
  for (const std::int32_t ranks : {2, 3, 8}) {
    for (std::int32_t missing = 0; missing < ranks; ++missing) {
      CAPTURE(ranks);
      CAPTURE(missing);
      constexpr std::int32_t first_world_rank = 40;
      meeting_place place{ranks, first_world_rank};
      std::vector<status> got(static_cast<std::size_t>(ranks));
      std::vector<status> later(got.size());
      place.run([&](std::int32_t rank) {
        const auto me = static_cast<std::size_t>(rank);
        got[me] = place.meet(rank, 1);
        if (rank == missing) return;
        got[me] = place.meet(rank, 812, deadline);
        later[me] = place.meet(rank, 813);
      });
      CHECK(place.clock.now_ns() == deadline);
      const status first = place.failure.first();
      CHECK(first.code == errc::timeout);
      CHECK(first.peer == first_world_rank + missing);
      CHECK(first.rank >= first_world_rank);
      CHECK(first.rank < first_world_rank + ranks);
      CHECK(first.rank != first.peer);
      CHECK(first.call == 812);
      CHECK(first.limit == deadline / 1000);
      CHECK(std::string_view{first.where} == "test");
      for (std::int32_t rank = 0; rank < ranks; ++rank) {
        const auto me = static_cast<std::size_t>(rank);
        if (rank == missing) {
          CHECK(got[me].ok());
          continue;
        }
        CHECK(got[me].code == errc::timeout);
        CHECK(got[me].peer == first.peer);
        CHECK(got[me].rank == first.rank); // one cause, the same on all
        CHECK(later[me].code == errc::poisoned);
        CHECK(later[me].cause == errc::timeout);
        CHECK(later[me].peer == first.peer);
      }
      // Who comes late hears the cause too, and no time passes.
      const status late = place.meet(missing);
      CHECK(late.code == errc::poisoned);
      CHECK(late.cause == errc::timeout);
      CHECK(late.peer == first.peer);
      CHECK(place.clock.now_ns() == deadline);
    }
  }
}

TEST_CASE("rendezvous: just below the deadline all pass, just above nobody does") {
  watchdog dog;
  for (const std::int64_t delay : {deadline - 1, deadline + 1}) {
    for (const std::int32_t ranks : {2, 4}) {
      CAPTURE(delay);
      CAPTURE(ranks);
      meeting_place place{ranks};
      std::vector<status> got(static_cast<std::size_t>(ranks));
      place.run([&](std::int32_t rank) {
        if (rank == 1) place.clock.sleep_until(delay);
        got[static_cast<std::size_t>(rank)] = place.meet(rank);
      });
      CHECK(place.clock.now_ns() == delay);
      for (std::int32_t rank = 0; rank < ranks; ++rank) {
        const status& mine = got[static_cast<std::size_t>(rank)];
        if (delay < deadline) {
          CHECK(mine.ok());
        } else {
          CHECK(mine.code == (rank == 1 ? errc::poisoned : errc::timeout));
          CHECK(mine.peer == 1);
        }
      }
    }
  }
}

TEST_CASE("rendezvous: the deadline counts from the own arrival") {
  watchdog dog;
  meeting_place place{3};
  std::vector<status> got(3);
  // Rank 0 waits since 0, rank 1 since 0.9 deadlines; rank 2 never comes.
  place.run([&](std::int32_t rank) {
    if (rank == 1) place.clock.sleep_until(deadline * 9 / 10);
    if (rank == 2) return;
    got[static_cast<std::size_t>(rank)] = place.meet(rank);
  });
  CHECK(place.clock.now_ns() == deadline);
  CHECK(got[0].code == errc::timeout);
  CHECK(got[1].code == errc::timeout); // hears of it before its own deadline
  CHECK(got[0].peer == 2);
}

TEST_CASE(
    "rendezvous: whatever the delays, a meeting passes for all or for nobody, then for nobody") {
  watchdog dog;
  test_support::for_random_cases(
      [&](random_source& random) {
        const auto ranks = random.between<std::int32_t>(2, 6);
        constexpr std::int32_t meetings = 6;
        std::vector<std::vector<std::int64_t>> delays(static_cast<std::size_t>(ranks));
        for (auto& mine : delays) {
          for (std::int32_t k = 0; k < meetings; ++k) {
            mine.push_back(random.chance(80) ? 0
                                             : random.pick({deadline / 2, deadline - 1, deadline,
                                                            deadline, deadline + 1}));
          }
        }
        meeting_place place{ranks};
        std::vector<std::vector<status>> got(delays.size());
        place.run(
            [&](std::int32_t rank) {
              const auto me = static_cast<std::size_t>(rank);
              for (std::int32_t k = 0; k < meetings; ++k) {
                const std::int64_t delay = delays[me][static_cast<std::size_t>(k)];
                if (delay > 0) place.clock.sleep_until(place.clock.now_ns() + delay);
                got[me].push_back(place.meet(rank));
              }
            },
            random());
        bool failed = false;
        for (std::size_t k = 0; k < meetings; ++k) {
          std::ptrdiff_t passed = 0;
          for (const auto& mine : got) {
            REQUIRE(
                (mine[k].ok() || mine[k].code == errc::timeout || mine[k].cause == errc::timeout));
            passed += mine[k].ok() ? 1 : 0;
          }
          // Also when a rank comes exactly at the deadline of the others.
          REQUIRE((passed == 0 || passed == ranks));
          if (failed) REQUIRE(passed == 0);
          failed = failed || passed == 0;
        }
      },
      std::min<std::uint64_t>(test_support::case_count(), 400));
}

TEST_CASE("rendezvous: a rank that left is named at once") {
  watchdog dog;
  for (const std::int32_t ranks : {2, 3, 8}) {
    for (std::int32_t gone = 0; gone < ranks; ++gone) {
      CAPTURE(ranks);
      CAPTURE(gone);
      meeting_place place{ranks};
      std::vector<status> got(static_cast<std::size_t>(ranks));
      place.run([&](std::int32_t rank) {
        if (rank == gone) {
          place.clock.sleep_until(10); // all others wait by then
          place.point.leave(rank);
          return;
        }
        got[static_cast<std::size_t>(rank)] = place.meet(rank);
      });
      CHECK(place.clock.now_ns() == 10);
      for (std::int32_t rank = 0; rank < ranks; ++rank) {
        if (rank == gone) continue;
        CHECK(got[static_cast<std::size_t>(rank)].code == errc::peer_left);
        CHECK(got[static_cast<std::size_t>(rank)].peer == gone);
      }
    }
  }
}

TEST_CASE("rendezvous: a rank that left is named at once, also while another one is late") {
  watchdog dog;
  // The late rank has a lower number than the one that left, and a higher one.
  for (const std::int32_t late : {0, 3}) {
    CAPTURE(late);
    const std::int32_t gone = 3 - late;
    meeting_place place{4};
    std::vector<status> got(4);
    std::vector<std::int64_t> at(4);
    place.run([&](std::int32_t rank) {
      const auto me = static_cast<std::size_t>(rank);
      if (rank == gone) {
        place.clock.sleep_until(10);
        place.point.leave(rank);
        return;
      }
      if (rank == late) place.clock.sleep_until(deadline / 2);
      got[me] = place.meet(rank);
      at[me] = place.clock.now_ns();
    });
    for (const std::size_t waiting : {1U, 2U}) {
      CHECK(got[waiting].code == errc::peer_left);
      CHECK(got[waiting].peer == gone);
      CHECK(at[waiting] == 10);
    }
    const status& last = got[static_cast<std::size_t>(late)];
    CHECK(last.code == errc::poisoned);
    CHECK(last.cause == errc::peer_left);
    CHECK(last.peer == gone);
  }
}

TEST_CASE("rendezvous: who has arrived may leave, the meeting counts for all others") {
  watchdog dog;
  for (std::uint64_t noise = 0; noise < 200; ++noise) {
    meeting_place place{5};
    std::vector<status> got(5), next(5);
    place.run(
        [&](std::int32_t rank) {
          const auto me = static_cast<std::size_t>(rank);
          got[me] = place.meet(rank);
          // Some miss rank 2 in the next meeting before others have looked around in this one.
          if (rank == 2) {
            place.point.leave(rank);
          } else {
            next[me] = place.meet(rank);
          }
        },
        noise);
    for (std::size_t r = 0; r < 5; ++r) {
      REQUIRE(got[r].ok());
      if (r == 2) continue;
      REQUIRE((next[r].code == errc::peer_left || next[r].cause == errc::peer_left));
      REQUIRE(next[r].peer == 2);
    }
    REQUIRE(place.clock.now_ns() == 0);
  }
}

TEST_CASE("rendezvous: who has arrived may leave while others are still to come") {
  // From another thread, as a destructor or a shutdown would: it is not missing.
  watchdog dog;
  manual_wait_clock clock{4};
  failure_cell failure;
  rendezvous point{3, 0, clock, failure};
  std::vector<status> got(3);
  std::vector<std::thread> threads;
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      if (rank == 1) clock.sleep_until(20);
      got[static_cast<std::size_t>(rank)] = point.meet(rank, deadline, 1, "test");
      clock.leave();
    });
  }
  clock.sleep_until(10);
  point.leave(2);
  clock.leave();
  for (std::thread& thread : threads) thread.join();
  for (const status& mine : got) CHECK(mine.ok());
  CHECK(clock.now_ns() == 20);
}

TEST_CASE("rendezvous: a failure from elsewhere ends all waiting, in every group of the world") {
  watchdog dog;
  manual_wait_clock clock{5};
  failure_cell failure;
  rendezvous world{4, 0, clock, failure};
  rendezvous group{2, 2, clock, failure};
  std::vector<status> got(5);
  std::vector<std::int64_t> ended(5);
  std::vector<std::thread> threads;
  const auto start = [&](std::size_t index, auto body) {
    threads.emplace_back([&, index, body] {
      got[index] = body();
      ended[index] = clock.now_ns();
      clock.leave();
    });
  };
  start(0, [&] { return world.meet(0, deadline, 1, "world"); });
  start(1, [&] { return world.meet(1, deadline, 1, "world"); });
  start(2, [&] { return group.meet(0, deadline, 1, "group"); });
  start(3, [&] {
    clock.sleep_until(20);
    return group.fail({.code = errc::native_error, .rank = 3, .native = 7});
  });
  start(4, [&] {
    clock.sleep_until(30);
    return world.meet(3, deadline, 1, "world");
  });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(got[i].code == errc::native_error);
    CHECK(got[i].native == 7);
    CHECK(got[i].rank == 3);
    CHECK(ended[i] == 20); // told at once
  }
  CHECK(got[4].code == errc::poisoned);
  CHECK(got[4].cause == errc::native_error);
  CHECK(clock.now_ns() == 30);
}

TEST_CASE("rendezvous: the first failure stays, whoever fails next") {
  meeting_place place{2};
  const status first = place.point.fail({.code = errc::timeout, .rank = 0, .peer = 1});
  CHECK(first.code == errc::timeout);
  const status second = place.point.fail({.code = errc::peer_left, .rank = 1, .peer = 0});
  CHECK(second.code == errc::timeout);
  CHECK(place.meet(0).code == errc::poisoned);
  CHECK(place.meet(0).cause == errc::timeout);
}

TEST_CASE("rendezvous: a timeout that no clock reaches is no timeout") {
  watchdog dog;
  for (const std::int64_t start : {std::int64_t{0}, std::int64_t{1}, deadline}) {
    CAPTURE(start);
    meeting_place place{2};
    std::vector<status> got(2);
    place.run([&](std::int32_t rank) {
      place.clock.sleep_until(start);
      if (rank == 1) place.clock.sleep_until(start + 50);
      got[static_cast<std::size_t>(rank)] = place.meet(rank, 1, INT64_MAX);
    });
    CHECK(got[0].ok());
    CHECK(got[1].ok());
    CHECK(place.clock.now_ns() == start + 50);
  }
}

TEST_CASE("rendezvous: a lone rank meets itself") {
  meeting_place place{1};
  for (int i = 0; i < 5; ++i) CHECK(place.meet(0).ok());
  CHECK(place.point.epoch(0) == 5);
  CHECK(place.clock.now_ns() == 0);
}
