// How a group of processes finds together, and who must not disturb it.
#include <dpgather/comm/unix_socket_bootstrap.hpp>

#include <support/socket_ranks.hpp>

#include <doctest/doctest.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using namespace dpgather;
using namespace test_support;

/// Both ranks of a group of two, as threads; rank 1's own wishes may differ.
struct pair_answers {
  status hub, other;
};
pair_answers connect_two(std::string_view path, const unix_socket_options& hub,
                         std::int32_t other_rank, std::int32_t other_size,
                         const unix_socket_options& other) {
  const auto meet = [](unix_socket_bootstrap& ranks) { return ranks.barrier(); };
  pair_answers out;
  std::thread first{[&] { out.hub = run_socket_rank(0, 2, path, hub, meet); }};
  out.other = run_socket_rank(other_rank, other_size, path, other, meet);
  first.join();
  return out;
}

/// Both say the same of `rank`.
void check_both(const pair_answers& said, errc code, subject about, std::int32_t rank,
                std::int64_t value, std::int64_t limit) {
  for (const status& one : {said.hub, said.other}) {
    CHECK(one.code == code);
    CHECK(one.about == about);
    CHECK(one.rank == rank);
    CHECK(one.value == value);
    CHECK(one.limit == limit);
    CHECK(std::string_view{one.where} == "unix_socket_bootstrap::connect");
    CHECK(one.message().view() == said.hub.message().view());
  }
}

} // namespace

TEST_CASE("rank 0 may start last, and any other rank too") {
  const hang_guard guard;
  for (const std::int32_t late : {0, 2}) {
    const fresh_path path{true};
    std::vector<status> said(3);
    std::vector<std::thread> threads;
    for (std::int32_t rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        if (rank == late) std::this_thread::sleep_for(ns(60 * ms));
        said[static_cast<std::size_t>(rank)] = run_socket_rank(
            rank, 3, path, {}, [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const status& one : said) CHECK_MESSAGE(one.ok(), one.message().c_str());
  }
}

TEST_CASE("a group can be built again at the same path at once") {
  const hang_guard guard;
  for (const bool file : {true, false}) {
    const fresh_path path{file};
    std::vector<status> said(4);
    std::vector<std::thread> threads;
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      threads.emplace_back([&, rank] {
        status& mine = said[static_cast<std::size_t>(rank)];
        for (std::uint64_t built = 1; built <= 20 && mine.ok(); ++built) {
          mine = run_socket_rank(rank, 4, path, {.session = built},
                                 [](unix_socket_bootstrap&) { return status{}; });
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const status& one : said) CHECK_MESSAGE(one.ok(), one.message().c_str());
  }
}

TEST_CASE("a rank that never starts is named on every rank within the deadline") {
  const hang_guard guard;
  constexpr std::int64_t deadline = 250 * ms;
  for (const std::int32_t missing : {0, 3}) {
    CAPTURE(missing);
    const fresh_path path{true};
    std::vector<status> said(4);
    std::vector<std::int64_t> took(4);
    std::vector<std::thread> threads;
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      if (rank == missing) continue;
      threads.emplace_back([&, rank] {
        // Rank 0 comes late: it must not wait longer for that.
        if (rank == 0) std::this_thread::sleep_for(ns(deadline / 3));
        const std::int64_t start = detail::steady_now_ns();
        const auto index = static_cast<std::size_t>(rank);
        said[index] =
            unix_socket_bootstrap::connect(rank, 4, path, {.connect_timeout_ns = deadline})
                .status();
        took[index] = detail::steady_now_ns() - start;
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      if (rank == missing) continue;
      CAPTURE(rank);
      const status& one = said[static_cast<std::size_t>(rank)];
      CHECK(one.code == errc::timeout);
      CHECK(one.peer == missing);
      CHECK(one.limit == deadline / 1000);
      CHECK(took[static_cast<std::size_t>(rank)] < deadline * 12 / 10 + 100 * ms);
    }
    CHECK(!path.exists());
  }
}

TEST_CASE("a rank that does not belong is named, with value and limit, on both sides") {
  const hang_guard guard;
  const unix_socket_options usual{.session = 5};
  check_both(connect_two(fresh_path{}, usual, 1, 2, {.session = 6}), errc::config_mismatch,
             subject::config, 1, 6, 5);
  check_both(connect_two(fresh_path{}, usual, 1, 3, usual), errc::config_mismatch, subject::world,
             1, 3, 2);

  // What `connect` would not send.
  const auto hello_of = [&](detail::socket_frame hello) {
    const fresh_path path;
    pair_answers out;
    std::thread first{
        [&] { out.hub = unix_socket_bootstrap::connect(0, 2, path, usual).status(); }};
    const auto stranger = connect_stranger(path, &hello, sizeof hello);
    out.other = detail::failure_in(next_frame(stranger));
    first.join();
    return out;
  };
  detail::socket_frame hello{.session = 5,
                             .rank = 1,
                             .size = 2,
                             .entered_ns = detail::steady_now_ns(),
                             .timeout_ns = 1000 * ms};
  hello.rank = 2;
  check_both(hello_of(hello), errc::bad_group, subject::rank, 2, 2, 2);
  hello.rank = -1;
  check_both(hello_of(hello), errc::bad_group, subject::rank, -1, -1, 2);
  hello.rank = 0;
  check_both(hello_of(hello), errc::bad_group, subject::rank, 0, 0, 2);
  hello.rank = 1;
  hello.version = 9;
  check_both(hello_of(hello), errc::config_mismatch, subject::record, 1, 9, 1);
}

TEST_CASE("a rank that comes twice is named on all ranks that have come") {
  const hang_guard guard;
  const fresh_path path;
  std::vector<status> said(3);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < said.size(); ++i) {
    threads.emplace_back([&, i] { // ranks 0, 1 and 1
      said[i] = unix_socket_bootstrap::connect(i == 0 ? 0 : 1, 3, path).status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const status& one : said) {
    CHECK(one.code == errc::bad_group);
    CHECK(one.rank == 1);
    CHECK(one.message().view() ==
          "rank 1: bad_group rank taken twice: 1, limit 3 [unix_socket_bootstrap::connect]");
  }
}

TEST_CASE("strangers at the door do not break the group") {
  const hang_guard guard;
  const fresh_path path{true};
  status hub;
  std::thread first{[&] {
    hub = run_socket_rank(0, 2, path, {},
                          [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
  }};
  std::vector<detail::socket_handle> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(connect_stranger(path, nullptr, 0));
  struct stat file {};
  CHECK(::stat(path.text().c_str(), &file) == 0);
  CHECK((file.st_mode & 0777) == 0600);
  const auto short_word = connect_stranger(path, "hello", 5);
  connect_stranger(path, "hello", 5).close();
  const std::vector<char> web(200, 'G'); // more than a frame, with a foreign magic
  const auto foreign = connect_stranger(path, web.data(), web.size());
  CHECK(next_frame(foreign).magic == 0); // closed, without an answer
  const status other =
      run_socket_rank(1, 2, path, {}, [](unix_socket_bootstrap& ranks) { return ranks.barrier(); });
  first.join();
  CHECK_MESSAGE(hub.ok(), hub.message().c_str());
  CHECK_MESSAGE(other.ok(), other.message().c_str());
}

TEST_CASE("other users are ignored by rank 0 and refused by the others") {
  if (::geteuid() != 0) {
    MESSAGE("not root: cannot become another user");
    return;
  }
  const hang_guard guard;
  const fresh_path path;
  // As rank 1, with everything right but the user.
  child_process stranger{[&] {
    if (::setuid(65534) != 0) return 1;
    const detail::socket_frame hello{.rank = 1, .size = 2};
    if (next_frame(connect_stranger(path, &hello, sizeof hello)).magic != 0) return 2;
    const status said = unix_socket_bootstrap::connect(1, 2, path).status();
    return said.code == errc::native_error && said.native == EACCES ? 0 : 3;
  }};
  status hub;
  std::thread first{[&] { hub = unix_socket_bootstrap::connect(0, 2, path).status(); }};
  CHECK(stranger.exit_code() == 0);
  const status other = unix_socket_bootstrap::connect(1, 2, path).status();
  first.join();
  CHECK_MESSAGE(hub.ok(), hub.message().c_str());
  CHECK_MESSAGE(other.ok(), other.message().c_str());
}

TEST_CASE("a rank that leaves before all have come is named at once") {
  const hang_guard guard;
  const fresh_path path;
  const detail::socket_frame hello{
      .rank = 2, .size = 3, .entered_ns = detail::steady_now_ns(), .timeout_ns = 30'000 * ms};
  status hub;
  std::thread first{[&] { hub = unix_socket_bootstrap::connect(0, 3, path).status(); }};
  connect_stranger(path, &hello, sizeof hello).close();
  first.join();
  CHECK(hub.code == errc::peer_left);
  CHECK(hub.peer == 2);
}

TEST_CASE("a socket file that a crashed run left does not block a new run") {
  const hang_guard guard;
  const fresh_path path{true};
  child_process crashed{[&] {
    detail::unix_socket_listener door;
    const bool open = door.open(*detail::unix_address::of(path), 4).ok();
    if (open) ::_exit(0); // no destructor
    return 1;
  }};
  REQUIRE(crashed.exit_code() == 0);
  REQUIRE(path.exists());
  const pair_answers said = connect_two(path, {}, 1, 2, {});
  CHECK_MESSAGE(said.hub.ok(), said.hub.message().c_str());
  CHECK_MESSAGE(said.other.ok(), said.other.message().c_str());
  CHECK(!path.exists());
}

TEST_CASE("a second run at the path of one that still listens is refused, and harms it not") {
  const hang_guard guard;
  for (const bool file : {true, false}) {
    CAPTURE(file);
    const fresh_path path{file};
    status hub;
    std::thread first{[&] { hub = unix_socket_bootstrap::connect(0, 2, path).status(); }};
    connect_stranger(path, nullptr, 0).close(); // it listens
    const status second = unix_socket_bootstrap::connect(0, 2, path).status();
    CHECK(second.code == errc::native_error);
    CHECK(second.native == EADDRINUSE);
    CHECK(second.message().view().find("the socket path is in use") != std::string_view::npos);
    CHECK(path.exists() == file);
    const status other = unix_socket_bootstrap::connect(1, 2, path).status();
    first.join();
    CHECK(hub.ok());
    CHECK(other.ok());
  }
}

TEST_CASE("a rank that meets a listener on its way out comes back for the next one") {
  const hang_guard guard;
  const fresh_path path{true};
  detail::unix_socket_listener leaving;
  REQUIRE(leaving.open(*detail::unix_address::of(path), 2).ok());
  const auto meet = [](unix_socket_bootstrap& ranks) { return ranks.barrier(); };
  status other;
  std::thread second{[&] { other = run_socket_rank(1, 2, path, {}, meet); }};
  pollfd ready{.fd = leaving.socket().get(), .events = POLLIN, .revents = 0};
  CHECK(::poll(&ready, 1, 10'000) == 1); // it waits to be let in
  leaving.close();
  const status hub = run_socket_rank(0, 2, path, {}, meet);
  second.join();
  CHECK_MESSAGE(hub.ok(), hub.message().c_str());
  CHECK_MESSAGE(other.ok(), other.message().c_str());
}

TEST_CASE("a file that is no socket is left alone") {
  const fresh_path path{true};
  std::ofstream{path.text()} << "precious";
  const status said = unix_socket_bootstrap::connect(0, 2, path).status();
  CHECK(said.code == errc::native_error);
  CHECK(said.native == EADDRINUSE);
  CHECK(std::filesystem::file_size(path.text()) == 8);
}

TEST_CASE("a listener that ends does not remove the file of its successor") {
  const fresh_path path{true};
  const auto at = detail::unix_address::of(path);
  detail::unix_socket_listener first;
  REQUIRE(first.open(*at, 1).ok());
  REQUIRE(::unlink(path.text().c_str()) == 0);
  detail::unix_socket_listener second;
  REQUIRE(second.open(*at, 1).ok());
  first.close();
  CHECK(path.exists());
  second.close();
  CHECK(!path.exists());
}

TEST_CASE("an answer that is not rank 0's is an error of the rank that hears it") {
  const hang_guard guard;
  const fresh_path path;
  detail::unix_socket_listener door;
  REQUIRE(door.open(*detail::unix_address::of(path), 1).ok());
  std::thread impostor{[&] {
    const std::vector<char> web(200, 'H');
    const detail::socket_handle guest = next_guest(door);
    (void)::send(guest.get(), web.data(), web.size(), MSG_NOSIGNAL);
    char end = 0;
    (void)::recv(guest.get(), &end, 1, MSG_WAITALL);
  }};
  const status said = unix_socket_bootstrap::connect(1, 2, path).status();
  impostor.join();
  CHECK(said.code == errc::bad_group);
  CHECK(said.value == 0x48484848);
  CHECK(said.limit == detail::socket_frame::expected_magic);
}
