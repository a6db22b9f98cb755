#pragma once

/// @file
/// Opt-in exceptions. The library itself never includes this header and never throws.

#include <dpgather/status.hpp>

#include <exception>
#include <utility>

namespace dpgather::inline v0 {

/// The exception that carries a status.
class error : public std::exception {
public:
  explicit error(const status& what) noexcept : status_{what}, text_{what.message()} {}
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }
  [[nodiscard]] const status& why() const noexcept { return status_; }

private:
  status status_;
  status_message text_;
};

/// Throws `error` unless the status is ok.
inline void throw_if_failed(const status& outcome) {
  if (!outcome.ok()) throw error{outcome};
}

/// The value of a result, or the exception that its status becomes.
template <class T>
[[nodiscard]] T value_or_throw(result<T> outcome) {
  throw_if_failed(outcome.status());
  return *std::move(outcome);
}

} // namespace dpgather::inline v0
