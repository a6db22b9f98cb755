#pragma once

/// @file
/// Everything: what `dpgather.hpp` has, kernels on CUDA streams, graphs, and NCCL where its header
/// is found. Needs nvcc. Whoever uses no NCCL communicator needs no NCCL library.

#include <dpgather/dpgather.hpp>

#if DPGATHER_CPLUSPLUS >= 202002L

#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/device/executor.cuh>
#include <dpgather/graphs.cuh>

#if __has_include(<nccl.h>)
#include <dpgather/comm/nccl_communicator.cuh>
#include <dpgather/comm/nccl_owner.cuh>
#endif

#endif
