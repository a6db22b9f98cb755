// Ranks that enter one call with different plans: the same named error on all of them, both sides
// named, nothing written, and nothing goes on after it.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/call_bench.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using dg::errc;
using dg::subject;
using ts::call_kind;
using ts::rank_call;

namespace {

/// What all ranks must answer. `mine`: what the message must say of the rank that differs from rank
/// 0, `theirs`: of rank 0.
struct divergence {
  subject about = subject::none;
  std::string victims;
  std::string others;
};

constexpr std::int32_t ranks = 4;
const std::vector<std::int32_t> rows{5, 3, 0, 8};

/// Everything that comes after a divergence fails at once, with the first cause.
void check_poisoned(ts::gather_world& world, ts::call_bench& bench) {
  const auto check = [](const dg::status& said) {
    CHECK_MESSAGE(said.code == errc::poisoned, std::string{said.message().view()});
    CHECK(said.cause == errc::plan_mismatch);
    // A mismatch of modes has a sentence of its own.
    CHECK(ts::message_has(
        said, {"poisoned", said.about == subject::mode ? "plan has mode=" : "plan_mismatch"}));
  };
  for (const call_kind kind : {call_kind::gather, call_kind::combine}) {
    bench.prepare(kind, rows, 50);
    bench.run();
    for (std::int32_t rank = 0; rank < world.size(); ++rank) {
      check(bench[rank].got);
      CHECK(bench[rank].nothing_written());
    }
  }
  std::vector<dg::status> said(static_cast<std::size_t>(world.size()));
  world.run([&](std::int32_t rank) {
    dg::host_communicator comm = world.comm(rank);
    said[static_cast<std::size_t>(rank)] = world[rank].agree(comm, world[rank].record(51)).status();
  });
  for (const dg::status& s : said) check(s);
  CHECK(world.world().first_failure().code == errc::plan_mismatch);
}

/// `change` makes the victim's call another one; each rank in turn is the victim.
void check_diverges(const ts::gather_variant& policy, call_kind kind, const char* what,
                    const std::function<void(ts::gather_world&, rank_call&, std::int32_t)>& change,
                    const divergence& expected, dg::topology shape = {.dp_size = ranks},
                    bool graph = false) {
  CAPTURE(std::string{what});
  CAPTURE(policy.name);
  CAPTURE(std::string{ts::name_of(kind)});
  for (std::int32_t victim = 0; victim < shape.world_size(); ++victim) {
    CAPTURE(victim);
    ts::gather_world world{shape, ts::small_config(), policy};
    ts::call_bench bench{world};
    const std::vector<std::int32_t> counts(rows.begin(), rows.begin() + shape.dp_size);
    // One call that works first, so that buffers and lists hold something old.
    bench.prepare(kind, counts, 1, graph);
    bench.run();
    bench.check_done();
    bench.prepare(kind, counts, 2, graph);
    change(world, bench[victim], victim);
    bench[victim].local_before = bench[victim].local_memory.snapshot();
    bench.run();
    // The first rank that differs from rank 0 is named.
    const std::int32_t named = victim == 0 ? 1 : victim;
    const std::string& its = victim == 0 ? expected.others : expected.victims;
    const std::string& zeros = victim == 0 ? expected.victims : expected.others;
    for (std::int32_t rank = 0; rank < world.size(); ++rank) {
      CAPTURE(rank);
      const dg::status& said = bench[rank].got;
      CHECK_MESSAGE(said.code == errc::plan_mismatch, std::string{said.message().view()});
      CHECK(said.about == expected.about);
      CHECK(said.rank == named);
      CHECK(said.peer == 0);
      CHECK(said.message().view() == bench[0].got.message().view());
      CHECK(ts::message_has(
          said, {"rank " + std::to_string(named) + ", call 2", "but rank 0 has", its, zeros}));
      CHECK(bench[rank].nothing_written());
    }
    CHECK(world.workspaces_intact());
    if (shape.tp_size == 1) check_poisoned(world, bench);
  }
}

const auto for_each_kind = [](auto&& body) {
  for (const call_kind kind : {call_kind::gather, call_kind::combine}) body(kind);
};

struct exact_slots : dg::policy<dg::mode::exact, dg::padding::max_len> {};

} // namespace

TEST_CASE("a plan of another step") {
  for_each_kind([](call_kind kind) {
    for (const ts::gather_variant& policy :
         {ts::named<dg::exact_eager>("exact"), ts::named<dg::max_always>("max"),
          ts::named<dg::sum_always>("sum")}) {
      check_diverges(policy, kind, "stale plan",
                     [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
                       call.plan = world.plan(victim, rows, 1);
                     },
                     {subject::step, " 1", " 2"});
    }
  });
}

TEST_CASE("counts that changed after the plan") {
  for_each_kind([](call_kind kind) {
    check_diverges(ts::named<dg::exact_eager>("exact"), kind, "one row more on another rank",
                   [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
                     std::vector<std::int32_t> other = rows;
                     other[static_cast<std::size_t>(victim == 3 ? 0 : 3)] -= 1;
                     call.plan = world.plan(victim, other, 2);
                   },
                   {subject::counts, "counts", "counts"});
  });
}

TEST_CASE("another mode, chosen from other counts") {
  for_each_kind([](call_kind kind) {
    check_diverges(ts::named<dg::pr8278>("pr8278"), kind, "mode",
                   [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
                     // 5 + 3 + 0 + 8 is half of 4 * 8: a tie, an all-reduce.
                     std::vector<std::int32_t> other = rows;
                     other[static_cast<std::size_t>(victim == 2 ? 1 : 2)] += 3;
                     call.plan = world.plan(victim, other, 2);
                     REQUIRE(call.plan.mode == dg::mode_kind::all_gather);
                     // Its buffers would be large enough: only the plan is wrong.
                     call.global.rows = call.plan.global_rows;
                   },
                   {subject::mode, "mode=all_gather bucket=0", "mode=all_reduce bucket=0"});
  });
}

TEST_CASE("another bucket of the same graph mode") {
  for_each_kind([](call_kind kind) {
    check_diverges(
        ts::named<dg::max_always>("max"), kind, "bucket",
        [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
          std::vector<std::int32_t> other = rows;
          other[static_cast<std::size_t>(victim == 3 ? 0 : 3)] = 9;
          call.plan = world.plan(victim, other, 2, true);
          call.global.rows = call.plan.global_rows;
        },
        {subject::mode, "mode=all_gather bucket=16", "mode=all_gather bucket=8"},
        {.dp_size = ranks}, true);
  });
}

TEST_CASE("eager here, a graph there") {
  check_diverges(ts::named<dg::max_always>("max"), call_kind::gather, "situation",
                 [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
                   call.plan = world.plan(victim, rows, 2, true);
                 },
                 {subject::mode, "mode=all_gather bucket=8", "mode=all_gather bucket=0"});
}

TEST_CASE("another layout") {
  for_each_kind([](call_kind kind) {
    check_diverges(ts::named<exact_slots>("exact_slots"), kind, "layout",
                   [](ts::gather_world&, rank_call& call, std::int32_t) {
                     call.plan.layout = dg::layout_kind::packed;
                   },
                   {subject::layout, "packed", "slots"});
  });
}

TEST_CASE("another element, another row size, consistent on the rank itself") {
  for_each_kind([](call_kind kind) {
    for (const ts::gather_variant& policy :
         {ts::named<dg::exact_eager>("exact"), ts::named<dg::max_always>("max"),
          ts::named<dg::sum_always>("sum")}) {
      check_diverges(policy, kind, "element",
                     [](ts::gather_world&, rank_call& call, std::int32_t) {
                       call.local.type = call.global.type = element::i32;
                     },
                     {subject::element, "i32", "f32"});
      check_diverges(policy, kind, "row bytes",
                     [](ts::gather_world&, rank_call& call, std::int32_t) {
                       for (ts::view_numbers* v : {&call.local, &call.global})
                         v->row_bytes = v->stride = 16;
                     },
                     {subject::row_bytes, "16", "32"});
    }
  });
}

TEST_CASE("another configuration hash of the shape, and rows of another kind") {
  check_diverges(ts::named<dg::exact_eager>("exact"), call_kind::gather, "digest",
                 [](ts::gather_world&, rank_call& call, std::int32_t) { call.plan.digest ^= 1; },
                 {subject::config, "config", "config"});
  check_diverges(ts::named<dg::exact_eager>("exact"), call_kind::gather,
                 "logits instead of hidden rows",
                 [](ts::gather_world& world, rank_call& call, std::int32_t victim) {
                   call.plan = world.plan(victim, rows, 2, false, dg::row_kind::logits);
                 },
                 {subject::config, "config", "config"});
}

TEST_CASE("partial rows here, replicated rows there") {
  for (const ts::gather_variant& policy :
       {ts::named<dg::exact_eager>("exact"), ts::named<dg::max_always>("max"),
        ts::named<dg::sum_always>("sum")}) {
    check_diverges(policy, call_kind::gather, "partial",
                   [](ts::gather_world&, rank_call& call, std::int32_t) {
                     call.kind = call_kind::gather_partial;
                   },
                   {subject::local, "partial", "replicated"}, {.dp_size = 2, .tp_size = 2});
  }
}

TEST_CASE("gather here, combine there") {
  check_diverges(
      ts::named<dg::exact_eager>("exact"), call_kind::gather, "operation",
      [](ts::gather_world&, rank_call& call, std::int32_t) { call.kind = call_kind::combine; },
      {subject::operation, "combine", "gather"});
  check_diverges(
      ts::named<dg::max_always>("max"), call_kind::combine, "operation",
      [](ts::gather_world&, rank_call& call, std::int32_t) { call.kind = call_kind::gather; },
      {subject::operation, "gather", "combine"});
}

TEST_CASE("a rank whose channel is one call behind") {
  const dg::topology shape{.dp_size = 3};
  auto world = ts::gather_world::of<dg::exact_eager>(shape, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, {5, 3, 0}, 1);
  bench.run();
  bench.check_done();
  // Rank 2 lost its object and made a new one; the others did not.
  std::vector<std::byte> workspace(16 * 32);
  dg::gather_config config = ts::small_config();
  config.topology = shape.at(2);
  ts::gather_engine_of<dg::exact_eager> fresh{world.comm(2), config, workspace};
  bench.prepare(call_kind::gather, {5, 3, 0}, 2);
  world.run([&](std::int32_t rank) {
    if (rank == 2) {
      bench[rank].got = ts::call_bench::make_call(fresh, bench[rank]);
    } else {
      bench.enter(rank);
    }
  });
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    const dg::status& said = bench[rank].got;
    CHECK(said.code == errc::plan_mismatch);
    CHECK(said.about == subject::call);
    CHECK(said.rank == 2);
    CHECK(said.value == 1);
    CHECK(said.limit == 2);
    CHECK(bench[rank].nothing_written());
  }
}

TEST_CASE("counts::device: engines that wrote different counts") {
  struct device_counts : dg::policy<dg::mode::exact, dg::counts::device> {};
  auto world = ts::gather_world::of<device_counts>({.dp_size = 3}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, {5, 3, 0}, 1);
  for (std::int32_t rank = 0; rank < 3; ++rank)
    world[rank].write_counts(rank == 1 ? std::vector<std::int32_t>{5, 3, 1}
                                       : std::vector<std::int32_t>{5, 3, 0});
  bench.run();
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    CHECK(bench[rank].got.code == errc::plan_mismatch);
    CHECK(bench[rank].got.about == subject::counts);
    CHECK(bench[rank].got.rank == 1);
    CHECK(bench[rank].nothing_written());
  }
}

TEST_CASE("a divergence weighs more than a refusal, and everybody hears of it") {
  auto world = ts::gather_world::of<dg::max_always>({.dp_size = 4}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, rows, 2);
  --bench[0].local.rows;                  // refuses
  bench[3].plan = world.plan(3, rows, 1); // diverges
  bench.run();
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    CHECK(bench[rank].got.code == errc::plan_mismatch);
    CHECK(bench[rank].got.rank == 3);
    CHECK(bench[rank].nothing_written());
  }
}
