#include <support/fault_world.hpp>

#include <dpgather/comm/run_ranks.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using test_support::watchdog;

/// What `run_ranks` throws, or nothing.
template <class Body>
std::string thrown_by(host_world& world, Body&& body) {
  try {
    run_ranks(world, body);
  } catch (const std::exception& e) {
    return e.what();
  } catch (int number) {
    return "int " + std::to_string(number);
  }
  return {};
}

/// Far beyond what any of these tests needs: who waits for that long has not been told.
constexpr std::int64_t long_deadline = 60'000'000'000;

} // namespace

TEST_CASE("run_ranks: one thread for each rank, each with its own place") {
  watchdog dog;
  steady_wait_clock clock;
  for (const topology shape : {topology{1, 1}, topology{5, 1}, topology{3, 2}}) {
    host_world world{shape, clock, long_deadline};
    std::vector<std::thread::id> threads(static_cast<std::size_t>(shape.world_size()));
    std::atomic<int> wrong{0};
    run_ranks(world, [&](host_communicator comm) {
      threads[static_cast<std::size_t>(comm.rank())] = std::this_thread::get_id();
      if (comm.size() != shape.world_size()) ++wrong;
      if (comm.topology() != shape.at(comm.rank())) ++wrong;
      if (&comm.world() != &world) ++wrong;
      if (!comm.barrier()) ++wrong;
    });
    CHECK(wrong == 0);
    CHECK(std::set(threads.begin(), threads.end()).size() == threads.size());
    CHECK(std::set(threads.begin(), threads.end()).count(std::this_thread::get_id()) == 0);
    CHECK(world.first_failure().ok());
  }
}

TEST_CASE("run_ranks: returns after all bodies have ended, what they wrote is visible") {
  watchdog dog;
  steady_wait_clock clock;
  host_world world{{6, 1}, clock, long_deadline};
  std::array<int, 6> plain{};
  run_ranks(world, [&](host_communicator comm) {
    if (comm.rank() == 4) std::this_thread::sleep_for(std::chrono::milliseconds{20});
    plain[static_cast<std::size_t>(comm.rank())] = comm.rank() + 1;
  });
  CHECK(plain == std::array<int, 6>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("run_ranks: an exception is rethrown, and nobody waits for the rank that threw") {
  watchdog dog;
  steady_wait_clock clock;
  for (std::int32_t thrower = 0; thrower < 4; ++thrower) {
    for (const int meetings : {0, 1, 5}) {
      CAPTURE(thrower);
      CAPTURE(meetings);
      dog.feed("thrower " + std::to_string(thrower));
      host_world world{{4, 1}, clock, long_deadline};
      std::array<status, 4> got;
      const std::string what = thrown_by(world, [&](host_communicator comm) {
        for (int i = 0; i < meetings; ++i) {
          if (!comm.barrier()) throw std::logic_error{"too early"};
        }
        if (comm.rank() == thrower) throw std::runtime_error{"from user code"};
        got[static_cast<std::size_t>(comm.rank())] = comm.barrier();
      });
      CHECK(what == "from user code");
      const status first = world.first_failure();
      CHECK(first.code == errc::peer_left);
      CHECK(first.peer == thrower);
      for (std::int32_t r = 0; r < 4; ++r) {
        if (r == thrower) continue;
        const status& mine = got[static_cast<std::size_t>(r)];
        // Who came after another rank had noticed hears of it as an earlier failure.
        CHECK((mine.code == errc::peer_left || mine.cause == errc::peer_left));
        CHECK(mine.peer == thrower);
      }
    }
  }
}

TEST_CASE("run_ranks: of several exceptions that of the lowest rank is rethrown") {
  watchdog dog;
  steady_wait_clock clock;
  host_world world{{5, 1}, clock, long_deadline};
  const auto body = [&](host_communicator comm) {
    if (comm.rank() == 4) throw std::runtime_error{"rank 4"};
    if (comm.rank() == 2) throw 2; // any type
  };
  CHECK(thrown_by(world, body) == "int 2");
}

TEST_CASE("run_ranks: all ranks may throw") {
  watchdog dog;
  steady_wait_clock clock;
  host_world world{{8, 2}, clock, long_deadline};
  const auto body = [&](host_communicator comm) {
    throw std::runtime_error{"rank " + std::to_string(comm.rank())};
  };
  CHECK(thrown_by(world, body) == "rank 0");
}

TEST_CASE("run_ranks: a body that returns early is named by those who wait for it") {
  watchdog dog;
  steady_wait_clock clock;
  for (const std::int32_t tp : {1, 2}) {
    host_world world{{4, tp}, clock, long_deadline};
    const std::int32_t early = 2 * tp;
    std::vector<status> got(static_cast<std::size_t>(world.size()));
    run_ranks(world, [&](host_communicator comm) {
      if (comm.rank() == early) return;
      // In the attention-TP group it is missed as well as in the world.
      host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
      status mine = group.barrier();
      if (mine.ok()) mine = comm.barrier();
      got[static_cast<std::size_t>(comm.rank())] = mine;
    });
    for (std::int32_t r = 0; r < world.size(); ++r) {
      if (r == early) continue;
      const status& mine = got[static_cast<std::size_t>(r)];
      CHECK((mine.code == errc::peer_left || mine.cause == errc::peer_left));
      CHECK(mine.peer == early);
    }
  }
}

TEST_CASE("run_ranks: leaving is no failure when nobody waits") {
  watchdog dog;
  steady_wait_clock clock;
  for (int round = 0; round < 50; ++round) {
    host_world world{{4, 1}, clock, long_deadline};
    std::atomic<int> wrong{0};
    run_ranks(world, [&](host_communicator comm) {
      // The last to come out of the last meeting may find that the others have left.
      for (int i = 0; i < 3; ++i) wrong += comm.barrier().ok() ? 0 : 1;
    });
    REQUIRE(wrong == 0);
    REQUIRE(world.first_failure().ok());
  }
}

TEST_CASE("run_ranks: calls one body for all ranks, also one that cannot be copied") {
  watchdog dog;
  steady_wait_clock clock;
  host_world world{{3, 1}, clock, long_deadline};
  struct counting {
    std::atomic<int> calls{0};
    counting() = default;
    counting(const counting&) = delete;
    counting& operator=(const counting&) = delete;
    void operator()(host_communicator) { ++calls; }
  } body;
  run_ranks(world, body);
  CHECK(body.calls == 3);
}
