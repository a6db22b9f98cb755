// The stand-in for the CUDA runtime itself: what the tests of the NCCL path rely on.
#include <support/fake_cuda/as_ranks.hpp>
#include <support/fake_cuda/fake_cuda.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <future>
#include <thread>
#include <vector>

using fake_cuda::as_ranks;
using fake_cuda::check_clean;

TEST_CASE("calls are logged, and fail when told to") {
  fake_cuda::reset(0);
  int count = 1;
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
  CHECK(count == 0);

  fake_cuda::reset(2);
  void* memory = nullptr;
  fake_cuda::fail_nth("cudaMalloc", 2, cudaErrorMemoryAllocation, 1);
  CHECK(cudaMalloc(&memory, 8) == cudaSuccess);
  CHECK(cudaFree(memory) == cudaSuccess);
  as_ranks(2, [](int rank) {
    void* mine = nullptr;
    CHECK(cudaMalloc(&mine, 8) == cudaSuccess);
    CHECK(cudaFree(mine) == cudaSuccess);
    CHECK(cudaMalloc(&mine, 16) == (rank == 1 ? cudaErrorMemoryAllocation : cudaSuccess));
    CHECK(cudaPeekAtLastError() == (rank == 1 ? cudaErrorMemoryAllocation : cudaSuccess));
    cudaGetLastError();
    CHECK(cudaGetLastError() == cudaSuccess);
    if (rank == 0) CHECK(cudaFree(mine) == cudaSuccess);
  });
  CHECK(fake_cuda::calls("cudaMalloc") == 5);
  CHECK(fake_cuda::calls("cudaMalloc", 1) == 2);
  const auto log = fake_cuda::log();
  CHECK(log.front().call == "cudaMalloc");
  CHECK(log.front().count == 8);
  CHECK(log.front().device == 0);
  check_clean();
}

TEST_CASE("a stream does one thing after the other, and behind the caller's back") {
  fake_cuda::reset(2);
  cudaStream_t first = nullptr, second = nullptr;
  cudaEvent_t event = nullptr;
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamDefault) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);

  std::promise<void> open;
  std::vector<int> order;
  CHECK(fake_cuda::enqueue(first, "gate", [&] { open.get_future().wait(); }) == cudaSuccess);
  CHECK(fake_cuda::enqueue(first, "one", [&] { order.push_back(1); }) == cudaSuccess);
  CHECK(cudaEventRecord(event, first) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
  CHECK(fake_cuda::enqueue(second, "two", [&] { order.push_back(2); }) == cudaSuccess);
  CHECK(cudaStreamQuery(second) == cudaErrorNotReady);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  open.set_value();
  CHECK(cudaStreamSynchronize(second) == cudaSuccess);
  CHECK(order == std::vector<int>{1, 2});
  CHECK(cudaEventSynchronize(event) == cudaSuccess);

  fake_cuda::stall(0);
  CHECK(fake_cuda::enqueue(first, "three", [&] { order.push_back(3); }) == cudaSuccess);
  CHECK(cudaStreamQuery(first) == cudaErrorNotReady);
  fake_cuda::release(0);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(order.back() == 3);

  // A kernel needs its device to be current.
  CHECK(cudaSetDevice(1) == cudaSuccess);
  CHECK(fake_cuda::enqueue(first, "elsewhere", [] {}) == cudaErrorInvalidResourceHandle);
  fake_cuda::fail_nth("here", 1, cudaErrorLaunchFailure);
  CHECK(cudaSetDevice(0) == cudaSuccess);
  CHECK(fake_cuda::enqueue(first, "here", [] {}) == cudaErrorLaunchFailure);
  CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaStreamDestroy(first) == cudaSuccess);
  CHECK(cudaStreamDestroy(second) == cudaSuccess);
  CHECK(cudaStreamSynchronize(first) == cudaErrorInvalidResourceHandle);
  check_clean();
}

TEST_CASE("memory knows what it is, and who wrote beside it") {
  fake_cuda::reset(2);
  CHECK(cudaSetDevice(1) == cudaSuccess);
  void *device = nullptr, *pinned = nullptr;
  CHECK(cudaMalloc(&device, 100) == cudaSuccess);
  CHECK(cudaHostAlloc(&pinned, 100, cudaHostAllocMapped) == cudaSuccess);
  int local = 7;
  cudaPointerAttributes is{};
  CHECK(cudaPointerGetAttributes(&is, static_cast<std::byte*>(device) + 99) == cudaSuccess);
  CHECK(is.type == cudaMemoryTypeDevice);
  CHECK(is.device == 1);
  CHECK(cudaPointerGetAttributes(&is, pinned) == cudaSuccess);
  CHECK(is.type == cudaMemoryTypeHost);
  CHECK(cudaPointerGetAttributes(&is, &local) == cudaSuccess);
  CHECK(is.type == cudaMemoryTypeUnregistered);

  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaMemsetAsync(device, 0, 100, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(device, &local, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  local = 8; // pageable: has been read already
  int back = 0;
  CHECK(cudaMemcpyAsync(&back, device, 4, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(back == 7); // pageable: has been written already
  CHECK(cudaMemcpyAsync(device, pinned, 101, cudaMemcpyDefault, stream) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(device, &local, 4, cudaMemcpyDeviceToHost, stream) ==
        cudaErrorInvalidValue);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(fake_cuda::problems().empty());

  CHECK(cudaFree(pinned) == cudaErrorInvalidValue);
  CHECK(fake_cuda::problems().size() == 1);
#if !defined(__SANITIZE_ADDRESS__) // which would not let these writes happen
  static_cast<std::byte*>(pinned)[100] = std::byte{1};
  CHECK(cudaFree(device) == cudaSuccess);
  static_cast<std::byte*>(device)[50] = std::byte{1};
  CHECK(fake_cuda::problems().size() == 3);
#endif
}

TEST_CASE("a capture records, refuses waits, and keeps its user objects") {
  fake_cuda::reset(1);
  cudaStream_t main = nullptr, side = nullptr;
  cudaEvent_t fork = nullptr, join = nullptr;
  CHECK(cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&fork, 0) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&join, 0) == cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;

  SUBCASE("replayed in order, with a fork") {
    int ran = 0, destroyed = 0;
    CHECK(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(fake_cuda::enqueue(main, "add", [&] { ++ran; }) == cudaSuccess);
    CHECK(cudaEventRecord(fork, main) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(side, fork, 0) == cudaSuccess);
    CHECK(fake_cuda::enqueue(side, "times ten", [&] { ran *= 10; }) == cudaSuccess);
    CHECK(cudaEventRecord(join, side) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(main, join, 0) == cudaSuccess);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t open = nullptr;
    std::size_t depends = 0;
    CHECK(cudaStreamGetCaptureInfo(main, &status, nullptr, &open, nullptr, nullptr, &depends) ==
          cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusActive);
    CHECK(depends == 2);
    cudaUserObject_t object = nullptr;
    const auto count_up = [](void* p) {
      ++*static_cast<int*>(p);
      CHECK(cudaFree(nullptr) == cudaErrorNotPermitted);
    };
    CHECK(cudaUserObjectCreate(&object, &destroyed, count_up, 1, cudaUserObjectNoDestructorSync) ==
          cudaSuccess);
    CHECK(cudaGraphRetainUserObject(open, object, 1, cudaGraphUserObjectMove) == cudaSuccess);
    CHECK(cudaStreamEndCapture(main, &graph) == cudaSuccess);
    CHECK(ran == 0);
    std::size_t nodes = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
    CHECK(nodes == 2);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, main) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, main) == cudaSuccess);
    CHECK(cudaStreamSynchronize(main) == cudaSuccess);
    CHECK(ran == 110);
    CHECK(destroyed == 0);
    CHECK(fake_cuda::problems().empty());
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
    CHECK(destroyed == 1);
    CHECK(fake_cuda::problems().size() == 1); // the destructor called CUDA
  }
  SUBCASE("waiting invalidates it") {
    CHECK(cudaStreamBeginCapture(main, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaStreamSynchronize(main) == cudaErrorStreamCaptureUnsupported);
    CHECK(fake_cuda::enqueue(main, "late", [] {}) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamEndCapture(main, &graph) == cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("so does allocating, in the same thread") {
    CHECK(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    std::thread{[] {
      void* memory = nullptr;
      CHECK(cudaMalloc(&memory, 8) == cudaSuccess);
      CHECK(cudaFree(memory) == cudaSuccess);
    }}.join();
    auto relaxed = cudaStreamCaptureModeRelaxed;
    CHECK(cudaThreadExchangeStreamCaptureMode(&relaxed) == cudaSuccess);
    CHECK(cudaStreamSynchronize(side) == cudaSuccess);
    CHECK(cudaThreadExchangeStreamCaptureMode(&relaxed) == cudaSuccess);
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, 8) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(main, &graph) == cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("forks must be joined") {
    CHECK(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaEventRecord(fork, main) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(side, fork, 0) == cudaSuccess);
    CHECK(cudaStreamEndCapture(main, &graph) == cudaErrorStreamCaptureUnjoined);
  }
  CHECK(cudaStreamSynchronize(side) == cudaSuccess);
  const fake_cuda::live_counts left{.streams = 2, .events = 2};
  CHECK(fake_cuda::live() == left);
}
