// A second stream that starts where another one stands and that the other one waits for.
#include <dpgather/device/side_stream.cuh>

#include <support/fake_cuda/as_ranks.hpp>
#include <support/fake_cuda/fake_cuda.hpp>

#include <doctest/doctest.h>

#include <future>
#include <string>

namespace dg = dpgather;
using fake_cuda::check_clean;

namespace {

struct streams {
  streams() { REQUIRE(cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking) == cudaSuccess); }
  ~streams() { CHECK(cudaStreamDestroy(main) == cudaSuccess); }
  cudaStream_t main = nullptr;
};

} // namespace

TEST_CASE("the side stream begins behind the other one's work, which goes on behind its own") {
  fake_cuda::reset(1);
  {
    streams with;
    dg::side_stream side;
    REQUIRE(side.check().ok());
    for (int step = 0; step < 3; ++step) { // the same two events
      std::promise<void> open;
      std::string order;
      REQUIRE(fake_cuda::enqueue(with.main, "gate", [&] { open.get_future().wait(); }) ==
              cudaSuccess);
      REQUIRE(fake_cuda::enqueue(with.main, "before", [&] { order += 'b'; }) == cudaSuccess);
      REQUIRE(side.start(with.main).ok());
      REQUIRE(fake_cuda::enqueue(side.stream(), "beside", [&] { order += 's'; }) == cudaSuccess);
      CHECK(cudaStreamQuery(side.stream()) == cudaErrorNotReady);
      REQUIRE(side.wait(with.main).ok());
      REQUIRE(fake_cuda::enqueue(with.main, "behind", [&] { order += 'a'; }) == cudaSuccess);
      open.set_value();
      REQUIRE(cudaStreamSynchronize(with.main) == cudaSuccess);
      CHECK(order == "bsa");
    }
    CHECK(fake_cuda::calls("cudaEventCreateWithFlags") == 2);
  }
  check_clean();
}

TEST_CASE("a capture takes the side stream in and back") {
  fake_cuda::reset(1);
  {
    streams with;
    dg::side_stream side;
    int ran = 0;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    REQUIRE(cudaStreamBeginCapture(with.main, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE(side.start(with.main).ok());
    REQUIRE(fake_cuda::enqueue(side.stream(), "beside", [&] { ++ran; }) == cudaSuccess);
    REQUIRE(side.wait(with.main).ok());
    REQUIRE(cudaStreamEndCapture(with.main, &graph) == cudaSuccess);
    CHECK(ran == 0);
    REQUIRE(cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess);
    for (int i = 0; i < 2; ++i) REQUIRE(cudaGraphLaunch(ready, with.main) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(with.main) == cudaSuccess);
    CHECK(ran == 2);
    CHECK(cudaGraphExecDestroy(ready) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  }
  check_clean();
}

TEST_CASE("a borrowed stream is left alone, and what cannot be made is named") {
  fake_cuda::reset(1);
  {
    streams with;
    { const dg::side_stream side{with.main}; }
    CHECK(fake_cuda::calls("cudaStreamDestroy") == 0);

    fake_cuda::fail_nth("cudaEventCreateWithFlags", 2, cudaErrorMemoryAllocation);
    dg::side_stream side;
    CHECK(side.check().code == dg::errc::native_error);
    CHECK(side.check().native == cudaErrorMemoryAllocation);
    CHECK(side.start(with.main).code == dg::errc::native_error);
    CHECK(side.wait(with.main).code == dg::errc::native_error);
    CHECK(fake_cuda::calls("cudaEventRecord") == 0);
  }
  check_clean();
}
