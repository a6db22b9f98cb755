// One header, given as DPGATHER_HEADER, included first and twice in a unit of its own.
#include DPGATHER_HEADER
#include DPGATHER_HEADER

// A host header must not bring the toolkit in by a detour.
#if !defined(DPGATHER_MAY_USE_TOOLKIT) && !defined(__CUDACC__) &&                                  \
    (defined(CUDART_VERSION) || defined(CUDA_VERSION) || defined(NCCL_MAJOR))
#error "dpgather: a .hpp header includes a CUDA or NCCL header"
#endif
