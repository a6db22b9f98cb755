#pragma once

/// @file
/// Platform switches: the language check and the macros that let one text compile for host and
/// device. The only macros that dpgather defines are the ones in this file and in version.hpp.

// One sentence instead of a page of template errors. The umbrella headers stop after it.
#if defined(_MSVC_LANG)
#define DPGATHER_CPLUSPLUS _MSVC_LANG
#else
#define DPGATHER_CPLUSPLUS __cplusplus
#endif
#if DPGATHER_CPLUSPLUS < 202002L
#error                                                                                             \
    "dpgather needs C++20: compile this unit with -std=c++20 (a C++17 engine embeds the library through one C++20 unit)"
#endif

/// Marks a function whose text runs on the CPU and in kernels alike.
#if defined(__CUDACC__)
#define DPGATHER_HOST_DEVICE __host__ __device__
#else
#define DPGATHER_HOST_DEVICE
#endif

/// Before a DPGATHER_HOST_DEVICE template that runs wherever the functions run which it is given:
/// nvcc would warn of those that are for the host only.
#if defined(__CUDACC__)
#define DPGATHER_RUNS_EITHER_WAY _Pragma("nv_exec_check_disable")
#else
#define DPGATHER_RUNS_EITHER_WAY
#endif

/// Before a loop that runs a few times and only then: unrolled, it would cost a kernel instructions
/// that are fetched and never run.
#if defined(__CUDA_ARCH__)
#define DPGATHER_ROLLED _Pragma("unroll 1")
#else
#define DPGATHER_ROLLED
#endif
