// A host that knows one count does not know the sum.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: padding::sum_len needs the sum on the host; use counts::agreed, or padding::none
// expect-count: 96 dpgather: padding::sum_len needs the sum on the host; use counts::agreed, or padding::none
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::unknown_sum;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
