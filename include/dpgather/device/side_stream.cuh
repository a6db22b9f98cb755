#pragma once

/// @file
/// Gathers and combines beside the engine's own kernels: a second stream that starts where the
/// first one stands, and for which the first one waits before it needs the rows. Needs the
/// toolkit's headers, no nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

namespace dpgather::inline v0 {

/// A stream beside the engine's own.
///
/// ```cpp
/// side.start(stream);                                  // what stream has done is there
/// dp.combine(dp.combine_input(plan), out, plan, side.stream());
/// attention_of_the_other_micro_batch(stream);          // meanwhile
/// side.wait(stream);                                   // out is there
/// ```
///
/// Give the calls few blocks then (`launch::shape<8, true>`): a GEMM leaves them no others. Two
/// micro-batches that move rows at once need a channel each, since a channel has one user.
///
/// Ownership: the two events, and the stream unless it is borrowed. Events are reused by every
/// step; nothing is allocated after construction. Address-stable.
/// Capture: safe when both ends of a fork are captured: `start` takes the side stream into the
/// capture of the other one, `wait` brings it back.
/// Errors: `native_error`, from `check()` for the construction.
class side_stream {
public:
  /// A stream of its own with the device's highest priority, so that its few blocks go before the
  /// many of a GEMM. On the current device.
  side_stream() noexcept {
    int least = 0, greatest = 0;
    ready_ = cuda_status(cudaDeviceGetStreamPriorityRange(&least, &greatest), where);
    if (ready_.ok())
      ready_ = cuda_status(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
                           where);
    owns_ = ready_.ok();
    make_events();
  }
  /// Borrows a stream of the current device.
  explicit side_stream(cudaStream_t borrowed) noexcept : stream_{borrowed} { make_events(); }
  side_stream(const side_stream&) = delete;
  side_stream& operator=(const side_stream&) = delete;
  ~side_stream() {
    if (begun_ != nullptr) (void)cudaEventDestroy(begun_);
    if (done_ != nullptr) (void)cudaEventDestroy(done_);
    if (owns_) (void)cudaStreamDestroy(stream_);
  }

  [[nodiscard]] status check() const noexcept { return ready_; }
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_; }

  /// The side stream goes on when `from` has done what it has been given so far.
  [[nodiscard]] status start(cudaStream_t from) noexcept { return order(begun_, from, stream_); }
  /// `to` goes on when the side stream has.
  [[nodiscard]] status wait(cudaStream_t to) noexcept { return order(done_, stream_, to); }

private:
  static constexpr const char* where = "side_stream";

  void make_events() noexcept {
    for (cudaEvent_t* event : {&begun_, &done_}) {
      if (ready_.ok())
        ready_ = cuda_status(cudaEventCreateWithFlags(event, cudaEventDisableTiming), where);
    }
  }
  [[nodiscard]] status order(cudaEvent_t event, cudaStream_t first, cudaStream_t then) noexcept {
    if (!ready_.ok()) return ready_;
    if (status bad = cuda_status(cudaEventRecord(event, first), where); !bad) return bad;
    return cuda_status(cudaStreamWaitEvent(then, event, 0), where);
  }

  status ready_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begun_ = nullptr, done_ = nullptr;
  bool owns_ = false;
};

} // namespace dpgather::inline v0
