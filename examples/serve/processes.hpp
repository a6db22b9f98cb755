#pragma once

/// @file
/// `--launch processes`: this program once more for each rank. Linux.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace serve {

/// The processes of one run. Whoever is left when this object goes is killed.
class rank_processes {
public:
  rank_processes() = default;
  rank_processes(const rank_processes&) = delete;
  rank_processes& operator=(const rank_processes&) = delete;
  ~rank_processes() {
    kill_all();
    for (const child& each : children_) {
      if (each.pid > 0) (void)waitpid(each.pid, nullptr, 0);
    }
  }

  /// Starts this program with its own arguments and `more`. They end with this process, whatever
  /// ends it. Throws `std::runtime_error`.
  void start(char** argv, const std::vector<std::string>& more) {
    std::vector<char*> all;
    for (char** each = argv; *each != nullptr; ++each) all.push_back(*each);
    for (const std::string& each : more) all.push_back(const_cast<char*>(each.c_str()));
    all.push_back(nullptr);
    std::fflush(nullptr); // or the child has the text as well
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) throw std::runtime_error{std::string{"fork: "} + std::strerror(errno)};
    if (pid == 0) { // nothing here that is not async-signal-safe: CUDA may have threads
      if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) _exit(not_started);
      execv("/proc/self/exe", all.data());
      _exit(not_started);
    }
    children_.push_back({.pid = pid});
  }

  /// Waits for all of them and answers the largest exit code. When one has failed the others hear
  /// of it by themselves, or are killed after `grace`.
  [[nodiscard]] int wait(std::chrono::seconds grace = std::chrono::seconds{90}) {
    using clock = std::chrono::steady_clock;
    clock::time_point end = clock::time_point::max();
    int worst = 0;
    for (;;) {
      bool running = false;
      for (std::size_t r = 0; r < children_.size(); ++r) {
        if (children_[r].pid < 0) continue;
        const int code = poll(r);
        running = running || code < 0;
        if (code > 0 && end == clock::time_point::max()) end = clock::now() + grace;
        if (code > worst) worst = code;
      }
      if (!running) return worst;
      if (clock::now() > end) kill_all();
      std::this_thread::sleep_for(std::chrono::milliseconds{5});
    }
  }

private:
  static constexpr int not_started = 127;
  struct child {
    pid_t pid = -1; ///< -1: has ended
  };

  /// -1 while it runs, else its exit code; 1 for one that a signal ended.
  [[nodiscard]] int poll(std::size_t rank) {
    int state = 0;
    pid_t& pid = children_[rank].pid;
    const pid_t ended = waitpid(pid, &state, WNOHANG);
    if (ended == 0 || (ended < 0 && errno == EINTR)) return -1;
    pid = -1;
    if (ended < 0) return 1;
    if (WIFEXITED(state) && WEXITSTATUS(state) == not_started)
      std::fprintf(stderr, "rank %zu could not be started\n", rank);
    if (WIFEXITED(state)) return WEXITSTATUS(state);
    std::fprintf(stderr, "rank %zu was ended by signal %d\n", rank, WTERMSIG(state));
    return 1;
  }
  void kill_all() noexcept {
    for (const child& each : children_) {
      if (each.pid > 0) (void)::kill(each.pid, SIGKILL);
    }
  }

  std::vector<child> children_; // by rank
};

/// One process for each of `ranks` ranks, which meet at `socket`. Answers the exit code of all.
[[nodiscard]] inline int run_as_processes(char** argv, std::int32_t ranks,
                                          const std::string& socket) {
  rank_processes all;
  for (std::int32_t r = 0; r < ranks; ++r)
    all.start(argv, {"--rank", std::to_string(r), "--socket", socket});
  return all.wait();
}

} // namespace serve
