#pragma once

/// @file
/// One exchange of a connected group: everybody tells rank 0, which compares, decides alone, and
/// answers everybody. So all ranks hear the same, and nobody gets bytes of a call that diverged.

#include <dpgather/comm/unix_socket_frame.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <poll.h>

namespace dpgather::inline v0 {
namespace detail {

/// The sockets of one rank: rank 0 has one for each other rank, at its rank; they have one, at 0.
///
/// The first failure that rank 0 sees or is told of goes to all ranks, that another rank sees to
/// rank 0. After a failure the sockets are of no more use, but stay open: whoever comes later
/// finds the news there.
class unix_socket_star {
public:
  unix_socket_star() noexcept = default;
  explicit unix_socket_star(std::int32_t sockets) : peers_(static_cast<std::size_t>(sockets)) {
    polls_.reserve(peers_.size());
  }

  [[nodiscard]] std::vector<socket_peer>& peers() noexcept { return peers_; }

  /// Rank 0's side. `all` has `mine.size * mine.bytes` bytes, of which its own are in place.
  [[nodiscard]] status lead(const socket_frame& mine, void* all) noexcept {
    status said = collect(mine, static_cast<std::byte*>(all));
    if (said.ok()) said = deliver(mine, all);
    if (!said) {
      for (const socket_peer& peer : peers_) tell(peer, failure_frame(mine, said));
    }
    return said;
  }

  /// Every other rank's side.
  [[nodiscard]] status follow(const socket_frame& mine, const void* own, void* all) noexcept {
    socket_peer& hub = peers_[0];
    hub.out = {.frame = mine, .payload = const_cast<void*>(own), .bytes = mine.bytes};
    hub.in = {.payload = all, .bytes = mine.bytes * static_cast<std::size_t>(mine.size)};
    const status said = hear(mine, hub);
    // What rank 0 did not say itself it may not know.
    const bool told = hub.in.has_frame() && hub.in.frame.failed != errc::ok;
    if (!said && !told) tell(hub, failure_frame(mine, said));
    return said;
  }

private:
  /// Who is waited for and how long, as known so far.
  struct patience {
    socket_frame waiting; // of the rank whose deadline is the earliest
    std::int64_t last_entry_ns;
    std::int32_t last_rank;

    [[nodiscard]] std::int64_t deadline_ns() const noexcept {
      return deadline_after(waiting.entered_ns, waiting.timeout_ns);
    }
    void add(const socket_frame& arrived) noexcept {
      if (deadline_after(arrived.entered_ns, arrived.timeout_ns) < deadline_ns()) waiting = arrived;
      if (arrived.entered_ns > last_entry_ns) {
        last_entry_ns = arrived.entered_ns;
        last_rank = arrived.rank;
      }
    }
  };

  [[nodiscard]] static std::int32_t rank_at(std::size_t index) noexcept {
    return static_cast<std::int32_t>(index);
  }

  /// Waits for all frames and what follows them. Fails as soon as it is sure to.
  [[nodiscard]] status collect(const socket_frame& mine, std::byte* all) noexcept {
    for (std::size_t r = 1; r < peers_.size(); ++r) {
      peers_[r].in = {.payload = all == nullptr ? nullptr : all + r * mine.bytes,
                      .bytes = mine.bytes};
      peers_[r].state = transfer_state::waits;
    }
    patience so_far{.waiting = mine, .last_entry_ns = mine.entered_ns, .last_rank = 0};
    for (;;) {
      std::size_t missing = 0; // one whose frame is not here, or else one whose bytes are not
      std::size_t gone = 0;
      for (std::size_t r = 1; r < peers_.size(); ++r) {
        socket_peer& peer = peers_[r];
        if (peer.state == transfer_state::complete) continue;
        const bool is_news = !peer.in.has_frame();
        peer.state = advance(peer.socket, peer.in, socket_term::receive);
        const int native = errno;
        if (is_news && peer.in.has_frame()) {
          if (status bad = judge(peer.in.frame, mine, rank_at(r)); !bad) return bad;
          so_far.add(peer.in.frame);
        }
        if (peer.state == transfer_state::failed)
          return native_failure(mine, native, socket_term::receive, rank_at(r));
        if (peer.state == transfer_state::closed && gone == 0) gone = r;
        if (peer.state != transfer_state::complete &&
            (missing == 0 || (peers_[missing].in.has_frame() && !peer.in.has_frame())))
          missing = r;
      }
      const std::int64_t deadline = so_far.deadline_ns();
      // Also when all have come: those who came in time have given up, or are about to.
      if (so_far.last_entry_ns >= deadline)
        return absence(errc::timeout, so_far.waiting, so_far.last_rank);
      if (gone != 0) return absence(errc::peer_left, mine, rank_at(gone));
      if (missing == 0) return {};
      if (steady_now_ns() >= deadline)
        return absence(errc::timeout, so_far.waiting, rank_at(missing));
      if (!wait(POLLIN, deadline)) return native_failure(mine, errno, socket_term::poll);
    }
  }

  /// What the frame of rank `sender` says about this call.
  [[nodiscard]] static status judge(const socket_frame& theirs, const socket_frame& mine,
                                    std::int32_t sender) noexcept {
    if (!theirs.is_ours() || theirs.rank != sender)
      return native_failure(mine, EPROTO, socket_term::foreign_frame, sender);
    return theirs.failed != errc::ok ? failure_in(theirs) : compare_frames(theirs, mine);
  }

  /// Sends everything to everybody. All have arrived, so the call has succeeded: a rank that leaves
  /// now is missed in the next one. Errors: `timeout` for a rank that has stopped reading.
  [[nodiscard]] status deliver(const socket_frame& mine, void* all) noexcept {
    for (std::size_t r = 1; r < peers_.size(); ++r) {
      peers_[r].out = {
          .frame = mine, .payload = all, .bytes = mine.bytes * static_cast<std::size_t>(mine.size)};
      peers_[r].state = transfer_state::waits;
    }
    const std::int64_t deadline = deadline_after(steady_now_ns(), mine.timeout_ns);
    status first;
    for (;;) {
      std::size_t missing = 0;
      for (std::size_t r = 1; r < peers_.size(); ++r) {
        socket_peer& peer = peers_[r];
        if (peer.state != transfer_state::waits) continue;
        peer.state = advance(peer.socket, peer.out, socket_term::send);
        if (peer.state == transfer_state::failed && first.ok())
          first = native_failure(mine, errno, socket_term::send, rank_at(r));
        if (peer.state == transfer_state::waits && missing == 0) missing = r;
      }
      if (missing == 0) return first;
      if (steady_now_ns() >= deadline) return absence(errc::timeout, mine, rank_at(missing));
      if (!wait(POLLOUT, deadline)) return native_failure(mine, errno, socket_term::poll);
    }
  }

  /// Waits for any of the transfers that have not ended.
  [[nodiscard]] bool wait(short events, std::int64_t deadline_ns) noexcept {
    polls_.clear();
    for (const socket_peer& peer : peers_) {
      if (peer.socket && peer.state == transfer_state::waits)
        polls_.push_back({.fd = peer.socket.get(), .events = events, .revents = 0});
    }
    return wait_for_any(polls_, deadline_ns);
  }

  /// Sends and waits for the verdict, which may come before all is sent if it is a failure.
  [[nodiscard]] static status hear(const socket_frame& mine, socket_peer& hub) noexcept {
    std::int64_t deadline = verdict_deadline(mine.entered_ns, mine.timeout_ns);
    bool is_decided = false;
    transfer_state sent = transfer_state::waits;
    for (;;) {
      if (sent == transfer_state::waits) sent = advance(hub.socket, hub.out, socket_term::send);
      if (sent == transfer_state::failed) return native_failure(mine, errno, socket_term::send, 0);
      // A socket that takes no more may still hold what rank 0 said before it left.
      const transfer_state received = advance(hub.socket, hub.in, socket_term::receive);
      const int native = errno;
      if (!is_decided && hub.in.has_frame()) {
        if (status bad = judge(hub.in.frame, mine, 0); !bad) return bad;
        is_decided = true; // the bytes have as long again
        deadline = deadline_after(steady_now_ns(), mine.timeout_ns);
      }
      if (received == transfer_state::complete) return {};
      if (received == transfer_state::failed)
        return native_failure(mine, native, socket_term::receive, 0);
      if (received == transfer_state::closed) return absence(errc::peer_left, mine, 0);
      if (steady_now_ns() >= deadline) return absence(errc::timeout, mine, 0);
      pollfd ready{.fd = hub.socket.get(), .events = POLLIN, .revents = 0};
      if (sent == transfer_state::waits) ready.events |= POLLOUT;
      if (!wait_for_any({&ready, 1}, deadline))
        return native_failure(mine, errno, socket_term::poll);
    }
  }

  std::vector<socket_peer> peers_;
  std::vector<pollfd> polls_;
};

} // namespace detail
} // namespace dpgather::inline v0
