#pragma once

/// @file
/// Sockets that never block, never raise a signal and are waited for with a deadline.

#include <dpgather/comm/unix_socket_frame.hpp>
#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

namespace dpgather::inline v0 {
namespace detail {

/// Steady-clock time, for deadlines.
[[nodiscard]] inline std::int64_t steady_now_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

[[nodiscard]] constexpr std::int64_t deadline_after(std::int64_t start_ns,
                                                    std::int64_t timeout_ns) noexcept {
  return timeout_ns < INT64_MAX - start_ns ? start_ns + timeout_ns : INT64_MAX;
}

/// How much longer than its own deadline a rank waits for the verdict of rank 0, which knows who is
/// missing. Rank 0 decides at the earliest deadline of all that have arrived.
[[nodiscard]] constexpr std::int64_t verdict_deadline(std::int64_t start_ns,
                                                      std::int64_t timeout_ns) noexcept {
  constexpr std::int64_t scheduling = 50'000'000;
  return deadline_after(deadline_after(start_ns, timeout_ns), timeout_ns / 10 + scheduling);
}

/// Owns a file descriptor.
class socket_handle {
public:
  socket_handle() noexcept = default;
  explicit socket_handle(int fd) noexcept : fd_{fd} {}
  socket_handle(socket_handle&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
  socket_handle& operator=(socket_handle&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~socket_handle() { close(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  void close() noexcept {
    // Not repeated on EINTR: the descriptor is free by then and may be another thread's.
    if (fd_ >= 0) (void)::close(std::exchange(fd_, -1));
  }

private:
  int fd_ = -1;
};

/// A frame and the bytes that follow it, part of the way through a socket.
struct socket_transfer {
  socket_frame frame{};
  void* payload = nullptr; ///< borrowed; only read when sending
  std::size_t bytes = 0;   ///< of the payload
  std::size_t done = 0;

  [[nodiscard]] bool has_frame() const noexcept { return done >= sizeof frame; }
  [[nodiscard]] bool is_complete() const noexcept { return done == sizeof frame + bytes; }
  /// True where the socket can carry another frame.
  [[nodiscard]] bool is_between_frames() const noexcept { return done == 0 || is_complete(); }

  /// What is left, in at most two parts. Answers their number.
  [[nodiscard]] std::size_t rest(iovec (&parts)[2]) noexcept {
    std::size_t used = 0;
    std::size_t skip = done;
    const auto add = [&](void* start, std::size_t length) {
      const std::size_t skipped = std::min(skip, length);
      skip -= skipped;
      if (skipped < length)
        parts[used++] = {static_cast<std::byte*>(start) + skipped, length - skipped};
    };
    add(&frame, sizeof frame);
    add(payload, bytes);
    return used;
  }
};

enum class transfer_state : std::uint8_t {
  waits,    ///< the socket takes or has no more for now
  complete, ///< all bytes went through
  closed,   ///< the other side is gone
  failed,   ///< see errno
};

/// Sends or receives as much as goes without waiting. A transfer that is not complete may have
/// its frame: look at it first, also when the other side is gone.
[[nodiscard]] inline transfer_state advance(const socket_handle& socket, socket_transfer& transfer,
                                            socket_term direction) noexcept {
  while (!transfer.is_complete()) {
    iovec parts[2];
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = transfer.rest(parts);
    const ssize_t moved = direction == socket_term::send
                              ? ::sendmsg(socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT)
                              : ::recvmsg(socket.get(), &message, MSG_DONTWAIT);
    if (moved > 0) {
      transfer.done += static_cast<std::size_t>(moved);
    } else if (moved == 0) {
      return transfer_state::closed;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return transfer_state::waits;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return transfer_state::closed;
    } else if (errno != EINTR) {
      return transfer_state::failed;
    }
  }
  return transfer_state::complete;
}

/// Waits until one of the sockets is ready or the deadline has passed. False: `poll` failed.
[[nodiscard]] inline bool wait_for_any(std::span<pollfd> sockets,
                                       std::int64_t deadline_ns) noexcept {
  for (;;) {
    const std::int64_t left = deadline_ns - steady_now_ns();
    // Rounded up, or the last millisecond would be spent polling; capped, to fit an int.
    const std::int64_t ms =
        left <= 0 ? 0 : std::min<std::int64_t>((left - 1) / 1'000'000 + 1, 3'600'000);
    const int ready =
        ::poll(sockets.data(), static_cast<nfds_t>(sockets.size()), static_cast<int>(ms));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if (left <= 0) return true;
  }
}

/// The rank at the other end of a socket.
struct socket_peer {
  socket_handle socket{};
  socket_transfer in{};
  socket_transfer out{};
  transfer_state state = transfer_state::waits; ///< of the transfer in progress
};

/// Tells a peer of a failure, as far as that goes: one that is in the middle of a transfer can only
/// be cut off.
inline void tell(const socket_peer& peer, const socket_frame& failure) noexcept {
  if (!peer.socket) return;
  if (!peer.out.is_between_frames()) {
    (void)::shutdown(peer.socket.get(), SHUT_RDWR);
    return;
  }
  socket_transfer news{.frame = failure};
  (void)advance(peer.socket, news, socket_term::send);
}

/// Errors of the operating system, as `mine`, the rank that sees them, reports them.
[[nodiscard]] inline status native_failure(const socket_frame& mine, int native, socket_term what,
                                           std::int32_t peer = -1) noexcept {
  return {.code = errc::native_error,
          .rank = mine.rank,
          .peer = peer,
          .native = native,
          .value_name = text_of(what),
          .call = mine.call,
          .where = place_of(mine.what)};
}

/// `peer` did not arrive within the deadline of `waiting`, or is gone.
[[nodiscard]] inline status absence(errc code, const socket_frame& waiting,
                                    std::int32_t peer) noexcept {
  return {.code = code,
          .rank = waiting.rank,
          .peer = peer,
          .limit = waiting.timeout_ns / 1000,
          .call = waiting.call,
          .where = place_of(waiting.what)};
}

} // namespace detail
} // namespace dpgather::inline v0
