// Ranks that do not know each other's counts cannot agree to go eager.
// Every legal cell of such counts.
// clang-format off
// positive-control: -DOK
// expect: dpgather: on_miss::agreed_eager needs the counts of all ranks; use counts::agreed, or on_miss::error
// expect-count: 12 dpgather: on_miss::agreed_eager needs the counts of all ranks; use counts::agreed, or on_miss::error
// clang-format on
#include "../support/policy_cells.hpp"

template <class Policy>
struct changed : Policy {
#ifndef OK
  using on_miss_type = dpgather::on_miss::agreed_eager;
#endif
};

void validate_all() {
  test_support::for_each_legal_cell([]<class Policy>(const test_support::cell&) {
    constexpr test_support::cell c = Policy::is;
    if constexpr (c.counts != dpgather::counts_kind::agreed) {
      (void)dpgather::validate<changed<Policy>>();
    }
  });
}
