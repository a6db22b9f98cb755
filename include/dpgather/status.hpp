#pragma once

/// @file
/// The one error channel: `status`, a small value that names the rank, the value and the limit, and
/// `result<T>`, a status or a value. No function of the library throws, prints or allocates to
/// report an error; `throw.hpp` turns a status into an exception for those who want one.

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

namespace dpgather::inline v0 {

/// The text of a status, held in place.
class status_message {
public:
  [[nodiscard]] const char* c_str() const noexcept { return text_; }
  [[nodiscard]] std::string_view view() const noexcept { return text_; }

private:
  friend struct status;
  char text_[256]{};
};

/// Outcome of a call. Trivially copyable; `ok()` costs one byte compare.
struct [[nodiscard]] status {
  errc code = errc::ok;
  errc cause = errc::ok;            ///< of `poisoned`, `peer_refused`: what happened first
  subject about = subject::none;    ///< which field, buffer or range
  std::int32_t rank = -1;           ///< the rank that is at fault, or that speaks; -1: none
  std::int32_t peer = -1;           ///< the other side of a mismatch; -1: none
  std::int32_t native = 0;          ///< NCCL, CUDA or errno code behind `native_error`
  std::int64_t value = 0;           ///< what was seen (`mine` of a mismatch)
  std::int64_t limit = 0;           ///< what was allowed (`theirs` of a mismatch)
  const char* value_name = nullptr; ///< the name of `value` where it has one; static storage
  const char* limit_name = nullptr; ///< the name of `limit` where it has one; static storage
  std::uint64_t call = 0;           ///< index of the call on its communicator; 0: not in a call
  const char* where = "";           ///< the function that refused; static storage

  [[nodiscard]] constexpr bool ok() const noexcept { return code == errc::ok; }
  constexpr explicit operator bool() const noexcept { return ok(); }

  /// What later calls answer once this one has failed for good: `poisoned`, with this as its cause.
  [[nodiscard]] constexpr status as_poisoned() const noexcept {
    status out = *this;
    out.cause = code;
    out.code = errc::poisoned;
    return out;
  }

  /// The sentence for a log, e.g. `rank 3, call 812: plan has mode=all_reduce bucket=64, but rank 1
  /// has mode=all_gather bucket=256`. Longer texts are cut, never overrun.
  [[nodiscard]] status_message message() const noexcept {
    status_message out;
    int used = 0;
    const auto append = [&](const char* format, auto... values) {
      if (used < 0 || used >= static_cast<int>(sizeof out.text_)) return;
      const int more = std::snprintf(
          out.text_ + used, sizeof out.text_ - static_cast<std::size_t>(used), format, values...);
      used = more < 0 ? more : used + more;
    };
    if (rank >= 0) append("rank %d%s", static_cast<int>(rank), call == 0 ? ": " : ", ");
    if (call != 0) append("call %llu: ", static_cast<unsigned long long>(call));
    describe(append);
    if (where != nullptr && *where != '\0') append(" [%s]", where);
    return out;
  }

private:
  template <class Append>
  void describe(Append& append) const noexcept {
    const auto mine = static_cast<long long>(value);
    const auto theirs = static_cast<long long>(limit);
    const char* thing = name_of(about);
    const int other = static_cast<int>(peer);
    switch (code) {
    case errc::ok:
      append("%s", "ok");
      break;
    case errc::plan_mismatch:
      if (about == subject::mode && value_name != nullptr && limit_name != nullptr) {
        append("plan has mode=%s bucket=%lld, but rank %d has mode=%s bucket=%lld", value_name,
               mine, other, limit_name, theirs);
        break;
      }
      [[fallthrough]];
    case errc::config_mismatch:
      if (value_name != nullptr && limit_name != nullptr) {
        append("%s: %s is %s, but rank %d has %s", name_of(code), thing, value_name, other,
               limit_name);
      } else if (about == subject::config || about == subject::last_plan ||
                 about == subject::counts) { // digests
        append("%s: %s is %llx, but rank %d has %llx", name_of(code), thing,
               static_cast<unsigned long long>(mine), other,
               static_cast<unsigned long long>(theirs));
      } else {
        append("%s: %s is %lld, but rank %d has %lld", name_of(code), thing, mine, other, theirs);
      }
      break;
    case errc::poisoned:
    case errc::peer_refused: {
      append("%s: ", name_of(code));
      status first = *this;
      first.code = cause;
      first.cause = errc::ok;
      if (code == errc::peer_refused || cause == errc::poisoned) {
        append("%s %s=%lld limit=%lld", name_of(cause), thing, mine, theirs);
      } else {
        first.describe(append);
      }
      break;
    }
    case errc::timeout:
      if (other < 0) { // a wait that cannot tell whom it waits for
        append("timeout: the stream was not idle after %lld us", theirs);
        break;
      }
      append("timeout: rank %d did not arrive within %lld us", other, theirs);
      break;
    case errc::peer_left:
      append("peer_left: rank %d destroyed its communicator", other);
      break;
    case errc::tail_leak:
      append("tail_leak: what pads were filled with has reached row %lld of %s %d (%s)", mine,
             thing, other, value_name == nullptr ? "unnamed" : value_name);
      break;
    case errc::native_error:
      append("native_error: code %d (%s)", static_cast<int>(native),
             value_name == nullptr ? "unknown" : value_name);
      break;
    default:
      append("%s", name_of(code));
      if (about != subject::none) append(" %s", thing);
      if (about == subject::tensor && peer >= 0) append(" %d", other); // index in a list
      if (value_name != nullptr && limit_name != nullptr) { // two values that belong together
        append(": %s %lld, %s %lld", value_name, mine, limit_name, theirs);
        break;
      }
      if (value_name != nullptr) append(" %s", value_name);
      append(": %lld, limit %lld", mine, theirs);
    }
  }
};

/// A value or the status that says why there is none.
///
/// Ownership: holds the value in place. Reading `value()` of a failed result is undefined; test the
/// result first, as one tests a pointer.
template <class T>
class [[nodiscard]] result {
public:
  using value_type = T;

  constexpr result() noexcept requires std::is_default_constructible_v<T> : value_{std::in_place} {}
  constexpr result(T value) noexcept : value_{std::move(value)} {} // NOLINT: implicit like expected
  constexpr result(const status& error) noexcept
      : status_{error} {} // NOLINT: implicit like expected

  [[nodiscard]] constexpr bool ok() const noexcept { return value_.has_value(); }
  constexpr explicit operator bool() const noexcept { return ok(); }
  [[nodiscard]] constexpr const dpgather::v0::status& status() const noexcept { return status_; }
  [[nodiscard]] constexpr errc code() const noexcept { return status_.code; }

  [[nodiscard]] constexpr T& value() & noexcept { return *value_; }
  [[nodiscard]] constexpr const T& value() const& noexcept { return *value_; }
  [[nodiscard]] constexpr T&& value() && noexcept { return *std::move(value_); }
  [[nodiscard]] constexpr T& operator*() & noexcept { return *value_; }
  [[nodiscard]] constexpr const T& operator*() const& noexcept { return *value_; }
  [[nodiscard]] constexpr T&& operator*() && noexcept { return *std::move(value_); }
  [[nodiscard]] constexpr T* operator->() noexcept { return &*value_; }
  [[nodiscard]] constexpr const T* operator->() const noexcept { return &*value_; }

private:
  dpgather::v0::status status_{};
  std::optional<T> value_{};
};

} // namespace dpgather::inline v0
