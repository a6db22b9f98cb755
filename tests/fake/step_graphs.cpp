// Decoupled buckets on the fake: what runs at which sizes in every launch of every way, budgets,
// misses, reports, and captures that fail.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"
#include "support/random_cases.hpp"

#include <dpgather/step_graphs.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

namespace dg = dpgather;
using dg::errc;
using dg::graph_sizes;
using namespace dg::graph_way;

dg::bucket_list list_of(std::initializer_list<std::int32_t> sizes) {
  dg::bucket_list out;
  for (const std::int32_t size : sizes) out.append(size);
  return out;
}

dg::graph_ladders two_ranks() {
  return {.own = list_of({1, 4, 6}), .shared = list_of({2, 6, 9, 12}), .ranks = 2};
}

/// A device with a stream, a total where kernels read it, and what ran.
struct machine {
  cudaStream_t stream = nullptr;
  std::int64_t* total = nullptr;
  std::vector<std::string> ran;

  machine() {
    fake_cuda::reset(1);
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    void* out = nullptr;
    REQUIRE(cudaMalloc(&out, sizeof *total) == cudaSuccess);
    total = new (out) std::int64_t{0};
  }
  ~machine() {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    cudaFree(total);
    fake_cuda::check_clean();
  }
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  /// What has run since the last time.
  std::vector<std::string> wait() {
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    return std::exchange(ran, {});
  }
};

/// Two layers and a finish; each part is a kernel that says so. Part number `fails` (from 1, of all
/// that are ever asked for) fails, or throws.
struct step {
  machine& on;
  std::int32_t count = 2;
  int fails = 0;
  bool throws = false;
  int asked = 0;

  [[nodiscard]] std::int32_t layers() const { return count; }
  dg::status local(std::int32_t layer, std::int32_t own, cudaStream_t stream) {
    return say(
        std::string{"L"}.append(std::to_string(layer)).append(":").append(std::to_string(own)),
        stream);
  }
  dg::status shared(std::int32_t layer, std::int32_t size, cudaStream_t stream) {
    return say(
        std::string{"S"}.append(std::to_string(layer)).append(":").append(std::to_string(size)),
        stream);
  }
  dg::status finish(std::int32_t own, cudaStream_t stream) {
    return say(std::string{"F:"}.append(std::to_string(own)), stream);
  }

private:
  dg::status say(const std::string& part, cudaStream_t stream) {
    if (++asked == fails) {
      if (throws) throw std::runtime_error{part};
      return {.code = errc::bad_fill, .where = "step"};
    }
    return dg::cuda_status(
        fake_cuda::enqueue(stream, part, [this, part] { on.ran.push_back(part); }), "say");
  }
};

std::vector<std::string> expected(std::int32_t own, std::int32_t shared) {
  const std::string o = std::to_string(own), s = std::to_string(shared);
  return {"L0:" + o, "S0:" + s, "L1:" + o, "S1:" + s, "F:" + o};
}

template <class Way>
inline constexpr bool is_coupled = std::is_same_v<Way, coupled>;
template <class Way>
inline constexpr bool at_largest = std::is_same_v<Way, device_rows>;

template <class Way>
dg::step_graphs<Way> graphs_on(machine& on, dg::graph_budget budget = {}) {
  return dg::step_graphs<Way>{two_ranks(), {.budget = budget, .total = on.total}};
}

/// Sizes of random counts, as a plan would have them; the total goes where kernels read it.
template <class Way>
graph_sizes draw(machine& on, test_support::random_source& random) {
  const dg::graph_ladders of = two_ranks();
  const auto own = random.between(0, 6), other = random.between(0, 6);
  (void)on.wait();
  *on.total = own + other;
  const std::int32_t shared = of.shared.smallest_at_least(own + other);
  if (is_coupled<Way>) return {shared, shared};
  return {of.own.smallest_at_least(own), shared};
}

} // namespace

TEST_CASE_TEMPLATE("every launch runs the step at its sizes", Way, coupled, pairs, piecewise,
                   switch_on_sum, device_rows) {
  machine on;
  {
    step steps{on};
    auto graphs = graphs_on<Way>(on);
    const std::int64_t estimated = graphs.estimate(steps).graphs;
    REQUIRE(graphs.capture(steps, on.stream).ok());
    CHECK(on.wait().empty()); // a capture runs nothing
    CHECK(graphs.report().cost.graphs == estimated);
    CHECK(fake_cuda::live().execs == estimated);
    CHECK(fake_cuda::live().graphs == 0);
    CHECK(fake_cuda::live().streams == 1);
    CHECK(graphs.report().cost.bytes ==
          estimated * static_cast<std::int64_t>(fake_cuda::bytes_of_exec));
    CHECK(graphs.report().cost.capture_us >= 0);

    test_support::random_source random{test_support::seed()};
    for (std::uint64_t i = 1; i <= 200; ++i) {
      graph_sizes sizes = draw<Way>(on, random);
      const std::int32_t shared = at_largest<Way> ? 12 : sizes.shared;
      if (!Way::asks_host && random.chance(50)) sizes.shared = 0; // the host need not know
      REQUIRE(graphs.launch(sizes, on.stream).ok());
      CHECK(on.wait() == expected(sizes.own, shared));
      CHECK(graphs.report().replays == i);
      CHECK(graphs.report().launches == i * (std::is_same_v<Way, piecewise> ? 5 : 1));
    }
    CHECK(graphs.report().misses == 0);
    CHECK(graphs.estimate(steps) == graphs.report().cost); // of all, from all
  }
  CHECK(fake_cuda::live().execs == 0);
}

TEST_CASE_TEMPLATE("a call by call step runs the same parts", Way, coupled, pairs, piecewise,
                   switch_on_sum, device_rows) {
  machine on;
  step steps{on};
  auto graphs = graphs_on<Way>(on);
  const graph_sizes sizes = is_coupled<Way> ? graph_sizes{9, 9} : graph_sizes{4, 9};
  REQUIRE(graphs.run(sizes, steps, on.stream).ok());
  CHECK(on.wait() == expected(sizes.own, at_largest<Way> ? 12 : 9));
  CHECK(graphs.report().eager == 1);
  CHECK(graphs.report().cost == dg::graph_cost{});
  // Not at sizes that no ladder has, nor at a sum that no host knows.
  CHECK(graphs.run({5, 9}, steps, on.stream).code == errc::no_bucket);
  const dg::status unknown = graphs.run({4, 0}, steps, on.stream);
  CHECK(unknown.ok() == at_largest<Way>);
  CHECK(on.wait().size() == (at_largest<Way> ? 5 : 0));
}

TEST_CASE("a missing graph is typed and counted, and nothing is launched") {
  machine on;
  step steps{on};
  auto graphs = graphs_on<pairs>(on);
  const graph_sizes chosen[] = {{4, 9}, {1, 2}};
  CHECK(graphs.launch({4, 9}, on.stream).code == errc::graph_missing); // none at all
  REQUIRE(graphs.capture(chosen, steps, on.stream).ok());
  CHECK(graphs.report().cost.graphs == 2);
  CHECK(graphs.has({4, 9}));
  CHECK_FALSE(graphs.has({4, 12}));
  const dg::status missing = graphs.launch({4, 12}, on.stream);
  CHECK(missing.code == errc::graph_missing);
  CHECK(missing.value == 4);
  CHECK(missing.limit == 12);
  CHECK(std::string{missing.message().c_str()} ==
        "graph_missing bucket: own 4, shared 12 [step_graphs::launch]");
  CHECK(on.wait().empty());
  CHECK(graphs.report().misses == 2);
  CHECK(graphs.report().replays == 0);
  REQUIRE(graphs.launch({4, 9}, on.stream).ok());
  CHECK(on.wait() == expected(4, 9));
}

TEST_CASE("piecewise launches all of a step or nothing") {
  machine on;
  step steps{on};
  auto graphs = graphs_on<piecewise>(on);
  const graph_sizes chosen[] = {{4, 9}, {1, 2}};
  REQUIRE(graphs.capture(chosen, steps, on.stream).ok());
  CHECK(graphs.report().cost.graphs == 2 * 5);
  // Both families have what it takes, so pairs that were never asked for are there.
  REQUIRE(graphs.launch({1, 9}, on.stream).ok());
  CHECK(on.wait() == expected(1, 9));
  // One half is missing: the other is not launched.
  CHECK(graphs.launch({4, 12}, on.stream).code == errc::graph_missing);
  CHECK(graphs.launch({6, 9}, on.stream).code == errc::graph_missing);
  CHECK(on.wait().empty());
}

TEST_CASE("on demand, until the budget is spent; then typed, counted, and call by call") {
  machine on;
  step steps{on};
  auto graphs = graphs_on<pairs>(on, {.graphs = 2});
  CHECK(graphs.budget().graphs == 2);
  for (const graph_sizes& sizes : {graph_sizes{4, 9}, {4, 9}, {1, 2}, {4, 9}, {1, 2}}) {
    REQUIRE(graphs.launch(sizes, steps, on.stream).ok());
    CHECK(on.wait() == expected(sizes.own, sizes.shared));
  }
  CHECK(graphs.report().misses == 2);
  CHECK(graphs.report().late == 2);
  const dg::status refused = graphs.launch({6, 12}, steps, on.stream);
  CHECK(refused.code == errc::over_budget);
  CHECK(std::string{refused.message().c_str()} ==
        "over_budget bucket: own 6, shared 12 [step_graphs::add]");
  CHECK(on.wait().empty());
  REQUIRE(graphs.run({6, 12}, steps, on.stream).ok());
  CHECK(on.wait() == expected(6, 12));
  REQUIRE(graphs.launch({4, 9}, steps, on.stream).ok()); // those that are there stay
  CHECK(on.wait() == expected(4, 9));
  const dg::graph_report report = graphs.report();
  CHECK(report.cost.graphs == 2);
  CHECK(report.cost.nodes == 2 * 5);
  CHECK(report.replays == 6);
  CHECK(report.launches == 6);
  CHECK(report.misses == 3);
  CHECK(report.late == 2);
  CHECK(report.refused == 1);
  CHECK(report.eager == 1);
}

TEST_CASE("a budget is looked at before anything is captured") {
  machine on;
  step steps{on};
  auto graphs = graphs_on<piecewise>(on, {.graphs = 16});
  const dg::status refused = graphs.capture(steps, on.stream); // 3 * 3 + 4 * 2
  CHECK(refused.code == errc::over_budget);
  CHECK(refused.value == 17);
  CHECK(refused.limit == 16);
  CHECK(steps.asked == 0);
  CHECK(graphs.report().refused == 1);
  CHECK(graphs.report().cost.graphs == 0);
  CHECK_FALSE(graphs.has({4, 9}));
}

TEST_CASE("a budget of bytes ends a capture that turns out larger, and one on demand") {
  machine on;
  step steps{on};
  const auto one = static_cast<std::int64_t>(fake_cuda::bytes_of_exec);
  auto graphs = graphs_on<pairs>(on, {.bytes = 3 * one});
  CHECK(graphs.capture(steps, on.stream).code == errc::over_budget);
  CHECK(graphs.report().cost == dg::graph_cost{}); // nothing is left
  CHECK(fake_cuda::live().execs == 0);
  for (const graph_sizes& sizes : {graph_sizes{4, 9}, {1, 2}, {6, 12}})
    CHECK(graphs.launch(sizes, steps, on.stream).ok());
  CHECK(graphs.launch({6, 9}, steps, on.stream).code == errc::over_budget);
  CHECK(graphs.report().cost.bytes == 3 * one);
  CHECK(graphs.report().refused == 2);
  (void)on.wait();
}

TEST_CASE_TEMPLATE("a part that fails or throws leaves a usable stream and no graphs", Way, coupled,
                   pairs, piecewise, switch_on_sum, device_rows) {
  int parts = 0;
  {
    machine on;
    step all{on};
    auto graphs = graphs_on<Way>(on);
    REQUIRE(graphs.capture(all, on.stream).ok());
    parts = all.asked;
  }
  for (const bool throws : {false, true}) {
    for (int fails = 1; fails <= parts; ++fails) {
      CAPTURE(fails);
      machine on;
      step steps{on};
      steps.fails = fails;
      steps.throws = throws;
      auto graphs = graphs_on<Way>(on);
      if (throws) {
        CHECK_THROWS_AS((void)graphs.capture(steps, on.stream), std::runtime_error);
      } else {
        CHECK(graphs.capture(steps, on.stream).code == errc::bad_fill);
      }
      CHECK(graphs.report().cost == dg::graph_cost{});
      fake_cuda::live_counts only_mine;
      only_mine.device_blocks = only_mine.streams = 1;
      CHECK(fake_cuda::live() == only_mine);
      CHECK(on.wait().empty());
      REQUIRE(graphs.capture(steps, on.stream).ok()); // the next one works
      const std::int32_t own = is_coupled<Way> ? 9 : 4;
      *on.total = 7;
      REQUIRE(graphs.launch({own, 9}, on.stream).ok());
      CHECK(on.wait() == expected(own, at_largest<Way> ? 12 : 9));
    }
  }
}

TEST_CASE("CUDA's failures are told, and leave no graphs") {
  for (const std::string call :
       {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphGetNodes",
        "cudaGraphInstantiate", "cudaGraphUpload", "cudaStreamGetCaptureInfo",
        "cudaGraphConditionalHandleCreate", "cudaGraphAddNode",
        "cudaStreamUpdateCaptureDependencies", "cudaStreamBeginCaptureToGraph", "enqueue",
        "cudaStreamCreateWithFlags"}) {
    for (const int nth : {1, 2}) {
      CAPTURE(call);
      CAPTURE(nth);
      machine on;
      step steps{on};
      auto graphs = graphs_on<switch_on_sum>(on);
      fake_cuda::fail_nth(call, nth, cudaErrorUnknown);
      const dg::status bad = graphs.capture(steps, on.stream);
      CHECK(bad.code == errc::native_error);
      CHECK(bad.native == cudaErrorUnknown);
      CHECK(graphs.report().cost == dg::graph_cost{});
      CHECK(fake_cuda::live().execs == 0);
      REQUIRE(graphs.capture(steps, on.stream).ok());
      *on.total = 12;
      fake_cuda::fail_nth("cudaGraphLaunch", 1, cudaErrorLaunchFailure);
      CHECK(graphs.launch({6, 12}, on.stream).native == cudaErrorLaunchFailure);
      CHECK(graphs.report().replays == 0);
      REQUIRE(graphs.launch({6, 12}, on.stream).ok());
      CHECK(on.wait() == expected(6, 12));
    }
  }
}

TEST_CASE("bytes that cannot be told are none") {
  machine on;
  step steps{on};
  for (const int nth : {1, 2}) {
    auto graphs = graphs_on<pairs>(on);
    fake_cuda::fail_nth("cudaMemGetInfo", nth, cudaErrorUnknown);
    REQUIRE(graphs.add({4, 9}, steps, on.stream).ok());
    CHECK(graphs.report().cost.bytes == 0);
  }
}

TEST_CASE("what does not make sense is refused") {
  machine on;
  step steps{on};
  auto graphs = graphs_on<pairs>(on);
  CHECK(graphs.add({3, 9}, steps, on.stream).code == errc::no_bucket);
  CHECK(graphs.add({4, 8}, steps, on.stream).code == errc::no_bucket);
  CHECK(graphs.launch({4, 8}, steps, on.stream).code == errc::no_bucket);
  step none{on};
  none.count = 0;
  CHECK(graphs.capture(none, on.stream).code == errc::bad_config);
  REQUIRE(graphs.add({4, 9}, steps, on.stream).ok());
  REQUIRE(graphs.add({4, 9}, steps, on.stream).ok()); // there is nothing to do
  CHECK(graphs.report().cost.graphs == 1);
  step other{on};
  other.count = 3;
  CHECK(graphs.add({4, 12}, other, on.stream).code == errc::bad_config); // another step
  dg::step_graphs<pairs> empty{{}};
  CHECK(empty.capture(steps, on.stream).code == errc::bad_buckets);

  dg::step_graphs<switch_on_sum> blind{two_ranks()}; // nobody said where the total is
  CHECK(blind.capture(steps, on.stream).code == errc::null_pointer);
  CHECK(on.wait().empty());
}

TEST_CASE("a total is counted in rows, and the largest size takes what is above") {
  machine on;
  step steps{on};
  dg::step_graphs<switch_on_sum> graphs{two_ranks(), {.total = on.total, .rows_per_request = 3}};
  REQUIRE(graphs.capture(steps, on.stream).ok());
  for (std::int64_t rows = 0; rows <= 40; ++rows) {
    std::int32_t shared = 12;
    for (const std::int32_t size : {9, 6, 2})
      if (size * 3 >= rows) shared = size;
    *on.total = rows;
    REQUIRE(graphs.launch({1, 0}, on.stream).ok());
    CHECK(on.wait() == expected(1, shared));
  }
}

TEST_CASE("the total is read where the stream stands") {
  machine on;
  // As with exchanged counts: the local part brings the total that the switch behind it reads.
  struct bringing {
    machine& on;
    [[nodiscard]] static std::int32_t layers() { return 1; }
    dg::status local(std::int32_t, std::int32_t own, cudaStream_t stream) {
      return dg::cuda_status(
          fake_cuda::enqueue(stream, "bring", [this, own] { *on.total = own + 1; }), "bring");
    }
    dg::status shared(std::int32_t, std::int32_t size, cudaStream_t stream) {
      return dg::cuda_status(
          fake_cuda::enqueue(stream, "part",
                             [this, size] { on.ran.push_back(std::to_string(size)); }),
          "part");
    }
  } steps{on};
  auto graphs = graphs_on<switch_on_sum>(on);
  REQUIRE(graphs.capture(steps, on.stream).ok());
  CHECK(graphs.report().cost.nodes == 3 * (1 + 2 + 4)); // local, chooser and switch, four bodies
  for (const auto& [own, shared] : {std::pair{1, "2"}, {4, "6"}, {6, "9"}}) {
    *on.total = 0;
    REQUIRE(graphs.launch({own, 0}, on.stream).ok());
    CHECK(on.wait() == std::vector<std::string>{shared});
  }
}

TEST_CASE("moved and cleared") {
  machine on;
  step steps{on};
  auto first = graphs_on<pairs>(on);
  REQUIRE(first.add({4, 9}, steps, on.stream).ok());
  dg::step_graphs<pairs> second{std::move(first)};
  CHECK_FALSE(first.has({4, 9})); // NOLINT: what is left is empty
  CHECK(first.report() == dg::graph_report{});
  REQUIRE(second.launch({4, 9}, on.stream).ok());
  auto third = graphs_on<pairs>(on);
  REQUIRE(third.add({1, 2}, steps, on.stream).ok());
  third = std::move(second);
  CHECK_FALSE(third.has({1, 2}));
  REQUIRE(third.launch({4, 9}, on.stream).ok());
  CHECK(third.report().replays == 2);
  CHECK(fake_cuda::live().execs == 1);
  third.clear();
  CHECK(third.report().replays == 2);
  CHECK(third.report().cost == dg::graph_cost{});
  CHECK(third.launch({4, 9}, on.stream).code == errc::graph_missing);
  CHECK(fake_cuda::live().execs == 0);
  (void)on.wait();
}
