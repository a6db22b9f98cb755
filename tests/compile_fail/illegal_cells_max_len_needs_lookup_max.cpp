// In a graph the maximum is the bucket of the maximum.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: padding::max_len in a graph pads to the bucket of the longest rank; use lookup::max, or padding::sum_len
// expect-count: 72 dpgather: padding::max_len in a graph pads to the bucket of the longest rank; use lookup::max, or padding::sum_len
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::max_len_needs_lookup_max;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
