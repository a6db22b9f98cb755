#include <dpgather/step_totals.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace dg = dpgather;

namespace {

/// A plan with a figure of its own in everything that is added up.
dg::step_plan plan_of(const std::vector<std::int32_t>& real,
                      const std::vector<std::int32_t>& padded, std::int64_t global) {
  dg::step_plan plan;
  plan.dp_size = static_cast<std::int32_t>(real.size());
  plan.real = dg::real_rows::zeros(plan.dp_size);
  plan.padded = dg::padded_rows::zeros(plan.dp_size);
  for (std::int32_t r = 0; r < plan.dp_size; ++r) {
    plan.real.set(r, real[static_cast<std::size_t>(r)]);
    plan.padded.set(r, padded[static_cast<std::size_t>(r)]);
    plan.total_rows += real[static_cast<std::size_t>(r)];
  }
  plan.global_rows = global;
  plan.row_bytes = 100;
  return plan;
}

} // namespace

static_assert(std::is_trivially_copyable_v<dg::step_totals>);

TEST_CASE("sums over plans: rows, bytes, modes, reasons") {
  dg::step_totals sums;
  CHECK(sums.waste() == 0);
  CHECK(sums.per_real_row(17) == 0);

  dg::step_plan plan = plan_of({3, 0, 5}, {4, 1, 8}, 16);
  plan.gather_wire_rows = 32;
  plan.combine_wire_rows = 8;
  plan.mode = dg::mode_kind::all_reduce;
  plan.why = dg::reason::sum_moves_less;
  sums.add(plan);
  CHECK(sums.steps == 1);
  CHECK(sums.real_rows == 8);
  CHECK(sums.ffn_rows == 16);
  CHECK(sums.attention_rows == 13);
  CHECK(sums.gather_wire_rows == 32);
  CHECK(sums.combine_wire_rows == 8);
  CHECK(sums.wire_bytes == 4000);
  CHECK(sums.pad_rows() == 8);
  CHECK(sums.waste() == doctest::Approx(1.0));

  plan = plan_of({2, 2, 4}, {2, 2, 4}, 8);
  plan.gather_wire_rows = plan.combine_wire_rows = 8;
  plan.mode = dg::mode_kind::exact;
  plan.row_bytes = 10;
  sums.add(plan);
  CHECK(sums.steps == 2);
  CHECK(sums.real_rows == 16);
  CHECK(sums.ffn_rows == 24);
  CHECK(sums.attention_rows == 21);
  CHECK(sums.wire_bytes == 4160);
  CHECK(sums.waste() == doctest::Approx(0.5));
  CHECK(sums.per_real_row(40) == doctest::Approx(2.5));
  CHECK(sums.modes == std::array<std::int64_t, dg::mode_count>{0, 1, 1});
  CHECK(sums.reasons[static_cast<std::size_t>(dg::reason::sum_moves_less)] == 1);
  CHECK(sums.reasons[static_cast<std::size_t>(dg::reason::fixed)] == 1);
  CHECK(sums.counts_unknown == 0);
}

TEST_CASE("a plan whose counts no host knows adds a step, and no rows of capacities") {
  dg::step_plan plan = plan_of({0, 7, 0}, {0, 8, 0}, 3000);
  plan.counts_known = false;
  plan.gather_wire_rows = 5;
  dg::step_totals sums;
  sums.add(plan);
  CHECK(sums.steps == 1);
  CHECK(sums.counts_unknown == 1);
  CHECK(sums.modes[static_cast<std::size_t>(dg::mode_kind::exact)] == 1);
  CHECK(sums.real_rows == 0);
  CHECK(sums.ffn_rows == 0);
  CHECK(sums.attention_rows == 0);
  CHECK(sums.wire_bytes == 0);
}

TEST_CASE("bytes pass 2^32") {
  dg::step_plan plan = plan_of({1 << 30}, {1 << 30}, 1 << 30);
  plan.gather_wire_rows = plan.combine_wire_rows = std::int64_t{1} << 33;
  plan.row_bytes = 14'336;
  dg::step_totals sums;
  sums.add(plan);
  sums.add(plan);
  CHECK(sums.real_rows == std::int64_t{1} << 31);
  CHECK(sums.wire_bytes == (std::int64_t{1} << 35) * 14'336);
}

TEST_CASE("every counter takes part when totals are added") {
  // The counters are all that the value consists of, so each of its words must be visited.
  constexpr std::size_t words = sizeof(dg::step_totals) / sizeof(std::int64_t);
  dg::step_totals a, b;
  std::int64_t next = 1;
  a.for_each_counter(b, [&](std::int64_t& mine, std::int64_t theirs) {
    CHECK(theirs == 0);
    mine = next++;
  });
  CHECK(next == static_cast<std::int64_t>(words) + 1);
  b = a;
  CHECK(b == a);
  b += a;
  CHECK_FALSE(b == a);
  a.for_each_counter(b, [](std::int64_t& mine, std::int64_t theirs) { CHECK(theirs == 2 * mine); });
}
