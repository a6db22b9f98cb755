#include <dpgather/topology.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <set>

namespace dg = dpgather;
using dg::errc;
using dg::subject;
using dg::topology;

namespace {

void check_refused(const topology& t, errc code, subject about, std::int64_t value,
                   std::int64_t limit) {
  CAPTURE(t.dp_size);
  CAPTURE(t.tp_size);
  CAPTURE(t.dp_rank);
  CAPTURE(t.tp_rank);
  const dg::status s = t.validate();
  CHECK(s.code == code);
  CHECK(s.about == about);
  CHECK(s.value == value);
  CHECK(s.limit == limit);
}

} // namespace

TEST_CASE("world rank = dp_rank * A + tp_rank, counted through") {
  for (const std::int32_t dp : {1, 2, 3, 8}) {
    for (const std::int32_t tp : {1, 2, 4}) {
      std::int32_t expected = 0;
      for (std::int32_t d = 0; d < dp; ++d) {
        for (std::int32_t t = 0; t < tp; ++t) {
          const topology mine{dp, tp, d, t};
          REQUIRE(mine.validate().ok());
          REQUIRE(mine.world_size() == dp * tp);
          REQUIRE(mine.world_rank() == expected);
          // Every rank sees every other rank as that rank sees itself.
          REQUIRE(topology{dp, tp, dp - 1, 0}.at(expected) == mine);
          ++expected;
        }
      }
      REQUIRE(expected == dp * tp);
    }
  }
}

TEST_CASE("sizes below one and ranks outside are refused, with value and limit") {
  check_refused({0, 1, 0, 0}, errc::bad_group, subject::dp_size, 0, 1);
  check_refused({-4, 1, 0, 0}, errc::bad_group, subject::dp_size, -4, 1);
  check_refused({2, 0, 0, 0}, errc::bad_group, subject::tp_size, 0, 1);
  check_refused({2, -1, 0, 0}, errc::bad_group, subject::tp_size, -1, 1);
  check_refused({4, 2, 4, 0}, errc::bad_group, subject::rank, 4, 3);
  check_refused({4, 2, -1, 0}, errc::bad_group, subject::rank, -1, 3);
  check_refused({4, 2, 0, 2}, errc::bad_group, subject::rank, 2, 1);
  check_refused({4, 2, 0, -7}, errc::bad_group, subject::rank, -7, 1);
}

TEST_CASE("256 ranks are a world, 257 are too many") {
  CHECK(topology{256, 1, 255, 0}.validate().ok());
  CHECK(topology{1, 256, 0, 255}.validate().ok());
  check_refused({257, 1, 0, 0}, errc::too_many_ranks, subject::dp_size, 257, 256);
  check_refused({1, 257, 0, 0}, errc::too_many_ranks, subject::tp_size, 257, 256);
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  check_refused({most, most, 0, 0}, errc::too_many_ranks, subject::dp_size, most, 256);
}

TEST_CASE("two topologies are equal when all four numbers are") {
  const topology t{4, 2, 1, 1};
  CHECK(t == topology{4, 2, 1, 1});
  CHECK_FALSE(t == topology{8, 2, 1, 1});
  CHECK_FALSE(t == topology{4, 4, 1, 1});
  CHECK_FALSE(t == topology{4, 2, 2, 1});
  CHECK_FALSE(t == topology{4, 2, 1, 0});
}

static_assert(topology{}.validate().ok() && topology{}.world_size() == 1);
static_assert(topology{8, 4, 3, 2}.world_rank() == 14);
static_assert(topology{8, 4, 0, 0}.at(14) == topology{8, 4, 3, 2});
