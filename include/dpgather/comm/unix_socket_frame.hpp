#pragma once

/// @file
/// What the ranks of a `unix_socket_bootstrap` say to each other: frames of one fixed size, and a
/// status packed into one. Between processes of one machine, so memory goes over as it is.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <cstdint>
#include <string_view>
#include <type_traits>

namespace dpgather::inline v0 {
namespace detail {

/// The names that a status of these sockets can carry. A pointer means nothing in another process,
/// so they travel as numbers.
enum class socket_term : std::uint8_t {
  none,
  connect, // the calls, in the order of `socket_call`
  all_gather,
  barrier,
  session_key,
  protocol_version,
  taken_twice,
  foreign_frame,
  foreign_user,
  accept,
  poll,
  receive,
  send,
};

[[nodiscard]] constexpr const char* text_of(socket_term term) noexcept {
  switch (term) {
  case socket_term::none:
    break;
  case socket_term::connect:
    return "connect";
  case socket_term::all_gather:
    return "all_gather";
  case socket_term::barrier:
    return "barrier";
  case socket_term::session_key:
    return "session key";
  case socket_term::protocol_version:
    return "protocol version";
  case socket_term::taken_twice:
    return "taken twice";
  case socket_term::foreign_frame:
    return "a frame that no rank sends";
  case socket_term::foreign_user:
    return "the socket path belongs to another user";
  case socket_term::accept:
    return "accept";
  case socket_term::poll:
    return "poll";
  case socket_term::receive:
    return "receive";
  case socket_term::send:
    return "send";
  }
  return nullptr;
}

/// The number of a name; `none` for those that are not in the list.
[[nodiscard]] constexpr socket_term term_of(const char* text) noexcept {
  if (text == nullptr) return socket_term::none;
  for (auto term = socket_term::connect; text_of(term) != nullptr;
       term = static_cast<socket_term>(static_cast<std::uint8_t>(term) + 1)) {
    if (std::string_view{text} == text_of(term)) return term;
  }
  return socket_term::none;
}

/// What a rank is in.
enum class socket_call : std::uint8_t { connect = 1, all_gather, barrier };

[[nodiscard]] constexpr const char* name_of(socket_call call) noexcept {
  return text_of(static_cast<socket_term>(call));
}
/// The same for `status::where`.
[[nodiscard]] constexpr const char* place_of(socket_call call) noexcept {
  switch (call) {
  case socket_call::connect:
    return "unix_socket_bootstrap::connect";
  case socket_call::all_gather:
    return "unix_socket_bootstrap::all_gather";
  case socket_call::barrier:
    return "unix_socket_bootstrap::barrier";
  }
  return "unix_socket_bootstrap";
}

/// The head of everything that is sent: a hello, a welcome, a call, an answer, or a failure.
///
/// `entered_ns` is steady-clock time, which the processes of a machine share: rank 0, which may
/// itself be late, learns from it how long the others have been waiting.
struct socket_frame {
  static constexpr std::uint32_t expected_magic = 0x64706773u; // "dpgs"
  static constexpr std::uint16_t expected_version = 1;

  std::uint32_t magic = expected_magic;
  std::uint16_t version = expected_version;
  socket_call what = socket_call::connect;
  errc failed = errc::ok; ///< other than ok: the fields of a failure hold
  std::uint64_t session = 0;
  std::int32_t rank = 0; ///< who sends this
  std::int32_t size = 0;
  std::uint64_t call = 0;  ///< index of the exchange, from 1; 0: connecting
  std::uint64_t bytes = 0; ///< of one rank
  std::int64_t entered_ns = 0;
  std::int64_t timeout_ns = 0;

  // Of a failure, as in `status`.
  std::int64_t value = 0;
  std::int64_t limit = 0;
  std::int32_t speaker = -1;
  std::int32_t peer = -1;
  std::int32_t native = 0;
  subject about = subject::none;
  socket_term value_name = socket_term::none;
  socket_term limit_name = socket_term::none;
  std::uint8_t reserved = 0;

  [[nodiscard]] constexpr bool is_ours() const noexcept {
    return magic == expected_magic && version == expected_version;
  }
};

static_assert(sizeof(socket_frame) == 88 && std::is_trivially_copyable_v<socket_frame> &&
              std::has_unique_object_representations_v<socket_frame>);

/// `frame`, turned into the news of `failure`.
[[nodiscard]] constexpr socket_frame failure_frame(socket_frame frame,
                                                   const status& failure) noexcept {
  frame.failed = failure.code;
  frame.value = failure.value;
  frame.limit = failure.limit;
  frame.speaker = failure.rank;
  frame.peer = failure.peer;
  frame.native = failure.native;
  frame.about = failure.about;
  frame.value_name = term_of(failure.value_name);
  frame.limit_name = term_of(failure.limit_name);
  frame.call = failure.call;
  return frame;
}

/// The failure that a frame tells of.
[[nodiscard]] constexpr status failure_in(const socket_frame& frame) noexcept {
  return {.code = frame.failed,
          .about = frame.about,
          .rank = frame.speaker,
          .peer = frame.peer,
          .native = frame.native,
          .value = frame.value,
          .limit = frame.limit,
          .value_name = text_of(frame.value_name),
          .limit_name = text_of(frame.limit_name),
          .call = frame.call,
          .where = place_of(frame.what)};
}

/// The first thing in which a frame differs from this rank's own, as a status that names both
/// sides.
[[nodiscard]] constexpr status compare_frames(const socket_frame& theirs,
                                              const socket_frame& mine) noexcept {
  const auto differs = [&](subject about, std::uint64_t a, std::uint64_t b,
                           const char* a_name = nullptr, const char* b_name = nullptr) {
    return status{.code = errc::plan_mismatch,
                  .about = about,
                  .rank = theirs.rank,
                  .peer = mine.rank,
                  .value = static_cast<std::int64_t>(a),
                  .limit = static_cast<std::int64_t>(b),
                  .value_name = a_name,
                  .limit_name = b_name,
                  .call = mine.call,
                  .where = place_of(mine.what)};
  };
  if (theirs.what != mine.what)
    return differs(subject::operation, static_cast<std::uint64_t>(theirs.what),
                   static_cast<std::uint64_t>(mine.what), name_of(theirs.what), name_of(mine.what));
  if (theirs.bytes != mine.bytes) return differs(subject::row_bytes, theirs.bytes, mine.bytes);
  if (theirs.call != mine.call) return differs(subject::call, theirs.call, mine.call);
  return {};
}

} // namespace detail
} // namespace dpgather::inline v0
