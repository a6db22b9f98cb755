// What an engine instantiates: one ready-made policy on one communicator, every call.
#if defined(ON_PEER)
// Over memory that the engine mapped itself.
#include <dpgather/comm/peer_communicator.cuh>
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>
#if defined(NCCL_H_)
#error "NCCL's header is included"
#endif
#else
#include <dpgather/dpgather.cuh>
#endif

namespace dg = dpgather;

#if defined(ON_PEER)
using communicator = dg::basic_peer_communicator<dg::element::bf16>;
using tag = dg::comm::peer;
#elif defined(ON_HOST)
using communicator = dg::host_communicator;
using tag = dg::comm::host;
#else
using communicator = dg::nccl_communicator;
using tag = dg::comm::nccl;
#endif

struct policy : dg::rebind_comm<dg::POLICY, tag> {};

using engine = dg::DpGather<policy, communicator>;

dg::status whole_step(engine& dp, const dg::step_plan& plan,
                      const dg::token_rows<dg::replicated>& rows,
                      const dg::token_rows<dg::partial>& sums, engine::stream_type stream) {
  if (dg::status bad = dp.refresh_counts(plan, stream); !bad) return bad;
  if (const auto done = dp.gather(rows, rows, plan, stream); !done) return done.status();
  if (const auto done = dp.gather(sums, rows, plan, stream); !done) return done.status();
  if (dg::status bad = dp.combine(sums, rows, plan, stream); !bad) return bad;
  return dp.scatter(rows, rows, plan, stream);
}
