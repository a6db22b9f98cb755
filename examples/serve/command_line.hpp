#pragma once

/// @file
/// What options have in common.

#include "usage_error.hpp"

#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

namespace serve {

/// The whole of `text` as a number from `low` to `high`. Errors: `usage_error`.
template <class Number>
[[nodiscard]] Number number(std::string_view option, std::string_view text, Number low,
                            Number high) {
  Number value{};
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size() || value < low || value > high)
    throw usage_error{std::string{option} + " does not take '" + std::string{text} + "'"};
  return value;
}

} // namespace serve
