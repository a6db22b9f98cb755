// An all-gather delivers slot after slot.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: mode::all_gather delivers slots; use layout::slots, or mode::exact with layout::packed
// expect-count: 84 dpgather: mode::all_gather delivers slots; use layout::slots, or mode::exact with layout::packed
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::all_gather_needs_slots;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
