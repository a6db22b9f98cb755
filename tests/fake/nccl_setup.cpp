// How NCCL communicators come and go: whatever fails on one rank, all ranks hear of it in bounded
// time, nothing is left, and the next attempt works.
#include "support/nccl_bench.hpp"

#include <dpgather/bootstrap.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/graphs.cuh>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::errc;
using dg::subject;
using ts::text_of;
using ts::way;

static_assert(dg::bootstrap<dg::nccl_bootstrap>);

namespace {

using ts::patient_ns;
constexpr std::size_t few_bytes = dg::executor<cudaStream_t>::warm_up_bytes;
/// Long enough to come to where a call fails.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::int64_t short_ns = 500'000'000;
#else
constexpr std::int64_t short_ns = 100'000'000;
#endif

/// What every rank's `nccl_owner` answered; `body(rank, owner)` runs on it where it works.
template <class Body>
std::vector<dg::status> make_owners(const dg::topology& shape, std::int64_t timeout_ns, Body body,
                                    std::size_t warm_up_bytes = few_bytes) {
  dg::steady_wait_clock clock;
  dg::host_world world{shape, clock, patient_ns};
  std::vector<dg::status> said(static_cast<std::size_t>(shape.world_size()));
  fake_cuda::as_ranks(shape.world_size(), [&](std::int32_t rank) {
    dg::host_communicator ranks{world, rank};
    dg::nccl_owner owner{ranks, shape.at(rank), timeout_ns, warm_up_bytes};
    said[static_cast<std::size_t>(rank)] = owner.check();
    if (owner.check().ok()) body(rank, owner);
  });
  return said;
}
std::vector<dg::status> make_owners(const dg::topology& shape, std::int64_t timeout_ns) {
  return make_owners(shape, timeout_ns, [](std::int32_t, dg::nccl_owner&) {});
}

void check_all_work(const std::vector<dg::status>& said) {
  for (const dg::status& each : said) CHECK_MESSAGE(each.ok(), text_of(each));
}

/// A function of which each call on a rank may fail.
struct fragile {
  const char* function;
  int code;
  const char* name;
  int calls;             ///< of one rank in a construction
  std::vector<int> mute; ///< of them, those at which the others are in NCCL already, and wait there
};

void check_one_fails(const dg::topology& shape, const fragile& what, int nth, std::int32_t victim) {
  CAPTURE(std::string{what.function});
  CAPTURE(nth);
  CAPTURE(victim);
  fake_cuda::reset(shape.world_size());
  fake_cuda::set_patience(std::chrono::hours{1}); // for threads that are left behind
  fake_cuda::fail_nth(what.function, nth, what.code, victim);
  const bool waits = std::find(what.mute.begin(), what.mute.end(), nth) != what.mute.end();
  using clock = std::chrono::steady_clock;
  const clock::time_point began = clock::now();
  const auto said = make_owners(shape, waits ? short_ns : patient_ns);
  const std::chrono::nanoseconds took = clock::now() - began;
  if (waits) CHECK(took.count() < short_ns * 12 / 10 + 2'000'000'000);
  for (std::int32_t rank = 0; rank < shape.world_size(); ++rank) {
    CAPTURE(rank);
    const dg::status& one = said[static_cast<std::size_t>(rank)];
    CHECK(one.rank == victim);
    CHECK(one.native == what.code);
    if (rank == victim) {
      CHECK_MESSAGE(one.code == errc::native_error, text_of(one));
      CHECK_MESSAGE(ts::text_has(one, {"rank " + std::to_string(victim), what.name}), text_of(one));
    } else {
      CHECK_MESSAGE(one.code == errc::peer_refused, text_of(one));
      CHECK(one.cause == errc::native_error);
      CHECK_MESSAGE(ts::text_has(one, {"rank " + std::to_string(victim) + ": peer_refused",
                                       "native_error", std::to_string(what.code)}),
                    text_of(one));
    }
  }
  // Blocking calls of NCCL cannot be ended: what they were to make stays with their threads. Others
  // that were left behind clean up.
  const std::string function = what.function;
  const bool blocks =
      function == "ncclCommInitRank" || function == "ncclCommSplit" || function == "cudaGetDevice";
  fake_cuda::live_counts left;
  for (int looks = 0; looks < 5'000; ++looks) {
    left = fake_cuda::live();
    if (blocks) left.comms = 0;
    if (left == fake_cuda::live_counts{}) break;
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  CHECK(left == fake_cuda::live_counts{});
  for (const std::string& text : fake_cuda::problems()) CHECK_MESSAGE(false, text);
}

} // namespace

TEST_CASE("nccl_owner: whatever fails on one rank, that rank says what and the others say who") {
  // One data-parallel rank of two attention-TP ranks: both kinds of communicators.
  const dg::topology shape{.dp_size = 1, .tp_size = 2};
  const std::vector<fragile> all{
      {"ncclGetVersion", ncclSystemError, "ncclSystemError", 3, {2}},
      {"ncclCommInitRank", ncclInternalError, "ncclInternalError", 1, {1}},
      {"ncclCommSplit", ncclUnhandledCudaError, "ncclUnhandledCudaError", 1, {1}},
      {"ncclCommCount", ncclInvalidArgument, "ncclInvalidArgument", 5, {1, 2}},
      {"ncclCommUserRank", ncclInvalidUsage, "ncclInvalidUsage", 5, {1, 2}},
      {"cudaMalloc", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", 2, {1}},
      {"cudaStreamCreateWithFlags",
       cudaErrorInitializationError,
       "cudaErrorInitializationError",
       2,
       {1}},
      {"cudaHostAlloc", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", 1, {}}};
  // The table is complete: there is no further call that might fail.
  fake_cuda::reset(2);
  for (const fragile& each : all) fake_cuda::fail_nth(each.function, each.calls + 1, each.code, 1);
  check_all_work(make_owners(shape, patient_ns));
  for (const fragile& each : all) {
    for (int nth = 1; nth <= each.calls; ++nth) check_one_fails(shape, each, nth, (nth + 1) % 2);
  }
  check_one_fails(shape, {"ncclGetUniqueId", ncclSystemError, "ncclSystemError", 1, {}}, 1, 0);
  check_one_fails({.dp_size = 3},
                  {"cudaHostAlloc", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", 1, {}},
                  1, 2);
  check_one_fails({.dp_size = 3}, {"ncclCommInitRank", ncclRemoteError, "ncclRemoteError", 1, {1}},
                  1, 1);
  // Then the next attempt works.
  fake_cuda::reset(2);
  check_all_work(make_owners(shape, patient_ns));
  fake_cuda::check_clean();
}

TEST_CASE("nccl_owner: NCCL fails in the warm-up") {
  const dg::topology shape{.dp_size = 2};
  for (const char* function : {"ncclAllGather", "ncclReduceScatter", "ncclAllReduce",
                               "ncclBroadcast", "ncclReduce", "ncclGroupStart", "ncclGroupEnd"})
    check_one_fails(shape, {function, ncclRemoteError, "ncclRemoteError", 2, {1, 2}}, 1, 1);
  fake_cuda::reset(2);
  check_all_work(make_owners(shape, patient_ns));
  fake_cuda::check_clean();
}

TEST_CASE("nccl_owner: the warm-up moves as much as it was told to") {
  const dg::topology shape{.dp_size = 3};
  const auto nothing = [](std::int32_t, dg::nccl_owner&) {};
  struct asked {
    std::size_t bytes, of_each;
  };
  for (const asked& each :
       {asked{0, 4096}, asked{3 * (4096 + 64) - 1, 4096}, asked{3 * 8192 + 5, 8192}}) {
    CAPTURE(each.bytes);
    fake_cuda::reset(3);
    check_all_work(make_owners(shape, patient_ns, nothing, each.bytes));
    REQUIRE(ts::log_is_complete());
    std::size_t most = 0;
    for (const fake_cuda::call_record& call : fake_cuda::log())
      if (call.call == "ncclAllGather") most = std::max(most, call.count);
    CHECK(most == each.of_each);
  }
  // What others get. The fake's log forgets how much that is.
  fake_cuda::reset(3);
  check_all_work(make_owners(shape, patient_ns, nothing, dg::nccl_warm_up::default_bytes));
  fake_cuda::check_clean();
}

TEST_CASE("nccl_owner: a rank that does not come, or has another world in mind") {
  const dg::topology shape{.dp_size = 3};
  fake_cuda::reset(3);
  {
    dg::steady_wait_clock clock;
    dg::host_world world{shape, clock, 40'000'000};
    std::vector<dg::status> said(3);
    fake_cuda::as_ranks(3, [&](std::int32_t rank) {
      if (rank == 1) return;
      dg::host_communicator ranks{world, rank};
      const dg::nccl_owner owner{ranks, shape.at(rank), patient_ns, few_bytes};
      said[static_cast<std::size_t>(rank)] = owner.check();
    });
    for (const std::int32_t rank : {0, 2}) {
      CHECK_MESSAGE(said[static_cast<std::size_t>(rank)].code == errc::timeout,
                    text_of(said[static_cast<std::size_t>(rank)]));
      CHECK(said[static_cast<std::size_t>(rank)].peer == 1);
    }
  }
  const auto one_differs = [&](const dg::topology& wrong) {
    dg::steady_wait_clock clock;
    dg::host_world world{shape, clock, patient_ns};
    std::vector<dg::status> said(3);
    fake_cuda::as_ranks(3, [&](std::int32_t rank) {
      dg::host_communicator ranks{world, rank};
      const dg::nccl_owner owner{ranks, rank == 1 ? wrong : shape.at(rank), patient_ns, few_bytes};
      said[static_cast<std::size_t>(rank)] = owner.check();
    });
    CHECK_MESSAGE(said[1].code == errc::bad_group, text_of(said[1]));
    for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
      CHECK(said[rank].code == errc::peer_refused);
      CHECK(said[rank].cause == errc::bad_group);
      CHECK(said[rank].rank == 1);
    }
  };
  one_differs({.dp_size = 2, .dp_rank = 1});
  one_differs({.dp_size = 3, .dp_rank = 2});
  one_differs({.dp_size = 3, .dp_rank = 3});
  one_differs({.dp_size = -1});
  CHECK(fake_cuda::calls("ncclCommInitRank") == 0);
  fake_cuda::check_clean();
}

TEST_CASE("nccl_version: an older minor or another major is refused, a newer minor works") {
  const int built = NCCL_VERSION_CODE;
  const int older = built - 100, other_major = built + 10'000, newer = built + 100;
  for (const int loaded : {older, other_major, built - 10'000}) {
    CAPTURE(loaded);
    fake_cuda::reset(2);
    fake_cuda::set_nccl_version(loaded);
    for (const dg::status& said : make_owners({.dp_size = 2}, patient_ns)) {
      CHECK_MESSAGE(said.code == errc::nccl_version, text_of(said));
      CHECK(said.value == loaded);
      CHECK(said.limit == built);
      CHECK(ts::text_has(said, {"nccl_version", std::to_string(loaded), std::to_string(built)}));
    }
    CHECK(fake_cuda::calls("ncclCommInitRank") == 0);
    // Borrowed communicators: the same library.
    ncclComm_t comm = nullptr;
    const int device = 0;
    CHECK(ncclCommInitAll(&comm, 1, &device) == ncclSuccess);
    const dg::nccl_world world{{}, comm};
    CHECK(world.check().code == errc::nccl_version);
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
    fake_cuda::check_clean();
  }
  for (const int loaded : {newer, built - built % 100, built + 1}) { // patches don't matter
    CAPTURE(loaded);
    fake_cuda::reset(1);
    fake_cuda::set_nccl_version(loaded);
    check_all_work(make_owners({}, patient_ns));
    fake_cuda::check_clean();
  }
}

TEST_CASE("nccl_world: communicators of another size or rank, or none") {
  constexpr int ranks = 4;
  fake_cuda::reset(ranks);
  std::vector<ncclComm_t> comms(ranks);
  REQUIRE(ncclCommInitAll(comms.data(), ranks, nullptr) == ncclSuccess);
  ncclComm_t pair[2] = {};
  REQUIRE(ncclCommInitAll(pair, 2, nullptr) == ncclSuccess);
  const auto check = [](const dg::nccl_world& world, errc code, subject about, std::int64_t value,
                        std::int64_t limit) {
    const dg::status said = world.check();
    CHECK_MESSAGE(said.code == code, text_of(said));
    CHECK(said.about == about);
    CHECK(said.value == value);
    CHECK(said.limit == limit);
    if (world.topology().validate().ok()) CHECK(said.rank == world.topology().world_rank());
  };
  check({{.dp_size = 3, .dp_rank = 1}, comms[1]}, errc::bad_group, subject::world, 4, 3);
  check({{.dp_size = 4, .dp_rank = 1}, pair[1]}, errc::bad_group, subject::world, 2, 4);
  check({{.dp_size = 4, .dp_rank = 1}, comms[2]}, errc::bad_group, subject::rank, 2, 1);
  check({{.dp_size = 4}, nullptr}, errc::null_pointer, subject::world, 4, 0);
  const dg::topology peers{.dp_size = 2, .tp_size = 2, .dp_rank = 1, .tp_rank = 1};
  check({peers, comms[3]}, errc::null_pointer, subject::tp_size, 2, 0);
  check({peers, comms[3], comms[3]}, errc::bad_group, subject::tp_size, 4, 2);
  check({peers, comms[3], pair[0]}, errc::bad_group, subject::rank, 0, 1);
  CHECK(dg::nccl_world{peers, comms[3], pair[1]}.check().ok());
  check({{.dp_size = 4, .dp_rank = 4}, comms[1]}, errc::bad_group, subject::rank, 4, 3);
  check({{.dp_size = 0}, comms[0]}, errc::bad_group, subject::dp_size, 0, 1);
  check({{.dp_size = -1}, comms[0]}, errc::bad_group, subject::dp_size, -1, 1);
  check({{.dp_size = 1, .tp_size = -3}, comms[0]}, errc::bad_group, subject::tp_size, -3, 1);
  check({{.dp_size = 1 << 30, .tp_size = 4}, comms[0]}, errc::too_many_ranks, subject::dp_size,
        1 << 30, dg::max_ranks);
  // Native errors name the world rank, of either communicator.
  for (const char* function : {"ncclCommCount", "ncclCommUserRank"}) {
    for (const int nth : {1, 2}) {
      fake_cuda::fail_nth(function, nth, ncclInvalidUsage);
      const dg::nccl_world world{peers, comms[3], pair[1]};
      CHECK(world.check().code == errc::native_error);
      CHECK(ts::text_has(world.check(), {"rank 3", "ncclInvalidUsage"}));
    }
  }
  // Such a world answers every call with why.
  dg::nccl_world broken{{.dp_size = 3, .dp_rank = 1}, comms[1]};
  dg::nccl_communicator comm{broken};
  CHECK(comm.all_gather(nullptr, nullptr, 0, nullptr).cause == errc::bad_group);
  CHECK(comm.all_gather(nullptr, nullptr, 0, nullptr).code == errc::poisoned);
  CHECK(broken.poll().code == errc::poisoned);
  for (ncclComm_t each : comms) CHECK(ncclCommDestroy(each) == ncclSuccess);
  for (ncclComm_t each : pair) CHECK(ncclCommDestroy(each) == ncclSuccess);
  fake_cuda::check_clean();
}

TEST_CASE("borrowed communicators work, and are not destroyed") {
  constexpr int ranks = 2;
  fake_cuda::reset(ranks);
  std::vector<ncclComm_t> comms(ranks);
  REQUIRE(ncclCommInitAll(comms.data(), ranks, nullptr) == ncclSuccess);
  // One data-parallel rank of two: one communicator is both the world and the peers.
  for (const bool both : {false, true}) {
    CAPTURE(both);
    fake_cuda::as_ranks(ranks, [&](std::int32_t rank) {
      const dg::topology shape = both ? dg::topology{.tp_size = 2} : dg::topology{.dp_size = 2};
      const ncclComm_t comm = comms[static_cast<std::size_t>(rank)];
      dg::nccl_world world{shape.at(rank), comm, both ? comm : nullptr};
      REQUIRE_MESSAGE(world.check().ok(), text_of(world.check()));
      dg::gather_config config;
      config.topology = shape.at(rank);
      config.element = dg::element::f32;
      config.row_bytes = 32;
      config.max_rows_per_rank = 4;
      cudaStream_t stream = nullptr;
      REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
      {
        const ts::device_bytes work{*dg::DpGather<ts::nccl_exact>::workspace_bytes(config)};
        const ts::device_bytes local{64}, global{128};
        dg::DpGather<ts::nccl_exact> dp{
            dg::nccl_communicator{world}, config, {work.data(), work.size()}};
        REQUIRE_MESSAGE(dp.check().ok(), text_of(dp.check()));
        std::vector<dg::step_record> records(2, dp.record(1));
        for (std::int32_t r = 0; r < 2; ++r) {
          records[static_cast<std::size_t>(r)].world_rank = r;
          records[static_cast<std::size_t>(r)].tokens = 2;
          records[static_cast<std::size_t>(r)].requests = 2;
        }
        const auto plan = dp.plan(records);
        REQUIRE_MESSAGE(plan.ok(), text_of(plan.status()));
        std::fill_n(local.floats(), 16, static_cast<float>(both ? 7 : rank + 1));
        const auto got = dp.gather(
            dg::rows_of<dg::replicated>(static_cast<const float*>(local.floats()), 2, 8),
            dg::rows_of<dg::replicated>(global.floats(), plan->global_rows, 8), *plan, stream);
        CHECK_MESSAGE(got.ok(), text_of(got.status()));
        CHECK(world.wait(stream, patient_ns).ok());
        for (std::int64_t i = 0; i < plan->global_rows * 8; ++i)
          CHECK(global.floats()[i] == static_cast<float>(both ? 7 : i / 16 + 1));
        if (both) { // ended once, not twice
          CHECK(fake_cuda::calls("ncclCommAbort", rank) == 0);
          world.abort();
          CHECK(fake_cuda::calls("ncclCommAbort", rank) == 1);
        }
      }
      CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    });
    CHECK(fake_cuda::calls("ncclCommDestroy") == 0);
    CHECK(fake_cuda::live().comms == (both ? 0 : ranks));
  }
  fake_cuda::check_clean();
}

TEST_CASE("close: once or twice, and afterwards nothing works") {
  fake_cuda::reset(2);
  const auto said = make_owners({.dp_size = 1, .tp_size = 2}, patient_ns,
                                [](std::int32_t, dg::nccl_owner& owner) {
                                  CHECK(owner.close().ok());
                                  CHECK(owner.check().code == errc::peer_left);
                                  CHECK(owner.close().ok());
                                });
  check_all_work(said);
  CHECK(fake_cuda::calls("ncclCommDestroy") == 4);
  CHECK(fake_cuda::calls("ncclCommAbort") == 0);
  fake_cuda::check_clean();
  // What NCCL answers is told, and all is gone nevertheless.
  fake_cuda::reset(1);
  make_owners({}, patient_ns, [](std::int32_t, dg::nccl_owner& owner) {
    fake_cuda::fail_nth("ncclCommDestroy", 1, ncclSystemError);
    const dg::status closed = owner.close();
    CHECK(closed.code == errc::native_error);
    CHECK(ts::text_has(closed, {"ncclSystemError"}));
    CHECK(owner.close().ok());
  });
  CHECK(fake_cuda::problems().empty());
}

TEST_CASE("close under live graphs: graphs_alive, nothing is destroyed, later it works") {
  struct policy : dg::rebind_comm<dg::pr8278, dg::comm::nccl> {};
  ts::nccl_bench<policy> bench{{.dp_size = 2}};
  bench.rebuild(true);
  std::vector<dg::graph_set> graphs(2);
  bench.run([&](auto& r) {
    dg::graph_set& mine = graphs[static_cast<std::size_t>(r.rank())];
    const dg::status captured =
        mine.capture(r.dp().rules().ladder(), r.stream(), [&](std::int32_t size) {
          r.prepare(way::gather, r.plan_for({size, size}, 1, true));
          r.enter();
          return r.got;
        });
    CHECK_MESSAGE(captured.ok(), text_of(captured));
    const dg::status closed = r.owner().close();
    CHECK(closed.code == errc::graphs_alive);
    CHECK(closed.value == 3);
    CHECK(closed.rank == r.rank());
    CHECK(ts::text_has(closed, {"graphs_alive", "3"}));
    CHECK(r.owner().check().ok());
  });
  CHECK(fake_cuda::live().comms == 2);
  // Everything still works: replays, and calls outside.
  bench.prepare(way::gather, {5, 3}, true);
  bench.run([&](auto& r) {
    r.got = r.dp().refresh_counts(r.plan, r.stream());
    if (r.got.ok())
      r.got = graphs[static_cast<std::size_t>(r.rank())].launch(r.plan.shared_bucket, r.stream());
    r.wait();
  });
  bench.check_done();
  bench.check_works(way::combine, {5, 3});
  bench.run([&](auto& r) {
    graphs[static_cast<std::size_t>(r.rank())].clear();
    CHECK(r.world().graphs_alive() == 0);
    const dg::status closed = r.owner().close();
    CHECK_MESSAGE(closed.ok(), text_of(closed));
  });
  bench.rebuild(true);
  bench.check_works(way::gather, {5, 3});
}

// --- the exchange --------------------------------------------------------------------------------

TEST_CASE("nccl_bootstrap: values of any length, barriers, and agree") {
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 3}};
  bench.run([](auto& r) {
    dg::nccl_bootstrap ranks{r.comm().native_handle(), patient_ns};
    REQUIRE(ranks.check().ok());
    CHECK(ranks.rank() == r.rank());
    CHECK(ranks.size() == 3);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{4095},
                                    std::size_t{4096}, std::size_t{4097}, std::size_t{20'001}}) {
      const auto value = [](std::int32_t rank, std::size_t i) {
        return static_cast<std::byte>(static_cast<std::size_t>(rank) * 89 + i * 7 + i / 256);
      };
      std::vector<std::byte> mine(bytes), all(3 * bytes + 16, std::byte{0x77});
      for (std::size_t i = 0; i < bytes; ++i) mine[i] = value(r.rank(), i);
      const dg::status said = ranks.all_gather(mine.data(), all.data(), bytes);
      CHECK_MESSAGE(said.ok(), text_of(said));
      int wrong = 0;
      for (std::size_t i = 0; i < 3 * bytes; ++i)
        wrong += all[i] != value(static_cast<std::int32_t>(i / bytes), i % bytes);
      for (std::size_t i = 3 * bytes; i < all.size(); ++i) wrong += all[i] != std::byte{0x77};
      CHECK(wrong == 0);
      CHECK(ranks.barrier().ok());
    }
    // A step, agreed over it.
    dg::step_record mine = r.dp().record(7);
    mine.tokens = mine.requests = r.rank() + 1;
    mine.phase = dg::phase::decode;
    const auto agreed = r.dp().agree(ranks, mine);
    CHECK_MESSAGE(agreed.ok(), text_of(agreed.status()));
    for (std::int32_t d = 0; d < 3; ++d) CHECK(agreed->tokens[d] == d + 1);
    // The owner's own exchange is the same.
    dg::step_record none = r.dp().record(8);
    CHECK(r.dp().agree(ranks, none).ok());
  });
}

TEST_CASE(
    "nccl_bootstrap: a rank is missing, or something fails: an error in time, then poisoned") {
  constexpr std::int64_t deadline_ns = 20'000'000;
  struct fault {
    const char* function; ///< null: the rank does not come
    int nth, code;
    const char* name;
  };
  const fault faults[] = {{nullptr, 0, 0, ""},
                          {"cudaMemcpyAsync", 1, cudaErrorInvalidValue, "cudaErrorInvalidValue"},
                          {"ncclAllGather", 1, ncclSystemError, "ncclSystemError"},
                          {"ncclAllGather", 2, ncclRemoteError, "ncclRemoteError"},
                          {"cudaMemcpyAsync", 2, cudaErrorUnknown, "cudaErrorUnknown"},
                          {"cudaStreamQuery", 1, cudaErrorLaunchFailure, "cudaErrorLaunchFailure"}};
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 3}};
  for (const fault& each : faults) {
    CAPTURE(std::string{each.function == nullptr ? "missing" : each.function});
    CAPTURE(each.nth);
    std::vector<std::unique_ptr<dg::nccl_bootstrap>> exchanges(3);
    bench.run([&](auto& r) {
      auto& mine = exchanges[static_cast<std::size_t>(r.rank())];
      mine = std::make_unique<dg::nccl_bootstrap>(r.comm().native_handle(),
                                                  r.rank() == 1 ? patient_ns : deadline_ns);
      r.got = mine->barrier();
    });
    // It had worked; the peers' deadlines may be short on a loaded machine.
    const bool worked = bench[0].got.ok() && bench[1].got.ok() && bench[2].got.ok();
    if (worked) {
      if (each.function != nullptr) fake_cuda::fail_nth(each.function, each.nth, each.code, 1);
      bench.run([&](auto& r) {
        dg::nccl_bootstrap& mine = *exchanges[static_cast<std::size_t>(r.rank())];
        if (r.rank() == 1 && each.function == nullptr) return;
        std::vector<std::byte> own(5000), all(15'000); // two chunks
        using clock = std::chrono::steady_clock;
        const clock::time_point began = clock::now();
        r.got = mine.all_gather(own.data(), all.data(), own.size());
        const std::chrono::nanoseconds took = clock::now() - began;
        CHECK(took.count() < 2 * deadline_ns * 12 / 10 + 1'100'000'000);
        CHECK(r.got.rank == r.rank());
        for (int again = 0; again < 2; ++again) {
          const dg::status later =
              again == 0 ? mine.barrier() : mine.all_gather(own.data(), all.data(), own.size());
          CHECK_MESSAGE(later.code == errc::poisoned, text_of(later));
          CHECK(later.cause == r.got.code);
          CHECK(later.native == r.got.native);
        }
        CHECK(mine.check().code == r.got.code);
      });
      for (auto& r : bench) {
        if (r->rank() != 1) {
          CHECK_MESSAGE(r->got.code == errc::timeout, text_of(r->got));
        } else if (each.function != nullptr) {
          CHECK_MESSAGE(r->got.code == errc::native_error, text_of(r->got));
          CHECK(r->got.native == each.code);
          CHECK(ts::text_has(r->got, {"rank 1", each.name}));
        }
      }
    }
    bench.run([&](auto& r) {
      r.world().abort(); // before the stream is destroyed
      exchanges[static_cast<std::size_t>(r.rank())].reset();
    });
    bench.rebuild();
    bench.check_works(way::gather, {5, 3, 8});
  }
}

TEST_CASE("nccl_bootstrap: what fails at its construction is what its calls answer") {
  struct fault {
    const char* function;
    int code;
    const char* name;
  };
  fake_cuda::reset(1);
  ncclComm_t comm = nullptr;
  const int device = 0;
  REQUIRE(ncclCommInitAll(&comm, 1, &device) == ncclSuccess);
  for (const fault& each :
       {fault{"ncclCommUserRank", ncclInvalidUsage, "ncclInvalidUsage"},
        fault{"ncclCommCount", ncclInvalidUsage, "ncclInvalidUsage"},
        fault{"cudaStreamCreateWithFlags", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
        fault{"cudaMalloc", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
        fault{"cudaHostAlloc", cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"}}) {
    CAPTURE(std::string{each.function});
    fake_cuda::fail_nth(each.function, 1, each.code);
    {
      dg::nccl_bootstrap broken{comm};
      CHECK(broken.check().code == errc::native_error);
      CHECK(ts::text_has(broken.check(), {each.name}));
      CHECK(broken.barrier().code == errc::poisoned);
      CHECK(broken.barrier().cause == errc::native_error);
    }
    fake_cuda::live_counts left;
    left.comms = 1;
    CHECK(fake_cuda::live() == left);
    dg::nccl_bootstrap works{comm};
    CHECK(works.check().ok());
    CHECK(works.barrier().ok());
  }
  const dg::nccl_bootstrap nobody{nullptr};
  CHECK(nobody.check().code == errc::native_error);
  CHECK(ncclCommDestroy(comm) == ncclSuccess);
  fake_cuda::check_clean();
}
