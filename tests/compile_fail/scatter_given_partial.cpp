// A local copy of rows that still owe a sum loses the other ranks' addends.
// positive-control: -DOK
// expect: dpgather: scatter copies rows that owe nothing; partial rows would lose the other ranks' addends, use combine
// expect-count: 1 dpgather: scatter copies rows that owe nothing
#include <dpgather/dpgather.hpp>

namespace dg = dpgather;
#ifdef OK
using owed = dg::replicated;
#else
using owed = dg::partial;
#endif

dg::status step(dg::DpGather<dg::exact_eager>& dp, const dg::token_rows<owed>& global,
                const dg::token_rows<dg::replicated>& local, const dg::step_plan& plan) {
  return dp.scatter(global, local, plan, dg::host_stream{});
}
