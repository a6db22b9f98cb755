#pragma once

/// @file
/// Everything that needs no GPU and no toolkit: policies, plans, metrics, `DpGather` on threads,
/// pad and trim. Apart from it, because they cost what they include: `comm/run_ranks.hpp` (starts
/// the threads), `comm/unix_socket_bootstrap.hpp`, `ladder_fit.hpp` (fits ladders to counts),
/// `graph_ways.hpp` (what decoupled graphs would cost).

#include <dpgather/config.hpp>

#if DPGATHER_CPLUSPLUS >= 202002L // config.hpp has said so; one error is enough

#include <dpgather/agreement.hpp>
#include <dpgather/batch.hpp>
#include <dpgather/batch_fill.hpp>
#include <dpgather/batch_trim.hpp>
#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/device/masks.hpp>
#include <dpgather/device/tensor_lists.hpp>
#include <dpgather/dp_gather.hpp>
#include <dpgather/metrics.hpp>
#include <dpgather/plan.hpp>
#include <dpgather/policies.hpp>
#include <dpgather/version.hpp>

#endif
