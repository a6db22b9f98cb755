#pragma once

/// @file
/// Property tests: how many cases, which seed, and a generator that gives every case numbers of its
/// own. `DPGATHER_TEST_CASES` sets the number of cases, `DPGATHER_TEST_SEED` the seed; the seed is
/// in the log of every run, the failing case in the message of the failure.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

namespace test_support {

namespace detail {
inline std::uint64_t number_from(const char* variable, std::uint64_t fallback) {
  const char* const text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? fallback : std::strtoull(text, nullptr, 0);
}
} // namespace detail

/// Cases to run: `DPGATHER_TEST_CASES`, else `fallback`.
inline std::uint64_t case_count(std::uint64_t fallback = 100'000) {
  return detail::number_from("DPGATHER_TEST_CASES", fallback);
}

/// Seed of the run: `DPGATHER_TEST_SEED`, else a fixed one.
inline std::uint64_t seed() { return detail::number_from("DPGATHER_TEST_SEED", 8278); }

/// Splitmix64: the state is one word, so that a generator per case costs nothing.
class random_source {
public:
  using result_type = std::uint64_t;

  explicit random_source(std::uint64_t state) : state_{state} {}

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  /// Any integer of [low, high].
  template <class Integer>
  Integer between(Integer low, Integer high) {
    const auto width = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    const std::uint64_t step = width == max() ? (*this)() : (*this)() % (width + 1);
    return static_cast<Integer>(static_cast<std::uint64_t>(low) + step);
  }
  bool chance(int percent) { return between(0, 99) < percent; }
  /// One of a list.
  template <class T, std::size_t N>
  T pick(const T (&list)[N]) {
    return list[between<std::size_t>(0, N - 1)];
  }
  /// 0 to n - 1 in any order.
  std::vector<std::uint64_t> order(std::uint64_t n) {
    std::vector<std::uint64_t> out(n);
    for (std::uint64_t i = 0; i < n; ++i) out[i] = i;
    for (std::uint64_t i = n; i > 1; --i) {
      std::swap(out[i - 1], out[between<std::uint64_t>(0, i - 1)]);
    }
    return out;
  }

private:
  std::uint64_t state_;
};

/// Runs `body(random_source&)` for every case and logs the seed. Use `REQUIRE` in the body: the
/// first failing case ends the test and is named.
template <class Body>
void for_random_cases(Body&& body, std::uint64_t cases = case_count()) {
  const std::uint64_t run_seed = seed();
  MESSAGE("DPGATHER_TEST_SEED=", run_seed, " DPGATHER_TEST_CASES=", cases);
  random_source mix{run_seed};
  const std::uint64_t base = mix();
  for (std::uint64_t i = 0; i < cases; ++i) {
    INFO("seed ", run_seed, ", case ", i);
    random_source random{base ^ (i * 0xd6e8feb86659fd93U)};
    body(random);
  }
}

} // namespace test_support
