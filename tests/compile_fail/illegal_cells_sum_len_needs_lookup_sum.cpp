// In a graph the sum is the bucket of the sum.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: padding::sum_len in a graph pads to the bucket of the sum; use lookup::sum or lookup::own_and_sum
// expect-count: 24 dpgather: padding::sum_len in a graph pads to the bucket of the sum; use lookup::sum or lookup::own_and_sum
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::sum_len_needs_lookup_sum;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
