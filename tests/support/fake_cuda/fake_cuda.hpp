#pragma once

/// @file
/// A stand-in for libcudart and libnccl without a GPU: link the .cpp files of this folder instead
/// of them, and steer it from the test with the functions below.
///
/// Device memory is host memory, ranks are threads, every stream is a worker thread, and a
/// collective is a meeting of the streams of all ranks. Like the real ones: calls that only issue
/// return at once, `cudaFree` waits for its device, capturing streams refuse to be waited for,
/// empty collectives are discarded, an operation of a communicator in error ends with its abort
/// only. Handles are never reused and never dereferenced: a stale one is refused.
///
/// No wait of the fake is longer than its patience: then it says where all ranks stand and aborts.
/// There is no null stream; using it aborts.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fake_cuda {

inline constexpr int any_device = -1;
/// What `cudaMemGetInfo` says that an executable graph takes; it knows of nothing else.
inline constexpr std::size_t bytes_of_exec = std::size_t{1} << 21;

/// Starts over with `devices` devices: pending work is dropped and released, all objects and memory
/// are gone, the log is empty, all settings are back. User objects' destructors don't run. No other
/// thread may be in a call. Before the first `reset` there is no device.
void reset(int devices);

/// Runs `body` on the stream, as a kernel launch does, or records it while the stream captures. The
/// current device must be the stream's. In the log it is a call of "enqueue" with the name in
/// `detail`; `fail_nth` takes either.
cudaError_t enqueue(cudaStream_t stream, std::string name, std::function<void()> body);

/// From the body of a kernel in a graph: what a conditional node goes by, as
/// `cudaGraphSetConditional`. Only SWITCH nodes are supported.
void set_conditional(cudaGraphConditionalHandle handle, unsigned value);

// --- what happened ---

/// One call, in the order in which calls began.
struct call_record {
  std::string call;              ///< name of the function
  std::string detail = {};       ///< name of an enqueued kernel
  int device = any_device;       ///< the communicator's, or the one current in the calling thread
  int rank = -1;                 ///< in the communicator, if the call has one
  std::size_t count = 0;         ///< bytes, or elements of a collective as NCCL counts them
  int datatype = -1;             ///< ncclDataType_t of a collective
  int root = -1;                 ///< of a collective that has one
  const void* input = nullptr;   ///< source or send buffer
  const void* output = nullptr;  ///< destination or receive buffer
  cudaStream_t stream = nullptr; ///< the stream it was issued on
  ncclComm_t comm = nullptr;
  bool captured = false; ///< the stream was capturing
  int result = 0;        ///< what the call returned; 0 while it runs
};

/// Older calls are forgotten: a thread that polls makes millions.
inline constexpr std::size_t most_calls_logged = 100'000;
/// All calls, except for error texts, last errors and CUDA's versions.
[[nodiscard]] std::vector<call_record> log();
void clear_log();
/// Calls of this function (or kernel) in the log.
[[nodiscard]] int calls(std::string_view function, int device = any_device);

/// Collectives whose ranks did not agree; the communicator's ranks are in ncclInvalidUsage then.
[[nodiscard]] std::vector<std::string> mismatches();
/// Everything else that the real libraries would not have noticed, or would have hung in: writes
/// beside or after allocations, buffers of another device or too short, overlaps, live graphs of a
/// dying communicator, API calls from a user object's destructor.
[[nodiscard]] std::vector<std::string> problems();

/// Objects that nobody has destroyed yet.
struct live_counts {
  int device_blocks = 0, pinned_blocks = 0, streams = 0, events = 0, graphs = 0, execs = 0,
      user_objects = 0, comms = 0;

  friend bool operator==(const live_counts&, const live_counts&) = default;
};
[[nodiscard]] live_counts live();

// --- what shall happen ---

/// The `n`-th call of `function` from now on, 1 being the next, does nothing and returns `code`.
/// `device`: count only calls of this device.
void fail_nth(std::string function, int n, int code, int device = any_device);

/// `ncclCommGetAsyncError` and new calls answer `error` from now on; operations of this rank end
/// with its abort only, so those of its peers wait too.
void set_async_error(ncclComm_t comm, ncclResult_t error);

/// No stream of the device starts anything more, until `release`.
void stall(int device);
void release(int device);

/// Waits until a stream is inside an operation of `comm` and waits for other ranks.
void await_waiting(ncclComm_t comm);

void set_nccl_version(int version);
/// The longest wait of any kind; 60 s after `reset`.
void set_patience(std::chrono::milliseconds patience);

} // namespace fake_cuda
