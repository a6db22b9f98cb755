#pragma once

/// @file
/// Request traces: when requests reached a service, how long their prompts and answers were.
///
/// Read from CSV in the format of the LLM inference trace 2023 of the Azure Public Dataset
/// (`TIMESTAMP,ContextTokens,GeneratedTokens`), described in Patel et al., "Splitwise: Efficient
/// generative LLM inference using phase splitting", ISCA 2024; or generated with the same shape.

#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <istream>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace serve {

/// One request of a trace.
struct request {
  double arrival_seconds = 0;     ///< after the first request of the trace
  std::int32_t prompt_tokens = 0; ///< at least 1
  std::int32_t output_tokens = 0; ///< at least 0
};

namespace detail {

/// The whole of `text` as a number in decimal digits, no sign; nothing if it is anything else.
template <class Integer>
[[nodiscard]] std::optional<Integer> to_number(std::string_view text) {
  Integer value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || text.front() == '-' || error != std::errc{} || stop != end) return {};
  return value;
}

/// Nanoseconds since 1970 of `YYYY-MM-DD HH:MM:SS[.f...]`, 1 to 9 digits after the point. Whole
/// numbers, so that differences are exact over any number of days.
[[nodiscard]] inline std::optional<std::int64_t> to_nanoseconds(std::string_view text) {
  if (text.size() < 19 || text.size() == 20 || text.size() > 29) return {};
  if (text[4] != '-' || text[7] != '-' || text[10] != ' ' || text[13] != ':' || text[16] != ':' ||
      (text.size() > 19 && text[19] != '.')) {
    return {};
  }
  std::int64_t fraction = 0;
  if (text.size() > 19) {
    const std::string_view digits = text.substr(20);
    const auto number = to_number<std::int64_t>(digits);
    if (!number) return {};
    fraction = *number;
    for (std::size_t i = digits.size(); i < 9; ++i) fraction *= 10;
  }
  const auto year = to_number<int>(text.substr(0, 4));
  const auto month = to_number<unsigned>(text.substr(5, 2));
  const auto day = to_number<unsigned>(text.substr(8, 2));
  const auto hour = to_number<std::int64_t>(text.substr(11, 2));
  const auto minute = to_number<std::int64_t>(text.substr(14, 2));
  const auto second = to_number<std::int64_t>(text.substr(17, 2));
  if (!year || !month || !day || !hour || !minute || !second) return {};
  const std::chrono::year_month_day date{std::chrono::year{*year}, std::chrono::month{*month},
                                         std::chrono::day{*day}};
  // Years outside these do not fit in 64 bits of nanoseconds.
  if (!date.ok() || *year < 1970 || *year > 2261 || *hour > 23 || *minute > 59 || *second > 59) {
    return {};
  }
  const std::int64_t days = std::chrono::sys_days{date}.time_since_epoch().count();
  return (((days * 24 + *hour) * 60 + *minute) * 60 + *second) * 1'000'000'000 + fraction;
}

} // namespace detail

/// Reads a trace. Lines end in LF or CRLF, the last one possibly in neither; empty lines are
/// skipped; requests are in order of arrival.
/// Errors: `std::runtime_error` "name:line: what is wrong: 'the line'".
[[nodiscard]] inline std::vector<request> parse_trace(std::istream& in, const std::string& name) {
  static constexpr std::string_view header = "TIMESTAMP,ContextTokens,GeneratedTokens";
  std::vector<request> out;
  std::string line;
  std::size_t number = 0;
  std::int64_t first = 0;
  std::int64_t previous = 0;
  const auto fail = [&](const std::string& why) {
    throw std::runtime_error(name + ":" + std::to_string(number) + ": " + why + ": '" +
                             line.substr(0, 200) + "'");
  };
  while (std::getline(in, line)) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number == 1) {
      if (line != header) fail("expected the header '" + std::string(header) + "'");
      continue;
    }
    if (line.empty()) continue;
    const std::string_view text = line;
    const std::size_t a = text.find(',');
    const std::size_t b = a == text.npos ? a : text.find(',', a + 1);
    if (b == text.npos || text.find(',', b + 1) != text.npos) fail("expected three fields");
    const auto time = detail::to_nanoseconds(text.substr(0, a));
    const auto prompt = detail::to_number<std::int32_t>(text.substr(a + 1, b - a - 1));
    const auto output = detail::to_number<std::int32_t>(text.substr(b + 1));
    if (!time) fail("expected a time like 2023-11-16 18:15:46.6805900 in the first field");
    if (!prompt || *prompt < 1) fail("expected 1 or more prompt tokens in the second field");
    if (!output) fail("expected 0 or more generated tokens in the third field");
    if (out.empty()) first = previous = *time;
    if (*time < previous) fail("arrives before the request above it");
    previous = *time;
    out.push_back({static_cast<double>(*time - first) * 1e-9, *prompt, *output});
  }
  if (in.bad()) throw std::runtime_error(name + ": cannot be read");
  if (number == 0) throw std::runtime_error(name + ": is empty");
  if (out.empty()) throw std::runtime_error(name + ": holds no requests");
  return out;
}

/// Reads a trace from a file. Errors: those of `parse_trace`, or "path: cannot be opened".
[[nodiscard]] inline std::vector<request> read_trace(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + ": cannot be opened");
  return parse_trace(in, path);
}

/// What `generate_trace` makes. The defaults give the arrival rate of the trace's chat hour (5.5
/// requests a second) and about its bursts.
struct synthetic_trace {
  std::uint64_t seed = 1;
  double seconds = 3600;     ///< length of the trace; 0 to 10^6
  double calm_rate = 4.8;    ///< requests per second outside bursts; 0 to 1000
  double burst_rate = 8.4;   ///< requests per second in bursts; 0 to 1000
  double calm_seconds = 120; ///< mean time between bursts; above 0.001
  double burst_seconds = 30; ///< mean length of a burst; above 0.001
};

namespace detail {

/// 33 quantiles, 1/32 apart, of the lengths in the trace's chat hour, in tokens. The last one is
/// lower than the longest (14,050 and 1,000), such that the means stay right (1,155 and 211).
using quantiles = std::array<std::int32_t, 33>;
inline constexpr quantiles prompt_quantiles{2,    165,  194,  206,  235,  374,  383,  391,  396,
                                            401,  405,  412,  428,  818,  966,  1001, 1020, 1037,
                                            1052, 1067, 1083, 1100, 1120, 1147, 1189, 1312, 1335,
                                            1766, 2309, 3018, 4079, 4089, 5000};
inline constexpr quantiles output_quantiles{7,   33,  45,  53,  60,  68,  75,  81,  85,  89,  92,
                                            95,  99,  104, 110, 118, 129, 141, 157, 171, 195, 223,
                                            377, 389, 395, 397, 402, 411, 416, 427, 440, 502, 750};

/// Random numbers that are the same with every standard library: the standard fixes the engine but
/// not the distributions, and math functions differ in the last bit.
class dice {
public:
  explicit dice(std::uint64_t seed) : engine_(seed) {}

  /// True with the probability given, to 53 bits.
  [[nodiscard]] bool chance(double probability) {
    return static_cast<double>(engine_() >> 11) < probability * 9007199254740992.0; // 2^53
  }

  /// Straight lines between the quantiles, in whole numbers.
  [[nodiscard]] std::int32_t draw(const quantiles& q) {
    const std::uint64_t bits = engine_() >> 32; // position: 5 bits of segment, 27 within it
    const auto segment = static_cast<std::size_t>(bits >> 27);
    const auto within = static_cast<std::int64_t>(bits & ((1U << 27) - 1));
    const std::int64_t width = q[segment + 1] - q[segment] + 1;
    return q[segment] + static_cast<std::int32_t>((width * within) >> 27);
  }

private:
  std::mt19937_64 engine_;
};

} // namespace detail

/// Makes a trace like the chat hour: a Poisson process whose rate jumps between calm and burst
/// (drawn per millisecond), lengths from the hour's quantiles, independent of each other.
/// Errors: `std::runtime_error` when an option is out of range or no request arrives.
[[nodiscard]] inline std::vector<request> generate_trace(const synthetic_trace& make) {
  const auto rate_ok = [](double r) { return r >= 0 && r <= 1000; };
  if (!(make.seconds >= 0 && make.seconds <= 1e6) || !rate_ok(make.calm_rate) ||
      !rate_ok(make.burst_rate) || !(make.calm_seconds > 1e-3) || !(make.burst_seconds > 1e-3)) {
    throw std::runtime_error("synthetic trace: an option is out of range");
  }
  detail::dice dice(make.seed);
  std::vector<request> out;
  std::int64_t first = 0;
  bool burst = false;
  const auto milliseconds = static_cast<std::int64_t>(make.seconds * 1000);
  for (std::int64_t t = 0; t < milliseconds; ++t) {
    if (dice.chance(1e-3 / (burst ? make.burst_seconds : make.calm_seconds))) burst = !burst;
    if (!dice.chance((burst ? make.burst_rate : make.calm_rate) * 1e-3)) continue;
    if (out.empty()) first = t;
    const std::int32_t prompt = dice.draw(detail::prompt_quantiles);
    const std::int32_t output = dice.draw(detail::output_quantiles);
    out.push_back({static_cast<double>(t - first) * 1e-3, prompt, output});
  }
  if (out.empty()) throw std::runtime_error("synthetic trace: no request arrives");
  return out;
}

} // namespace serve
