#include <support/fault_world.hpp>

#include <dpgather/protocol/failure_cell.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using test_support::schedule_noise;
using test_support::watchdog;

/// A cause in which every field tells which thread raised it, so that a torn one shows.
status cause_of(std::int32_t thread) {
  return {.code = thread % 2 == 0 ? errc::timeout : errc::peer_left,
          .about = subject::call,
          .rank = thread,
          .peer = thread + 1,
          .native = thread,
          .value = thread,
          .limit = -thread,
          .call = static_cast<std::uint64_t>(thread),
          .where = thread % 2 == 0 ? "even" : "odd"};
}

bool same(const status& a, const status& b) {
  return a.code == b.code && a.about == b.about && a.rank == b.rank && a.peer == b.peer &&
         a.native == b.native && a.value == b.value && a.limit == b.limit && a.call == b.call &&
         std::string_view{a.where} == b.where;
}

} // namespace

TEST_CASE("failure cell: nothing has failed at first") {
  failure_cell cell;
  CHECK(!cell.failed());
  CHECK(cell.first().ok());
}

TEST_CASE("failure cell: the first cause stays, later ones are answered with it") {
  failure_cell cell;
  CHECK(same(cell.raise(cause_of(3)), cause_of(3)));
  CHECK(same(cell.raise(cause_of(4)), cause_of(3)));
  CHECK(cell.failed());
  CHECK(same(cell.first(), cause_of(3)));
}

TEST_CASE("failure cell: poisoned names the first cause and keeps what it was about") {
  failure_cell cell;
  (void)cell.raise(cause_of(6));
  const status later = cell.poisoned();
  CHECK(later.code == errc::poisoned);
  CHECK(later.cause == errc::timeout);
  CHECK(is_sticky(later.code));
  CHECK(later.rank == 6);
  CHECK(later.peer == 7);
  CHECK(later.call == 6);
  CHECK(cell.first().code == errc::timeout); // asking changes nothing
}

TEST_CASE("failure cell: one winner among many threads, seen whole by all") {
  watchdog dog;
  constexpr std::int32_t threads = 8;
  for (std::uint64_t round = 0; round < 300; ++round) {
    failure_cell cell;
    std::atomic<bool> go{false};
    std::array<status, threads> answered;
    std::array<status, threads> read;
    std::array<std::int64_t, threads> payload{};
    std::array<bool, threads> saw_payload{};
    std::vector<std::thread> group;
    for (std::int32_t t = 0; t < threads; ++t) {
      group.emplace_back([&, t] {
        const auto me = static_cast<std::size_t>(t);
        schedule_noise::seed(round * 100 + me);
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        if (t % 2 == 0) {
          payload[me] = t + 1;
          answered[me] = cell.raise(cause_of(t));
        } else if (t % 4 == 1) {
          while (!cell.failed()) std::this_thread::yield();
          answered[me] = cell.first();
        } else { // asks for the cause without asking whether there is one
          while ((answered[me] = cell.first()).ok()) std::this_thread::yield();
        }
        read[me] = cell.first();
        // What the winner wrote before it raised is visible to whoever sees that it failed.
        const auto winner = static_cast<std::size_t>(read[me].rank);
        saw_payload[me] = payload[winner] == read[me].rank + 1;
      });
    }
    go.store(true, std::memory_order_release);
    for (std::thread& thread : group) thread.join();
    REQUIRE(cell.failed());
    const status first = cell.first();
    REQUIRE(same(first, cause_of(first.rank)));
    for (std::size_t t = 0; t < threads; ++t) {
      REQUIRE(same(answered[t], first));
      REQUIRE(same(read[t], first));
      REQUIRE(saw_payload[t]);
    }
  }
}
