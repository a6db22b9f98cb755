// The communicator is the one that the policy names.
// positive-control: -DOK
// expect: dpgather: the communicator is not the one the policy names; use rebind_comm
// expect-count: 1
#include <dpgather/dpgather.hpp>

namespace dg = dpgather;
#ifdef OK
struct on_threads : dg::exact_eager {};
#else
using on_threads = dg::rebind_comm<dg::exact_eager, dg::comm::peer>;
#endif

constexpr auto bytes = sizeof(dg::DpGather<on_threads, dg::host_communicator>);
