// A SWITCH node by a total, on the fake; and what the fake itself does with such nodes.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"

#include <dpgather/graph_switch.cuh>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

using namespace dpgather;

bucket_list up_to(std::int32_t count, std::int32_t step) {
  bucket_list out;
  for (std::int32_t i = 1; i <= count; ++i) out.append(i * step);
  return out;
}

struct machine {
  cudaStream_t stream = nullptr, side = nullptr;
  std::int64_t* total = nullptr;
  std::vector<std::int32_t> ran;

  machine() {
    fake_cuda::reset(1);
    for (cudaStream_t* each : {&stream, &side})
      REQUIRE(cudaStreamCreateWithFlags(each, cudaStreamNonBlocking) == cudaSuccess);
    void* out = nullptr;
    REQUIRE(cudaMalloc(&out, sizeof *total) == cudaSuccess);
    total = new (out) std::int64_t{0};
  }
  ~machine() {
    for (cudaStream_t each : {stream, side}) {
      cudaStreamSynchronize(each);
      cudaStreamDestroy(each);
    }
    cudaFree(total);
    fake_cuda::check_clean();
  }
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  status say(std::int32_t what, cudaStream_t on) {
    return cuda_status(fake_cuda::enqueue(on, "say", [this, what] { ran.push_back(what); }), "say");
  }
  /// -1, the body's size, -2.
  result<captured_graph> capture(const bucket_list& sizes, std::int32_t rows_per_request = 1) {
    return captured_graph::capture(stream, [&]() -> status {
      if (status bad = say(-1, stream); !bad) return bad;
      const auto nodes =
          capture_switch(sizes, total, rows_per_request, stream, side,
                         [&](std::int32_t size, cudaStream_t on) { return say(size, on); });
      if (!nodes) return nodes.status();
      CHECK(*nodes == sizes.size());
      return say(-2, stream);
    });
  }
  std::vector<std::int32_t> replay(const captured_graph& graph, std::int64_t rows) {
    *total = rows;
    REQUIRE(graph.launch(stream).ok());
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    return std::exchange(ran, {});
  }
};

} // namespace

TEST_CASE("the body of the smallest size that holds the total runs, between its neighbours") {
  for (const std::int32_t count : {1, 2, 3, 7, 64}) {
    for (const std::int32_t width : {1, 3}) {
      machine on;
      const bucket_list sizes = up_to(count, 5);
      const auto graph = on.capture(sizes, width);
      REQUIRE(graph.ok());
      CHECK(graph->cost().nodes == 4);
      for (std::int64_t rows = 0; rows <= (count + 1) * 5 * width; ++rows) {
        std::int32_t size = sizes.largest(); // what is above takes the largest
        for (const std::int32_t each : sizes.span())
          if (std::int64_t{each} * width >= rows) size = std::min(size, each);
        CHECK(on.replay(*graph, rows) == std::vector<std::int32_t>{-1, size, -2});
      }
    }
  }
}

TEST_CASE("as many bodies as a kernel's parameters hold, and no more") {
  machine on;
  const auto graph = on.capture(up_to(max_switch_bodies, 1));
  REQUIRE(graph.ok());
  CHECK(on.replay(*graph, max_switch_bodies)[1] == max_switch_bodies);
  const auto refused = on.capture(up_to(max_switch_bodies + 1, 1));
  CHECK(refused.code() == errc::bad_buckets);
  CHECK(refused.status().value == max_switch_bodies + 1);
  CHECK(on.capture({}).code() == errc::bad_buckets);
  static_assert(sizeof(choose_body<executor<cudaStream_t>>) <= 4096);
}

TEST_CASE("a switch needs a capture") {
  machine on;
  const auto nodes = capture_switch(up_to(2, 1), on.total, 1, on.stream, on.side,
                                    [](std::int32_t, cudaStream_t) { return status{}; });
  CHECK(nodes.status().native == cudaErrorIllegalState);
}

TEST_CASE("what a body captures of user objects lives as long as the executable graph") {
  machine on;
  int released = 0;
  {
    const auto graph = captured_graph::capture(on.stream, [&]() -> status {
      return capture_switch(
                 up_to(2, 1), on.total, 1, on.stream, on.side,
                 [&](std::int32_t, cudaStream_t side) {
                   cudaStreamCaptureStatus now{};
                   cudaGraph_t body = nullptr;
                   cudaUserObject_t object = nullptr;
                   CHECK(cudaStreamGetCaptureInfo(side, &now, nullptr, &body) == cudaSuccess);
                   const auto release = [](void* count) { ++*static_cast<int*>(count); };
                   CHECK(cudaUserObjectCreate(&object, &released, release, 1,
                                              cudaUserObjectNoDestructorSync) == cudaSuccess);
                   return cuda_status(
                       cudaGraphRetainUserObject(body, object, 1, cudaGraphUserObjectMove),
                       "retain");
                 })
          .status();
    });
    REQUIRE(graph.ok());
    CHECK(released == 0);
  }
  CHECK(released == 2);
}
