#include <dpgather/device/live_counts.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace dg = dpgather;
namespace ts = test_support;

static_assert(dg::device_job<dg::write_counts> && dg::device_job<dg::sum_counts>);
static_assert(sizeof(dg::write_counts) <= 4096); // kernel parameters on every GPU

TEST_CASE("counts arrive whole, whatever the number of workers; ranks beyond the world stay") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto ranks = random.between<std::int32_t>(1, dg::max_ranks);
        const auto workers = random.between<std::uint64_t>(1, 300);
        dg::count_set from, to, expected;
        std::memset(static_cast<void*>(&to), 0x5a, sizeof to);
        expected = to;
        for (std::int32_t r = 0; r < ranks; ++r) {
          from.rows[r] = expected.rows[r] = random.chance(30) ? 0 : random.between(0, 1 << 30);
          from.padded[r] = expected.padded[r] = random.between(0, 1 << 30);
        }
        expected.offset[0] = 0;
        for (std::int32_t r = 0; r < ranks; ++r)
          expected.offset[r + 1] = expected.offset[r] + from.rows[r];
        expected.total = expected.offset[ranks];
        const dg::write_counts job = dg::write_counts::of(from, ranks, &to);
        for (std::uint64_t w = 0; w < workers; ++w) job(0, {w, workers});
        REQUIRE(std::memcmp(&to, &expected, sizeof to) == 0);

        // Somebody else writes the rows: offsets and total follow.
        for (std::int32_t r = 0; r < ranks; ++r) to.rows[r] = expected.rows[ranks - 1 - r];
        const dg::sum_counts sum{&to, ranks};
        for (std::uint64_t w = 0; w < workers; ++w) sum(0, {w, workers});
        std::int64_t before = 0;
        for (std::int32_t r = 0; r < ranks; ++r) {
          REQUIRE(to.offset[r] == before);
          before += to.rows[r];
        }
        REQUIRE(to.total == before);
      },
      ts::case_count(500));
}

TEST_CASE("totals are 64 bits wide") {
  dg::count_set from, to;
  for (std::int32_t r = 0; r < dg::max_ranks; ++r) from.set(r, std::numeric_limits<int>::max());
  CHECK(dg::executor<dg::host_stream>::run(dg::write_counts::of(from, dg::max_ranks, &to), 0, {})
            .ok());
  CHECK(to.total == std::int64_t{std::numeric_limits<int>::max()} * dg::max_ranks);
}
