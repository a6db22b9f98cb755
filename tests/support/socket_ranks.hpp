#pragma once

/// @file
/// Ranks of a `unix_socket_bootstrap` as threads and as processes, and strangers at its door.

#include <dpgather/comm/unix_socket_bootstrap.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace test_support {

/// Kills a test that hangs, and its threads with it.
class hang_guard {
public:
  hang_guard() { ::alarm(60); }
  hang_guard(const hang_guard&) = delete;
  hang_guard& operator=(const hang_guard&) = delete;
  ~hang_guard() { ::alarm(0); }
};

/// Addresses that no other test uses; of files, which are gone when this is.
class fresh_path {
public:
  explicit fresh_path(bool file = false) {
    static int used = 0;
    const std::string name =
        "dpgather-" + std::to_string(::getpid()) + "-" + std::to_string(++used);
    text_ = file ? (std::filesystem::temp_directory_path() / name).string() : "@" + name;
  }
  fresh_path(const fresh_path&) = delete;
  fresh_path& operator=(const fresh_path&) = delete;
  ~fresh_path() { (void)::unlink(text_.c_str()); }

  [[nodiscard]] const std::string& text() const { return text_; }
  operator std::string_view() const { return text_; }
  [[nodiscard]] bool exists() const {
    return std::filesystem::exists(std::filesystem::symlink_status(text_));
  }

private:
  std::string text_;
};

using socket_body = std::function<dpgather::status(dpgather::unix_socket_bootstrap&)>;

inline std::chrono::nanoseconds ns(std::int64_t count) { return std::chrono::nanoseconds{count}; }
inline constexpr std::int64_t ms = 1'000'000;

/// Connects one rank and runs its body. Answers what `connect` or else the body answered.
inline dpgather::status run_socket_rank(std::int32_t rank, std::int32_t size, std::string_view path,
                                        const dpgather::unix_socket_options& options,
                                        const socket_body& body) {
  auto joined = dpgather::unix_socket_bootstrap::connect(rank, size, path, options);
  return joined ? body(*joined) : joined.status();
}

/// All ranks as threads. Answers what each of them answered.
inline std::vector<dpgather::status> run_socket_ranks(std::int32_t size,
                                                      const dpgather::unix_socket_options& options,
                                                      const socket_body& body) {
  const fresh_path path;
  std::vector<dpgather::status> said(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (std::int32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      said[static_cast<std::size_t>(rank)] = run_socket_rank(rank, size, path, options, body);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return said;
}

/// A process that runs `body` and exits with what it answers.
class child_process {
public:
  explicit child_process(const std::function<int()>& body) {
    (void)std::fflush(stdout); // or both would print what is in the buffer
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::alarm(60);
    ::_exit(body());
  }
  child_process(child_process&& other) noexcept : pid_{std::exchange(other.pid_, 0)} {}
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;
  ~child_process() {
    if (pid_ <= 0) return;
    (void)::kill(pid_, SIGKILL);
    (void)exit_code();
  }

  /// Waits for it. -1: it died otherwise.
  int exit_code() {
    int how = 0;
    if (::waitpid(std::exchange(pid_, 0), &how, 0) < 0 || !WIFEXITED(how)) return -1;
    return WEXITSTATUS(how);
  }

private:
  pid_t pid_ = 0;
};

/// Opens a connection as soon as somebody listens, and says `bytes`.
inline dpgather::detail::socket_handle connect_stranger(std::string_view path, const void* words,
                                                        std::size_t bytes) {
  const auto at = dpgather::detail::unix_address::of(path);
  for (;;) {
    dpgather::detail::socket_handle out = dpgather::detail::open_socket();
    if (dpgather::detail::try_connect(out, *at) == 0) {
      if (bytes > 0) (void)::send(out.get(), words, bytes, MSG_NOSIGNAL);
      return out;
    }
    std::this_thread::sleep_for(ns(ms));
  }
}

/// Lets one connection in.
inline dpgather::detail::socket_handle
next_guest(const dpgather::detail::unix_socket_listener& door) {
  for (;;) {
    dpgather::detail::socket_handle out{::accept(door.socket().get(), nullptr, nullptr)};
    if (out) return out;
    std::this_thread::sleep_for(ns(ms));
  }
}

/// Waits for one frame on a socket that does not block.
inline dpgather::detail::socket_frame next_frame(const dpgather::detail::socket_handle& socket) {
  dpgather::detail::socket_transfer in;
  using dpgather::detail::transfer_state;
  while (advance(socket, in, dpgather::detail::socket_term::receive) == transfer_state::waits)
    std::this_thread::sleep_for(ns(ms));
  return in.has_frame() ? in.frame : dpgather::detail::socket_frame{.magic = 0};
}

} // namespace test_support
