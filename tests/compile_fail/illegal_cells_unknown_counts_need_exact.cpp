// Both classic modes take their sizes from the host's counts.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: counts::device and counts::exchanged need mode::exact; use mode::exact, or counts::agreed
// expect-count: 432 dpgather: counts::device and counts::exchanged need mode::exact; use mode::exact, or counts::agreed
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::unknown_counts_need_exact;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
