// What is refused over NCCL before anything is started, what cannot be captured, and exactly which
// calls the rest comes to.
#include "support/nccl_bench.hpp"

#include <dpgather/errc.hpp>
#include <dpgather/graphs.cuh>

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::errc;
using dg::subject;
using ts::text_of;
using ts::way;

namespace {

struct nccl_8278 : dg::rebind_comm<dg::pr8278, dg::comm::nccl> {};
/// Padded rows go as they are.
struct nccl_leave
    : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::tail::leave, dg::comm::nccl> {};
/// An all-reduce whose combine brings each rank its own rows only: counts from the host.
struct nccl_sum_exact : dg::policy<dg::mode::all_reduce, dg::padding::sum_len, dg::comm::nccl> {};

constexpr std::int32_t victim = 1;
const std::vector<std::int32_t> rows{5, 3, 8};

/// What a rank started since the log was cleared: NCCL calls, and kernels by the name of their job.
std::vector<std::string> started(std::int32_t device) {
  std::vector<std::string> out;
  for (const auto& each : fake_cuda::log()) {
    if (each.device != device) continue;
    if (each.call == "enqueue") {
      std::string job = "?";
      for (const char* name :
           {"place_rows", "take_rows", "fill_tails", "fill_share_tail", "write_counts"}) {
        if (each.detail.find(name) != each.detail.npos) job = name;
      }
      out.push_back(job);
    } else if (each.call.starts_with("nccl") && each.call != "ncclCommGetAsyncError") {
      out.push_back(each.call);
      if (each.root >= 0) out.back() += " " + std::to_string(each.root);
    } else if (each.call.starts_with("cudaMemcpy") || each.call.starts_with("cudaMemset") ||
               each.call == "cudaLaunchHostFunc" || each.call == "cudaMalloc") {
      out.push_back(each.call);
    }
  }
  return out;
}
using calls = std::vector<std::string>;

std::string joined(const calls& all) {
  std::string out;
  for (const std::string& each : all) out += each + ", ";
  return out;
}
void check_started(std::int32_t device, const calls& expected) {
  CHECK_MESSAGE(started(device) == expected,
                "started " << joined(started(device)) << "expected " << joined(expected));
}

} // namespace

// --- calls ---------------------------------------------------------------------------------------

TEST_CASE("tail::leave sends padded rows as they are: one all-gather and no kernel") {
  ts::nccl_bench<nccl_leave> bench{{.dp_size = 3}};
  for (const int again : {1, 2}) {
    CAPTURE(again);
    bench.prepare(way::gather, rows);
    for (auto& each : bench) each->local_view.rows = 8; // the bucket's rows, real or not
    fake_cuda::clear_log();
    bench.enter_and_wait();
    bench.check_done();
    for (std::int32_t r = 0; r < 3; ++r)
      check_started(r,
                    again == 1 ? calls{"write_counts", "ncclAllGather"} : calls{"ncclAllGather"});
  }
  for (const auto& each : fake_cuda::log()) {
    if (each.call != "ncclAllGather") continue;
    CHECK(each.count == 8 * 32);
    CHECK(each.input == bench[each.device].local().data());
    CHECK(each.output == bench[each.device].global().data());
  }
  // Fewer rows than the slot has must be placed.
  bench.prepare(way::gather, rows);
  fake_cuda::clear_log();
  bench.enter_and_wait();
  bench.check_done();
  check_started(victim, {"place_rows", "ncclAllGather"});
  // Its combine writes all of a local tensor that has room, and takes the real rows where it has
  // not.
  for (const std::int64_t room : {8, 3}) {
    bench.prepare(way::combine, rows);
    bench[victim].local_view.rows = room;
    fake_cuda::clear_log();
    bench.enter_and_wait();
    bench.check_done();
    check_started(victim,
                  room == 8 ? calls{"ncclReduceScatter"} : calls{"ncclReduceScatter", "take_rows"});
  }
}

TEST_CASE("pr8278: one kernel and one collective each way, in both modes") {
  ts::nccl_bench<nccl_8278> bench{{.dp_size = 3}};
  const auto comes_to = [&](way what, const std::vector<std::int32_t>& counts,
                            const std::vector<calls>& expected) {
    bench.check_works(what, counts); // the counts are where kernels read them
    fake_cuda::clear_log();
    bench.check_works(what, counts);
    for (std::int32_t r = 0; r < 3; ++r) check_started(r, expected[static_cast<std::size_t>(r)]);
  };
  comes_to(way::gather, rows, std::vector<calls>(3, {"place_rows", "ncclAllGather"}));
  CHECK(bench[0].plan.mode == dg::mode_kind::all_gather);
  comes_to(way::gather, {5, 0, 0}, std::vector<calls>(3, {"place_rows", "ncclAllReduce"}));
  CHECK(bench[0].plan.mode == dg::mode_kind::all_reduce);
  // No kernel where there are no rows to take, or a full rank's arrive in place.
  comes_to(way::combine, {5, 0, 2},
           {{"ncclAllReduce", "take_rows"}, {"ncclAllReduce"}, {"ncclAllReduce", "take_rows"}});
  comes_to(way::combine, rows,
           {{"ncclReduceScatter", "take_rows"},
            {"ncclReduceScatter", "take_rows"},
            {"ncclReduceScatter"}});
}

TEST_CASE("attention-TP peers: their own collective before or after the one of the world") {
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 2, .tp_size = 2}};
  bench.check_works(way::gather, {8, 3});
  fake_cuda::clear_log();
  bench.check_works(way::gather, {8, 3});
  for (std::int32_t r = 0; r < 4; ++r) check_started(r, {"place_rows", "ncclAllGather"});
  fake_cuda::clear_log();
  bench.check_works(way::combine, {8, 3});
  for (const std::int32_t r : {0, 1}) check_started(r, {"ncclReduceScatter", "ncclAllGather"});
  for (const std::int32_t r : {2, 3})
    check_started(r, {"ncclReduceScatter", "ncclAllGather", "take_rows"});
  // Partial local rows: a sum over the peers first.
  bench.prepare(way::gather, {8, 3});
  fake_cuda::clear_log();
  bench.run([](auto& r) {
    const float* const from = r.local_view.data;
    r.got = r.dp()
                .gather(dg::rows_of<dg::partial>(from, r.local_view.rows, 8),
                        dg::rows_of<dg::replicated>(r.global_view.data, r.global_view.rows, 8),
                        r.plan, r.stream())
                .status();
    r.wait();
  });
  for (auto& each : bench) {
    CHECK_MESSAGE(each->got.ok(), text_of(each->got));
    check_started(each->rank(), {"place_rows", "ncclReduceScatter", "ncclAllGather"});
  }
}

TEST_CASE("exact: plain collectives for equal counts, else a group that leaves out empty ranks") {
  ts::nccl_bench<ts::nccl_exact> bench{{.dp_size = 3}};
  const auto comes_to = [&](way what, const std::vector<std::int32_t>& counts,
                            const std::function<calls(std::int32_t)>& expected) {
    CAPTURE(std::string{ts::name_of(what)});
    bench.check_works(what, counts); // the counts are where kernels read them
    fake_cuda::clear_log();
    bench.check_works(what, counts);
    for (std::int32_t r = 0; r < 3; ++r) {
      CAPTURE(r);
      check_started(r, expected(r));
    }
  };
  // Rows without gaps are sent from where they are.
  comes_to(way::gather, {4, 4, 4}, [](std::int32_t) { return calls{"ncclAllGather"}; });
  comes_to(way::combine, {4, 4, 4}, [](std::int32_t) { return calls{"ncclReduceScatter"}; });
  comes_to(way::gather, rows, [](std::int32_t) {
    return calls{"ncclGroupStart", "ncclBroadcast 0", "ncclBroadcast 1", "ncclBroadcast 2",
                 "ncclGroupEnd"};
  });
  comes_to(way::combine, rows, [](std::int32_t) {
    return calls{"ncclGroupStart", "ncclReduce 0", "ncclReduce 1", "ncclReduce 2", "ncclGroupEnd"};
  });
  comes_to(way::combine, {0, 0, 8}, [](std::int32_t) {
    return calls{"ncclGroupStart", "ncclReduce 2", "ncclGroupEnd"};
  });
  comes_to(way::gather, {0, 0, 0}, [](std::int32_t) { return calls{"ncclAllGather"}; });
  comes_to(way::gather, {5, 0, 8}, [](std::int32_t) {
    return calls{"ncclGroupStart", "ncclBroadcast 0", "ncclBroadcast 2", "ncclGroupEnd"};
  });

  // With gaps they are placed first, where there are any.
  bench.prepare(way::gather, {5, 0, 8});
  fake_cuda::clear_log();
  bench.run([](auto& r) {
    const dg::const_token_rows<dg::replicated> gaps{r.local().data(), r.local_view.rows,
                                                    dg::element::f32, 32, 64};
    r.got =
        r.dp()
            .gather(gaps, dg::rows_of<dg::replicated>(r.global_view.data, r.global_view.rows, 8),
                    r.plan, r.stream())
            .status();
    r.wait();
  });
  for (auto& each : bench) {
    CHECK_MESSAGE(each->got.ok(), text_of(each->got));
    calls expected{"ncclGroupStart", "ncclBroadcast 0", "ncclBroadcast 2", "ncclGroupEnd"};
    if (each->rank() != victim) expected.insert(expected.begin(), "place_rows");
    check_started(each->rank(), expected);
  }
}

TEST_CASE("an all-reduce mode that combines by reduce-scatter: a group of reduces") {
  ts::nccl_bench<nccl_sum_exact> bench{{.dp_size = 3}};
  bench.check_works(way::gather, {5, 0, 3});
  fake_cuda::clear_log();
  bench.check_works(way::gather, {5, 0, 3});
  check_started(victim, {"place_rows", "ncclAllReduce"});
  fake_cuda::clear_log();
  bench.check_works(way::combine, {5, 0, 3});
  check_started(victim, {"ncclGroupStart", "ncclReduce 0", "ncclReduce 2", "ncclGroupEnd"});
}

// --- captures ------------------------------------------------------------------------------------

namespace {

/// Captures `refused`, which must answer `not_capturable`, and after it `goes_on`; then replays
/// twice. What `goes_on` records is all that there is in the graph.
template <class Rank, class Refused, class GoesOn>
void check_not_capturable(Rank& r, subject about, Refused refused, GoesOn goes_on) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamBeginCapture(r.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  const dg::status said = refused();
  CHECK_MESSAGE(said.code == errc::not_capturable, text_of(said));
  CHECK(said.about == about);
  CHECK(said.rank == r.rank());
  CHECK(r.nothing_was_written());
  const auto capturing = dg::is_capturing(r.stream());
  CHECK((capturing.ok() && *capturing));
  const int recorded = goes_on();
  REQUIRE(cudaStreamEndCapture(r.stream(), &graph) == cudaSuccess);
  std::size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
  CHECK(nodes == static_cast<std::size_t>(recorded));
  REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  for (int i = 0; i < 2; ++i) CHECK(cudaGraphLaunch(exec, r.stream()) == cudaSuccess);
  r.wait();
  CHECK_MESSAGE(r.waited.ok(), text_of(r.waited));
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(r.world().graphs_alive() == 0);
  CHECK(r.world().check().ok());
}

} // namespace

TEST_CASE("not_capturable: counts from the host; the capture goes on") {
  ts::nccl_bench<ts::nccl_exact> exact{{.dp_size = 3}};
  for (const std::vector<std::int32_t>& counts : {rows, {4, 4, 4}}) {
    for (const way what : {way::gather, way::combine}) {
      exact.check_works(what, counts);
      exact.prepare(what, counts);
      exact.run([&](auto& r) {
        check_not_capturable(
            r, subject::mode,
            [&] {
              r.enter();
              return r.got;
            },
            [&] { // a local copy of this rank's rows is legal
              r.prepare(way::combine, r.plan);
              r.got = r.dp().scatter(
                  dg::rows_of<dg::replicated>(static_cast<const float*>(r.global_view.data),
                                              r.global_view.rows, 8),
                  dg::rows_of<dg::replicated>(r.local_view.data, r.most_rows, 8),
                  r.plan, // any replay
                  r.stream());
              CHECK_MESSAGE(r.got.ok(), text_of(r.got));
              return 1;
            });
        const std::size_t own = static_cast<std::size_t>(r.plan.real[r.rank()]) * 32;
        CHECK(std::memcmp(r.local().data(), r.global().data() + r.plan.offset(r.rank()) * 32,
                          own) == 0);
      });
      exact.check_works(what, counts);
    }
  }
  // The same pieces given to the communicator itself.
  exact.run([](auto& r) {
    dg::nccl_communicator comm = r.comm();
    for (const bool equal : {true, false}) {
      const dg::piece pieces[] = {{0, 4}, {4, 4}, {8, equal ? 4 : 5}};
      for (const bool gathers : {true, false}) {
        r.prepare(way::gather, r.plan);
        check_not_capturable(
            r, subject::counts,
            [&] {
              return gathers ? comm.all_gather_v(r.local().data(), r.global().data(), pieces,
                                                 r.stream())
                             : comm.reduce_scatter_v(r.global().data(), r.local().data(), pieces,
                                                     dg::element::f32, r.stream());
            },
            [&] {
              CHECK(comm.all_gather(r.local().data(), r.global().data(), 16, r.stream()).ok());
              return 1;
            });
      }
    }
  });
}

TEST_CASE("not_capturable: the combine of an all-reduce that takes counts; the capture goes on") {
  ts::nccl_bench<nccl_sum_exact> sum{{.dp_size = 3}};
  sum.check_works(way::combine, rows);
  sum.prepare(way::combine, rows);
  sum.run([&](auto& r) {
    check_not_capturable(
        r, subject::mode,
        [&] {
          r.enter();
          return r.got;
        },
        [&] { // its gather takes shapes only
          r.prepare(way::gather, r.plan);
          r.local_view.rows = r.most_rows; // any replay
          r.enter();
          CHECK_MESSAGE(r.got.ok(), text_of(r.got));
          return 2;
        });
  });
  sum.check_done();
  sum.check_works(way::combine, rows);
}

TEST_CASE("not_capturable: refresh_counts would freeze them; the capture goes on") {
  ts::nccl_bench<nccl_8278> bench{{.dp_size = 3}};
  bench.prepare(way::gather, rows, true);
  bench.enter_and_wait();
  bench.check_done();
  bench.prepare(way::gather, rows, true);
  bench.run([&](auto& r) {
    check_not_capturable(
        r, subject::counts, [&] { return r.dp().refresh_counts(r.plan, r.stream()); },
        [&] {
          r.local_view.rows = r.most_rows; // any replay
          r.enter();
          CHECK_MESSAGE(r.got.ok(), text_of(r.got));
          return 2;
        });
  });
  bench.check_done();
  bench.check_works(way::combine, rows);
}

// --- memory --------------------------------------------------------------------------------------

namespace {

/// Memory that kernels of `r` may not use, and whose it is.
struct foreign_memory {
  const char* name;
  std::byte* data;
  std::int64_t owner; ///< device, -1: the host
};

template <class Policy>
void check_wrong_memory() {
  ts::nccl_bench<Policy> bench{{.dp_size = 3}};
  constexpr std::size_t bytes = 16 * 1024;
  std::vector<std::byte> pageable(bytes);
  void* pinned = nullptr;
  REQUIRE(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault) == cudaSuccess);
  const auto refuse = [&](way what, subject about) {
    CAPTURE(std::string{ts::name_of(what)});
    CAPTURE(std::string{dg::name_of(about)});
    for (const int kind : {0, 1, 2}) {
      bench.prepare(what, rows);
      fake_cuda::clear_log();
      bench.run([&](auto& r) {
        const std::int32_t next = (r.rank() + 1) % 3;
        const foreign_memory all[] = {
            {"host memory", pageable.data(), -1},
            {"host memory", static_cast<std::byte*>(pinned), -1},
            {"memory of device",
             about == subject::local ? bench[next].local().data() : bench[next].global().data(),
             next}};
        const foreign_memory& wrong = all[kind];
        auto& view = about == subject::local ? r.local_view : r.global_view;
        view.data = reinterpret_cast<float*>(wrong.data);
        for (const bool scatters : {false, true}) {
          if (scatters && what == way::gather) continue;
          if (scatters) {
            r.got = r.dp().scatter(
                dg::rows_of<dg::replicated>(static_cast<const float*>(r.global_view.data),
                                            r.global_view.rows, 8),
                dg::rows_of<dg::replicated>(r.local_view.data, r.most_rows, 8),
                r.plan, // any replay
                r.stream());
          } else {
            r.enter();
          }
          CHECK_MESSAGE(r.got.code == errc::wrong_memory, text_of(r.got));
          CHECK(r.got.about == about);
          CHECK(r.got.rank == r.rank());
          CHECK(r.got.value == wrong.owner);
          CHECK(r.got.limit == r.rank());
          CHECK_MESSAGE(
              ts::text_has(r.got, {"rank " + std::to_string(r.rank()), "wrong_memory",
                                   dg::name_of(about), wrong.name, std::to_string(wrong.owner)}),
              text_of(r.got));
        }
      });
      for (auto& each : bench) CHECK(each->nothing_was_written());
      for (std::int32_t r = 0; r < 3; ++r) check_started(r, {});
      bench.check_works(what, rows); // nothing sticks
    }
  };
  for (const way what : {way::gather, way::combine}) {
    refuse(what, subject::local);
    refuse(what, subject::global);
  }
  CHECK(
      std::all_of(pageable.begin(), pageable.end(), [](std::byte b) { return b == std::byte{}; }));
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

} // namespace

TEST_CASE("wrong_memory: host, pinned and another device's pointers, by name") {
  check_wrong_memory<ts::nccl_max>();
  check_wrong_memory<ts::nccl_sum>();
  check_wrong_memory<ts::nccl_exact>();
}

TEST_CASE("workspace of the wrong memory, misaligned, or too small: no call works, and says why") {
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 2}};
  bench.check_works(way::gather, {5, 3});
  const std::size_t bytes = bench[0].workspace().size();
  std::vector<std::byte> pageable(bytes + 512);
  std::byte* const host =
      pageable.data() + 256 - reinterpret_cast<std::uintptr_t>(pageable.data()) % 256;
  void* pinned = nullptr;
  REQUIRE(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault) == cudaSuccess);
  const auto needed = static_cast<std::int64_t>(bytes);
  struct refusal {
    std::span<std::byte> memory;
    errc code;
    std::int64_t value, limit;
  };
  bench.prepare(way::gather, {5, 3});
  bench.run([&](auto& r) {
    const std::span<std::byte> good = r.workspace();
    const std::int32_t other = 1 - r.rank();
    const refusal all[] = {
        {{host, bytes}, errc::wrong_memory, -1, r.rank()},
        {{static_cast<std::byte*>(pinned), bytes}, errc::wrong_memory, -1, r.rank()},
        {bench[other].workspace(), errc::wrong_memory, other, r.rank()},
        {good.subspan(128), errc::misaligned, 128, 256},
        {good.subspan(1), errc::misaligned, 1, 256},
        {good.first(bytes - 1), errc::capacity_exceeded, needed, needed - 1},
        {good.first(16), errc::capacity_exceeded, needed, 16},
        {{}, errc::capacity_exceeded, needed, 0}};
    for (const refusal& each : all) {
      dg::DpGather<ts::nccl_max> dp{r.comm(), r.config(), each.memory};
      const auto check_named = [&](const dg::status& said) {
        CHECK_MESSAGE(said.code == each.code, text_of(said));
        CHECK(said.about == subject::workspace);
        CHECK(said.rank == r.rank());
        CHECK(said.value == each.value);
        CHECK(said.limit == each.limit);
        CHECK(ts::text_has(said, {dg::name_of(each.code), "workspace"}));
      };
      check_named(dp.check());
      check_named(r.enter(dp));
      check_named(dp.refresh_counts(r.plan, r.stream()));
      check_named(dp.plan(dg::agreement{}).status());
      CHECK(r.nothing_was_written());
    }
  });
  // On one rank, and a native error instead of an answer.
  fake_cuda::fail_nth("cudaPointerGetAttributes", 1, cudaErrorUnknown, victim);
  bench.run([](auto& r) {
    dg::DpGather<ts::nccl_max> dp{r.comm(), r.config(), r.workspace()};
    CHECK(dp.check().ok() == (r.rank() != victim));
    if (r.rank() == victim) CHECK(ts::text_has(dp.check(), {"rank 1", "cudaErrorUnknown"}));
  });
  bench.check_works(way::gather, {5, 3});
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

// --- one user at a time --------------------------------------------------------------------------

TEST_CASE("busy: a second thread in one world, through the same channel or another one") {
  struct checked : ts::nccl_max {
    using checks_type = dg::checks::checked;
  };
  ts::nccl_bench<checked> bench{{.dp_size = 2}};
  bench.check_works(way::gather, {5, 3});
  // A second channel of the same world, whose calls nobody compares.
  ts::nccl_bench<checked>::rank_type& zero = bench[0];
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  ts::device_bytes memory{zero.workspace().size()}, local{512}, global{2048};
  dg::DpGather<ts::nccl_max> second{zero.comm(), zero.config(), {memory.data(), memory.size()}};
  const auto before = global.snapshot();

  bench.prepare(way::gather, {5, 3});
  fake_cuda::clear_log();
  std::thread first{[&] {
    CHECK(cudaSetDevice(0) == cudaSuccess);
    zero.enter(); // waits for rank 1's record
    zero.wait();
  }};
  fake_cuda::await_waiting(zero.comm().native_handle());
  // What it starts itself: the records there, the exchange, the records back.
  for (int i = 0; i < 10'000; ++i) {
    const calls own = started(0);
    if (own.size() >= 3 && own.back() == "cudaMemcpyAsync") break;
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  const auto check_busy = [](const dg::status& said) {
    CHECK_MESSAGE(said.code == errc::busy, text_of(said));
    CHECK(said.about == subject::call);
    CHECK(said.rank == 0);
  };
  const dg::step_plan plan = zero.plan;
  const auto from = dg::rows_of<dg::replicated>(static_cast<const float*>(local.floats()), 5, 8);
  const auto to = dg::rows_of<dg::replicated>(global.floats(), plan.global_rows, 8);
  fake_cuda::clear_log();
  for (int again = 0; again < 3; ++again) {
    check_busy(zero.dp().gather(from, to, plan, zero.stream()).status());
    check_busy(zero.dp().refresh_counts(plan, zero.stream()));
    check_busy(second.gather(from, to, plan, zero.stream()).status());
    check_busy(zero.comm().all_gather(local.data(), global.data(), 64, zero.stream()));
    check_busy(
        zero.comm().all_reduce(local.data(), global.data(), 16, dg::element::f32, zero.stream()));
    check_busy(
        zero.comm()
            .subgroup(dg::subgroup_kind::attention_tp)
            .reduce_scatter(local.data(), global.data(), 16, dg::element::f32, zero.stream()));
    check_busy(zero.comm().announce({}, {}, zero.stream()));
  }
  check_started(0, {});
  CHECK(global.equals(before));
  // Nothing of it stays: the first thread's call ends well, and so does the next one.
  std::thread late{[&] {
    CHECK(cudaSetDevice(1) == cudaSuccess);
    bench[1].enter();
    bench[1].wait();
  }};
  first.join();
  late.join();
  bench.check_done();
  bench.check_works(way::combine, {5, 3});
}

// --- graphs --------------------------------------------------------------------------------------

namespace {

using graph_bench = ts::nccl_bench<nccl_8278>;
using graph_rank = graph_bench::rank_type;

dg::status capture_all(dg::graph_set& graphs, graph_rank& r,
                       const std::function<dg::status(std::int32_t)>& around = {}) {
  return graphs.capture(r.dp().rules().ladder(), r.stream(), [&](std::int32_t size) {
    if (around) {
      if (dg::status bad = around(size); !bad) return bad;
    }
    r.prepare(way::gather, r.plan_for({size, size, size}, 1, true));
    r.enter();
    return r.got;
  });
}

/// There is no graph, and stream, channel and world are as good as before.
void check_nothing_captured(dg::graph_set& graphs, graph_rank& r) {
  CHECK(graphs.count() == 0);
  CHECK(graphs.launch(8, r.stream()).code == errc::graph_missing);
  CHECK(r.world().graphs_alive() == 0);
  const auto capturing = dg::is_capturing(r.stream());
  CHECK((capturing.ok() && !*capturing));
  CHECK(r.world().wait(r.stream(), ts::patient_ns).ok());
}

void check_replays(graph_bench& bench, std::vector<dg::graph_set>& graphs) {
  bench.run([&](graph_rank& r) {
    const dg::status said = capture_all(graphs[static_cast<std::size_t>(r.rank())], r);
    CHECK_MESSAGE(said.ok(), text_of(said));
  });
  for (const auto& counts : {rows, std::vector<std::int32_t>{2, 0, 4}}) {
    bench.prepare(way::gather, counts, true);
    bench.run([&](graph_rank& r) {
      r.got = r.dp().refresh_counts(r.plan, r.stream());
      if (r.got.ok())
        r.got = graphs[static_cast<std::size_t>(r.rank())].launch(r.plan.shared_bucket, r.stream());
      r.wait();
    });
    bench.check_done();
  }
}

} // namespace

TEST_CASE("graph_missing, and a ladder without sizes") {
  graph_bench bench{{.dp_size = 3}};
  std::vector<dg::graph_set> graphs(3);
  bench.run([&](graph_rank& r) {
    dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
    dg::status said = mine.capture(dg::bucket_list{}, r.stream(), [](std::int32_t) {
      CHECK(false);
      return dg::status{};
    });
    CHECK(said.code == errc::bad_buckets);
    CHECK(said.about == subject::ladder);
    check_nothing_captured(mine, r);
    said = mine.launch(8, r.stream());
    CHECK(said.code == errc::graph_missing);
    CHECK(said.about == subject::bucket);
    CHECK(said.value == 8);
    CHECK(said.limit == 0);
  });
  check_replays(bench, graphs);
  for (std::int32_t r = 0; r < 3; ++r) {
    dg::graph_set& mine = graphs[static_cast<std::size_t>(r)];
    for (const std::int32_t size : {0, -1, 5, 32}) {
      const dg::status said = mine.launch(size, bench[r].stream());
      CHECK(said.code == errc::graph_missing);
      CHECK(said.value == size);
      CHECK(said.limit == 16);
      CHECK(ts::text_has(said, {"graph_missing", std::to_string(size)}));
      CHECK_FALSE(mine.has(size));
      CHECK(mine.replays(size) == 0);
    }
    CHECK(mine.replays(8) == 1);
    // A launch that fails is an error, and no replay.
    fake_cuda::fail_nth("cudaGraphLaunch", 1, cudaErrorLaunchFailure);
    CHECK(ts::text_has(mine.launch(8, bench[r].stream()), {"cudaErrorLaunchFailure"}));
    CHECK(mine.replays(8) == 1);
  }
}

TEST_CASE("a capture body that fails leaves no graph, a usable stream and usable communicators") {
  graph_bench bench{{.dp_size = 3}};
  std::vector<dg::graph_set> graphs(3);
  const auto fails = [&](const char* what, errc expected,
                         const std::function<dg::status(graph_rank&, std::int32_t)>& around,
                         const char* text = "") {
    CAPTURE(std::string{what});
    bench.run([&](graph_rank& r) {
      dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
      const dg::status said =
          capture_all(mine, r, [&](std::int32_t size) { return around(r, size); });
      CHECK_MESSAGE(said.code == expected, text_of(said));
      CHECK_MESSAGE(ts::text_has(said, {text}), text_of(said));
      if (expected != errc::bad_config) CHECK(said.rank == r.rank());
      check_nothing_captured(mine, r);
    });
    check_replays(bench, graphs);
  };
  fails("the first body", errc::bad_config,
        [](graph_rank&, std::int32_t) { return dg::status{.code = errc::bad_config}; });
  fails("the last body, after it has captured", errc::bad_config,
        [](graph_rank& r, std::int32_t size) {
          if (size > 4) return dg::status{};
          r.prepare(way::combine, r.plan_for({4, 4, 4}, 1, true));
          r.enter();
          CHECK_MESSAGE(r.got.ok(), text_of(r.got));
          return dg::status{.code = errc::bad_config};
        });
  fails("a call that is refused", errc::count_changed, [](graph_rank& r, std::int32_t size) {
    r.prepare(way::gather, r.plan_for({size, size, size}, 1, true));
    --r.local_view.rows;
    r.enter();
    return r.got;
  });
  fails(
      "a capture that something has invalidated", errc::not_capturable,
      [](graph_rank& r, std::int32_t) { // as an allocation does
        void* memory = nullptr;
        CHECK(cudaMalloc(&memory, 8) == cudaErrorStreamCaptureUnsupported);
        r.prepare(way::gather, r.plan_for({8, 8, 8}, 1, true));
        r.enter();
        return r.got;
      },
      "cudaErrorStreamCaptureInvalidated");
  // The same, and the body has not noticed.
  bench.run([&](graph_rank& r) {
    dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
    const dg::status said =
        mine.capture(r.dp().rules().ladder(), r.stream(), [&](std::int32_t size) {
          r.prepare(way::gather, r.plan_for({size, size, size}, 1, true));
          r.enter();
          if (size == 4) CHECK(cudaStreamSynchronize(r.stream()) != cudaSuccess);
          return r.got;
        });
    CHECK_MESSAGE(said.code == errc::native_error, text_of(said));
    CHECK(ts::text_has(said, {"cudaErrorStreamCaptureInvalidated"}));
    check_nothing_captured(mine, r);
  });
  check_replays(bench, graphs);
}

TEST_CASE("a capture in which CUDA fails leaves no graph, and may be tried again") {
  graph_bench bench{{.dp_size = 3}};
  std::vector<dg::graph_set> graphs(3);
  for (const char* function :
       {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphGetNodes",
        "cudaGraphInstantiate", "enqueue", "cudaStreamGetCaptureInfo", "cudaUserObjectCreate",
        "cudaGraphRetainUserObject"}) {
    CAPTURE(std::string{function});
    const int nth = std::string{function} == "enqueue" ? 1 : 2; // the second of three sizes
    for (std::int32_t r = 0; r < 3; ++r)
      fake_cuda::fail_nth(function, nth, cudaErrorMemoryAllocation, r);
    bench.run([&](graph_rank& r) {
      dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
      const dg::status said = capture_all(mine, r);
      CHECK_MESSAGE(said.code == errc::native_error, text_of(said));
      CHECK_MESSAGE(ts::text_has(said, {"cudaErrorMemoryAllocation"}), text_of(said));
      if (std::string{function} == "cudaStreamEndCapture") { // the fake has not ended it
        cudaGraph_t graph = nullptr;
        CHECK(cudaStreamEndCapture(r.stream(), &graph) == cudaSuccess);
        CHECK(cudaGraphDestroy(graph) == cudaSuccess);
      }
      check_nothing_captured(mine, r);
    });
    check_replays(bench, graphs);
    bench.run([&](graph_rank& r) {
      dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
      CHECK(r.world().graphs_alive() == static_cast<std::int32_t>(mine.count()));
      mine.clear();
    });
  }
}

TEST_CASE("NCCL fails in a capture: no graph, and the communicators are done for") {
  graph_bench bench{{.dp_size = 3}};
  std::vector<dg::graph_set> graphs(3);
  for (std::int32_t r = 0; r < 3; ++r)
    fake_cuda::fail_nth("ncclAllGather", 2, ncclInternalError, r);
  bench.run([&](graph_rank& r) {
    dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
    dg::status said = capture_all(mine, r);
    CHECK(said.code == errc::native_error);
    CHECK(said.native == ncclInternalError);
    CHECK(said.rank == r.rank());
    CHECK(mine.count() == 0);
    CHECK(r.world().graphs_alive() == 0);
    said = capture_all(mine, r);
    CHECK(said.code == errc::poisoned);
    CHECK(said.cause == errc::native_error);
    const auto capturing = dg::is_capturing(r.stream());
    CHECK((capturing.ok() && !*capturing));
  });
  bench.rebuild();
  check_replays(bench, graphs);
}
