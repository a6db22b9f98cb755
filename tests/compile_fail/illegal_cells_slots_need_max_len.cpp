// Slots have one stride, so every rank has equally many rows.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: layout::slots needs one stride for all ranks; use padding::max_len, or layout::packed
// expect-count: 300 dpgather: layout::slots needs one stride for all ranks; use padding::max_len, or layout::packed
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::slots_need_max_len;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
