// Ranks replay different graphs over NVLink, by every way, for counts drawn anew in every step and
// without a barrier between replays: every byte, and the size that every part ran at, is looked at
// by the graphs themselves.
#include <support/step_engine.cuh>

#include <doctest/doctest.h>

#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <type_traits>

namespace dg = dpgather;

namespace test_support {

struct decoupled : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {
  using ladder_type = dg::ladder::from_config;
};
struct decoupled_exchanged : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::layout::packed,
                                        dg::lookup::own, dg::ladder::from_config, dg::comm::peer> {
};

inline constexpr std::int32_t layers = 2;
inline constexpr int random_steps = 10'000;

/// What one rank does with its graphs before and in a step.
enum class graphs_of_rank : std::uint8_t {
  ahead,     ///< all are captured first
  on_demand, ///< none is
  budgeted   ///< a few are captured on demand, other steps are launched call by call
};

/// One rank's replays by one way.
template <class Way, class Policy>
void replay_steps(dg::host_communicator comm, graphs_of_rank how, int steps) {
  step_engine<Policy> engine{comm, layers};
  engine.coupled = std::is_same_v<Way, dg::graph_way::coupled>;
  engine.shared_largest = std::is_same_v<Way, dg::graph_way::device_rows>;
  std::uint64_t wrong = 0;
  {
    dg::step_graph_options options;
    options.total = &engine.dp().live_counts()->total;
    if (how == graphs_of_rank::budgeted)
      options.budget.graphs = Way::graphs(engine.ladders(), {layers, true}) / 3;
    dg::step_graphs<Way> graphs{engine.ladders(), options};
    const std::int64_t estimated = graphs.estimate(engine).graphs;
    if (how == graphs_of_rank::ahead) must(graphs.capture(engine, engine.stream()), "capture");
    must(comm.barrier(), "captured"); // peers wait no longer than a kernel's deadline
    for (int i = 0; i < steps; ++i) {
      const dg::graph_sizes sizes = engine.begin(static_cast<std::uint64_t>(i) + 1);
      if (how == graphs_of_rank::ahead) {
        must(graphs.launch(sizes, engine.stream()), "launch");
        continue;
      }
      dg::status done = graphs.launch(sizes, engine, engine.stream());
      if (how == graphs_of_rank::budgeted && done.code == dg::errc::over_budget)
        done = graphs.run(sizes, engine, engine.stream());
      must(done, "step");
    }
    wrong = engine.wrong();
    const dg::graph_report& report = graphs.report();
    std::printf("%-13s %-9s rank %d: %d steps, %" PRIu64 " with other own sizes; graphs %" PRId64
                " of %" PRId64 ", nodes %" PRId64 ", %" PRId64 " us, %" PRId64
                " KiB; replays %" PRIu64 " misses %" PRIu64 " late %" PRIu64 " refused %" PRIu64
                " eager %" PRIu64 " wrong %" PRIu64 "\n",
                Way::name,
                Policy::counts_type::kind == dg::counts_kind::agreed ? "agreed" : "exchanged",
                comm.rank(), steps, engine.different(), report.cost.graphs, estimated,
                report.cost.nodes, report.cost.capture_us, report.cost.bytes / 1024, report.replays,
                report.misses, report.late, report.refused, report.eager, wrong);
    std::fflush(stdout);
    CHECK(wrong == 0);
    CHECK(report.replays + report.eager == static_cast<std::uint64_t>(steps));
    CHECK(report.cost.graphs <= estimated);
    if (how == graphs_of_rank::ahead) CHECK(report.cost.graphs == estimated);
    if (how == graphs_of_rank::budgeted) {
      CHECK(report.cost.graphs == options.budget.graphs);
      CHECK(report.refused == report.eager);
      CHECK(report.eager > 0);
    } else {
      CHECK(report.eager == 0);
    }
    // Nothing was left out: a part that never ran has found nothing wrong.
    const auto [own, shared] = engine.parts_run();
    const auto all = static_cast<std::uint64_t>(steps);
    CHECK(own == (engine.coupled ? 0 : all * (layers + 1)));
    CHECK(shared == all * layers);
    CHECK(engine.different() > all / 4);
  }
  must(comm.barrier(), "replayed");
  // All graphs are gone, bodies of SWITCH nodes too: CUDA may let go a little later.
  dg::status closed = engine.world().close();
  for (int i = 0; i < 1000 && closed.code == dg::errc::graphs_alive; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
    closed = engine.world().close();
  }
  must(closed, "close");
}

/// The same on two ranks, each by a way of its own.
template <class First, class Second, class Policy = decoupled>
void replay_different_graphs(graphs_of_rank first, graphs_of_rank second, int steps) {
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{.dp_size = 2}, clock, 200'000'000'000};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    cuda_must(cudaSetDevice(comm.rank()), "device");
    if (comm.rank() == 0) {
      replay_steps<First, Policy>(comm, first, steps);
    } else {
      replay_steps<Second, Policy>(comm, second, steps);
    }
    must(comm.barrier(), "end");
  });
}

} // namespace test_support

namespace ts = test_support;
using namespace dg::graph_way;
using ts::graphs_of_rank;

TEST_CASE_TEMPLATE("every way, all graphs captured ahead", Way, coupled, pairs, piecewise,
                   switch_on_sum, device_rows) {
  ts::replay_different_graphs<Way, Way>(graphs_of_rank::ahead, graphs_of_rank::ahead,
                                        ts::random_steps);
}

TEST_CASE("pairs on demand; a rank over its budget goes call by call while its peer replays") {
  ts::replay_different_graphs<pairs, pairs>(graphs_of_rank::on_demand, graphs_of_rank::on_demand,
                                            ts::random_steps);
  ts::replay_different_graphs<pairs, pairs>(graphs_of_rank::budgeted, graphs_of_rank::ahead,
                                            ts::random_steps);
}

TEST_CASE("each rank by a way of its own") {
  ts::replay_different_graphs<pairs, piecewise>(graphs_of_rank::ahead, graphs_of_rank::ahead,
                                                ts::random_steps);
  ts::replay_different_graphs<switch_on_sum, pairs>(graphs_of_rank::ahead,
                                                    graphs_of_rank::on_demand, ts::random_steps);
}

TEST_CASE_TEMPLATE("counts that no host knows", Way, switch_on_sum, device_rows) {
  ts::replay_different_graphs<Way, Way, ts::decoupled_exchanged>(
      graphs_of_rank::ahead, graphs_of_rank::ahead, ts::random_steps);
}
