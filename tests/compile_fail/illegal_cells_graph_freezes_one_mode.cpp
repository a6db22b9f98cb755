// A graph freezes one mode.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: a graph freezes one mode, so mode::choose cannot run in it; name the mode with in_graph<mode::..., padding::...>
// expect-count: 36 dpgather: a graph freezes one mode, so mode::choose cannot run in it; name the mode with in_graph<mode::..., padding::...>
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::graph_freezes_one_mode;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
