// The combine of an all-reduce mode over NCCL would freeze the host's counts in the graph.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: combine::reduce_scatter of an all-reduce mode over NCCL would freeze host counts in a graph; use combine::all_reduce_then_scatter, or comm::peer
// expect-count: 7 dpgather: combine::reduce_scatter of an all-reduce mode over NCCL would freeze host counts in a graph; use combine::all_reduce_then_scatter, or comm::peer
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::nccl_combine_in_graph;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
