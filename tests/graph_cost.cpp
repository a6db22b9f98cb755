#include <dpgather/graph_cost.hpp>

#include <doctest/doctest.h>

#include <cstdint>

namespace dg = dpgather;
using dg::graph_budget;
using dg::graph_cost;

static_assert([] {
  graph_cost sum{.graphs = 1, .nodes = 10, .capture_us = 100, .bytes = 1000};
  sum += {.graphs = 2, .nodes = 20, .capture_us = 200, .bytes = -500};
  return sum == graph_cost{.graphs = 3, .nodes = 30, .capture_us = 300, .bytes = 500};
}());

TEST_CASE("what more graphs would cost is what those there are have cost on average") {
  const graph_cost four{
      .graphs = 4, .nodes = 10, .capture_us = 100, .bytes = std::int64_t{1} << 40};
  CHECK(four.scaled_to(6) ==
        graph_cost{
            .graphs = 6, .nodes = 15, .capture_us = 150, .bytes = (std::int64_t{1} << 40) / 2 * 3});
  CHECK(four.scaled_to(4) == four);
  CHECK(four.scaled_to(0) == graph_cost{});
  CHECK(graph_cost{}.scaled_to(2900) == graph_cost{.graphs = 2900});
}

TEST_CASE("a budget of graphs allows exactly so many") {
  const graph_budget three{.graphs = 3};
  graph_cost spent;
  for (std::int64_t more = 0; more < 6; ++more) {
    CHECK(three.allows(spent, more) == (more <= 3));
    spent.graphs = 2;
    CHECK(three.allows(spent, more) == (more <= 1));
    spent.graphs = 0;
  }
  CHECK(graph_budget{}.allows({.graphs = 1'000'000, .bytes = std::int64_t{1} << 50}, 1'000'000));
  CHECK_FALSE(graph_budget{.graphs = 0}.allows({}, 1));
}

TEST_CASE("a budget of bytes allows what is expected to fit") {
  const graph_budget megabyte{.bytes = 1 << 20};
  CHECK(megabyte.allows({}, 1)); // nobody knows yet
  CHECK(megabyte.allows({.graphs = 2, .bytes = 1 << 19}, 2));
  CHECK_FALSE(megabyte.allows({.graphs = 2, .bytes = 1 << 19}, 3));
  CHECK_FALSE(megabyte.allows({.graphs = 1, .bytes = (1 << 20) + 1}, 1));
  CHECK_FALSE(graph_budget{.bytes = 0}.allows({}, 1));
  CHECK(graph_budget{.bytes = 0}.allows({}, 0));
}
