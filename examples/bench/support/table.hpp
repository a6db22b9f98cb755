#pragma once

/// @file
/// Text in columns.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// A number with a fixed count of digits behind the point.
[[nodiscard]] inline std::string fixed(double value, int digits, bool with_sign = false) {
  char text[64];
  std::snprintf(text, sizeof text, with_sign ? "%+.*f" : "%.*f", digits, value);
  return text;
}

/// The first column is words, to the left; the others are numbers, to the right. Columns are as
/// wide as what is in them.
class table {
public:
  explicit table(std::vector<std::string> head) { add(std::move(head)); }

  /// As many cells as the head.
  void add(std::vector<std::string> cells) {
    widths_.resize(std::max(widths_.size(), cells.size()));
    for (std::size_t c = 0; c < cells.size(); ++c)
      widths_[c] = std::max(widths_[c], cells[c].size());
    rows_.push_back(std::move(cells));
  }

  void print(std::FILE* to) const {
    for (const std::vector<std::string>& cells : rows_) {
      std::string line;
      for (std::size_t c = 0; c < cells.size(); ++c) {
        const std::string gap(widths_[c] - cells[c].size(), ' ');
        line += c == 0 ? "  " + cells[c] + gap : "  " + gap + cells[c];
      }
      line.erase(line.find_last_not_of(' ') + 1);
      std::fprintf(to, "%s\n", line.c_str());
    }
  }

private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> widths_;
};

} // namespace bench
