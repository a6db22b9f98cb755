#include <dpgather/placement.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

/// A plan with just the fields that say where rows lie.
dg::step_plan random_plan(ts::random_source& random, dg::count_set& counts) {
  dg::step_plan plan;
  plan.dp_size = random.between<std::int32_t>(1, 16);
  plan.tp_size = random.pick<std::int32_t>({1, 2, 4, 8});
  plan.mode =
      random.pick({dg::mode_kind::all_gather, dg::mode_kind::all_reduce, dg::mode_kind::exact});
  std::int64_t longest = 0;
  for (std::int32_t d = 0; d < plan.dp_size; ++d) {
    counts.set(d, random.chance(30) ? 0 : random.between<std::int32_t>(0, 40));
    if (counts.rows[static_cast<std::size_t>(d)] > longest)
      longest = counts.rows[static_cast<std::size_t>(d)];
  }
  counts.sum_up(plan.dp_size);
  const bool slots = plan.mode == dg::mode_kind::all_gather || random.chance(50);
  plan.layout = slots ? dg::layout_kind::slots : dg::layout_kind::packed;
  if (slots) {
    plan.stride = longest + random.between(0, 5);
    if (plan.mode == dg::mode_kind::all_gather)
      while (plan.stride % plan.tp_size != 0) ++plan.stride;
    plan.global_rows = plan.stride * plan.dp_size;
  } else {
    plan.global_rows = counts.total + random.between(0, 9);
  }
  return plan;
}

} // namespace

TEST_CASE("real rows and tails cover the global tensor, each row once") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        dg::count_set counts;
        const dg::step_plan plan = random_plan(random, counts);
        const dg::placement places{plan, counts};
        std::vector<int> covered(static_cast<std::size_t>(plan.global_rows));
        const auto cover = [&](std::int64_t first, std::int64_t count) {
          for (std::int64_t g = first; g < first + count; ++g) {
            REQUIRE(g >= 0);
            REQUIRE(g < plan.global_rows);
            ++covered[static_cast<std::size_t>(g)];
          }
        };
        std::int64_t next = 0;
        for (std::int32_t d = 0; d < plan.dp_size; ++d) {
          const std::int64_t n = counts.rows[static_cast<std::size_t>(d)];
          REQUIRE(places.rows(d) == n);
          const bool slots = plan.layout == dg::layout_kind::slots;
          REQUIRE(places.offset(d) == (slots ? d * plan.stride : next));
          cover(places.offset(d), n);
          next += n;
        }
        std::int64_t tails = 0;
        places.for_each_tail([&](dg::row_range tail) {
          REQUIRE(tail.count >= 0);
          cover(tail.first, tail.count);
          tails += tail.count;
        });
        for (const int times : covered) REQUIRE(times == 1);
        REQUIRE(tails == plan.global_rows - counts.total);
      },
      ts::case_count(5'000));
}

TEST_CASE("the shares of attention-TP peers follow each other and leave nothing out") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        dg::count_set counts;
        const dg::step_plan plan = random_plan(random, counts);
        const dg::placement places{plan, counts};
        for (std::int32_t d = 0; d < plan.dp_size; ++d) {
          std::int64_t next = 0;
          std::int64_t real = 0;
          for (std::int32_t t = 0; t < plan.tp_size; ++t) {
            const dg::row_range share = places.share(d, t);
            REQUIRE(share.first == next);
            REQUIRE(share.count >= 0);
            next += share.count;
            if (plan.mode == dg::mode_kind::all_gather)
              REQUIRE(share.count == plan.stride / plan.tp_size); // one all-gather of equal slices
            const std::int64_t here = places.real_in(d, share);
            std::int64_t expected = 0;
            for (std::int64_t i = share.first; i < share.first + share.count; ++i)
              expected += i < places.rows(d) ? 1 : 0;
            REQUIRE(here == expected);
            real += here;
          }
          REQUIRE(next == (plan.mode == dg::mode_kind::all_gather ? plan.stride : places.rows(d)));
          REQUIRE(real == places.rows(d));
        }
      },
      ts::case_count(5'000));
}

TEST_CASE("offsets are 64 bits wide") {
  dg::step_plan plan;
  plan.dp_size = 256;
  plan.mode = dg::mode_kind::all_gather;
  plan.layout = dg::layout_kind::slots;
  plan.stride = 100'000'000;
  plan.global_rows = plan.stride * plan.dp_size;
  plan.tp_size = 8;
  dg::count_set counts;
  for (std::int32_t d = 0; d < 256; ++d) counts.set(d, 99'999'999);
  counts.sum_up(256);
  const dg::placement places{plan, counts};
  CHECK(places.offset(255) == 25'500'000'000);
  CHECK(places.share(255, 7).first == 87'500'000);
  CHECK(places.real_in(255, places.share(255, 7)) == 12'499'999);
  plan.layout = dg::layout_kind::packed;
  plan.mode = dg::mode_kind::exact;
  CHECK(dg::placement{plan, counts}.offset(255) == 25'499'999'745);
}
