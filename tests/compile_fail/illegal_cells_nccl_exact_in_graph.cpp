// NCCL would freeze the host's counts in the graph.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: mode::exact over NCCL would freeze host counts in a graph; use comm::peer, or in_graph<mode::all_gather, padding::max_len>
// expect-count: 19 dpgather: mode::exact over NCCL would freeze host counts in a graph; use comm::peer, or in_graph<mode::all_gather, padding::max_len>
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::nccl_exact_in_graph;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
