/// @file
/// The one C++20 unit of the engine, and the only one that includes the library. Its translation
/// unit holds the kernels, the policy and everything templated; what leaves it is in dp_unit.hpp.

#include "dp_unit.hpp"

#include <dpgather/dpgather.cuh>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>

namespace dg = dpgather;

namespace {

/// The engine's choice, in one line: real rows only, without graphs, over NCCL.
struct rows_policy : dg::exact_eager {
  using comm_type = dg::comm::nccl;
};
using gather_type = dg::DpGather<rows_policy>;

/// How long a rank waits on the host for the others.
constexpr std::int64_t exchange_timeout_ns = 20'000'000'000;

dg::gather_config config_of(const dp_unit::shape& of) {
  dg::gather_config config;
  config.topology = {.dp_size = of.ranks, .dp_rank = of.rank};
  config.element = dg::element::f32;
  config.row_bytes = static_cast<std::size_t>(of.hidden) * sizeof(float);
  config.max_rows_per_rank = of.max_rows;
  return config;
}

/// A status cannot leave this unit, since its type is the library's; its sentence can.
dp_unit::outcome outcome_of(const dg::status& from) {
  dp_unit::outcome out;
  out.code = static_cast<int>(from.code);
  if (!from.ok()) std::snprintf(out.text, sizeof out.text, "%s", from.message().c_str());
  return out;
}

} // namespace

/// Address-stable, like the objects in it: made once on the heap, and handed out as a pointer.
struct dp_unit::rank_state {
  rank_state(const shape& of, ncclComm_t comm, std::span<std::byte> workspace)
      : hidden{of.hidden}, exchange{comm, exchange_timeout_ns}, world{config_of(of).topology, comm},
        dp{dg::nccl_communicator{world}, config_of(of), workspace} {}

  [[nodiscard]] dg::status check() const {
    if (!exchange.check()) return exchange.check();
    return world.check() ? dp.check() : world.check();
  }

  int hidden;
  // The engine has an ncclComm_t and nothing else to exchange records by. One that has a TCP store
  // or MPI wraps it in a `callback_bootstrap` instead.
  dg::nccl_bootstrap exchange;
  dg::nccl_world world; // borrows the engine's communicator
  gather_type dp;
  dg::step_plan plan; // of the current step
};

namespace dp_unit {

outcome workspace_bytes(const shape& of, std::size_t& bytes) {
  const auto needed = gather_type::workspace_bytes(config_of(of));
  if (needed) bytes = *needed;
  return outcome_of(needed.status());
}

outcome create(const shape& of, ncclComm_t comm, void* workspace, std::size_t bytes,
               rank_state** out) {
  *out = nullptr;
  // The library throws nothing, but containers that it sizes once may.
  try {
    auto made = std::make_unique<rank_state>(of, comm,
                                             std::span{static_cast<std::byte*>(workspace), bytes});
    if (const dg::status bad = made->check(); !bad) return outcome_of(bad);
    *out = made.release();
    return {};
  } catch (const std::exception& error) {
    outcome failed;
    failed.code = -1;
    std::snprintf(failed.text, sizeof failed.text, "%s", error.what());
    return failed;
  }
}

void destroy(rank_state* state) { delete state; }

outcome agree(rank_state& state, std::uint64_t step, int rows, agreed_step& out) {
  dg::step_record record = state.dp.record(step);
  record.tokens = record.requests = rows;
  record.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
  const auto agreed = state.dp.agree(state.exchange, record);
  if (!agreed) return outcome_of(agreed.status());
  const auto plan = state.dp.plan(*agreed);
  if (!plan) return outcome_of(plan.status());
  state.plan = *plan;
  out.global_rows = plan->global_rows;
  out.first_row = plan->offset(state.dp.config().topology.dp_rank);
  return {};
}

outcome gather(rank_state& state, const float* local, float* global, cudaStream_t stream) {
  const dg::step_plan& plan = state.plan;
  const std::int32_t rows = plan.real[state.dp.config().topology.dp_rank];
  const auto done = state.dp.gather(
      dg::rows_of<dg::replicated>(local, rows, state.hidden),
      dg::rows_of<dg::replicated>(global, plan.global_rows, state.hidden), plan, stream);
  return outcome_of(done.status());
}

outcome combine(rank_state& state, const float* addend, float* local, cudaStream_t stream) {
  const dg::step_plan& plan = state.plan;
  const std::int32_t rows = plan.real[state.dp.config().topology.dp_rank];
  return outcome_of(
      state.dp.combine(dg::rows_of<dg::partial>(addend, plan.global_rows, state.hidden),
                       dg::rows_of<dg::replicated>(local, rows, state.hidden), plan, stream));
}

outcome wait(rank_state& state, cudaStream_t stream, int seconds) {
  return outcome_of(state.world.wait(stream, std::int64_t{seconds} * 1'000'000'000));
}

} // namespace dp_unit
