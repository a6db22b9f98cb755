#pragma once

/// @file
/// How a thread waits for other ranks: one text for kernels and for CPU threads, whatever the words
/// are that it waits for. It looks until they are there, and looks up once in a while: has somebody
/// failed, can they still come, is it too late, and whose fault is that?

#include <dpgather/config.hpp>

#include <concepts>
#include <cstdint>

namespace dpgather::inline v0 {

/// One wait of one thread, as `look_up` asks about it. What answers true has failed the wait, and
/// has recorded why.
///
/// - `hears_failure()`: somebody has failed before.
/// - `is_hopeless()`: the words that are there say that those that are not will never come.
/// - `now()`: nanoseconds, never 0. `budget()`: how long the wait may take; asked anew each time.
/// - `expires(budget)`: it has taken so long. False: what was missing has just come.
/// - `rests(started)`: nothing to be done. Sleeps until something changes, or does nothing.
template <class W>
concept wait_of_ranks = requires(W& wait, std::uint64_t ns) {
  { wait.hears_failure() } -> std::same_as<bool>;
  { wait.is_hopeless() } -> std::same_as<bool>;
  { wait.now() } -> std::same_as<std::uint64_t>;
  { wait.budget() } -> std::same_as<std::uint64_t>;
  { wait.expires(ns) } -> std::same_as<bool>;
  wait.rests(ns);
};

/// `started`: what the last look up of this wait answered, 0 before the first. Answers when that
/// was; 0: the wait has failed. A failure that is known goes before one that would be found now, so
/// that all ranks tell of the same.
DPGATHER_RUNS_EITHER_WAY
template <wait_of_ranks Wait>
[[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t look_up(Wait& wait,
                                                         std::uint64_t started) noexcept {
  if (wait.hears_failure() || wait.is_hopeless()) return 0;
  const std::uint64_t now = wait.now();
  if (started == 0) {
    started = now;
  } else {
    const std::uint64_t budget = wait.budget();
    // Clocks of two processors may be apart.
    if (now >= started && now - started >= budget && wait.expires(budget)) return 0;
  }
  wait.rests(started);
  return started;
}

/// Looks until `arrived()`: true. Every so many looks it asks whether it `gives_up(looks)`: then
/// false.
DPGATHER_RUNS_EITHER_WAY
template <std::uint32_t LooksBetween, class Arrived, class Pause, class GivesUp>
[[nodiscard]] DPGATHER_HOST_DEVICE bool look_until(Arrived arrived, Pause pause,
                                                   GivesUp gives_up) noexcept {
  DPGATHER_ROLLED
  for (std::uint32_t looks = 1; !arrived(); ++looks) {
    pause();
    if (looks % LooksBetween == 0 && gives_up(looks)) return false;
  }
  return true;
}

/// Whose fault it is that a wait took too long: the first of the ranks that are `missing(rank)` and
/// do not `wait(rank)` themselves, for others; the first one missing if all of them do; -1: none
/// is missing.
DPGATHER_RUNS_EITHER_WAY
template <class Missing, class Waits>
[[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t to_blame(std::int32_t ranks, Missing missing,
                                                         Waits waits) noexcept {
  std::int32_t found = -1;
  DPGATHER_ROLLED
  for (std::int32_t r = 0; r < ranks; ++r) {
    if (!missing(r)) continue;
    if (!waits(r)) return r;
    if (found < 0) found = r;
  }
  return found;
}

} // namespace dpgather::inline v0
