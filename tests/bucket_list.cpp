#include <dpgather/bucket_list.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace dg = dpgather;
using dg::bucket_list;
using dg::errc;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();

std::vector<std::int32_t> content(const bucket_list& list) {
  return {list.span().begin(), list.span().end()};
}

void check_refused(const std::vector<std::int32_t>& sizes, std::int64_t index) {
  CAPTURE(sizes.size());
  CAPTURE(index);
  const auto made = bucket_list::make(sizes);
  REQUIRE_FALSE(made.ok());
  CHECK(made.code() == errc::bad_buckets);
  CHECK(made.status().value == index);
}

} // namespace

TEST_CASE("an ascending list of positive sizes is taken as it is") {
  for (const std::vector<std::int32_t>& sizes :
       {std::vector<std::int32_t>{1}, {7}, {1, 2, 4, 8}, {3, 100, most}, {most}}) {
    const auto made = bucket_list::make(sizes);
    REQUIRE(made.ok());
    CHECK(content(*made) == sizes);
    CHECK(made->size() == static_cast<std::int32_t>(sizes.size()));
    CHECK(made->largest() == sizes.back());
    CHECK_FALSE(made->empty());
    CHECK((*made)[0] == sizes.front());
  }
}

TEST_CASE("a bad list is refused, and the offending size is named by its index") {
  check_refused({}, 0);
  check_refused({0}, 0);
  check_refused({-1, 2}, 0);
  check_refused({0, 1, 2}, 0);
  check_refused({1, 1}, 1);
  check_refused({1, 2, 2, 3}, 2);
  check_refused({1, 3, 2}, 2);
  check_refused({4, 2, 1}, 1);
  check_refused({1, 2, -5}, 2);
  check_refused({1, most, most}, 2);
}

TEST_CASE("the longest list fits, one more is refused") {
  std::vector<std::int32_t> sizes(static_cast<std::size_t>(bucket_list::max_stated));
  std::iota(sizes.begin(), sizes.end(), 1);
  const auto made = bucket_list::make(sizes);
  REQUIRE(made.ok());
  CHECK(content(*made) == sizes);
  sizes.push_back(sizes.back() + 1);
  const auto refused = bucket_list::make(sizes);
  CHECK(refused.code() == errc::bad_buckets);
  CHECK(refused.status().limit == bucket_list::max_stated);
}

TEST_CASE("an empty list has no size for any count") {
  const bucket_list none;
  CHECK(none.empty());
  CHECK(none.size() == 0);
  CHECK(none.largest() == 0);
  CHECK(none.smallest_at_least(0) == 0);
  CHECK(none.smallest_at_least(1) == 0);
}

TEST_CASE("append keeps the list strictly ascending and positive") {
  bucket_list list;
  for (const std::int32_t size : {-3, 0, 2, 2, 1, 5, 4, most}) list.append(size);
  CHECK(content(list) == std::vector<std::int32_t>{2, 5, most});

  bucket_list longer = *bucket_list::make(std::vector<std::int32_t>{1, 6, 40});
  longer.append(longer);
  CHECK(content(longer) == std::vector<std::int32_t>{1, 6, 40});
  longer.append(*bucket_list::make(std::vector<std::int32_t>{3, 40, 41, 90}));
  longer.append(bucket_list{});
  CHECK(content(longer) == std::vector<std::int32_t>{1, 6, 40, 41, 90});

  bucket_list range;
  range.append_range(16, 64, 8, 45);
  CHECK(content(range) == std::vector<std::int32_t>{16, 24, 32, 40});
  range.append_range(48, 80, 8, 48); // a size at the cap is not above it
  CHECK(range.largest() == 48);
  range.append_range(56, 64, 8, most);
  CHECK(content(range) == std::vector<std::int32_t>{16, 24, 32, 40, 48, 56, 64});
  range.append_range(most - 1, most, 8, most);
  CHECK(range.largest() == most - 1);

  bucket_list full;
  for (std::int32_t i = 1; i <= bucket_list::capacity + 3; ++i) full.append(i);
  CHECK(full.size() == bucket_list::capacity);
  CHECK(full.largest() == bucket_list::capacity);
}

TEST_CASE("equality is that of the sizes") {
  bucket_list a;
  bucket_list b;
  CHECK(a == b);
  a.append(3);
  CHECK_FALSE(a == b);
  b.append(4);
  CHECK_FALSE(a == b);
  bucket_list c;
  c.append(3);
  CHECK(a == c);
}

TEST_CASE("the smallest size at least the count, by search through all") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        std::vector<std::int32_t> sizes;
        std::int32_t size = 0;
        const auto length = random.between<std::size_t>(1, 60);
        for (std::size_t i = 0; i < length; ++i) {
          sizes.push_back(size += random.between<std::int32_t>(1, random.pick({1, 2, 8, 1000})));
        }
        const auto list = bucket_list::make(sizes);
        REQUIRE(list.ok());
        for (int probe = 0; probe < 20; ++probe) {
          const std::int64_t near = random.pick({-1, 0, 1});
          const std::int64_t count = random.chance(50)
                                         ? sizes[random.between<std::size_t>(0, length - 1)] + near
                                         : random.between<std::int64_t>(0, size + 5);
          std::int32_t expected = 0;
          for (auto s = sizes.rbegin(); s != sizes.rend(); ++s) {
            if (*s >= count) expected = *s;
          }
          REQUIRE(list->smallest_at_least(count) == expected);
        }
        REQUIRE(list->smallest_at_least(std::int64_t{1} << 40) == 0);
      },
      test_support::case_count(5'000));
}

TEST_CASE("the engines' filter keeps multiples up to the cap") {
  const bucket_list list = *bucket_list::make(std::vector<std::int32_t>{1, 2, 3, 4, 6, 8, 12, 16});
  CHECK(filtered(list, 1, most) == list);
  CHECK(content(filtered(list, 2, most)) == std::vector<std::int32_t>{2, 4, 6, 8, 12, 16});
  CHECK(content(filtered(list, 4, 12)) == std::vector<std::int32_t>{4, 8, 12});
  CHECK(content(filtered(list, 4, 11)) == std::vector<std::int32_t>{4, 8});
  CHECK(filtered(list, 5, most).empty());
  CHECK(filtered(list, 1, 0).empty());
}

// Ladders are worked out when a policy is compiled.
static_assert([] {
  bucket_list list;
  list.append_range(1, 4, 1, 100);
  return list.size() == 4 && list.smallest_at_least(3) == 3 && filtered(list, 2, 3).size() == 1;
}());
