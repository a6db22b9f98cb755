// One option per category, in an override as well.
// clang-format off
// positive-control: -DOK
// expect: dpgather: eager<...> and in_graph<...> take at most one option of each category
// expect-count: 1 dpgather: eager<...> and in_graph<...> take at most one option of each category
// clang-format on
#include <dpgather/policy.hpp>

namespace dg = dpgather;

#ifdef OK
using graphs = dg::in_graph<dg::tail::zero, dg::mode::all_gather>;
#else
using graphs = dg::in_graph<dg::tail::zero, dg::mode::all_gather, dg::tail::leave>;
#endif

static_assert(dg::policy_like<dg::policy<graphs>>);
