// Agreed counts are planned from all records: one rank's is not enough.
// clang-format off
// positive-control: -DOK
// expect: dpgather: counts::agreed plans from the merged records of all ranks; pass the agreement, or use counts::exchanged
// expect-count: 1 dpgather: counts::agreed plans from the merged records of all ranks; pass the agreement, or use counts::exchanged
// clang-format on
#include <dpgather/plan.hpp>

namespace dg = dpgather;

struct agreed : dg::policy<dg::mode::exact, dg::counts::agreed> {};

#ifdef OK
using known = dg::agreement;
#else
using known = dg::step_record;
#endif

bool plans(const dg::planner<agreed>& rules, const known& what) {
  return dg::make_plan(rules, what).ok();
}
