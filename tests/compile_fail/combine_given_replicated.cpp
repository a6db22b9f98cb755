// Rows that owe nothing would be counted once per rank.
// positive-control: -DOK
// expect: dpgather: combine sums partial rows; replicated rows would be counted once per rank, use scatter
// expect-count: 1 dpgather: combine sums partial rows
#include <dpgather/dpgather.hpp>

namespace dg = dpgather;
#ifdef OK
using owed = dg::partial;
#else
using owed = dg::replicated;
#endif

dg::status step(dg::DpGather<dg::exact_eager>& dp, const dg::token_rows<owed>& global,
                const dg::token_rows<dg::replicated>& local, const dg::step_plan& plan) {
  return dp.combine(global, local, plan, dg::host_stream{});
}
