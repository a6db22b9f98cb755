// A graph without a shared size moves the real rows only.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: a graph freezes shapes, so padding::none needs mode::exact with lookup::own; else use padding::max_len or padding::sum_len
// expect-count: 42 dpgather: a graph freezes shapes, so padding::none needs mode::exact with lookup::own; else use padding::max_len or padding::sum_len
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::no_padding_needs_exact_own;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
