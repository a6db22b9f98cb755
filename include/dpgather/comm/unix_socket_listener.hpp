#pragma once

/// @file
/// The place where the ranks of a host find each other: a Unix-domain address and its listener.

#include <dpgather/comm/unix_socket_frame.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

namespace dpgather::inline v0 {
namespace detail {

/// A socket file, or a name without a file ("abstract", Linux) if it begins with '@'.
class unix_address {
public:
  /// Bytes of a path that are left for the name under which a listener is prepared.
  static constexpr std::size_t suffix_bytes = 24;
  static constexpr std::size_t most_bytes = sizeof(sockaddr_un::sun_path) - 1 - suffix_bytes;

  unix_address() noexcept { value_.sun_family = AF_UNIX; }

  /// Errors: `bad_config` for a path that is empty, too long, or has a zero byte inside.
  [[nodiscard]] static result<unix_address> of(std::string_view path) noexcept {
    const bool usable = !path.empty() && path != "@" && path.find('\0') == std::string_view::npos;
    if (!usable || path.size() > most_bytes) {
      return status{.code = errc::bad_config,
                    .value = static_cast<std::int64_t>(usable ? path.size() : 0),
                    .limit = static_cast<std::int64_t>(most_bytes),
                    .value_name = "bytes of the socket path",
                    .where = place_of(socket_call::connect)};
    }
    unix_address out;
    std::memcpy(out.value_.sun_path, path.data(), path.size());
    out.bytes_ = path.size();
    if (path.front() == '@') out.value_.sun_path[0] = '\0';
    return out;
  }
  /// A name in the same directory that no other socket of this machine is using.
  [[nodiscard]] unix_address beside(int fd) const noexcept {
    unix_address out = *this;
    const int more = std::snprintf(out.value_.sun_path + bytes_, suffix_bytes, ".%ld.%d",
                                   static_cast<long>(::getpid()), fd);
    out.bytes_ += static_cast<std::size_t>(more);
    return out;
  }

  [[nodiscard]] bool is_file() const noexcept { return value_.sun_path[0] != '\0'; }
  [[nodiscard]] const char* file() const noexcept { return value_.sun_path; }
  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&value_);
  }
  [[nodiscard]] socklen_t length() const noexcept {
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + bytes_ + (is_file() ? 1 : 0));
  }

private:
  sockaddr_un value_{};
  std::size_t bytes_ = 0;
};

[[nodiscard]] inline socket_handle open_socket() noexcept {
  return socket_handle{::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
}

/// Connects without waiting. Answers 0 or the error.
[[nodiscard]] inline int try_connect(const socket_handle& socket, const unix_address& to) noexcept {
  while (::connect(socket.get(), to.get(), to.length()) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

/// True if the process at the other end runs as the same user, or ran as it when it listened.
[[nodiscard]] inline bool is_same_user(const socket_handle& socket) noexcept {
  ucred other{};
  socklen_t length = sizeof other;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &other, &length) == 0 &&
         other.uid == ::geteuid();
}

/// Listens for the other ranks, and removes its socket file when it ends.
class unix_socket_listener {
public:
  unix_socket_listener() noexcept = default;
  unix_socket_listener(unix_socket_listener&&) = delete;
  ~unix_socket_listener() { close(); }

  /// Errors: `native_error`; with `EADDRINUSE` when another run listens there, or when something
  /// that is not a socket has the name. A socket file that a crashed run left is replaced.
  ///
  /// The file appears with its mode set and its socket listening. If it were bound where it is
  /// looked for, another run that starts at the same time would find a socket that refuses
  /// connections, and take it for a left-over.
  [[nodiscard]] status open(const unix_address& at, int backlog) noexcept {
    at_ = at;
    socket_ = open_socket();
    if (!socket_) return failed("socket");
    const unix_address first = at.is_file() ? at.beside(socket_.get()) : at;
    if (at.is_file()) (void)::unlink(first.file()); // of a crashed process with this number
    if (::bind(socket_.get(), first.get(), first.length()) != 0)
      return failed(errno == EADDRINUSE ? in_use : "bind");
    const bool ready = (!at.is_file() || ::chmod(first.file(), S_IRUSR | S_IWUSR) == 0) &&
                       ::listen(socket_.get(), backlog) == 0;
    status bad = ready ? status{} : failed("listen");
    if (at.is_file()) {
      if (bad.ok()) bad = publish(first);
      (void)::unlink(first.file());
    }
    return bad;
  }

  [[nodiscard]] const socket_handle& socket() const noexcept { return socket_; }

  /// Nobody can connect any more; the name is free.
  void close() noexcept {
    struct stat now {};
    // Not the file of a run that came after this one.
    if (published_ && ::lstat(at_.file(), &now) == 0 && is_same_file(now, own_))
      (void)::unlink(at_.file());
    published_ = false;
    socket_.close();
  }

private:
  static constexpr const char* in_use = "the socket path is in use";

  [[nodiscard]] static status failed(const char* what) noexcept {
    return {.code = errc::native_error,
            .rank = 0,
            .native = errno,
            .value_name = what,
            .where = place_of(socket_call::connect)};
  }
  [[nodiscard]] static bool is_same_file(const struct stat& a, const struct stat& b) noexcept {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
  }

  /// Gives the socket that listens as `first` its real name.
  [[nodiscard]] status publish(const unix_address& first) noexcept {
    if (::lstat(first.file(), &own_) != 0) return failed("lstat");
    for (int attempt = 0;; ++attempt) {
      if (::link(first.file(), at_.file()) == 0) break;
      if (errno != EEXIST) return failed("link");
      if (attempt == 8 || !is_left_over()) {
        errno = EADDRINUSE;
        return failed(in_use);
      }
      if (::unlink(at_.file()) != 0 && errno != ENOENT) return failed("unlink");
    }
    published_ = true;
    return {};
  }

  /// True if what has the name is a socket that nobody listens on, or is gone meanwhile.
  [[nodiscard]] bool is_left_over() const noexcept {
    struct stat found {};
    if (::lstat(at_.file(), &found) != 0) return errno == ENOENT;
    if (!S_ISSOCK(found.st_mode)) return false; // connecting to a plain file is refused as well
    const socket_handle probe = open_socket();
    if (!probe) return false;
    const int said = try_connect(probe, at_);
    return said == ECONNREFUSED || said == ENOENT;
  }

  socket_handle socket_;
  unix_address at_;
  struct stat own_ {};
  bool published_ = false;
};

} // namespace detail
} // namespace dpgather::inline v0
