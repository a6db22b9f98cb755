#pragma once

/// @file
/// What every rank of a benchmark over NCCL has: its GPU, communicators and a stream.

#include "check_nccl.cuh"
#include "watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace bench {

/// Made by the thread that is the rank; the GPU is this thread's from then on. Collective.
class nccl_gpu {
public:
  explicit nccl_gpu(dpgather::host_communicator& ranks)
      : rank_{ranks.rank()}, owner_{on_own_device(ranks), ranks.topology()} {
    must(owner_.check(), "NCCL");
    // What waits for peers goes before what could as well run later.
    int least = 0;
    int greatest = 0;
    must(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    must(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
         "cudaStreamCreate");
  }
  nccl_gpu(const nccl_gpu&) = delete;
  nccl_gpu& operator=(const nccl_gpu&) = delete;
  ~nccl_gpu() { (void)cudaStreamDestroy(stream_); }

  [[nodiscard]] std::int32_t rank() const { return rank_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] dpgather::nccl_world& world() { return owner_.world(); }
  [[nodiscard]] ncclComm_t comm() { return dpgather::nccl_communicator{world()}.native_handle(); }

  /// Until the stream is idle; a peer that does not come is an error after 20 s.
  void wait(const char* what) { must(world().wait(stream_, 20'000'000'000), what); }
  /// When all graphs are gone: CUDA lets go of them a little later.
  void await_graphs() {
    watchdog::step("closing communicators");
    using namespace std::chrono_literals;
    for (int i = 0; i < 200 && world().graphs_alive() > 0; ++i) std::this_thread::sleep_for(10ms);
  }
  /// Collective, when all graphs are gone.
  void close() {
    await_graphs();
    must(owner_.close(), "close");
  }

private:
  static dpgather::host_communicator& on_own_device(dpgather::host_communicator& ranks) {
    watchdog::step("NCCL initialisation", 90);
    must(cudaSetDevice(ranks.rank()), "cudaSetDevice");
    return ranks;
  }

  std::int32_t rank_;
  dpgather::nccl_owner owner_;
  cudaStream_t stream_ = nullptr;
};

} // namespace bench
