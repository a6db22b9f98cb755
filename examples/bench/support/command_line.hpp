#pragma once

/// @file
/// Arguments of the form `--name`, `--name 3` and `--name 1,8,32`, and those that every benchmark
/// takes.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace bench {

/// Reads each option once, by name. The first fault stays; `fault()` also finds what nobody read.
class command_line {
public:
  command_line(int argc, const char* const* argv)
      : words_(argv + std::min(argc, 1), argv + argc), read_(words_.size(), false) {}

  [[nodiscard]] bool flag(std::string_view name) {
    const std::size_t at = find(name);
    return at != words_.size();
  }
  [[nodiscard]] std::string text(std::string_view name) {
    const std::size_t at = find(name);
    if (at == words_.size()) return {};
    if (at + 1 == words_.size() || words_[at + 1].starts_with("--")) {
      blame(std::string{name} + " needs a value");
      return {};
    }
    read_[at + 1] = true;
    return words_[at + 1];
  }
  [[nodiscard]] std::int32_t number(std::string_view name, std::int32_t otherwise, std::int32_t low,
                                    std::int32_t high) {
    const std::vector<std::int32_t> all = numbers(name, {otherwise}, low, high);
    if (all.size() == 1) return all[0];
    blame(std::string{name} + " takes one number");
    return otherwise;
  }
  [[nodiscard]] std::vector<std::int32_t> numbers(std::string_view name,
                                                  const std::vector<std::int32_t>& otherwise,
                                                  std::int32_t low, std::int32_t high) {
    const std::string list = text(name);
    if (list.empty()) return otherwise;
    std::vector<std::int32_t> out;
    for (std::size_t from = 0; from <= list.size();) {
      const std::size_t comma = std::min(list.find(',', from), list.size());
      std::int32_t value = 0;
      const char* const end = list.data() + comma;
      const auto [stop, error] = std::from_chars(list.data() + from, end, value);
      if (error != std::errc{} || stop != end || value < low || value > high) {
        blame(std::string{name} + " does not take '" + list + "': " + std::to_string(low) + " to " +
              std::to_string(high));
        return otherwise;
      }
      out.push_back(value);
      from = comma + 1;
    }
    return out;
  }

  /// After all options were read: empty, or what is wrong.
  [[nodiscard]] std::string fault() const {
    if (!fault_.empty()) return fault_;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      if (!read_[i]) return "unknown argument '" + words_[i] + "'";
    }
    return {};
  }

private:
  [[nodiscard]] std::size_t find(std::string_view name) {
    const auto at =
        static_cast<std::size_t>(std::find(words_.begin(), words_.end(), name) - words_.begin());
    if (at != words_.size()) read_[at] = true;
    return at;
  }
  void blame(std::string what) {
    if (fault_.empty()) fault_ = std::move(what);
  }

  std::vector<std::string> words_;
  std::vector<bool> read_;
  std::string fault_;
};

/// What every benchmark can be told.
struct common_options {
  bool help = false;
  bool smoke = false; ///< only show that everything runs: seconds
  std::int32_t calls = 20;
  std::int32_t replays = 10;
  std::int32_t samples = 11;
  std::int32_t timeout_seconds = 200;
  std::string json; ///< file, or empty

  static constexpr const char* help_text =
      R"(  --calls K       calls in a graph (20)
  --replays R     replays of it in a sample (10; with --smoke 2)
  --samples S     samples; median, least and most are printed (11; with --smoke 3)
  --timeout T     seconds after which the program gives up with exit code 3 (200)
  --json FILE     also write the results as one JSON object
  --smoke         small and short: shows that everything runs, times mean nothing
  --help          print this
exit code: 0 done, 1 wrong bytes, 2 wrong usage, 3 out of time, 4 a call failed, 77 too few GPUs
)";

  [[nodiscard]] static common_options of(command_line& line) {
    common_options out;
    out.help = line.flag("--help");
    out.smoke = line.flag("--smoke");
    out.calls = line.number("--calls", out.calls, 1, 1000);
    out.replays = line.number("--replays", out.smoke ? 2 : out.replays, 1, 100'000);
    out.samples = line.number("--samples", out.smoke ? 3 : out.samples, 1, 1001);
    out.timeout_seconds = line.number("--timeout", out.timeout_seconds, 1, 3600);
    out.json = line.text("--json");
    return out;
  }
};

} // namespace bench
