// One option per category.
// clang-format off
// positive-control: -DOK
// expect: dpgather: policy<...> takes at most one option of each category
// expect-count: 1 dpgather: policy<...> takes at most one option of each category
// clang-format on
#include <dpgather/policy.hpp>

namespace dg = dpgather;

#ifdef OK
using padded = dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::padding::align<8>>;
#else
using padded = dg::policy<dg::padding::none, dg::mode::all_gather, dg::padding::max_len>;
#endif

static_assert(dg::policy_like<padded>);
