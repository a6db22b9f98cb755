#pragma once

/// @file
/// A progress bar for people: on stderr, and only where stderr is a terminal.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <unistd.h>

namespace serve {

class progress_bar {
public:
  progress_bar(std::string title, std::int64_t total)
      : title_{std::move(title)}, total_{total}, shown_{isatty(fileno(stderr)) != 0} {}
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;
  ~progress_bar() {
    if (shown_) std::fprintf(stderr, "\r\033[K");
  }

  /// Draws at most a hundred times.
  void at(std::int64_t done) {
    if (!shown_ || total_ <= 0) return;
    const std::int64_t percent = done * 100 / total_;
    if (percent == drawn_) return;
    drawn_ = percent;
    std::string bar(static_cast<std::size_t>(percent * width / 100), '#');
    bar.resize(width, '.');
    std::fprintf(stderr, "\r%-12s [%s] %3lld%%", title_.c_str(), bar.c_str(),
                 static_cast<long long>(percent));
    std::fflush(stderr);
  }

private:
  static constexpr std::size_t width = 40;
  std::string title_;
  std::int64_t total_;
  std::int64_t drawn_ = -1;
  bool shown_;
};

} // namespace serve
