// Every error of NCCL and of the CUDA runtime that a call can meet: named on the rank that has it,
// sticky, bounded on the ranks that wait for it; after an abort and a rebuild all works again.
#include "support/nccl_bench.hpp"

#include <dpgather/errc.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::errc;
using ts::text_of;
using ts::way;

namespace {

constexpr std::int32_t victim = 1;
constexpr std::int64_t deadline_ns = 10'000'000;
const std::vector<std::int32_t> rows{5, 3, 8};

struct named_code {
  int code;
  const char* name;
};
constexpr named_code nccl_codes[] = {{ncclUnhandledCudaError, "ncclUnhandledCudaError"},
                                     {ncclSystemError, "ncclSystemError"},
                                     {ncclInternalError, "ncclInternalError"},
                                     {ncclInvalidArgument, "ncclInvalidArgument"},
                                     {ncclInvalidUsage, "ncclInvalidUsage"},
                                     {ncclRemoteError, "ncclRemoteError"},
                                     {12, // within what the enumeration may hold
                                      "an NCCL error newer than this library"}};

void check_native(const dg::status& said, const named_code& expected) {
  CHECK_MESSAGE(said.code == errc::native_error, text_of(said));
  CHECK(said.native == expected.code);
  CHECK(said.rank == victim);
  CHECK_MESSAGE(ts::text_has(said, {"rank 1: native_error: code " + std::to_string(expected.code),
                                    expected.name}),
                text_of(said));
}
void check_poisoned(const dg::status& said, errc cause, const named_code& expected = {}) {
  CHECK_MESSAGE(said.code == errc::poisoned, text_of(said));
  CHECK(said.cause == cause);
  CHECK(said.native == expected.code);
  if (cause == errc::native_error)
    CHECK_MESSAGE(ts::text_has(said, {"rank 1: poisoned: native_error", expected.name}),
                  text_of(said));
}

/// What all later calls of a rank answer; none of them starts anything.
template <class Rank>
void check_all_poisoned(Rank& r, errc cause, const named_code& expected = {}) {
  const dg::status first = r.got;
  fake_cuda::clear_log();
  for (const way again : {way::gather, way::combine}) {
    r.prepare(again, r.plan);
    CHECK(cudaSetDevice(r.rank()) == cudaSuccess);
    r.enter();
    check_poisoned(r.got, cause, expected);
    CHECK(r.nothing_was_written());
  }
  check_poisoned(r.dp().refresh_counts(r.plan, r.stream()), cause, expected);
  check_poisoned(r.world().poll(), cause, expected);
  check_poisoned(r.world().wait(r.stream(), deadline_ns), cause, expected);
  // Another channel of the same communicators, which has seen no error itself.
  typename std::remove_reference_t<decltype(r.dp())> other{r.comm(), r.config(), r.workspace()};
  CHECK(other.check().ok());
  check_poisoned(r.enter(other), cause, expected);
  for (const auto& call : fake_cuda::log()) {
    const bool starts = call.call == "enqueue" || call.call.starts_with("ncclAll") ||
                        call.call.starts_with("ncclReduce") || call.call == "ncclGroupStart" ||
                        call.call == "ncclBroadcast";
    CHECK_MESSAGE(!starts, call.call);
  }
  r.got = first;
}

/// Enters on all ranks and waits with a deadline; how long the slowest one waited.
template <class Bench>
void enter_and_time(Bench& bench) {
  bench.run([](auto& r) {
    using clock = std::chrono::steady_clock;
    r.enter();
    const clock::time_point began = clock::now();
    r.wait(deadline_ns);
    const std::chrono::nanoseconds took = clock::now() - began;
    // 1.2 deadlines and 100 ms, and a second for a loaded machine.
    CHECK(took.count() < deadline_ns * 12 / 10 + 1'100'000'000);
  });
}

/// Aborts on all ranks, which ends what still runs; then 20 right calls on new communicators.
template <class Bench>
void check_rebuilt(Bench& bench, bool owned = false) {
  bench.run([](auto& r) {
    r.world().abort();
    CHECK(cudaStreamSynchronize(r.stream()) == cudaSuccess);
  });
  bench.rebuild(owned);
  for (int i = 0; i < 10; ++i) {
    bench.check_works(way::gather, rows);
    bench.check_works(way::combine, rows);
  }
}

/// The victim has failed and says so; its peers were issued their part, and wait in vain.
template <class Bench>
void check_failed(Bench& bench, const named_code& expected, bool owned = false) {
  for (auto& each : bench) {
    CAPTURE(each->rank());
    if (each->rank() == victim) {
      check_native(each->got, expected);
      check_poisoned(each->waited, errc::native_error, expected);
      CHECK(each->input_is_unharmed());
      check_all_poisoned(*each, errc::native_error, expected);
    } else {
      CHECK_MESSAGE(each->got.ok(), text_of(each->got));
      CHECK_MESSAGE(each->waited.code == errc::timeout, text_of(each->waited));
      CHECK(each->waited.limit == deadline_ns / 1000);
      CHECK(ts::text_has(each->waited, {"timeout", std::to_string(deadline_ns / 1000) + " us"}));
    }
  }
  check_all_poisoned(bench[0], errc::timeout);
  check_rebuilt(bench, owned);
}

/// `owned`: in the end the communicators are an `nccl_owner`'s.
template <class Policy>
void check_nccl_fails(way what, const char* function, bool owned = false) {
  CAPTURE(std::string{function});
  CAPTURE(std::string{ts::name_of(what)});
  ts::nccl_bench<Policy> bench{{.dp_size = 3}};
  for (const named_code& each : nccl_codes) {
    CAPTURE(each.code);
    bench.check_works(what, rows); // live counts are in place: what follows is the call alone
    bench.prepare(what, rows);
    fake_cuda::fail_nth(function, 1, each.code, victim);
    enter_and_time(bench);
    check_failed(bench, each, owned && each.code == 12);
  }
}

} // namespace

TEST_CASE("NCCL fails in a collective") {
  check_nccl_fails<ts::nccl_max>(way::gather, "ncclAllGather", true);
  check_nccl_fails<ts::nccl_max>(way::combine, "ncclReduceScatter");
  check_nccl_fails<ts::nccl_sum>(way::gather, "ncclAllReduce");
  check_nccl_fails<ts::nccl_sum>(way::combine, "ncclAllReduce");
}

TEST_CASE("NCCL fails in a group, or at its ends") {
  check_nccl_fails<ts::nccl_exact>(way::gather, "ncclGroupStart");
  check_nccl_fails<ts::nccl_exact>(way::gather, "ncclBroadcast", true);
  check_nccl_fails<ts::nccl_exact>(way::gather, "ncclGroupEnd");
  check_nccl_fails<ts::nccl_exact>(way::combine, "ncclReduce");
  check_nccl_fails<ts::nccl_exact>(way::combine, "ncclGroupEnd");
}

TEST_CASE("the last call of a group fails: no group stays open, so nothing is swallowed") {
  ts::nccl_bench<ts::nccl_exact> bench{{.dp_size = 3}};
  const named_code code{ncclSystemError, "ncclSystemError"};
  bench.check_works(way::gather, rows);
  bench.prepare(way::gather, rows);
  fake_cuda::fail_nth("ncclBroadcast", 3, code.code, victim);
  bench.run([](auto& r) {
    r.enter();
    r.wait(deadline_ns);
    if (r.rank() == victim) CHECK(ncclGroupEnd() == ncclInvalidUsage); // there is none to end
  });
  check_failed(bench, code);
}

TEST_CASE("an asynchronous error is found by whoever comes first: a call, poll or wait") {
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 3}};
  for (const named_code& each : nccl_codes) {
    CAPTURE(each.code);
    const auto error = static_cast<ncclResult_t>(each.code);

    // Between two calls.
    for (const way what : {way::gather, way::combine}) {
      bench.check_works(what, rows);
      fake_cuda::set_async_error(bench[victim].comm().native_handle(), error);
      bench.prepare(what, rows);
      enter_and_time(bench);
      CHECK(bench[victim].nothing_was_written());
      check_failed(bench, each);
    }
    // By poll, and by wait on a stream that has nothing to do.
    for (const bool polls : {true, false}) {
      bench.check_works(way::gather, rows);
      ts::bench_rank<ts::nccl_max>& r = bench[victim];
      fake_cuda::set_async_error(r.comm().native_handle(), error);
      r.got = polls ? r.world().poll() : r.world().wait(r.stream(), deadline_ns);
      check_native(r.got, each);
      check_native(r.world().check(), each);
      check_all_poisoned(r, errc::native_error, each);
      check_rebuilt(bench);
    }
    // By wait, while the collective runs.
    bench.check_works(way::gather, rows);
    fake_cuda::stall(victim);
    bench.prepare(way::gather, rows);
    bench.run([](auto& r) { r.enter(); });
    for (auto& r : bench) CHECK_MESSAGE(r->got.ok(), text_of(r->got));
    fake_cuda::set_async_error(bench[victim].comm().native_handle(), error);
    fake_cuda::release(victim);
    bench.run([](auto& r) { r.wait(deadline_ns); });
    check_native(bench[victim].waited, each);
    for (const std::int32_t peer : {0, 2}) CHECK(bench[peer].waited.code == errc::timeout);
    check_all_poisoned(bench[victim], errc::native_error, each);
    check_rebuilt(bench);
  }
}

TEST_CASE("the attention-TP communicator is watched like the other one") {
  const dg::topology shape{.dp_size = 2, .tp_size = 2};
  const named_code code{ncclRemoteError, "ncclRemoteError"};
  ts::nccl_bench<ts::nccl_max> bench{shape};
  bench.check_works(way::combine, rows);
  fake_cuda::set_async_error(
      bench[victim].comm().subgroup(dg::subgroup_kind::attention_tp).native_handle(),
      ncclRemoteError);
  check_native(bench[victim].world().poll(), code);
  check_all_poisoned(bench[victim], errc::native_error, code);
  check_rebuilt(bench);

  // Its collective fails after the one of the world was done: rank 0 waits for its peer, ranks 2
  // and 3 are through, and wait in the next call.
  bench.prepare(way::combine, rows);
  fake_cuda::fail_nth("ncclAllGather", 1, code.code, victim);
  bench.run([](auto& r) {
    r.enter();
    r.wait(r.rank() == 0 ? deadline_ns : ts::patient_ns);
  });
  check_native(bench[victim].got, code);
  CHECK(bench[0].waited.code == errc::timeout);
  for (const std::int32_t peer : {2, 3}) {
    CHECK_MESSAGE(bench[peer].waited.ok(), text_of(bench[peer].waited));
    CHECK(bench[peer].is_right());
  }
  bench.prepare(way::combine, rows);
  enter_and_time(bench);
  check_poisoned(bench[0].got, errc::timeout);
  check_poisoned(bench[victim].got, errc::native_error, code);
  for (const std::int32_t peer : {2, 3}) CHECK(bench[peer].waited.code == errc::timeout);
  check_rebuilt(bench);
}

TEST_CASE("CUDA fails before the collective: as if NCCL had") {
  const named_code launch{cudaErrorLaunchFailure, "cudaErrorLaunchFailure"};
  const named_code address{cudaErrorIllegalAddress, "cudaErrorIllegalAddress"};
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 3}};
  const auto fails = [&](const char* function, int nth, const named_code& code,
                         const std::vector<std::int32_t>& now) {
    CAPTURE(std::string{function});
    CAPTURE(nth);
    bench.check_works(way::gather, rows);
    bench.prepare(way::gather, now);
    fake_cuda::fail_nth(function, nth, code.code, victim);
    enter_and_time(bench);
    check_failed(bench, code);
  };
  fails("enqueue", 1, launch, rows);      // of the placing kernel
  fails("enqueue", 1, launch, {4, 4, 4}); // of the counts
  fails("enqueue", 2, launch, {4, 4, 4});
  fails("cudaStreamIsCapturing", 1, address, rows);
  fails("cudaStreamGetCaptureInfo", 1, address, rows);
  fails("cudaGetDevice", 1, address, rows);
  fails("cudaPointerGetAttributes", 1, address, rows); // of local
  fails("cudaPointerGetAttributes", 2, address, rows); // of global
}

TEST_CASE("CUDA fails after the collective: the peers are through, and wait in the next call") {
  const named_code launch{cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources"};
  ts::nccl_bench<ts::nccl_sum> bench{{.dp_size = 3}};
  bench.check_works(way::gather, rows);
  bench.prepare(way::combine, rows);
  fake_cuda::fail_nth("enqueue", 1, launch.code, victim); // of taking this rank's rows
  bench.enter_and_wait();
  check_native(bench[victim].got, launch);
  for (const std::int32_t peer : {0, 2}) {
    CHECK_MESSAGE(bench[peer].got.ok(), text_of(bench[peer].got));
    CHECK_MESSAGE(bench[peer].waited.ok(), text_of(bench[peer].waited));
    CHECK(bench[peer].is_right());
  }
  check_all_poisoned(bench[victim], errc::native_error, launch);
  // Were the victim not poisoned, its next call would meet the peers' next one, and hide the loss.
  bench.prepare(way::gather, rows);
  enter_and_time(bench);
  check_poisoned(bench[victim].got, errc::native_error, launch);
  for (const std::int32_t peer : {0, 2}) CHECK(bench[peer].waited.code == errc::timeout);
  check_rebuilt(bench);
}

TEST_CASE("a rank that does not come: timeout in time, then abort, and the context survives") {
  ts::nccl_bench<ts::nccl_exact> bench{{.dp_size = 3}};
  bench.check_works(way::gather, rows);
  for (const way what : {way::gather, way::combine}) {
    bench.prepare(what, rows);
    bench.run([](auto& r) {
      if (r.rank() != victim) r.enter();
    });
    bench.run([](auto& r) {
      if (r.rank() != victim) r.wait(deadline_ns);
    });
    for (const std::int32_t peer : {0, 2}) {
      CHECK(bench[peer].waited.code == errc::timeout);
      check_all_poisoned(bench[peer], errc::timeout);
    }
    // The victim comes too late: its peers are gone.
    bench.run([](auto& r) {
      if (r.rank() != victim) r.world().abort();
    });
    bench.run([](auto& r) {
      if (r.rank() != victim) return;
      r.enter();
      r.wait(deadline_ns);
    });
    CHECK(bench[victim].waited.code == errc::timeout);
    check_rebuilt(bench);
  }
}

TEST_CASE("abort without a failure is one, and is harmless when repeated") {
  ts::nccl_bench<ts::nccl_max> bench{{.dp_size = 2}};
  bench.check_works(way::gather, {5, 3});
  bench.run([](auto& r) {
    r.world().abort();
    r.world().abort();
  });
  for (auto& each : bench) {
    CHECK(each->world().check().code == errc::peer_left);
    check_all_poisoned(*each, errc::peer_left);
  }
  CHECK(fake_cuda::calls("ncclCommAbort") == 0); // since the log was cleared
  bench.rebuild();
  bench.check_works(way::combine, {5, 3});
}
