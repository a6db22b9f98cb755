#pragma once

/// @file
/// Open file descriptors handed from process to process, by all ranks to all.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/comm/unix_socket_listener.hpp>
#include <dpgather/config.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

namespace dpgather::inline v0 {
namespace detail {

/// Where the ranks of one exchange of descriptors meet: names that nobody can guess, and a secret
/// that is in none of them. Drawn by one rank, known to all.
struct handle_meeting {
  std::uint64_t name[2]{};
  std::uint64_t secret = 0;

  /// Errors: `native_error`.
  [[nodiscard]] status draw() noexcept {
    std::uint64_t random[3]; // 24 bytes: never cut short by a signal
    if (::getrandom(random, sizeof random, 0) != static_cast<ssize_t>(sizeof random))
      return {.code = errc::native_error,
              .native = errno,
              .value_name = "getrandom",
              .where = "handle_meeting::draw"};
    *this = {.name = {random[0], random[1]}, .secret = random[2]};
    return {};
  }
  /// The address of a rank: a name without a file (Linux: abstract), of the network namespace.
  [[nodiscard]] unix_address address(std::int32_t rank) const noexcept {
    char text[64];
    const int length = std::snprintf(text, sizeof text, "@dpgather-%016llx%016llx-%d",
                                     static_cast<unsigned long long>(name[0]),
                                     static_cast<unsigned long long>(name[1]), rank);
    return *unix_address::of({text, static_cast<std::size_t>(length)});
  }
};

/// Where one rank receives the descriptors of the others, one message each.
///
/// Messages of other users and those without the secret are ignored, and what came with them is
/// closed. A rank that fails says so to all, so that nobody waits for it.
class handle_mailbox {
public:
  handle_mailbox(const handle_meeting& at, std::int32_t rank, std::int32_t size) noexcept
      : at_{at}, rank_{rank}, size_{size} {}

  /// Others can send from now on. Errors: `native_error`.
  [[nodiscard]] status open() noexcept {
    const unix_address mine = at_.address(rank_);
    const int on = 1;
    box_ = socket_handle{::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (!box_) return native("socket");
    if (::setsockopt(box_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
      return native("SO_PASSCRED");
    return ::bind(box_.get(), mine.get(), mine.length()) == 0 ? status{} : native("bind");
  }

  /// Sends `mine` to all others and waits for theirs, when all of them have opened their boxes.
  ///
  /// Ownership: borrows `mine`; what lands in `theirs` is the caller's, after an error too.
  /// Errors: `timeout` and `peer_left` name the rank that is missing, `peer_refused` the one that
  /// failed, with its cause; `native_error`, `EMFILE` where this process can open no more.
  [[nodiscard]] status exchange(int mine, socket_handle (&theirs)[max_peer_ranks],
                                std::int64_t timeout_ns) noexcept {
    const std::int64_t deadline = deadline_after(steady_now_ns(), timeout_ns);
    bool sent[max_peer_ranks]{};
    status bad;
    while (bad.ok()) {
      std::int32_t missing = -1;
      bool is_full = false;
      for (std::int32_t r = 0; r < size_ && bad.ok(); ++r) {
        if (r == rank_ || sent[r]) continue;
        bad = send(r, mine, errc::ok, sent[r]);
        is_full = is_full || !sent[r];
        if (!sent[r]) missing = r;
      }
      bool more = true; // but not for ever: a stranger may write without end
      for (int letters = 0; letters < 64 && more && bad.ok(); ++letters)
        bad = receive(theirs, more);
      for (std::int32_t r = 0; r < size_; ++r) {
        if (r != rank_ && !theirs[r]) missing = r;
      }
      if (bad.ok() && missing < 0) return {};
      const std::int64_t now = steady_now_ns();
      if (bad.ok() && now >= deadline)
        bad = status{.code = errc::timeout, .peer = missing, .limit = timeout_ns / 1000};
      pollfd ready{.fd = box_.get(), .events = POLLIN, .revents = 0};
      // Nothing tells when a full box has room again.
      const std::int64_t until = is_full ? std::min(deadline, now + 1'000'000) : deadline;
      if (bad.ok() && !wait_for_any({&ready, 1}, until)) bad = native("poll");
    }
    if (bad.code != errc::peer_refused) bad.rank = rank_;
    bad.where = where;
    bool told = false;
    for (std::int32_t r = 0; r < size_ && is_own_fault(bad.code); ++r) {
      if (r != rank_) (void)send(r, -1, bad.code, told);
    }
    return bad;
  }

private:
  static constexpr const char* where = "exchange_handles";
  struct letter {
    std::uint64_t secret;
    std::int32_t rank;
    std::int32_t failed; ///< an `errc`; with `ok` there is a descriptor
  };

  [[nodiscard]] status native(const char* what, int code = errno) const noexcept {
    return {.code = errc::native_error,
            .rank = rank_,
            .native = code,
            .value_name = what,
            .where = where};
  }

  /// One letter to rank `to`, if its box has room. Errors: `peer_left`, `native_error`.
  [[nodiscard]] status send(std::int32_t to, int enclosed, errc failed, bool& sent) noexcept {
    const unix_address address = at_.address(to);
    letter text{at_.secret, rank_, static_cast<std::int32_t>(failed)};
    iovec part{&text, sizeof text};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof enclosed)]{};
    msghdr message{};
    message.msg_name = const_cast<sockaddr*>(address.get());
    message.msg_namelen = address.length();
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (failed == errc::ok) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* const head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof enclosed);
      std::memcpy(CMSG_DATA(head), &enclosed, sizeof enclosed);
    }
    for (;;) {
      sent = ::sendmsg(box_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
      if (sent || errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) return {};
      if (errno == ECONNREFUSED) return {.code = errc::peer_left, .peer = to};
      if (errno != EINTR) return native("sendmsg");
    }
  }

  /// One letter, if there is one. Errors: `peer_refused`, `native_error`.
  [[nodiscard]] status receive(socket_handle (&theirs)[max_peer_ranks], bool& more) noexcept {
    letter text{};
    iovec part{&text, sizeof text};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))]{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t came = ::recvmsg(box_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    more = came >= 0 || errno == EINTR;
    if (came < 0)
      return more || errno == EAGAIN || errno == EWOULDBLOCK ? status{} : native("recvmsg");
    socket_handle enclosed;
    ucred sender{.pid = 0, .uid = static_cast<uid_t>(-1), .gid = 0};
    for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr;
         head = CMSG_NXTHDR(&message, head)) {
      if (head->cmsg_level != SOL_SOCKET) continue;
      if (head->cmsg_type == SCM_CREDENTIALS) std::memcpy(&sender, CMSG_DATA(head), sizeof sender);
      if (head->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t fds = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < fds; ++i) { // strangers may send several
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
        enclosed = socket_handle{fd};
      }
    }
    const bool is_ours = came == static_cast<ssize_t>(sizeof text) && sender.uid == ::geteuid() &&
                         text.secret == at_.secret && text.rank >= 0 && text.rank < size_ &&
                         text.rank != rank_;
    if (!is_ours) return {};
    if (const auto failed = static_cast<errc>(text.failed); failed != errc::ok)
      return {.code = errc::peer_refused, .cause = failed, .rank = text.rank};
    if (!enclosed) return native("recvmsg", EMFILE); // the kernel drops what it cannot open here
    theirs[text.rank] = std::move(enclosed);
    return {};
  }

  handle_meeting at_;
  std::int32_t rank_;
  std::int32_t size_;
  socket_handle box_;
};

/// Hands the descriptor `mine` of every rank to all others: `theirs[r]` is that of rank r, closed
/// on `exec`; this rank's own place stays empty.
///
/// For processes of one host, one user and one network namespace. Collective. Ownership: borrows
/// `mine`; after an error `theirs` is empty. Errors: of any rank, on all of them, see `vote`: those
/// of `handle_mailbox`, `bad_config` for a deadline that is not positive.
template <bootstrap Bootstrap>
[[nodiscard]] status exchange_handles(Bootstrap& ranks, int mine,
                                      socket_handle (&theirs)[max_peer_ranks],
                                      std::int64_t timeout_ns = 60'000'000'000) noexcept {
  constexpr const char* where = "exchange_handles";
  if (status bad = check_peer_ranks(ranks, where); !bad) return bad;
  handle_meeting drawn;
  status here;
  if (timeout_ns <= 0)
    here = status{.code = errc::bad_config,
                  .value = timeout_ns,
                  .limit = 1,
                  .value_name = "timeout_ns",
                  .where = where};
  if (here.ok() && ranks.rank() == 0) here = drawn.draw();
  handle_meeting all[max_peer_ranks];
  if (status bad = vote(ranks, here, where, drawn, all); !bad) return bad;
  handle_mailbox box{all[0], ranks.rank(), ranks.size()};
  if (status bad = vote(ranks, box.open(), where); !bad) return bad;
  const status done = vote(ranks, box.exchange(mine, theirs, timeout_ns), where);
  if (!done.ok()) {
    for (socket_handle& each : theirs) each.close();
  }
  return done;
}

} // namespace detail
} // namespace dpgather::inline v0
