#include <dpgather/graph_sizes.hpp>

#include <dpgather/agreement.hpp>
#include <dpgather/plan.hpp>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <cstdint>
#include <set>
#include <vector>

namespace dg = dpgather;
using dg::bucket_list;
using dg::graph_ladders;
using dg::graph_sizes;

namespace {

bucket_list list_of(std::initializer_list<std::int32_t> sizes) {
  bucket_list out;
  for (const std::int32_t size : sizes) out.append(size);
  return out;
}

/// Every pair that some counts of all ranks bring about, by trying all counts.
void try_counts(const graph_ladders& of, std::int32_t rank, std::int32_t first, std::int32_t sum,
                std::set<graph_sizes>& out) {
  if (rank == of.ranks) {
    const std::int32_t shared = of.shared.smallest_at_least(sum);
    if (shared != 0) out.insert({of.own.smallest_at_least(first), shared});
    return;
  }
  for (std::int32_t n = 0; n <= of.own.largest(); ++n)
    try_counts(of, rank + 1, rank == 0 ? n : first, sum + n, out);
}

std::set<graph_sizes> feasible_pairs(const graph_ladders& of) {
  std::set<graph_sizes> out;
  of.for_each_feasible([&](const graph_sizes& sizes) { CHECK(out.insert(sizes).second); });
  return out;
}

bucket_list random_list(test_support::random_source& random, std::int32_t most) {
  bucket_list out;
  for (std::int32_t size = 1; size <= most; ++size)
    if (random.chance(40)) out.append(size);
  out.append(most);
  return out;
}

} // namespace

TEST_CASE("feasible pairs are those that some counts bring about, no more and no fewer") {
  test_support::random_source random{test_support::seed()};
  for (int i = 0; i < 300; ++i) {
    graph_ladders of;
    of.ranks = random.between(1, 3);
    const auto most = random.between(1, of.ranks == 3 ? 7 : 12);
    of.own = random_list(random, most);
    // Sums may end before all ranks are full, and behind it.
    of.shared = random.chance(50) ? dg::sum_ladder(of.own, of.ranks)
                                  : random_list(random, random.between(1, most * of.ranks + 4));
    std::set<graph_sizes> expected;
    try_counts(of, 0, 0, 0, expected);
    CAPTURE(i);
    CAPTURE(of.ranks);
    CHECK(feasible_pairs(of) == expected);
    for (const std::int32_t own : of.own.span())
      for (const std::int32_t shared : of.shared.span())
        CHECK(of.feasible({own, shared}) == expected.contains({own, shared}));
    CHECK(of.cover_every_sum() == (of.shared.smallest_at_least(most * of.ranks) != 0));
  }
}

TEST_CASE("pairs come largest first, and sizes that no ladder has are none") {
  const graph_ladders of{.own = list_of({2, 4}), .shared = list_of({2, 6, 8}), .ranks = 2};
  std::vector<graph_sizes> order;
  of.for_each_feasible([&](const graph_sizes& sizes) { order.push_back(sizes); });
  // A sum of 2 needs one of at most 2; one of 4 alone has 3 at least.
  CHECK(order == std::vector<graph_sizes>{{4, 8}, {4, 6}, {2, 6}, {2, 2}});
  CHECK(of.hold({4, 2}));
  for (const graph_sizes& odd : {graph_sizes{3, 6}, {4, 7}, {0, 6}, {4, 0}, {-2, 6}, {8, 8}}) {
    CHECK_FALSE(of.hold(odd));
    CHECK_FALSE(of.feasible(odd));
  }
  CHECK(feasible_pairs({}).empty());
  CHECK_FALSE(graph_ladders{}.feasible({}));
}

namespace {

struct by_sum : dg::exact_graph {
  using ladder_type = dg::ladder::list<2, 4, 8>;
};
struct by_max : dg::pr8278 {
  using ladder_type = dg::ladder::list<2, 4, 8>;
};
struct sglang : dg::exact_graph {
  using ladder_type = dg::ladder::sglang<256>;
};
struct untold : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::layout::packed,
                           dg::lookup::own, dg::ladder::list<2, 4, 8>> {};

template <class P>
dg::planner<P> planner_of(std::int32_t ranks) {
  dg::gather_config config;
  config.topology.dp_size = ranks;
  config.row_bytes = 16;
  config.max_rows_per_rank = 256;
  const auto made = dg::planner<P>::make(config);
  REQUIRE(made.ok());
  return *made;
}

} // namespace

TEST_CASE("ladders are the policy's, sizes the plan's") {
  const auto rules = planner_of<by_sum>(2);
  const graph_ladders of = graph_ladders::of(rules);
  CHECK(of.own == list_of({2, 4, 8}));
  CHECK(of.shared == rules.captured_sizes());
  CHECK(of.ranks == 2);
  CHECK(of.cover_every_sum());

  const auto coupled = graph_ladders::of(planner_of<by_max>(2));
  CHECK(coupled.shared == coupled.own);
  const auto unknown = graph_ladders::of(planner_of<untold>(2));
  CHECK(unknown.shared == of.shared);

  dg::agreement agreed;
  agreed.dp_size = 2;
  agreed.can_run_graph = true;
  agreed.tokens = agreed.logits_tokens = agreed.draft_tokens = dg::real_rows::zeros(2);
  agreed.requests = dg::request_counts::zeros(2);
  agreed.tokens.set(0, 3);
  agreed.tokens.set(1, 7);
  const auto plan = dg::make_plan(rules, agreed);
  REQUIRE(plan.ok());
  CHECK(graph_sizes::of(*plan, 0) == graph_sizes{4, of.shared.smallest_at_least(10)});
  CHECK(graph_sizes::of(*plan, 1) == graph_sizes{8, of.shared.smallest_at_least(10)});
  agreed.can_run_graph = false;
  CHECK(graph_sizes::of(*dg::make_plan(rules, agreed), 1) == graph_sizes{});
}

TEST_CASE("SGLang's sizes up to 256 on 8 ranks, and the sums derived from them, have 2,334 pairs") {
  const graph_ladders of = graph_ladders::of(planner_of<sglang>(8));
  std::set<graph_sizes> expected;
  for (std::int32_t own = 0; own <= 256; ++own)
    for (std::int32_t others = 0; others <= 7 * 256; ++others)
      expected.insert({of.own.smallest_at_least(own), of.shared.smallest_at_least(own + others)});
  CHECK(feasible_pairs(of) == expected);
  CHECK(expected.size() == 2'334);
}
