// What a step is, and how its parts are recorded, on the fake.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"

#include <dpgather/graph_step.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dpgather;

struct plain {
  std::vector<std::string> said;
  [[nodiscard]] std::int32_t layers() const { return 3; }
  status local(std::int32_t layer, std::int32_t own, cudaStream_t) {
    said.push_back(
        std::string{"L"}.append(std::to_string(layer)).append(":").append(std::to_string(own)));
    return {};
  }
  status shared(std::int32_t layer, std::int32_t size, cudaStream_t) {
    said.push_back(
        std::string{"S"}.append(std::to_string(layer)).append(":").append(std::to_string(size)));
    return {.code = errc::bad_fill};
  }
};
struct finishing : plain {
  status finish(std::int32_t own, cudaStream_t) {
    said.push_back(std::string{"F:"}.append(std::to_string(own)));
    return {.code = errc::busy};
  }
};
struct layers_change : plain {
  [[nodiscard]] std::int32_t layers() { return 3; } // not of a const step
};
struct without_shared {
  [[nodiscard]] std::int32_t layers() const { return 3; }
  status local(std::int32_t, std::int32_t, cudaStream_t) { return {}; }
};
struct answers_nothing : plain {
  void local(std::int32_t, std::int32_t, cudaStream_t) {}
};

static_assert(graph_step<plain> && graph_step<finishing>);
static_assert(!graph_step<layers_change> && !graph_step<without_shared> &&
              !graph_step<answers_nothing> && !graph_step<int>);
static_assert(!detail::finishes<plain> && detail::finishes<finishing>);

} // namespace

TEST_CASE("an outline says how many layers, and whether something follows them") {
  CHECK(detail::outline_of(plain{}) == step_outline{3, false});
  CHECK(detail::outline_of(finishing{}) == step_outline{3, true});
}

TEST_CASE("parts are the step's, and so are their errors") {
  finishing step;
  const graph_ladders ladders;
  const step_graph_options options;
  detail::step_recorder<finishing> to{step, ladders, options, nullptr, nullptr};
  CHECK(to.local(1, 4).ok());
  CHECK(to.shared(2, 8).code == errc::bad_fill);
  CHECK(to.finish(4).code == errc::busy);
  CHECK(step.said == std::vector<std::string>{"L1:4", "S2:8", "F:4"});
  CHECK(to.switched(0).code == errc::bad_buckets); // no sizes
  plain other;
  detail::step_recorder<plain> without{other, ladders, options, nullptr, nullptr};
  CHECK(without.finish(4).ok());
  CHECK(other.said.empty());
}
