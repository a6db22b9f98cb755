// One executable graph and its cost, on the fake.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"

#include <dpgather/captured_graph.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace {

using namespace dpgather;

struct machine {
  cudaStream_t stream = nullptr;
  int ran = 0;

  machine() {
    fake_cuda::reset(1);
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  }
  ~machine() {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    fake_cuda::check_clean();
  }
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  status kernels(int count) {
    for (int i = 0; i < count; ++i) {
      const cudaError_t code = fake_cuda::enqueue(stream, "kernel", [this] { ++ran; });
      if (code != cudaSuccess) return cuda_status(code, "kernels");
    }
    return {};
  }
  int wait() {
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    return std::exchange(ran, 0);
  }
};

constexpr auto bytes_of_one = static_cast<std::int64_t>(fake_cuda::bytes_of_exec);

} // namespace

TEST_CASE("a graph runs what was captured, and knows what it cost") {
  machine on;
  result<captured_graph> made = captured_graph::capture(on.stream, [&] { return on.kernels(3); });
  REQUIRE(made.ok());
  CHECK(on.wait() == 0);
  CHECK(made->cost().graphs == 1);
  CHECK(made->cost().nodes == 3);
  CHECK(made->cost().bytes == bytes_of_one);
  CHECK(made->cost().capture_us >= 0);
  made->add_inner_nodes(4);
  CHECK(made->cost().nodes == 7);
  for (int i = 0; i < 2; ++i) REQUIRE(made->launch(on.stream).ok());
  CHECK(on.wait() == 6);
  CHECK(fake_cuda::live().graphs == 0); // only the executable is kept
  CHECK(fake_cuda::calls("cudaGraphUpload") == 1);
}

TEST_CASE("graphs are moved, not copied, and gone with their owner") {
  machine on;
  {
    captured_graph none;
    CHECK_FALSE(none);
    auto one = captured_graph::capture(on.stream, [&] { return on.kernels(1); });
    auto two = captured_graph::capture(on.stream, [&] { return on.kernels(2); });
    REQUIRE(one.ok());
    REQUIRE(two.ok());
    CHECK(fake_cuda::live().execs == 2);
    captured_graph kept{*std::move(one)};
    CHECK(static_cast<bool>(kept));
    kept = *std::move(two); // the first one goes
    CHECK(fake_cuda::live().execs == 1);
    REQUIRE(kept.launch(on.stream).ok());
    CHECK(on.wait() == 2);
    none = std::move(kept);
    CHECK_FALSE(kept); // NOLINT: what is left is empty
    CHECK(kept.cost() == graph_cost{});
    CHECK(none.cost().nodes == 2);
    none.reset();
    CHECK_FALSE(none);
    CHECK(fake_cuda::live().execs == 0);
    CHECK_FALSE(none.launch(on.stream).ok());
  }
  static_assert(!std::is_copy_constructible_v<captured_graph>);
}

TEST_CASE("a body that fails says more than the capture that it spoilt") {
  machine on;
  const auto refuse = [&] {
    (void)cudaStreamSynchronize(on.stream); // spoils it
    return status{.code = errc::bad_fill};
  };
  CHECK(captured_graph::capture(on.stream, refuse).code() == errc::bad_fill);
  const auto spoil = [&] {
    (void)cudaStreamSynchronize(on.stream);
    return status{};
  };
  const auto spoilt = captured_graph::capture(on.stream, spoil, "here");
  CHECK(spoilt.status().native == cudaErrorStreamCaptureInvalidated);
  CHECK(std::string{spoilt.status().where} == "here");
  const auto leave = [&]() -> status { throw std::runtime_error{"body"}; };
  CHECK_THROWS_AS((void)captured_graph::capture(on.stream, leave), std::runtime_error);
  CHECK(cudaGetLastError() == cudaSuccess);
  REQUIRE(on.kernels(1).ok()); // the stream is usable
  CHECK(on.wait() == 1);
}
