#pragma once

/// @file
/// All that the C++17 engine sees of dpgather: plain types, opaque state, codes with a sentence.
/// This is the engine's header, not the library's. It names what this engine needs and hides which
/// policy, mode and plan are behind it, so that those change without the engine being compiled
/// again.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>

namespace dp_unit {

/// 0, or the library's error code and what it has to say.
struct outcome {
  int code = 0;
  char text[256] = "";
};

/// The same on all ranks, but for `rank`. Rows are fp32.
struct shape {
  int rank = 0;
  int ranks = 1;
  int hidden = 0;   ///< floats in a row
  int max_rows = 0; ///< most rows of one rank
};

/// What all ranks agreed on for a step.
struct agreed_step {
  std::int64_t global_rows = 0; ///< rows that `gather` brings
  std::int64_t first_row = 0;   ///< of them, the first one of this rank
};

/// One rank's use of the library.
struct rank_state;

/// Bytes of device memory that the engine lends for the life of a `rank_state`.
outcome workspace_bytes(const shape& of, std::size_t& bytes);

/// Ownership: borrows communicator and workspace; the calling thread's GPU is theirs.
/// `*out` is null after an error.
outcome create(const shape& of, ncclComm_t comm, void* workspace, std::size_t bytes,
               rank_state** out);
/// Before the communicator goes, or after its abort when something failed. Null is nothing.
void destroy(rank_state* state);

/// Collective, on the host, once a step: this rank has `rows` rows in step number `step`.
outcome agree(rank_state& state, std::uint64_t step, int rows, agreed_step& out);
/// `local`: this rank's rows; `global`: room for `ranks * max_rows` rows. In stream order.
outcome gather(rank_state& state, const float* local, float* global, cudaStream_t stream);
/// `addend`: what this rank adds to each global row; `local`: this rank's rows of the sum.
outcome combine(rank_state& state, const float* addend, float* local, cudaStream_t stream);
/// Waits for the stream, at most so long, and listens to NCCL's asynchronous errors meanwhile.
outcome wait(rank_state& state, cudaStream_t stream, int seconds);

} // namespace dp_unit
