#pragma once

/// @file
/// How ranks that set up shared memory take each step together: votes over a bootstrap, so that one
/// rank's failure is every rank's.

#include <dpgather/bootstrap.hpp>
#include <dpgather/config.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {
namespace detail {

/// Whether the ranks of a bootstrap fit into `peer_pointers`. No exchange: all see the same size.
template <bootstrap Bootstrap>
[[nodiscard]] status check_peer_ranks(Bootstrap& ranks, const char* where) noexcept {
  const std::int32_t size = ranks.size();
  status bad{.about = subject::world, .rank = ranks.rank(), .value = size, .where = where};
  bad.code = size < 1 ? errc::bad_group : size > max_peer_ranks ? errc::too_many_ranks : errc::ok;
  bad.limit = size < 1 ? 1 : max_peer_ranks;
  if (bad.ok() && (ranks.rank() < 0 || ranks.rank() >= size))
    bad = status{.code = errc::bad_group,
                 .about = subject::rank,
                 .rank = ranks.rank(),
                 .value = ranks.rank(),
                 .limit = size,
                 .where = where};
  return bad.ok() ? status{} : bad;
}

/// True for what a rank found by itself, not for what it heard or missed of another one.
[[nodiscard]] constexpr bool is_own_fault(errc code) noexcept {
  return code != errc::ok && code != errc::timeout && code != errc::peer_left &&
         code != errc::peer_refused;
}

/// What a rank puts into a vote. A status would not do: it holds pointers.
template <class Value>
struct ballot {
  std::int32_t code = 0;
  std::int32_t about = 0;
  std::int32_t native = 0;
  std::int32_t unused = 0;
  std::int64_t value = 0;
  std::int64_t limit = 0;
  Value enclosed{};
};

/// Says how this rank's part of a step went and hands `mine` to all; `all[r]` is what rank r gave.
///
/// Collective. Ok where every rank is. Otherwise the rank at fault answers `here`, with itself as
/// `rank` where there was none, and the others `peer_refused` with cause and rank; a rank that only
/// waited in vain gives way to the one that knows why. Errors: besides, those of the bootstrap.
template <bootstrap Bootstrap, class Value>
[[nodiscard]] status vote(Bootstrap& ranks, status here, const char* where, const Value& mine,
                          Value (&all)[max_peer_ranks]) noexcept {
  const std::int32_t me = ranks.rank();
  if (!here.ok() && here.rank < 0) here.rank = me; // CUDA does not know whose it is
  const ballot<Value> said{.code = static_cast<std::int32_t>(here.code),
                           .about = static_cast<std::int32_t>(here.about),
                           .native = here.native,
                           .value = here.value,
                           .limit = here.limit,
                           .enclosed = mine};
  ballot<Value> heard[max_peer_ranks];
  const status exchanged = ranks.all_gather(&said, heard, sizeof said);
  if (is_own_fault(here.code)) return here;
  if (!exchanged.ok()) return here.ok() ? exchanged : here;
  for (const bool at_fault : {true, false}) {
    for (std::int32_t r = 0; r < ranks.size(); ++r) {
      const auto cause = static_cast<errc>(heard[r].code);
      if (r == me || cause == errc::ok || (at_fault && !is_own_fault(cause))) continue;
      if (!at_fault && !here.ok()) break;
      return {.code = errc::peer_refused,
              .cause = cause,
              .about = static_cast<subject>(heard[r].about),
              .rank = r,
              .native = heard[r].native,
              .value = cause == errc::native_error ? heard[r].native : heard[r].value,
              .limit = heard[r].limit,
              .where = where};
    }
  }
  for (std::int32_t r = 0; r < ranks.size(); ++r) all[r] = heard[r].enclosed;
  return here;
}
template <bootstrap Bootstrap>
[[nodiscard]] status vote(Bootstrap& ranks, const status& here, const char* where) noexcept {
  std::int64_t all[max_peer_ranks];
  return vote(ranks, here, where, std::int64_t{0}, all);
}

/// Whether an arena of `bytes`, rounded up to a multiple of `granularity`, can be asked for.
[[nodiscard]] inline status check_arena_bytes(std::size_t bytes, std::size_t granularity,
                                              const char* where) noexcept {
  const std::size_t most = static_cast<std::size_t>(PTRDIFF_MAX) - granularity;
  if (bytes > 0 && bytes <= most) return {};
  return {.code = bytes == 0 ? errc::bad_config : errc::size_overflow,
          .about = subject::workspace,
          .value = static_cast<std::int64_t>(bytes),
          .limit = bytes == 0 ? 1 : static_cast<std::int64_t>(most),
          .where = where};
}

/// `config_mismatch` on all ranks unless all offer arenas of the same `bytes`.
template <class Offer>
[[nodiscard]] status same_bytes(const Offer (&all)[max_peer_ranks], std::int32_t rank,
                                std::int32_t size, const char* where) noexcept {
  for (std::int32_t r = 1; r < size; ++r) {
    if (all[r].bytes == all[0].bytes) continue;
    const std::int32_t other = all[rank].bytes == all[0].bytes ? r : 0;
    return {.code = errc::config_mismatch,
            .about = subject::workspace,
            .rank = rank,
            .peer = other,
            .value = static_cast<std::int64_t>(all[rank].bytes),
            .limit = static_cast<std::int64_t>(all[other].bytes),
            .where = where};
  }
  return {};
}

/// Gives shared memory back together: waits until all ranks are here, runs `unmap`, waits until all
/// have, and runs `free_own`. `memory`, ok before, is `peer_left` from the first of them on;
/// nothing where it is not ok. Collective. Errors: those of the bootstrap, where the first barrier
/// failed nothing has happened; those of `unmap` and `free_own`, both of which run whatever failed
/// after that.
template <bootstrap Bootstrap, class Unmap, class Free>
[[nodiscard]] status close_together(Bootstrap& ranks, status& memory, const char* where,
                                    Unmap unmap, Free free_own) noexcept {
  if (!memory.ok()) return {};
  if (status bad = ranks.barrier(); !bad) return bad;
  memory = status{.code = errc::peer_left, .peer = ranks.rank(), .where = where};
  const status unmapped = unmap();
  const status met = ranks.barrier();
  const status freed = free_own();
  return !unmapped.ok() ? unmapped : !met.ok() ? met : freed;
}

/// Takes a first step together: nobody has failed, and all want the same arena. Collective.
/// Errors: `here`, those of `check_arena_bytes`, `config_mismatch`, those of `vote`.
template <bootstrap Bootstrap>
[[nodiscard]] status agree_on_bytes(Bootstrap& ranks, status here, std::size_t bytes,
                                    std::size_t granularity, const char* where) noexcept {
  struct offer {
    std::uint64_t bytes = 0;
  };
  offer all[max_peer_ranks];
  if (here.ok()) here = check_arena_bytes(bytes, granularity, where);
  if (status bad = vote(ranks, here, where, offer{bytes}, all); !bad) return bad;
  return same_bytes(all, ranks.rank(), ranks.size(), where);
}

} // namespace detail
} // namespace dpgather::inline v0
