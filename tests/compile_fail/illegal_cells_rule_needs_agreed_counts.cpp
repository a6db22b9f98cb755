// A rule compares the counts of all ranks.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: mode::choose looks at the counts of all ranks; use counts::agreed, or mode::exact
// expect-count: 144 dpgather: mode::choose looks at the counts of all ranks; use counts::agreed, or mode::exact
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::rule_needs_agreed_counts;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
