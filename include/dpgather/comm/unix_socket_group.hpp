#pragma once

/// @file
/// How the ranks become a group: rank 0 lets the others in, one socket each, and welcomes them when
/// all have come; or all of those that came hear why not.

#include <dpgather/comm/unix_socket_frame.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/comm/unix_socket_listener.hpp>
#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

namespace dpgather::inline v0 {
namespace detail {

/// Whether a hello fits this group, as rank 0 (`mine`) sees it.
[[nodiscard]] inline status judge_hello(const socket_frame& hello, const socket_frame& mine,
                                        std::span<const socket_peer> peers) noexcept {
  const auto differs = [&](errc code, subject about, std::int64_t theirs, std::int64_t ours,
                           socket_term name = socket_term::none) {
    return status{.code = code,
                  .about = about,
                  .rank = hello.rank,
                  .peer = mine.rank,
                  .value = theirs,
                  .limit = ours,
                  .value_name = text_of(name),
                  .where = place_of(mine.what)};
  };
  if (hello.version != mine.version)
    return differs(errc::config_mismatch, subject::record, hello.version, mine.version,
                   socket_term::protocol_version);
  if (hello.session != mine.session)
    return differs(errc::config_mismatch, subject::config, static_cast<std::int64_t>(hello.session),
                   static_cast<std::int64_t>(mine.session), socket_term::session_key);
  if (hello.size != mine.size)
    return differs(errc::config_mismatch, subject::world, hello.size, mine.size);
  if (hello.rank < 1 || hello.rank >= mine.size)
    return differs(errc::bad_group, subject::rank, hello.rank, mine.size);
  if (peers[static_cast<std::size_t>(hello.rank)].socket)
    return differs(errc::bad_group, subject::rank, hello.rank, mine.size, socket_term::taken_twice);
  return {};
}

/// Rank 0 at the door. Fills `peers[1]` to `peers[size - 1]`.
///
/// Connections that do not say a hello of ours are ignored, however many there are and whether they
/// say something else or nothing.
class group_assembly {
public:
  group_assembly(const socket_frame& mine, unix_socket_listener& door,
                 std::vector<socket_peer>& peers)
      : mine_{mine}, waiting_{mine}, door_{door}, peers_{peers} {
    guests_.reserve(most_guests());
    polls_.reserve(1 + peers.size() + most_guests());
  }

  /// Collective with `join_group` on all other ranks. A failure reaches everybody who has come.
  [[nodiscard]] status run() noexcept {
    const status said = wait_for_all();
    door_.close();               // first, so that the name is free on whichever rank one looks
    socket_frame answer = mine_; // a welcome
    if (!said) answer = failure_frame(mine_, said);
    // Whoever is gone by now is missed in the first call.
    for (const socket_peer& peer : peers_) tell(peer, answer);
    return said;
  }

private:
  [[nodiscard]] std::size_t most_guests() const noexcept { return peers_.size() + 16; }
  [[nodiscard]] std::int64_t deadline_ns() const noexcept {
    return deadline_after(waiting_.entered_ns, waiting_.timeout_ns);
  }

  [[nodiscard]] status wait_for_all() noexcept {
    for (;;) {
      if (status bad = accept_all(); !bad) return bad;
      if (status bad = hear_guests(); !bad) return bad;
      if (status bad = watch_peers(); !bad) return bad;
      const auto missing = std::find_if(peers_.begin() + 1, peers_.end(),
                                        [](const socket_peer& peer) { return !peer.socket; });
      if (missing == peers_.end()) return {};
      if (steady_now_ns() >= deadline_ns())
        return absence(errc::timeout, waiting_,
                       static_cast<std::int32_t>(missing - peers_.begin()));
      polls_.clear();
      const auto watch = [&](const socket_handle& socket) {
        if (socket) polls_.push_back({.fd = socket.get(), .events = POLLIN, .revents = 0});
      };
      watch(door_.socket());
      for (const socket_peer& guest : guests_) watch(guest.socket);
      for (const socket_peer& peer : peers_) watch(peer.socket);
      if (!wait_for_any(polls_, deadline_ns()))
        return native_failure(mine_, errno, socket_term::poll);
    }
  }

  /// Not endless, and nobody is let in here only to be put out again before it was heard.
  [[nodiscard]] status accept_all() noexcept {
    for (std::size_t tries = 0; tries < most_guests(); ++tries) {
      socket_handle guest{
          ::accept4(door_.socket().get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
      if (!guest) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return native_failure(mine_, errno, socket_term::accept);
      }
      if (!is_same_user(guest)) continue;
      // Ranks speak at once, so that who has been silent for longest is a stranger.
      if (guests_.size() == most_guests()) guests_.erase(guests_.begin());
      guests_.push_back({.socket = std::move(guest)});
    }
    return {};
  }

  [[nodiscard]] status hear_guests() noexcept {
    for (std::size_t i = 0; i < guests_.size();) {
      socket_peer& guest = guests_[i];
      guest.state = advance(guest.socket, guest.in, socket_term::receive);
      const socket_frame& hello = guest.in.frame;
      const bool spoke = guest.in.has_frame();
      if (!spoke && guest.state == transfer_state::waits) {
        ++i;
        continue;
      }
      if (spoke && hello.magic == socket_frame::expected_magic &&
          hello.what == socket_call::connect && hello.failed == errc::ok) {
        if (status bad = judge_hello(hello, mine_, peers_); !bad) {
          tell(guest, failure_frame(mine_, bad));
          return bad;
        }
        if (deadline_after(hello.entered_ns, hello.timeout_ns) < deadline_ns()) waiting_ = hello;
        peers_[static_cast<std::size_t>(hello.rank)].socket = std::move(guest.socket);
      }
      guests_.erase(guests_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    return {};
  }

  /// Whoever has been let in says nothing until it is welcomed, unless it gives up.
  [[nodiscard]] status watch_peers() noexcept {
    for (std::size_t r = 1; r < peers_.size(); ++r) {
      socket_peer& peer = peers_[r];
      if (!peer.socket) continue;
      peer.state = advance(peer.socket, peer.in, socket_term::receive);
      if (peer.in.has_frame())
        return peer.in.frame.is_ours() && peer.in.frame.failed != errc::ok
                   ? failure_in(peer.in.frame)
                   : native_failure(mine_, EPROTO, socket_term::foreign_frame,
                                    static_cast<std::int32_t>(r));
      if (peer.state == transfer_state::failed)
        return native_failure(mine_, errno, socket_term::receive, static_cast<std::int32_t>(r));
      if (peer.state == transfer_state::closed)
        return absence(errc::peer_left, mine_, static_cast<std::int32_t>(r));
    }
    return {};
  }

  const socket_frame& mine_;
  socket_frame waiting_; // of the rank whose deadline is the earliest
  unix_socket_listener& door_;
  std::vector<socket_peer>& peers_;
  std::vector<socket_peer> guests_;
  std::vector<pollfd> polls_;
};

/// Says hello to whoever listens, and waits for the answer. False: nobody answered, the listener
/// has gone in between.
[[nodiscard]] inline result<bool> greet(const socket_frame& mine, socket_peer& hub) noexcept {
  if (!is_same_user(hub.socket)) return native_failure(mine, EACCES, socket_term::foreign_user, 0);
  hub.out.frame = mine;
  if (advance(hub.socket, hub.out, socket_term::send) != transfer_state::complete) return false;
  const std::int64_t deadline = verdict_deadline(mine.entered_ns, mine.timeout_ns);
  while (!hub.in.has_frame()) {
    switch (advance(hub.socket, hub.in, socket_term::receive)) {
    case transfer_state::complete:
      continue;
    case transfer_state::closed:
      return false;
    case transfer_state::failed:
      return native_failure(mine, errno, socket_term::receive, 0);
    case transfer_state::waits:
      break;
    }
    if (steady_now_ns() >= deadline) {
      const status late = absence(errc::timeout, mine, 0);
      tell(hub, failure_frame(mine, late));
      return late;
    }
    pollfd ready{.fd = hub.socket.get(), .events = POLLIN, .revents = 0};
    if (!wait_for_any({&ready, 1}, deadline)) return native_failure(mine, errno, socket_term::poll);
  }
  const socket_frame& answer = hub.in.frame;
  if (answer.magic != socket_frame::expected_magic || answer.what != socket_call::connect ||
      answer.rank != 0) {
    return status{.code = errc::bad_group,
                  .about = subject::record,
                  .rank = mine.rank,
                  .peer = 0,
                  .value = answer.magic,
                  .limit = socket_frame::expected_magic,
                  .value_name = text_of(socket_term::foreign_frame),
                  .where = place_of(mine.what)};
  }
  if (answer.failed != errc::ok) return failure_in(answer);
  return true;
}

/// The way in of all ranks but rank 0, which may start to listen later. Fills `hub`.
[[nodiscard]] inline status join_group(const socket_frame& mine, const unix_address& at,
                                       socket_peer& hub) noexcept {
  const std::int64_t deadline = deadline_after(mine.entered_ns, mine.timeout_ns);
  constexpr std::int64_t longest_pause = 10'000'000;
  for (std::int64_t pause = longest_pause / 10;; pause = std::min(2 * pause, longest_pause)) {
    hub = {.socket = open_socket()};
    if (!hub.socket) return native_failure(mine, errno, socket_term::connect);
    const int refused = try_connect(hub.socket, at);
    if (refused == 0) {
      const result<bool> welcomed = greet(mine, hub);
      if (!welcomed) return welcomed.status();
      if (*welcomed) return {};
    } else if (refused != ENOENT && refused != ECONNREFUSED && refused != EAGAIN) {
      return native_failure(mine, refused, socket_term::connect, 0);
    }
    const std::int64_t now = steady_now_ns();
    if (now >= deadline) return absence(errc::timeout, mine, 0);
    (void)wait_for_any({}, std::min(deadline, now + pause));
  }
}

} // namespace detail
} // namespace dpgather::inline v0
