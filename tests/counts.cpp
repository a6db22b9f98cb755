#include <dpgather/counts.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
using dg::errc;
using dg::padded_rows;
using dg::real_rows;
using dg::request_counts;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();

template <class A, class B>
concept comparable = requires(const A& a, const B& b) {
  a == b;
};

template <class A, class B>
inline constexpr bool unrelated =
    !std::is_convertible_v<A, B> && !std::is_convertible_v<B, A> &&
    !std::is_constructible_v<A, B> && !std::is_constructible_v<B, A> &&
    !std::is_assignable_v<A&, B> && !std::is_assignable_v<B&, A> && !comparable<A, B>;

} // namespace

// Real rows, padded rows and requests are never taken for each other.
static_assert(unrelated<real_rows, padded_rows>);
static_assert(unrelated<real_rows, request_counts>);
static_assert(unrelated<padded_rows, request_counts>);
static_assert(comparable<real_rows, real_rows>);
static_assert(std::is_trivially_copyable_v<real_rows>);
static_assert(dg::max_ranks == 256);

static_assert([] {
  constexpr std::int32_t rows[] = {3, 0, 7};
  const auto made = real_rows::make(rows, 7);
  return made.ok() && made->size() == 3 && (*made)[0] == 3 && (*made)[1] == 0 && (*made)[2] == 7 &&
         made->sum() == 10 && made->max() == 7;
}());

TEST_CASE("counts within the limit are taken, one past it on either side is named") {
  for (const std::int32_t limit : {0, 1, 255, most}) {
    CAPTURE(limit);
    const std::vector<std::int32_t> fits{0, limit, limit / 2};
    const auto made = real_rows::make(fits, limit);
    REQUIRE(made.ok());
    CHECK(std::vector<std::int32_t>(made->span().begin(), made->span().end()) == fits);

    for (const std::int64_t bad :
         {std::int64_t{-1}, std::int64_t{limit} + 1, -std::int64_t{most}}) {
      if (bad > most) continue;
      CAPTURE(bad);
      const std::vector<std::int32_t> rows{0, limit, static_cast<std::int32_t>(bad), 0};
      const auto refused = padded_rows::make(rows, limit);
      REQUIRE_FALSE(refused.ok());
      CHECK(refused.code() == errc::count_out_of_range);
      CHECK(refused.status().rank == 2);
      CHECK(refused.status().value == bad);
      CHECK(refused.status().limit == limit);
    }
  }
}

TEST_CASE("the first rank out of range is the one named") {
  const std::int32_t rows[] = {1, 2, 9, -4, 11};
  const auto refused = real_rows::make(rows, 8);
  CHECK(refused.status().rank == 2);
  CHECK(refused.status().value == 9);
}

TEST_CASE("256 ranks fit, 257 are too many, none are none") {
  std::vector<std::int32_t> rows(256, 5);
  REQUIRE(real_rows::make(rows, 5).ok());
  CHECK(real_rows::make(rows, 5)->sum() == 1280);
  rows.push_back(5);
  const auto refused = real_rows::make(rows, 5);
  CHECK(refused.code() == errc::too_many_ranks);
  CHECK(refused.status().value == 257);
  CHECK(refused.status().limit == 256);

  const auto none = real_rows::make(std::vector<std::int32_t>{}, 5);
  REQUIRE(none.ok());
  CHECK(none->size() == 0);
  CHECK(none->sum() == 0);
  CHECK(none->max() == 0);
}

TEST_CASE("the sum is 64 bits wide") {
  const std::vector<std::int32_t> rows(256, most);
  const auto made = real_rows::make(rows, most);
  REQUIRE(made.ok());
  CHECK(made->sum() == std::int64_t{most} * 256);
  CHECK(made->max() == most);
}

TEST_CASE("equality looks at the ranks that are there, and at how many") {
  real_rows a = real_rows::zeros(3);
  real_rows b = real_rows::zeros(3);
  CHECK(a == b);
  a.set(2, 4);
  CHECK_FALSE(a == b);
  b.set(2, 4);
  CHECK(a == b);
  CHECK_FALSE(real_rows::zeros(3) == real_rows::zeros(4));
  CHECK(real_rows{} == real_rows::zeros(0));
}

TEST_CASE("sum, max and access agree with a plain loop") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        std::vector<std::int32_t> rows(random.between<std::size_t>(1, 256));
        const std::int32_t limit = random.pick({1, 10, 4096, most});
        std::int64_t sum = 0;
        std::int32_t max = 0;
        for (std::int32_t& n : rows) {
          n = random.chance(20) ? 0 : random.between<std::int32_t>(0, limit);
          sum += n;
          if (n > max) max = n;
        }
        const auto made = real_rows::make(rows, limit);
        REQUIRE(made.ok());
        REQUIRE(made->size() == static_cast<std::int32_t>(rows.size()));
        REQUIRE(made->sum() == sum);
        REQUIRE(made->max() == max);
        for (std::size_t r = 0; r < rows.size(); ++r) {
          if ((*made)[static_cast<std::int32_t>(r)] != rows[r]) FAIL("rank ", r);
        }
      },
      test_support::case_count(2'000));
}

TEST_CASE("round_up is the smallest multiple that is not below") {
  for (std::int64_t multiple = 1; multiple <= 17; ++multiple) {
    for (std::int64_t value = 0; value <= 200; ++value) {
      std::int64_t expected = 0;
      while (expected < value) expected += multiple;
      REQUIRE(dg::round_up(value, multiple) == expected);
    }
  }
  CHECK(dg::round_up(std::int64_t{most} * 256 + 1, 8) == std::int64_t{most} * 256 + 8);
  CHECK(dg::round_up(std::size_t{0}, 256) == 0);
  CHECK(dg::round_up(std::size_t{257}, 256) == 512);
  CHECK(dg::round_up(SIZE_MAX - 511, 256) == SIZE_MAX - 511);
}
