// Combining by all-reduce and scatter belongs to the all-reduce mode.
// Every legal cell of another mode.
// clang-format off
// positive-control: -DOK
// expect: dpgather: combine::all_reduce_then_scatter belongs to mode::all_reduce; use combine::reduce_scatter
// expect-count: 23 dpgather: combine::all_reduce_then_scatter belongs to mode::all_reduce; use combine::reduce_scatter
// clang-format on
#include "../support/policy_cells.hpp"

template <class Policy>
struct changed : Policy {
#ifndef OK
  using combine_type = dpgather::combine::all_reduce_then_scatter;
#endif
};

void validate_all() {
  test_support::for_each_legal_cell([]<class Policy>(const test_support::cell&) {
    constexpr test_support::cell c = Policy::is;
    if constexpr (c.mode != test_support::cell_mode::all_reduce &&
                  c.mode != test_support::cell_mode::choose) {
      (void)dpgather::validate<changed<Policy>>();
    }
  });
}
