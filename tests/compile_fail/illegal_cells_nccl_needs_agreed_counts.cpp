// NCCL's calls take counts from the host.
// Every cell of the table that breaks this rule first.
// clang-format off
// positive-control: -DOK
// expect: dpgather: NCCL takes row counts from the host; use counts::agreed, or comm::peer
// expect-count: 40 dpgather: NCCL takes row counts from the host; use counts::agreed, or comm::peer
// clang-format on
#include "../support/policy_cells.hpp"

#ifdef OK
constexpr auto rule = dpgather::violation::none;
#else
constexpr auto rule = dpgather::violation::nccl_needs_agreed_counts;
#endif

void validate_all() {
  test_support::for_each_cell_that_breaks<rule>(
      []<class Policy>(const test_support::cell&) { (void)dpgather::validate<Policy>(); });
}
