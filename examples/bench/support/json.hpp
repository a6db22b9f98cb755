#pragma once

/// @file
/// A JSON text, written from front to back.

#include <cmath>
#include <concepts>
#include <cstdio>
#include <string>
#include <string_view>

namespace bench {

/// Puts the commas; brackets are the caller's to balance. Objects in a list begin a line, so that
/// files can be compared.
class json_writer {
public:
  json_writer& open_object() {
    const bool in_list = !text_.empty() && text_.back() != ':';
    separate();
    if (in_list) text_ += '\n';
    text_ += '{';
    return *this;
  }
  json_writer& close_object() { return add('}'); }
  json_writer& open_list() {
    separate();
    return add('[');
  }
  json_writer& close_list() { return add(']'); }

  json_writer& key(std::string_view name) {
    value(name);
    return add(':');
  }
  json_writer& value(std::string_view text) {
    separate();
    text_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return add('"');
  }
  json_writer& value(const char* text) { return value(std::string_view{text}); }
  json_writer& value(bool truth) {
    separate();
    text_ += truth ? "true" : "false";
    return *this;
  }
  template <std::integral Integer>
  json_writer& value(Integer number) {
    separate();
    text_ += std::to_string(number);
    return *this;
  }
  json_writer& value(double number) {
    separate();
    char digits[40] = "null"; // JSON has no other word for what is no number
    if (std::isfinite(number)) std::snprintf(digits, sizeof digits, "%.6g", number);
    text_ += digits;
    return *this;
  }
  template <class Value>
  json_writer& field(std::string_view name, const Value& of) {
    return key(name).value(of);
  }

  [[nodiscard]] const std::string& text() const { return text_; }

private:
  json_writer& add(char c) {
    text_ += c;
    return *this;
  }
  void separate() {
    if (text_.empty()) return;
    const char last = text_.back();
    if (last != '{' && last != '[' && last != ':') text_ += ',';
  }

  std::string text_;
};

} // namespace bench
