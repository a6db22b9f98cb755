// An all-gather moves equally many rows per rank.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: mode::all_gather needs equal row counts; use padding::max_len, or mode::all_reduce with padding::sum_len
// expect-count: 432 dpgather: mode::all_gather needs equal row counts; use padding::max_len, or mode::all_reduce with padding::sum_len
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::all_gather_needs_max_len;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
