#pragma once

/// @file
/// The bootstrap of one process per GPU on one host: Unix-domain sockets, no MPI, no toolkit.

#include <dpgather/comm/unix_socket_frame.hpp>
#include <dpgather/comm/unix_socket_group.hpp>
#include <dpgather/comm/unix_socket_io.hpp>
#include <dpgather/comm/unix_socket_listener.hpp>
#include <dpgather/comm/unix_socket_star.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

namespace dpgather::inline v0 {

/// How the ranks of a `unix_socket_bootstrap` find each other and how long they wait.
struct unix_socket_options {
  static constexpr std::int64_t default_timeout_ns = 30'000'000'000;

  /// The same on all ranks of a run and different between runs: a job id, a random number. A rank
  /// of another run is refused.
  std::uint64_t session = 0;
  std::int64_t connect_timeout_ns = default_timeout_ns; ///< from `connect` until all have come
  std::int64_t timeout_ns = default_timeout_ns;         ///< of each exchange
};

/// A bootstrap whose ranks are processes (or threads) of one host and one user.
///
/// All exchanges go through rank 0, which compares what the ranks have entered and decides alone.
///
/// Ownership: owns its sockets; movable, and a moved-from object may only be destroyed or assigned.
/// Buffers belong to the caller and are free when a call returns. Thread: one at a time. Waiting:
/// a call ends by the earliest deadline of the ranks that have entered it, plus a tenth and 50 ms
/// for the verdict of rank 0 to arrive; moving the bytes of a call that all have entered may take
/// as long again. Ranks compare steady-clock times, so they must share a time namespace.
///
/// Errors of every exchange, all sticky, and the same on every rank that rank 0 can reach:
/// `plan_mismatch` (another function or other byte counts; names both sides), `timeout` and
/// `peer_left` (name the rank that is missing), `native_error`. The first call that meets the
/// failure answers it, later ones `poisoned` with it as the cause. Then build a new group.
class unix_socket_bootstrap {
public:
  unix_socket_bootstrap(unix_socket_bootstrap&&) noexcept = default;
  unix_socket_bootstrap& operator=(unix_socket_bootstrap&&) noexcept = default;

  /// Connects world rank `rank` with the `size - 1` others of this host. Rank 0 listens at `path`;
  /// the others may come before it.
  ///
  /// `path`: a file name at which nothing is, or the left-over socket of a crashed run; needs a
  /// file system with hard links. With a leading '@' it is a name without a file (Linux: abstract),
  /// of the network namespace. The file has mode 0600 and is gone when `connect` returns.
  /// Connections of other users, and those that do not speak this protocol, are ignored.
  ///
  /// Collective. Allocates, which may throw. A group of one needs no socket.
  /// Errors: `bad_group` (size or rank out of range, a rank that came twice, or an answer that is
  /// not rank 0's), `too_many_ranks`, `bad_config` (a deadline that is not positive, a path that is
  /// empty or too long), `config_mismatch` (another size, session or protocol version), `timeout`
  /// and `peer_left` (name the rank), `native_error` (`EADDRINUSE`: another run listens at the
  /// path). What rank 0 meets while it waits, all ranks answer that have come; later ones time out.
  [[nodiscard]] static result<unix_socket_bootstrap>
  connect(std::int32_t rank, std::int32_t size, std::string_view path,
          const unix_socket_options& options = {}) {
    if (status bad = check(rank, size, options); !bad) return bad;
    unix_socket_bootstrap self{rank, size, options};
    if (size == 1) return {std::move(self)};
    const result<detail::unix_address> at = detail::unix_address::of(path);
    if (!at) return at.status();
    detail::socket_frame hello = self.frame(detail::socket_call::connect, 0);
    hello.timeout_ns = options.connect_timeout_ns;
    auto& peers = self.star_.peers();
    status said;
    if (rank == 0) {
      detail::unix_socket_listener door;
      said = door.open(*at, size);
      if (said.ok()) said = detail::group_assembly{hello, door, peers}.run();
    } else {
      said = detail::join_group(hello, *at, peers[0]);
    }
    if (!said) return said;
    return {std::move(self)};
  }

  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return size_; }

  [[nodiscard]] std::int64_t timeout_ns() const noexcept { return timeout_ns_; }
  /// Of the exchanges from now on. Units: nanoseconds, more than zero. Ranks may differ.
  void set_timeout_ns(std::int64_t timeout_ns) noexcept { timeout_ns_ = timeout_ns; }

  /// The failure that ended this group, or ok.
  [[nodiscard]] const status& first_failure() const noexcept { return first_; }

  /// The `bytes` at `mine` of rank r go to `all + r * bytes` on all ranks.
  ///
  /// Collective. `mine` may lie inside `all`. After an error `all` holds anything. Errors: those of
  /// every exchange; refused, and no call for the others: `null_pointer`, `size_overflow`.
  [[nodiscard]] status all_gather(const void* mine, void* all, std::size_t bytes) noexcept {
    return exchange(detail::socket_call::all_gather, mine, all, bytes);
  }

  /// Returns when all ranks have entered it. Collective. Errors: those of every exchange.
  [[nodiscard]] status barrier() noexcept {
    return exchange(detail::socket_call::barrier, nullptr, nullptr, 0);
  }

private:
  unix_socket_bootstrap(std::int32_t rank, std::int32_t size, const unix_socket_options& options)
      : rank_{rank}, size_{size}, session_{options.session},
        timeout_ns_{options.timeout_ns}, star_{rank == 0 ? size : 1} {}

  [[nodiscard]] static status check(std::int32_t rank, std::int32_t size,
                                    const unix_socket_options& options) noexcept {
    const auto refuse = [rank](errc code, subject about, std::int64_t value, std::int64_t limit,
                               const char* name = nullptr) {
      return status{.code = code,
                    .about = about,
                    .rank = rank,
                    .value = value,
                    .limit = limit,
                    .value_name = name,
                    .where = detail::place_of(detail::socket_call::connect)};
    };
    if (size < 1) return refuse(errc::bad_group, subject::world, size, 1);
    if (size > max_ranks) return refuse(errc::too_many_ranks, subject::world, size, max_ranks);
    if (rank < 0 || rank >= size) return refuse(errc::bad_group, subject::rank, rank, size);
    if (options.connect_timeout_ns <= 0)
      return refuse(errc::bad_config, subject::none, options.connect_timeout_ns, 1,
                    "connect_timeout_ns");
    if (options.timeout_ns <= 0)
      return refuse(errc::bad_config, subject::none, options.timeout_ns, 1, "timeout_ns");
    return {};
  }

  [[nodiscard]] detail::socket_frame frame(detail::socket_call what,
                                           std::size_t bytes) const noexcept {
    return {.what = what,
            .session = session_,
            .rank = rank_,
            .size = size_,
            .call = calls_,
            .bytes = bytes,
            .entered_ns = detail::steady_now_ns(),
            .timeout_ns = timeout_ns_};
  }

  [[nodiscard]] status exchange(detail::socket_call what, const void* mine, void* all,
                                std::size_t bytes) noexcept {
    if (!first_.ok()) return first_.as_poisoned();
    const auto ranks = static_cast<std::size_t>(size_);
    status bad{.about = subject::row_bytes,
               .rank = rank_,
               .value = static_cast<std::int64_t>(bytes),
               .where = detail::place_of(what)};
    if (bytes > static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max()) / ranks) {
      bad.code = errc::size_overflow;
      bad.limit = std::numeric_limits<std::ptrdiff_t>::max() / size_;
      return bad;
    }
    if (bytes > 0 && (mine == nullptr || all == nullptr)) {
      bad.code = errc::null_pointer;
      bad.about = mine == nullptr ? subject::local : subject::global;
      return bad;
    }
    ++calls_;
    const detail::socket_frame entered = frame(what, bytes);
    if (rank_ != 0) {
      first_ = star_.follow(entered, mine, all);
    } else {
      if (bytes > 0) std::memmove(all, mine, bytes); // first: `mine` may lie where others arrive
      if (size_ > 1) first_ = star_.lead(entered, all);
    }
    return first_;
  }

  std::int32_t rank_;
  std::int32_t size_;
  std::uint64_t session_;
  std::int64_t timeout_ns_;
  std::uint64_t calls_ = 0;
  status first_{};
  detail::unix_socket_star star_;
};

} // namespace dpgather::inline v0
