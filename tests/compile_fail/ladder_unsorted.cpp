// A written ladder is ascending and positive.
// clang-format off
// positive-control: -DOK
// expect: dpgather: ladder::list needs positive sizes in strictly ascending order, at most bucket_list::max_stated of them
// expect-count: 4 dpgather: ladder::list needs positive sizes in strictly ascending order, at most bucket_list::max_stated of them
// clang-format on
#include <dpgather/ladder.hpp>

namespace dg = dpgather;

template <class... Ladders>
constexpr int total = (0 + ... + Ladders::sizes().size());

#ifdef OK
static_assert(total<dg::ladder::list<1, 2, 4>> == 3);
#else
constexpr int unsorted = total<dg::ladder::list<1, 4, 2>>;
constexpr int twice = total<dg::ladder::list<1, 2, 2>>;
constexpr int zero = total<dg::ladder::list<0, 1, 2>>;
constexpr int none = total<dg::ladder::list<>>;
#endif
