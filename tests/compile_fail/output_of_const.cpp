// Outputs are written: a view to read through is none.
// positive-control: -DOK
// expect: const std::byte
// expect-count: 2
#include <dpgather/dpgather.hpp>

namespace dg = dpgather;
#ifdef OK
using output = dg::token_rows<dg::replicated>;
#else
using output = dg::const_token_rows<dg::replicated>;
#endif

void step(dg::DpGather<dg::exact_eager>& dp, const dg::const_token_rows<dg::replicated>& local,
          const dg::const_token_rows<dg::partial>& sums, const output& out,
          const dg::step_plan& plan) {
  (void)dp.gather(local, out, plan, dg::host_stream{});
  (void)dp.combine(sums, out, plan, dg::host_stream{});
}
