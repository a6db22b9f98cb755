// What every rank answers when one does not do its part.
#include <dpgather/comm/unix_socket_bootstrap.hpp>

#include <support/socket_ranks.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <latch>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <signal.h>
#include <unistd.h>

namespace {

using namespace dpgather;
using namespace test_support;

constexpr std::int64_t deadline = 200 * ms;
constexpr unix_socket_options quick{.timeout_ns = deadline};
constexpr unix_socket_options patient{}; // where nobody should wait
constexpr std::int64_t at_once = 5'000 * ms;

/// What a rank answered in the call that failed and in the next, and how long the first took.
struct record {
  status first, next;
  std::int64_t took = 0;
};

/// `call`, and then a barrier, which must be poisoned by what `call` answered.
template <class Call>
record measure(unix_socket_bootstrap& ranks, Call&& call) {
  record out;
  const std::int64_t start = detail::steady_now_ns();
  out.first = call();
  out.took = detail::steady_now_ns() - start;
  out.next = ranks.barrier();
  return out;
}

void check_sticky(const record& one) {
  CHECK(one.next.code == errc::poisoned);
  CHECK(one.next.cause == one.first.code);
  CHECK(one.next.peer == one.first.peer);
  CHECK(one.next.call == one.first.call);
}

void check_in_time(const record& one) { CHECK(one.took < deadline * 12 / 10 + 100 * ms); }

/// Runs `body` as every rank of a group of `size` and collects what it measured.
template <class Body>
std::vector<record> measure_ranks(std::int32_t size, const unix_socket_options& options,
                                  const Body& body) {
  std::vector<record> out(static_cast<std::size_t>(size));
  for (const status& said : run_socket_ranks(size, options, [&](unix_socket_bootstrap& ranks) {
         status met = ranks.barrier();
         out[static_cast<std::size_t>(ranks.rank())] = body(ranks);
         return met;
       }))
    CHECK_MESSAGE(said.ok(), said.message().c_str());
  return out;
}

} // namespace

TEST_CASE("a rank that does not come is named on every rank, within its deadline") {
  const hang_guard guard;
  for (const std::int32_t missing : {0, 3}) {
    CAPTURE(missing);
    const std::vector<record> said =
        measure_ranks(4, quick, [missing](unix_socket_bootstrap& ranks) {
          // The others one after another, rank 0 last: their deadlines have begun without it.
          std::this_thread::sleep_for(ns((3 - ranks.rank()) * deadline / 8));
          if (ranks.rank() == missing) std::this_thread::sleep_for(ns(deadline * 3 / 2));
          std::int32_t mine = 1, all[4];
          return measure(ranks, [&] { return ranks.all_gather(&mine, all, sizeof mine); });
        });
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      CAPTURE(rank);
      const record& one = said[static_cast<std::size_t>(rank)];
      CHECK(one.first.code == errc::timeout);
      CHECK(one.first.peer == missing);
      CHECK(one.first.call == 2);
      CHECK(one.first.limit == deadline / 1000);
      CHECK(std::string_view{one.first.where} == "unix_socket_bootstrap::all_gather");
      check_in_time(one);
      check_sticky(one);
    }
  }
}

TEST_CASE("a rank that comes just in time is waited for") {
  const hang_guard guard;
  for (const std::int32_t late : {0, 2}) {
    for (const status& said :
         run_socket_ranks(3, {.timeout_ns = 1'000 * ms}, [late](unix_socket_bootstrap& ranks) {
           if (ranks.rank() == late) std::this_thread::sleep_for(ns(100 * ms));
           return ranks.barrier();
         }))
      CHECK_MESSAGE(said.ok(), said.message().c_str());
  }
}

TEST_CASE("deadlines may differ between ranks, and the shortest one counts") {
  const hang_guard guard;
  const std::vector<record> said = measure_ranks(3, quick, [](unix_socket_bootstrap& ranks) {
    if (ranks.rank() != 1) ranks.set_timeout_ns(60'000 * ms);
    if (ranks.rank() == 2) std::this_thread::sleep_for(ns(deadline * 3 / 2));
    return measure(ranks, [&] { return ranks.barrier(); });
  });
  for (const record& one : said) {
    CHECK(one.first.code == errc::timeout);
    CHECK(one.first.peer == 2);
    CHECK(one.first.rank == 1);
    CHECK(one.first.limit == deadline / 1000);
    check_in_time(one);
  }
}

TEST_CASE("a rank that leaves is named at once") {
  const hang_guard guard;
  for (const std::int32_t leaver : {0, 1, 3}) {
    CAPTURE(leaver);
    const std::vector<record> said =
        measure_ranks(4, patient, [leaver](unix_socket_bootstrap& ranks) {
          if (ranks.rank() == leaver) return record{};
          return measure(ranks, [&] { return ranks.barrier(); });
        });
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      if (rank == leaver) continue;
      const record& one = said[static_cast<std::size_t>(rank)];
      CHECK(one.first.code == errc::peer_left);
      CHECK(one.first.peer == leaver);
      CHECK(one.took < at_once);
      check_sticky(one);
    }
  }
}

TEST_CASE("ranks that diverge are named on every rank, and nobody waits") {
  const hang_guard guard;
  struct divergence {
    const char* name;
    std::int32_t odd;
    bool enters_barrier;
    std::size_t bytes;
    const char* message;
  };
  const divergence cases[] = {
      {"another function", 2, true, 0,
       "plan_mismatch: operation is barrier, but rank 0 has all_gather "
       "[unix_socket_bootstrap::all_gather]"},
      {"another function on rank 0", 0, true, 0,
       "plan_mismatch: operation is all_gather, but rank 0 has barrier "
       "[unix_socket_bootstrap::barrier]"},
      {"fewer bytes", 3, false, 8,
       "plan_mismatch: row_bytes is 8, but rank 0 has 64 [unix_socket_bootstrap::all_gather]"},
      {"no bytes", 1, false, 0,
       "plan_mismatch: row_bytes is 0, but rank 0 has 64 [unix_socket_bootstrap::all_gather]"},
      {"more bytes than a socket buffers", 1, false, 8U << 20,
       "plan_mismatch: row_bytes is 8388608, but rank 0 has 64 "
       "[unix_socket_bootstrap::all_gather]"},
  };
  for (const divergence& each : cases) {
    CAPTURE(each.name);
    std::latch all_measured{4}; // a rank that ends would free those that wait for it
    const std::vector<record> said = measure_ranks(4, patient, [&](unix_socket_bootstrap& ranks) {
      const bool odd = ranks.rank() == each.odd;
      const record out = measure(ranks, [&] {
        if (odd && each.enters_barrier) return ranks.barrier();
        const std::size_t bytes = odd ? each.bytes : 64;
        std::vector<std::byte> mine(bytes), all(4 * bytes);
        return ranks.all_gather(mine.data(), all.data(), bytes);
      });
      all_measured.arrive_and_wait();
      return out;
    });
    for (const record& one : said) {
      const status_message message = one.first.message();
      CHECK(one.first.code == errc::plan_mismatch);
      CHECK(message.view().find(each.message) != std::string_view::npos);
      CHECK(message.view() == said[0].first.message().view());
      CHECK(one.first.call == 2);
      if (each.odd != 0) CHECK(one.first.rank == each.odd);
      CHECK(one.took < at_once);
      check_sticky(one);
    }
  }
}

TEST_CASE("processes that crash, leave or stop are named by the others") {
  const hang_guard guard;
  const fresh_path path{true};
  constexpr std::int32_t size = 4;
  struct fault {
    const char* name;
    std::int32_t victim;
    int signal;
    errc expected;
    unix_socket_options options;
  };
  const fault faults[] = {{"crash", 2, SIGKILL, errc::peer_left, patient},
                          {"crash of rank 0", 0, SIGKILL, errc::peer_left, patient},
                          {"stop", 3, SIGSTOP, errc::timeout, {.timeout_ns = 500 * ms}}};
  for (const fault& each : faults) {
    CAPTURE(each.name);
    std::vector<child_process> ranks;
    for (std::int32_t rank = 0; rank < size; ++rank) {
      ranks.emplace_back([&, rank] {
        const status said = run_socket_rank(
            rank, size, path, each.options, [&](unix_socket_bootstrap& all) -> status {
              for (int call = 0; call < 20; ++call) {
                if (status bad = all.barrier(); !bad) return bad;
              }
              if (rank == each.victim) (void)::kill(::getpid(), each.signal);
              for (;;) {
                const status bad = all.barrier();
                if (!bad && bad.call == 21 && all.barrier().code == errc::poisoned) return bad;
                if (!bad) return {};
              }
            });
        return said.code == each.expected && said.peer == each.victim ? 0 : 1;
      });
    }
    for (std::int32_t rank = 0; rank < size; ++rank) {
      if (rank != each.victim) CHECK(ranks[static_cast<std::size_t>(rank)].exit_code() == 0);
    }
  }
}

TEST_CASE("a rank that stops reading fails the call of rank 0 and the next of the others") {
  const hang_guard guard;
  const fresh_path path;
  constexpr std::size_t bytes = 1U << 19; // three of them do not fit into a socket
  std::vector<record> said(2);
  std::vector<std::thread> threads;
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      (void)run_socket_rank(rank, 3, path, {.timeout_ns = 500 * ms},
                            [&](unix_socket_bootstrap& ranks) -> status {
                              std::vector<std::byte> mine(bytes), all(3 * bytes);
                              record& out = said[static_cast<std::size_t>(rank)];
                              status call = ranks.all_gather(mine.data(), all.data(), bytes);
                              if (rank == 1 && call.ok()) call = ranks.barrier();
                              out.first = call;
                              out.next = ranks.barrier();
                              return {};
                            });
    });
  }
  // Rank 2 says everything that it should.
  detail::socket_frame frame{
      .rank = 2, .size = 3, .entered_ns = detail::steady_now_ns(), .timeout_ns = 30'000 * ms};
  const auto socket = connect_stranger(path, &frame, sizeof frame);
  REQUIRE(next_frame(socket).failed == errc::ok);
  std::vector<std::byte> mine(bytes);
  frame.what = detail::socket_call::all_gather;
  frame.call = 1;
  frame.bytes = bytes;
  detail::socket_transfer out{.frame = frame, .payload = mine.data(), .bytes = bytes};
  while (advance(socket, out, detail::socket_term::send) == detail::transfer_state::waits)
    std::this_thread::sleep_for(ns(ms));
  for (std::thread& thread : threads) thread.join();
  for (const record& one : said) {
    CHECK(one.first.code == errc::timeout);
    CHECK(one.first.peer == 2);
    check_sticky(one);
  }
}

TEST_CASE("what another rank than rank 0 sees first reaches all ranks") {
  const hang_guard guard;
  // Rank 1 tells rank 0 when it gives up ...
  const fresh_path path;
  detail::unix_socket_listener door;
  REQUIRE(door.open(*detail::unix_address::of(path), 1).ok());
  status gave_up;
  std::thread other{[&] {
    gave_up = run_socket_rank(1, 3, path, quick,
                              [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
  }};
  const auto guest = next_guest(door);
  detail::socket_frame answer = next_frame(guest);
  CHECK(answer.rank == 1);
  answer.rank = 0;
  CHECK(::send(guest.get(), &answer, sizeof answer, MSG_NOSIGNAL) > 0);
  CHECK(next_frame(guest).what == detail::socket_call::barrier);
  const detail::socket_frame news = next_frame(guest);
  other.join();
  CHECK(gave_up.code == errc::timeout);
  CHECK(detail::failure_in(news).message().view() == gave_up.message().view());

  // ... and rank 0, when it hears of it, tells everybody.
  const fresh_path second;
  status said[3];
  std::vector<std::thread> threads;
  for (const std::int32_t rank : {0, 2}) {
    threads.emplace_back([&, rank] {
      said[rank] = run_socket_rank(rank, 3, second, patient,
                                   [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
    });
  }
  const detail::socket_frame hello{.rank = 1,
                                   .size = 3,
                                   .entered_ns = detail::steady_now_ns(),
                                   .timeout_ns = patient.timeout_ns};
  const auto socket = connect_stranger(second, &hello, sizeof hello);
  CHECK(next_frame(socket).failed == errc::ok);
  CHECK(::send(socket.get(), &news, sizeof news, MSG_NOSIGNAL) > 0);
  for (std::thread& thread : threads) thread.join();
  CHECK(said[0].message().view() == gave_up.message().view());
  CHECK(said[2].message().view() == gave_up.message().view());
}

TEST_CASE("bytes that are no frame fail the group with a name") {
  const hang_guard guard;
  const fresh_path path;
  status hub;
  std::thread first{[&] {
    hub = run_socket_rank(0, 2, path, {},
                          [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
  }};
  const detail::socket_frame hello{
      .rank = 1, .size = 2, .entered_ns = detail::steady_now_ns(), .timeout_ns = 30'000 * ms};
  const auto socket = connect_stranger(path, &hello, sizeof hello);
  REQUIRE(next_frame(socket).failed == errc::ok);
  const std::vector<char> noise(sizeof hello, 'x');
  REQUIRE(::send(socket.get(), noise.data(), noise.size(), MSG_NOSIGNAL) > 0);
  const detail::socket_frame told = next_frame(socket);
  first.join();
  CHECK(hub.code == errc::native_error);
  CHECK(hub.native == EPROTO);
  CHECK(hub.peer == 1);
  CHECK(detail::failure_in(told).message().view() == hub.message().view());
}
