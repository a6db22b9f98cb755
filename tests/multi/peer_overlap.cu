// Two channels at once: two micro-batches whose gathers and combines run side by side, in one graph
// and in two, and one channel that two streams want at once.
#include <support/peer_engine.cuh>

#include <dpgather/device/side_stream.cuh>

#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <thread>

namespace dg = dpgather;

namespace test_support {

struct overlap_device
    : dg::policy<dg::mode::exact, dg::counts::device, dg::layout::packed, dg::lookup::own,
                 dg::ladder::from_config, dg::comm::peer, dg::launch::shape<8, true>> {};
struct overlap_exchanged
    : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::layout::packed, dg::lookup::own,
                 dg::ladder::from_config, dg::comm::peer, dg::launch::shape<8, true>> {};

/// Calls `body(comm)` as each of two ranks on a GPU of its own.
template <class Body>
void as_two_ranks(Body body) {
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{.dp_size = 2}, clock, 100'000'000'000};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    cuda_must(cudaSetDevice(comm.rank()), "device");
    body(comm);
    must(comm.barrier(), "end");
  });
}

} // namespace test_support

namespace ts = test_support;

TEST_CASE_TEMPLATE("two channels in one graph, forked and joined", Policy, ts::overlap_device,
                   ts::overlap_exchanged) {
  for (const std::size_t most_line_bytes : {std::size_t{1} << 20, std::size_t{0}}) {
    CAPTURE(most_line_bytes);
    ts::as_two_ranks([&](dg::host_communicator comm) {
      dg::side_stream side;
      ts::must(side.check(), "side stream");
      ts::peer_rank<Policy> first{comm, most_line_bytes, 2};
      ts::peer_rank<Policy> second{comm, most_line_bytes, 2, side.stream()};
      CHECK(first.replay_beside(second, side, 3, 500) == 0);
      ts::must(comm.barrier(), "done");
    });
  }
}

TEST_CASE("two channels in graphs of their own, neither in step with the other") {
  ts::as_two_ranks([](dg::host_communicator comm) {
    ts::peer_rank<ts::overlap_device> first{comm, std::size_t{1} << 20, 2};
    ts::peer_rank<ts::overlap_exchanged> second{comm, 0, 2};
    first.launch(ts::step_kind::both, 2, 500, 1);
    second.launch(ts::step_kind::both, 3, 500, 2);
    CHECK(first.wrong() + second.wrong() == 0);
    ts::must(comm.barrier(), "done");
  });
}

TEST_CASE("calls that tell of their progress are counted without a CUDA call") {
  ts::as_two_ranks([](dg::host_communicator comm) {
    ts::peer_rank<ts::overlap_device> rank{comm, std::size_t{1} << 20, 2};
    rank.world().tell_progress(true);
    CHECK(rank.world().calls_done() == 0);
    CHECK(rank.replay(ts::step_kind::both, 2, 50, 1) == 0);
    CHECK(rank.world().calls_done() == 200); // a gather and a combine a step
    ts::must(comm.barrier(), "done");
  });
}

TEST_CASE("one channel on two streams at once is busy, on every rank") {
  ts::as_two_ranks([](dg::host_communicator comm) {
    ts::peer_rank<ts::overlap_exchanged> rank{comm, std::size_t{1} << 20, 2};
    dg::side_stream side;
    if (comm.rank() == 0) { // both wait for rank 1, which is not there yet
      ts::must(rank.gather_on(rank.stream()), "first stream");
      ts::must(rank.gather_on(side.stream()), "second stream");
      for (int i = 0; i < 4'000 && rank.world().check().ok(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
      CHECK(rank.world().check().code == dg::errc::busy);
    }
    ts::must(comm.barrier(), "found");
    if (comm.rank() == 1) {
      ts::must(rank.gather_on(rank.stream()), "late");
      CHECK(rank.world().wait(rank.stream(), 10'000'000'000).code == dg::errc::busy);
    }
    ts::cuda_must(cudaDeviceSynchronize(), "the context lives");
    ts::must(comm.barrier(), "done");
  });
}
