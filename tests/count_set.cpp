#include <dpgather/count_set.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace dg = dpgather;

// Kernels read it, and the engine may copy it as bytes.
static_assert(std::is_trivially_copyable_v<dg::count_set>);
static_assert(std::is_standard_layout_v<dg::count_set>);

static_assert([] {
  dg::count_set set;
  set.set(0, 3);
  set.set(1, 0);
  set.set(2, 5);
  set.sum_up(3);
  return set.offset[0] == 0 && set.offset[1] == 3 && set.offset[2] == 3 && set.offset[3] == 8 &&
         set.total == 8;
}());

TEST_CASE("offsets are the prefix sum, the total its end; rows are left as they are") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        dg::count_set set;
        // Twice with other ranks: nothing of the first step stays.
        for (int step = 0; step < 2; ++step) {
          const auto ranks = random.between<std::int32_t>(1, dg::max_ranks);
          std::int64_t sum = 0;
          for (std::int32_t r = 0; r < ranks; ++r) {
            set.set(r, random.chance(30) ? 0 : random.between<std::int32_t>(0, 1 << 20));
          }
          const dg::count_set before = set;
          set.sum_up(ranks);
          REQUIRE(std::ranges::equal(set.rows, before.rows));
          REQUIRE(std::ranges::equal(set.padded, before.padded));
          for (std::int32_t r = 0; r < ranks; ++r) {
            if (set.offset[static_cast<std::size_t>(r)] != sum) FAIL("offset of rank ", r);
            sum += before.rows[r];
          }
          REQUIRE(set.offset[static_cast<std::size_t>(ranks)] == sum);
          REQUIRE(set.total == sum);
        }
      },
      test_support::case_count(2'000));
}

TEST_CASE("256 ranks of the most rows there can be: totals are 64 bits wide") {
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  dg::count_set set;
  for (std::int32_t r = 0; r < dg::max_ranks; ++r) set.set(r, most);
  set.sum_up(dg::max_ranks);
  CHECK(set.total == std::int64_t{most} * dg::max_ranks);
  CHECK(set.offset[dg::max_ranks] == set.total);
  CHECK(set.offset[1] == most);
}

TEST_CASE("no ranks, no rows") {
  dg::count_set set;
  set.sum_up(0);
  CHECK(set.total == 0);
}
