// Unknown counts are planned from this rank's record: there is no agreement.
// clang-format off
// positive-control: -DOK
// expect: dpgather: counts::device and counts::exchanged plan from this rank's record only; pass the step_record, or use counts::agreed
// expect-count: 2 dpgather: counts::device and counts::exchanged plan from this rank's record only; pass the step_record, or use counts::agreed
// clang-format on
#include <dpgather/plan.hpp>

namespace dg = dpgather;

struct exchanged : dg::policy<dg::mode::exact, dg::counts::exchanged> {};
struct device : dg::policy<dg::mode::exact, dg::counts::device> {};

#ifdef OK
using known = dg::step_record;
#else
using known = dg::agreement;
#endif

template <class Policy>
bool plans(const dg::planner<Policy>& rules, const known& what) {
  return dg::make_plan(rules, what).ok();
}
template bool plans(const dg::planner<exchanged>&, const known&);
template bool plans(const dg::planner<device>&, const known&);
