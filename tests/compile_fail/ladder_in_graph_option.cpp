// A policy has one ladder: it is no option of one situation.
// clang-format off
// positive-control: -DOK
// expect: dpgather: ladder, on_miss, comm and counts hold for a whole policy; move them out of eager<...> and in_graph<...>
// expect-count: 1 dpgather: ladder, on_miss, comm and counts hold for a whole policy; move them out of eager<...> and in_graph<...>
// clang-format on
#include <dpgather/policy.hpp>

namespace dg = dpgather;

#ifdef OK
using laddered = dg::policy<dg::ladder::sglang<160>, dg::in_graph<>>;
#else
using laddered = dg::policy<dg::in_graph<dg::ladder::sglang<160>>>;
#endif

static_assert(dg::policy_like<laddered>);
