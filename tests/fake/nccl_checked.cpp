// checks::checked over NCCL: ranks compare what they are about to do, on the host, before anything
// moves.
#include "support/nccl_bench.hpp"

#include <dpgather/errc.hpp>
#include <dpgather/graphs.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::errc;
using dg::subject;
using ts::text_of;
using ts::way;

namespace {

template <class Policy>
struct checked : Policy {
  using checks_type = dg::checks::checked;
};
struct checked_8278 : checked<dg::rebind_comm<dg::pr8278, dg::comm::nccl>> {};
struct checked_max : checked<ts::nccl_max> {};
struct checked_sum : checked<ts::nccl_sum> {};
struct checked_exact : checked<ts::nccl_exact> {};

constexpr std::int32_t victim = 1;
const std::vector<std::int32_t> rows{5, 3, 8};
const std::vector<std::int32_t> few{5, 0, 0}; // pr8278: an all-reduce

/// Calls that bring or sum rows. The exchange of records is an all-gather of 80 bytes a rank.
int data_calls() {
  int out = 0;
  for (const auto& each : fake_cuda::log()) {
    const bool exchanges = each.call == "ncclAllGather" && each.count == sizeof(dg::call_record);
    const bool moves = each.call.starts_with("ncclAll") || each.call == "ncclReduceScatter" ||
                       each.call == "ncclBroadcast" || each.call == "ncclReduce";
    out += moves && !exchanges;
  }
  return out;
}

void check_same_everywhere(const dg::status& said, const dg::status& first) {
  CHECK(text_of(said) == text_of(first));
}

/// After a divergence every rank answers `poisoned` with it, and starts nothing.
template <class Bench>
void check_poisoned(Bench& bench) {
  for (const way again : {way::gather, way::combine}) {
    bench.prepare(again, rows);
    fake_cuda::clear_log();
    bench.enter_and_wait();
    for (auto& each : bench) {
      CHECK_MESSAGE(each->got.code == errc::poisoned, text_of(each->got));
      CHECK(each->got.cause == errc::plan_mismatch);
      CHECK(each->nothing_was_written());
    }
    CHECK(fake_cuda::calls("enqueue") == 0);
    CHECK(data_calls() == 0);
  }
  bench.run([](auto& r) { r.got = r.dp().refresh_counts(r.plan, r.stream()); });
  for (auto& each : bench) CHECK(each->got.code == errc::poisoned);
}

/// What `change` makes of one rank's call must be found by all ranks. `expect` looks at what they
/// all answer; `before` are the rows of a call that works first.
template <class Policy, class Change, class Expect>
void check_diverges(way what, bool graph, Change change, Expect expect) {
  CAPTURE(std::string{ts::name_of(what)});
  for (const std::int32_t who : {0, 1, 2}) {
    CAPTURE(who);
    ts::nccl_bench<Policy> bench{{.dp_size = 3}};
    bench.prepare(what, rows, graph);
    bench.enter_and_wait();
    bench.check_done();
    bench.prepare(what, rows, graph);
    change(bench[who], bench.step());
    fake_cuda::clear_log();
    bench.enter_and_wait();
    for (auto& each : bench) {
      CAPTURE(each->rank());
      const dg::status& said = each->got;
      CHECK_MESSAGE(said.code == errc::plan_mismatch, text_of(said));
      CHECK(said.rank == (who == 0 ? 1 : who)); // the first that differs from rank 0
      CHECK(said.peer == 0);
      CHECK(said.call == 2);
      check_same_everywhere(said, bench[0].got);
      CHECK(each->nothing_was_written());
    }
    expect(bench[0].got, who == 0);
    CHECK(data_calls() == 0);
    CHECK(fake_cuda::calls("enqueue") == 0);
    check_poisoned(bench);
    bench.rebuild();
    bench.check_works(what, rows);
  }
}

} // namespace

TEST_CASE_TEMPLATE("equal plans pass", Policy, checked_8278, checked_max, checked_sum,
                   checked_exact) {
  for (const dg::topology shape : {dg::topology{.dp_size = 3}, {.dp_size = 2, .tp_size = 2}}) {
    ts::nccl_bench<Policy> bench{shape};
    for (const auto& each : {rows, few, std::vector<std::int32_t>{0, 0, 0}}) {
      for (const way what : {way::gather, way::combine}) {
        fake_cuda::clear_log();
        bench.check_works(what, each);
        // One exchange of records on every rank, and no more.
        int exchanged = 0;
        for (const auto& call : fake_cuda::log())
          exchanged += call.call == "ncclAllGather" && call.count == sizeof(dg::call_record);
        if (ts::log_is_complete()) CHECK(exchanged == bench.size());
      }
    }
  }
}

TEST_CASE("a plan of another step") {
  for (const way what : {way::gather, way::combine}) {
    const auto stale = [](auto& r, std::uint64_t step) { r.plan = r.plan_for(rows, step - 1); };
    const auto names_steps = [](const dg::status& said, bool swapped) {
      CHECK(said.about == subject::step);
      CHECK(said.value == (swapped ? 2 : 1));
      CHECK(said.limit == (swapped ? 1 : 2));
      CHECK(ts::text_has(said, {"call 2: plan_mismatch", "but rank 0 has"}));
    };
    check_diverges<checked_max>(what, false, stale, names_steps);
    check_diverges<checked_exact>(what, false, stale, names_steps);
  }
}

TEST_CASE("another mode, chosen from other counts") {
  for (const way what : {way::gather, way::combine}) {
    check_diverges<checked_8278>(
        what, false,
        [](auto& r, std::uint64_t step) {
          r.plan = r.plan_for({8, 0, 0}, step);
        },
        [](const dg::status& said, bool swapped) {
          CHECK(said.about == subject::mode);
          CHECK(ts::text_has(
              said,
              {swapped ? "plan has mode=all_gather" : "plan has mode=all_reduce",
               swapped ? "but rank 0 has mode=all_reduce" : "but rank 0 has mode=all_gather"}));
        });
  }
}

TEST_CASE("another bucket, outside its graph") {
  check_diverges<checked_8278>(
      way::gather, true,
      [](auto& r, std::uint64_t step) {
        r.plan = r.plan_for({4, 3, 2}, step, true);
      },
      [](const dg::status& said, bool swapped) {
        CHECK(said.about == subject::mode);
        CHECK(said.value == (swapped ? 8 : 4));
        CHECK(said.limit == (swapped ? 4 : 8));
      });
}

TEST_CASE("counts that changed after the plan") {
  for (const way what : {way::gather, way::combine}) {
    check_diverges<checked_exact>(
        what, false,
        [](auto& r, std::uint64_t step) {
          std::vector<std::int32_t> other = rows;
          --other[r.rank() == 2 ? 0 : 2];
          r.plan = r.plan_for(other, step);
        },
        [](const dg::status& said, bool) {
          CHECK(said.about == subject::counts);
          CHECK(said.value != said.limit);
        });
  }
}

TEST_CASE("gather here, combine there") {
  for (const way what : {way::gather, way::combine}) {
    check_diverges<checked_max>(
        what, false,
        [what](auto& r, std::uint64_t) {
          r.prepare(what == way::gather ? way::combine : way::gather, r.plan);
        },
        [what](const dg::status& said, bool swapped) {
          CHECK(said.about == subject::operation);
          const bool gathers = (what == way::gather) == swapped;
          CHECK(std::string{said.value_name} == (gathers ? "gather" : "combine"));
          CHECK(std::string{said.limit_name} == (gathers ? "combine" : "gather"));
        });
  }
}

TEST_CASE("refresh_counts compares plans before a replay, which cannot") {
  using bench_type = ts::nccl_bench<checked_8278>;
  bench_type bench{{.dp_size = 3}};
  std::vector<dg::graph_set> graphs(3);
  bench.prepare(way::gather, {8, 8, 8}, true);
  bench.run([&](auto& r) {
    r.got = graphs[static_cast<std::size_t>(r.rank())].capture(
        r.dp().rules().ladder(), r.stream(), [&](std::int32_t size) {
          r.prepare(way::gather, r.plan_for({size, size, size}, 1, true));
          r.enter();
          return r.got;
        });
  });
  for (auto& each : bench) REQUIRE_MESSAGE(each->got.ok(), text_of(each->got));
  // No exchange while capturing: it would wait.
  for (const auto& call : fake_cuda::log()) CHECK_FALSE((call.captured && call.count == 80));

  const auto replay = [&](auto& r) {
    r.got = r.dp().refresh_counts(r.plan, r.stream());
    if (r.got.ok())
      r.got = graphs[static_cast<std::size_t>(r.rank())].launch(r.plan.shared_bucket, r.stream());
    r.wait();
  };
  for (const auto& counts : {rows, std::vector<std::int32_t>{2, 0, 4}}) {
    bench.prepare(way::gather, counts, true);
    bench.run(replay);
    bench.check_done();
  }
  // A stale plan on one rank: found on all, and nobody has replayed.
  bench.prepare(way::gather, rows, true);
  bench[2].plan = bench[2].plan_for({4, 3, 2}, bench.step(), true);
  fake_cuda::clear_log();
  bench.run(replay);
  for (auto& each : bench) {
    CHECK_MESSAGE(each->got.code == errc::plan_mismatch, text_of(each->got));
    CHECK(each->got.rank == 2);
    CHECK(each->got.peer == 0);
    CHECK(each->nothing_was_written());
    check_same_everywhere(each->got, bench[0].got);
  }
  CHECK(fake_cuda::calls("cudaGraphLaunch") == 0);
  // Replay on one rank, gather on the others: one differs from the others too.
  bench.run([&](auto& r) { graphs[static_cast<std::size_t>(r.rank())].clear(); });
  bench.rebuild();
  bench.check_works(way::gather, rows);
  bench.prepare(way::gather, rows);
  bench.run([&](auto& r) {
    if (r.rank() == victim) {
      r.got = r.dp().refresh_counts(r.plan, r.stream());
    } else {
      r.enter();
    }
  });
  for (auto& each : bench) {
    CHECK(each->got.code == errc::plan_mismatch);
    CHECK(each->got.about == subject::operation);
    CHECK(ts::text_has(each->got, {"replay", "gather"}));
    CHECK(each->nothing_was_written());
  }
}

TEST_CASE("a rank that refuses its input: the others hear of it, the next correct call works") {
  struct refusal {
    errc code;
    subject about;
    std::int64_t value, limit;
  };
  ts::nccl_bench<checked_max> bench{{.dp_size = 3}};
  const auto refuses = [&](way what, const refusal& expected, auto&& break_it) {
    CAPTURE(std::string{ts::name_of(what)});
    CAPTURE(std::string{dg::name_of(expected.code)});
    bench.prepare(what, rows);
    break_it(bench[victim]);
    fake_cuda::clear_log();
    bench.enter_and_wait();
    for (auto& each : bench) {
      CAPTURE(each->rank());
      const dg::status& said = each->got;
      CHECK_MESSAGE(said.code == (each->rank() == victim ? expected.code : errc::peer_refused),
                    text_of(said));
      if (each->rank() != victim) CHECK(said.cause == expected.code);
      CHECK(said.rank == victim);
      CHECK(said.about == expected.about);
      CHECK(said.value == expected.value);
      CHECK(said.limit == expected.limit);
      CHECK(each->waited.ok());
      CHECK(each->nothing_was_written());
    }
    CHECK(data_calls() == 0);
    CHECK(fake_cuda::calls("enqueue") == 0);
    bench.check_works(what, rows);
  };
  std::vector<float> host(16 * 16);
  for (const way what : {way::gather, way::combine}) {
    refuses(what, {errc::count_changed, subject::local, 2, 3},
            [](auto& r) { --r.local_view.rows; });
    refuses(what, {errc::capacity_exceeded, subject::global, 24, 23},
            [](auto& r) { --r.global_view.rows; });
    refuses(what, {errc::null_pointer, subject::local, 3, 0},
            [](auto& r) { r.local_view.data = nullptr; });
    refuses(what, {errc::wrong_memory, subject::local, -1, victim},
            [&](auto& r) { r.local_view.data = host.data(); });
    refuses(what, {errc::wrong_memory, subject::global, 0, victim},
            [&](auto& r) { r.global_view.data = bench[0].global().floats(); });
  }
}

TEST_CASE("a native error before the exchange is announced like a refusal, so all may go on") {
  ts::nccl_bench<checked_max> bench{{.dp_size = 3}};
  bench.check_works(way::gather, rows);
  bench.prepare(way::gather, rows);
  fake_cuda::fail_nth("cudaPointerGetAttributes", 1, cudaErrorInvalidValue, victim);
  bench.enter_and_wait();
  for (auto& each : bench) {
    CAPTURE(each->rank());
    CHECK(each->nothing_was_written());
    if (each->rank() == victim) {
      CHECK(each->got.code == errc::native_error);
      CHECK(ts::text_has(each->got, {"cudaErrorInvalidValue"}));
    } else {
      CHECK(each->got.code == errc::peer_refused);
      CHECK(each->got.cause == errc::native_error);
      CHECK(each->got.rank == victim);
    }
  }
  bench.check_works(way::gather, rows);
}

TEST_CASE("a rank that does not come: timeout within the exchange's deadline, then poisoned") {
  constexpr std::int64_t deadline_ns = 30'000'000;
  ts::nccl_bench<checked_max> bench{{.dp_size = 3}, deadline_ns};
  for (int again = 0; again < 2; ++again) {
    bench.prepare(way::gather, rows);
    bench.run([](auto& r) {
      if (r.rank() != victim) r.enter();
    });
    for (const std::int32_t peer : {0, 2}) {
      CHECK_MESSAGE(bench[peer].got.code == errc::timeout, text_of(bench[peer].got));
      CHECK(bench[peer].got.limit == deadline_ns / 1000);
      CHECK(bench[peer].got.rank == peer);
      CHECK(bench[peer].nothing_was_written());
      CHECK(cudaSetDevice(peer) == cudaSuccess);
      bench[peer].enter();
      CHECK(bench[peer].got.code == errc::poisoned);
      CHECK(bench[peer].got.cause == errc::timeout);
    }
    bench.rebuild();
  }
}

TEST_CASE("without announcements there is nothing to check with: bad_config") {
  ts::nccl_bench<checked_max> bench{{.dp_size = 2}};
  bench.prepare(way::gather, {5, 3});
  bench.run([](auto& r) {
    dg::nccl_world alone{r.place(), r.comm().native_handle()};
    REQUIRE(alone.check().ok());
    dg::DpGather<checked_max> dp{dg::nccl_communicator{alone}, r.config(), r.workspace()};
    for (int again = 0; again < 2; ++again) {
      r.got = r.enter(dp);
      CHECK(r.got.code == errc::bad_config);
      CHECK(r.got.about == subject::record);
      CHECK(r.got.rank == r.rank());
      CHECK(ts::text_has(r.got, {"bad_config", "announcements"}));
      CHECK(r.nothing_was_written());
      r.got = dp.refresh_counts(r.plan, r.stream());
      CHECK(r.got.code == errc::bad_config);
    }
    CHECK(alone.check().ok()); // refused, not failed
  });
  bench.check_works(way::gather, {5, 3});
}
