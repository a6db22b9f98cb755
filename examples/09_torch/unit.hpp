#pragma once

/// @file
/// All that the PyTorch side sees of dpgather: plain types and two classes. PyTorch's headers never
/// meet nvcc, and the library's never meet PyTorch's.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dp_torch {

/// Element types that both sides know; `other` for the rest of PyTorch's.
enum class scalar { u8, i32, i64, f16, bf16, f32, f64, other };

/// A tensor of one or two dimensions as PyTorch describes it. Strides in elements.
struct tensor {
  void* data = nullptr;
  scalar type = scalar::other;
  int device = -1; ///< -1: the host
  int dimensions = 2;
  std::int64_t rows = 0; ///< of the first dimension
  std::int64_t columns = 1;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;
};

/// Device memory of the arena, rows without gaps.
struct arena_rows {
  void* data = nullptr;
  std::int64_t rows = 0;
};

/// Where the counts lie that kernels read, in device memory.
struct live_counts {
  std::int32_t* rows = nullptr;    ///< [ranks], real rows
  std::int64_t* offsets = nullptr; ///< [ranks + 1]
  std::int64_t* total = nullptr;   ///< one
};

/// A process group, as two functions that answer 0 and bound their own waiting.
struct exchange {
  int rank = 0;
  int size = 1;
  void* context = nullptr;
  int (*all_gather)(void* context, const void* mine, void* all, std::size_t bytes) = nullptr;
  int (*barrier)(void* context) = nullptr;
};

/// Equal on all ranks, but for the device.
struct settings {
  int device = 0;
  scalar type = scalar::bf16;
  std::int64_t hidden = 0;
  std::int64_t max_rows = 0;       ///< most rows of one rank
  std::vector<std::int64_t> sizes; ///< captured sizes per rank; empty: SGLang's up to `max_rows`
  bool clean_tails = true;         ///< rows that are not real are zeroed
  std::int64_t timeout_ns = 0;     ///< how long a kernel waits for a peer
};

/// What all ranks agreed on for a step.
struct step {
  bool in_graph = false;
  std::int64_t total = 0;       ///< real rows of all ranks
  std::int64_t global_rows = 0; ///< with tails
  std::int64_t offset = 0;      ///< this rank's first row among the gathered ones
  std::int64_t size = 0;     ///< captured size of the sum: which graph to replay; 0 outside graphs
  std::int64_t own_size = 0; ///< captured size of this rank's own rows
};

/// One rank's channel over memory that all processes of the host have mapped.
///
/// Errors: `std::exception` with the library's sentence; a call that throws has written nothing.
/// Streams: calls run in the order of theirs. `size`: the captured size whose shape a captured call
/// has, 0 for the largest; not read outside a capture, where calls have the shape of the step.
class channel {
public:
  /// Bytes of device memory that the caller lends.
  [[nodiscard]] static std::size_t workspace_bytes(const exchange& ranks, const settings& asked);
  /// Collective. Ownership: borrows the workspace and the context of `ranks`.
  [[nodiscard]] static std::unique_ptr<channel> make(const exchange& ranks, const settings& asked,
                                                     void* workspace, std::size_t bytes);
  virtual ~channel() = default;

  /// Collective: this rank has `rows` rows; counts go to where kernels read them.
  virtual step begin(std::int64_t rows, bool graph, cudaStream_t stream) = 0;
  /// The same where the engine knows the rows of all ranks. No exchange.
  virtual step begin(const std::vector<std::int64_t>& rows, bool graph, cudaStream_t stream) = 0;

  virtual arena_rows gather(const tensor& local, std::int64_t size, cudaStream_t stream) = 0;
  [[nodiscard]] virtual arena_rows combine_input(std::int64_t size, int which,
                                                 cudaStream_t stream) = 0;
  virtual void combine(const tensor& addends, const tensor& out, std::int64_t size,
                       cudaStream_t stream) = 0;

  [[nodiscard]] virtual live_counts counts() const = 0;
  /// What graphs are captured for, in rows of all ranks, smallest first.
  [[nodiscard]] virtual std::vector<std::int64_t> sizes() const = 0;
  /// Throws what kernels have found since. No CUDA call.
  virtual void check() = 0;
  /// Waits for the stream, for `timeout_ns` at most, and throws what its calls found.
  virtual void wait(cudaStream_t stream, std::int64_t timeout_ns) = 0;
  /// For calls from now on, those of captured graphs too.
  virtual void set_timeout(std::int64_t timeout_ns) = 0;
  /// Collective. Graphs go before it; afterwards calls throw. Memory stays while this object does.
  virtual void close() = 0;
};

/// A tensor of a batch: its kind by the name in `batch_tensor`, e.g. "positions".
struct batch_part {
  std::string kind;
  tensor memory;
};

/// The tensors of a batch, padded for a step and restored afterwards. Errors as `channel`.
class padded_tensors {
public:
  [[nodiscard]] static std::size_t workspace_bytes(const std::vector<batch_part>& parts);
  [[nodiscard]] static std::unique_ptr<padded_tensors> make(const std::vector<batch_part>& parts,
                                                            void* workspace, std::size_t bytes);
  virtual ~padded_tensors() = default;

  /// `real` of `padded` requests of `tokens_per_request` tokens; `live`: rows in device memory
  /// instead of `real`, for captures.
  virtual void pad(std::int64_t real, std::int64_t padded, std::int64_t tokens_per_request,
                   const std::int32_t* live, cudaStream_t stream) = 0;
  /// Everything as it was. Nothing where nothing is padded.
  virtual void restore() = 0;
};

} // namespace dp_torch
