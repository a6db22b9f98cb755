#include <dpgather/comm/handle_exchange.hpp>

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/comm/run_ranks.hpp>

#include <support/socket_ranks.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace dpgather;
using namespace test_support;
using detail::handle_mailbox;
using detail::handle_meeting;
using detail::socket_handle;

using handles = socket_handle[max_peer_ranks];

/// A file without a name that holds one number.
socket_handle file_of(std::int32_t number) {
  socket_handle out{::memfd_create("handle_exchange", MFD_CLOEXEC)};
  REQUIRE(out);
  REQUIRE(::pwrite(out.get(), &number, sizeof number, 0) == sizeof number);
  return out;
}
std::int32_t number_in(const socket_handle& file) {
  std::int32_t out = -1;
  return ::pread(file.get(), &out, sizeof out, 0) == sizeof out ? out : -1;
}

std::ptrdiff_t open_files() {
  const std::filesystem::directory_iterator all{"/proc/self/fd"};
  return std::distance(begin(all), end(all));
}

std::int64_t seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start)
      .count();
}

/// What a stranger sends to a mailbox: so many descriptors and these bytes.
void send_as_stranger(const handle_meeting& to, std::int32_t rank, const void* words,
                      std::size_t bytes, int fds) {
  const socket_handle from{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  const detail::unix_address at = to.address(rank);
  const socket_handle file = file_of(99);
  iovec part{const_cast<void*>(words), bytes};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(8 * sizeof(int))> control{};
  msghdr message{};
  message.msg_name = const_cast<sockaddr*>(at.get());
  message.msg_namelen = at.length();
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fds > 0) {
    const std::size_t length = static_cast<std::size_t>(fds) * sizeof(int);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(length);
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(length);
    for (int i = 0; i < fds; ++i) {
      const int fd = file.get();
      std::memcpy(CMSG_DATA(head) + static_cast<std::size_t>(i) * sizeof fd, &fd, sizeof fd);
    }
  }
  CHECK(::sendmsg(from.get(), &message, MSG_NOSIGNAL) >= 0);
}

handle_meeting drawn() {
  handle_meeting out;
  REQUIRE(out.draw().ok());
  return out;
}

/// As the first vote of a provider has it.
struct offer {
  std::uint64_t bytes = 0;
  std::uint64_t more = 0;
};

/// A world in which nothing can be said.
struct mute_bootstrap {
  std::int32_t rank_;
  std::int32_t size_;
  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return size_; }
  [[nodiscard]] status all_gather(const void*, void*, std::size_t) noexcept {
    return {.code = errc::timeout, .rank = rank_, .peer = 1, .limit = 5};
  }
  [[nodiscard]] status barrier() noexcept { return {.code = errc::timeout}; }
};

/// Runs `body(ranks)` as every rank of a bootstrap of threads that share an address space.
template <class Body>
std::vector<status> run_threads(std::int32_t size, Body body) {
  steady_wait_clock clock;
  host_world world{{.dp_size = size}, clock, 20'000'000'000};
  std::vector<status> said(static_cast<std::size_t>(size));
  run_ranks(world, [&](host_communicator ranks) {
    said[static_cast<std::size_t>(ranks.rank())] = body(ranks);
  });
  return said;
}

template <class Bootstrap>
status exchange_files(Bootstrap& ranks) {
  const socket_handle mine = file_of(100 + ranks.rank());
  handles theirs;
  if (status bad = detail::exchange_handles(ranks, mine.get(), theirs); !bad) return bad;
  for (std::int32_t r = 0; r < max_peer_ranks; ++r) {
    const bool expected = r < ranks.size() && r != ranks.rank();
    if (static_cast<bool>(theirs[r]) != expected) return {.code = errc::bad_group, .peer = r};
    if (!expected) continue;
    if (number_in(theirs[r]) != 100 + r) return {.code = errc::bad_record, .peer = r};
    if ((::fcntl(theirs[r].get(), F_GETFD) & FD_CLOEXEC) == 0)
      return {.code = errc::bad_config, .peer = r};
  }
  return ranks.barrier();
}

} // namespace

TEST_CASE("threads hand each other files, and none stays open") {
  const hang_guard guard;
  const std::ptrdiff_t before = open_files();
  for (const std::int32_t size : {1, 2, 3, 8, 16}) { // the last overfills the boxes
    CAPTURE(size);
    for (int again = 0; again < 5; ++again) {
      for (const status& said :
           run_threads(size, [](host_communicator& ranks) { return exchange_files(ranks); }))
        CHECK_MESSAGE(said.ok(), std::string{said.message().view()});
    }
  }
  CHECK(open_files() == before);
}

TEST_CASE("processes hand each other the ends of pipes") {
  const hang_guard guard;
  const fresh_path path;
  constexpr std::int32_t size = 4;
  std::vector<child_process> processes;
  for (std::int32_t rank = 0; rank < size; ++rank) {
    processes.emplace_back([&path, rank] {
      const status said =
          run_socket_rank(rank, size, path, {}, [](unix_socket_bootstrap& ranks) -> status {
            int ends[2];
            if (::pipe2(ends, O_CLOEXEC) != 0) return {.code = errc::bad_config};
            const socket_handle out{ends[0]};
            socket_handle in{ends[1]};
            {
              handles theirs;
              if (status bad = detail::exchange_handles(ranks, in.get(), theirs); !bad) return bad;
              const auto mine = static_cast<char>('a' + ranks.rank());
              for (std::int32_t r = 0; r < size; ++r) {
                if (r != ranks.rank() && ::write(theirs[r].get(), &mine, 1) != 1)
                  return {.code = errc::bad_record, .peer = r};
              }
            }
            if (status bad = ranks.barrier(); !bad) return bad;
            in.close(); // the last one: what is read ends
            std::string heard(16, '\0');
            std::size_t length = 0;
            for (ssize_t now = 1; now > 0; length += static_cast<std::size_t>(now))
              now = ::read(out.get(), heard.data() + length, heard.size() - length);
            heard.resize(length);
            std::string expected;
            for (std::int32_t r = 0; r < size; ++r)
              if (r != ranks.rank()) expected += static_cast<char>('a' + r);
            std::sort(heard.begin(), heard.end());
            return {.code = heard == expected ? errc::ok : errc::bad_record};
          });
      return static_cast<int>(said.code);
    });
  }
  for (child_process& each : processes) CHECK(each.exit_code() == 0);
}

TEST_CASE("a rank whose descriptor does not come is named") {
  const hang_guard guard;
  const handle_meeting at = drawn();
  const socket_handle mine = file_of(0);
  handle_mailbox box{at, 0, 3};
  handle_mailbox silent{at, 1, 3};
  handle_mailbox speaks{at, 2, 3};
  REQUIRE(box.open().ok());
  REQUIRE(silent.open().ok());
  REQUIRE(speaks.open().ok());
  handles theirs, of_2;
  CHECK(speaks.exchange(mine.get(), of_2, 1).code == errc::timeout); // has sent by then
  const auto start = std::chrono::steady_clock::now();
  const status late = box.exchange(mine.get(), theirs, 200 * ms);
  CHECK(late.code == errc::timeout);
  CHECK(late.rank == 0);
  CHECK(late.peer == 1);
  CHECK(late.limit == 200'000);
  CHECK(std::string{late.message().view()} ==
        "rank 0: timeout: rank 1 did not arrive within 200000 us [exchange_handles]");
  CHECK(std::chrono::steady_clock::now() - start >= ns(200 * ms));
  CHECK(number_in(theirs[2]) == 0);
}

TEST_CASE("a rank that is not there is named at once") {
  const hang_guard guard;
  const handle_meeting at = drawn();
  const socket_handle mine = file_of(0);
  handle_mailbox box{at, 0, 2};
  REQUIRE(box.open().ok());
  handles theirs;
  const auto start = std::chrono::steady_clock::now();
  const status gone = box.exchange(mine.get(), theirs, 50'000 * ms);
  CHECK(gone.code == errc::peer_left);
  CHECK(gone.peer == 1);
  CHECK(seconds_since(start) < 20);
}

TEST_CASE("nobody takes the place of a rank") {
  const hang_guard guard;
  const handle_meeting at = drawn();
  handle_mailbox box{at, 1, 2};
  REQUIRE(box.open().ok());
  handle_mailbox same{at, 1, 2};
  const status taken = same.open();
  CHECK(taken.code == errc::native_error);
  CHECK(taken.native == EADDRINUSE);
}

TEST_CASE("strangers are ignored, and what they sent is closed") {
  const hang_guard guard;
  const handle_meeting at = drawn();
  handle_mailbox box{at, 0, 2};
  handle_mailbox other{at, 1, 2};
  REQUIRE(box.open().ok());
  REQUIRE(other.open().ok());
  const socket_handle mine = file_of(7);
  const std::ptrdiff_t before = open_files();
  struct {
    std::uint64_t secret;
    std::int32_t rank;
    std::int32_t failed;
  } letter{at.secret + 1, 1, 0};
  const auto send = [&](std::size_t bytes, int fds) {
    send_as_stranger(at, 0, &letter, bytes, fds);
  };
  send(sizeof letter, 1); // another secret
  letter.failed = static_cast<std::int32_t>(errc::native_error);
  send(sizeof letter, 0);
  letter.failed = 0;
  letter.secret = at.secret;
  send(sizeof letter - 1, 1);                  // cut short
  for (const std::int32_t rank : {-1, 0, 2}) { // no other rank of this world
    letter.rank = rank;
    send(sizeof letter, 1);
  }
  letter.secret = 0;
  send(sizeof letter, 8); // more than there is room for
  if (::geteuid() == 0) { // only root can be somebody else
    letter.secret = at.secret;
    letter.rank = 1;
    child_process foreign{[&] {
      if (::setuid(65534) != 0) return 1;
      send(sizeof letter, 1);
      return 0;
    }};
    CHECK(foreign.exit_code() == 0);
  }
  handles theirs;
  const status late = box.exchange(mine.get(), theirs, 50 * ms);
  CHECK(late.code == errc::timeout);
  CHECK(late.peer == 1);
  CHECK(!theirs[1]);
  CHECK(open_files() == before);
}

TEST_CASE("a rank that fails is not waited for") {
  const hang_guard guard;
  const auto start = std::chrono::steady_clock::now();
  const auto said = run_threads(3, [](host_communicator& ranks) -> status {
    const socket_handle mine = file_of(ranks.rank());
    handles theirs;
    const status out = detail::exchange_handles(ranks, ranks.rank() == 1 ? -1 : mine.get(), theirs);
    for (const socket_handle& each : theirs)
      if (each) return {.code = errc::bad_record};
    return out;
  });
  CHECK(said[1].code == errc::native_error);
  CHECK(said[1].native == EBADF);
  CHECK(said[1].rank == 1);
  for (const std::size_t other : {0U, 2U}) {
    CHECK(said[other].code == errc::peer_refused);
    CHECK(said[other].cause == errc::native_error);
    CHECK(said[other].rank == 1);
    CHECK(said[other].native == EBADF);
  }
  CHECK(seconds_since(start) < 20);
}

TEST_CASE("a process that can open no more files says so") {
  const hang_guard guard;
  const handle_meeting at = drawn();
  handle_mailbox box{at, 0, 2};
  handle_mailbox other{at, 1, 2};
  REQUIRE(box.open().ok());
  REQUIRE(other.open().ok());
  const socket_handle mine = file_of(0);
  child_process full{[&] {
    const rlimit few{.rlim_cur = 64, .rlim_max = 64};
    if (::setrlimit(RLIMIT_NOFILE, &few) != 0) return 1;
    while (::dup(mine.get()) >= 0) {
    }
    handles theirs;
    const status said = other.exchange(mine.get(), theirs, 20'000 * ms);
    return said.code == errc::native_error && said.native == EMFILE ? 0 : 2;
  }};
  handles theirs;
  (void)box.exchange(mine.get(), theirs, 20'000 * ms); // has the descriptor or hears the failure
  CHECK(full.exit_code() == 0);
}

TEST_CASE("a deadline that means nothing is every rank's error") {
  const hang_guard guard;
  const auto said = run_threads(2, [](host_communicator& ranks) {
    handles theirs;
    return detail::exchange_handles(ranks, 0, theirs, ranks.rank() == 0 ? 1'000 * ms : 0);
  });
  CHECK(said[1].code == errc::bad_config);
  CHECK(said[0].code == errc::peer_refused);
  CHECK(said[0].cause == errc::bad_config);
  CHECK(said[0].rank == 1);
  CHECK(said[0].limit == 1);
}

TEST_CASE("a vote brings what each rank gave, or why there is nothing") {
  const hang_guard guard;
  for (const status& said : run_threads(5, [](host_communicator& ranks) -> status {
         const auto mine = static_cast<std::uint64_t>(ranks.rank());
         offer all[max_peer_ranks];
         if (status bad = detail::vote(ranks, {}, "test", offer{mine, ~mine}, all); !bad)
           return bad;
         for (std::uint64_t r = 0; r < 5; ++r)
           if (all[r].bytes != r || all[r].more != ~r) return {.code = errc::bad_record};
         return {};
       }))
    CHECK(said.ok());

  // Rank 3 knows why; 1 and 2 only waited for it in vain.
  const auto said = run_threads(4, [](host_communicator& ranks) -> status {
    status here;
    if (ranks.rank() == 1) here = {.code = errc::timeout, .rank = 1, .peer = 3, .limit = 10};
    if (ranks.rank() == 2) here = {.code = errc::peer_left, .rank = 2, .peer = 3};
    if (ranks.rank() == 3)
      here = {.code = errc::capacity_exceeded, .about = subject::local, .value = 9, .limit = 8};
    return detail::vote(ranks, here, "test");
  });
  for (std::size_t r = 0; r < 3; ++r) {
    CAPTURE(r);
    CHECK(said[r].code == errc::peer_refused);
    CHECK(said[r].cause == errc::capacity_exceeded);
    CHECK(said[r].rank == 3);
    CHECK(std::string{said[r].message().view()} ==
          "rank 3: peer_refused: capacity_exceeded local=9 limit=8 [test]");
  }
  CHECK(said[3].code == errc::capacity_exceeded);
  CHECK(said[3].rank == 3);

  // Nobody knows more than that somebody is missing.
  const auto waited = run_threads(2, [](host_communicator& ranks) -> status {
    status here;
    if (ranks.rank() == 1) here = {.code = errc::timeout, .rank = 1, .peer = 0, .limit = 10};
    return detail::vote(ranks, here, "test");
  });
  CHECK(waited[0].code == errc::peer_refused);
  CHECK(waited[0].cause == errc::timeout);
  CHECK(waited[0].rank == 1);
  CHECK(waited[1].code == errc::timeout);

  // The bootstrap fails: what this rank found by itself goes first.
  mute_bootstrap mute{0, 2};
  CHECK(detail::vote(mute, {}, "test").code == errc::timeout);
  const status own = detail::vote(mute, {.code = errc::null_pointer}, "test");
  CHECK(own.code == errc::null_pointer);
  CHECK(own.rank == 0);
}

TEST_CASE("shared memory is given back once nobody maps it any more") {
  const hang_guard guard;
  std::atomic<std::int32_t> mapping{4};
  for (const status& said : run_threads(4, [&](host_communicator& ranks) -> status {
         status memory;
         bool freed = false;
         const status closed = detail::close_together(
             ranks, memory, "test",
             [&]() noexcept {
               --mapping;
               return ranks.rank() == 2 ? status{.code = errc::native_error, .native = 7}
                                        : status{};
             },
             [&]() noexcept {
               freed = mapping == 0;
               return status{};
             });
         if (!freed || memory.code != errc::peer_left || memory.peer != ranks.rank())
           return {.code = errc::bad_record};
         if ((closed.native == 7) != (ranks.rank() == 2)) return closed;
         const auto never = []() noexcept { return status{.code = errc::bad_record}; };
         return detail::close_together(ranks, memory, "test", never, never); // once only
       }))
    CHECK_MESSAGE(said.ok(), std::string{said.message().view()});

  // Where somebody is missing nothing goes.
  mute_bootstrap mute{0, 2};
  status memory;
  int released = 0;
  const auto release = [&]() noexcept {
    ++released;
    return status{};
  };
  CHECK(detail::close_together(mute, memory, "test", release, release).code == errc::timeout);
  CHECK(memory.ok());
  CHECK(released == 0);
}

TEST_CASE("worlds and arenas that cannot be are refused") {
  const auto of_ranks = [](std::int32_t rank, std::int32_t size) {
    mute_bootstrap ranks{rank, size};
    return detail::check_peer_ranks(ranks, "test");
  };
  CHECK(of_ranks(0, 1).ok());
  CHECK(of_ranks(15, 16).ok());
  CHECK(of_ranks(0, 17).code == errc::too_many_ranks);
  CHECK(of_ranks(0, 17).value == 17);
  CHECK(of_ranks(0, 17).limit == max_peer_ranks);
  CHECK(of_ranks(0, 0).code == errc::bad_group);
  CHECK(of_ranks(2, 2).code == errc::bad_group);
  CHECK(of_ranks(2, 2).about == subject::rank);
  handles none;
  mute_bootstrap many{0, 17};
  CHECK(detail::exchange_handles(many, 0, none).code == errc::too_many_ranks);

  CHECK(detail::check_arena_bytes(1, 256, "test").ok());
  CHECK(detail::check_arena_bytes(0, 256, "test").code == errc::bad_config);
  CHECK(detail::check_arena_bytes(SIZE_MAX, 256, "test").code == errc::size_overflow);

  offer all[max_peer_ranks]{{.bytes = 8}, {.bytes = 8}, {.bytes = 9}};
  CHECK(detail::same_bytes(all, 0, 2, "test").ok());
  for (const std::int32_t rank : {0, 1, 2}) {
    const status differs = detail::same_bytes(all, rank, 3, "test");
    CHECK(differs.code == errc::config_mismatch);
    CHECK(differs.rank == rank);
    CHECK(differs.peer == (rank == 2 ? 0 : 2));
    CHECK(differs.value == (rank == 2 ? 9 : 8));
    CHECK(differs.limit == (rank == 2 ? 8 : 9));
  }
}
