#pragma once

/// @file
/// Everything: what `dpgather.hpp` has, kernels on CUDA streams, graphs, peer memory, and NCCL
/// where its header is found. Needs nvcc. Whoever uses no NCCL communicator needs no NCCL library.
/// Memory in NCCL windows is a header of its own, comm/nccl_window_memory.cuh: NCCL's device header
/// is large, and ties a program to one version of NCCL.

#include <dpgather/dpgather.hpp>

#if DPGATHER_CPLUSPLUS >= 202002L

#include <dpgather/comm/peer_access_memory.cuh>
#include <dpgather/comm/peer_communicator.cuh>
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/comm/vmm_memory.cuh>
#include <dpgather/device/executor.cuh>
#include <dpgather/device/side_stream.cuh>
#include <dpgather/graphs.cuh>
#if CUDART_VERSION >= 13000 // SWITCH nodes
#include <dpgather/step_graphs.cuh>
#endif

#if __has_include(<nccl.h>)
#include <dpgather/comm/nccl_communicator.cuh>
#include <dpgather/comm/nccl_owner.cuh>
#endif

#endif
