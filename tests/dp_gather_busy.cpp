// Two threads in one channel, and two channels' threads in one communicator.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/call_bench.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::errc;
using ts::call_kind;
using ts::rank_call;

TEST_CASE(
    "busy: a second thread in one channel is refused, the first goes on, the next call works") {
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    CAPTURE(policy.name);
    ts::gather_world world{{.dp_size = 2}, ts::small_config(), policy};
    ts::call_bench bench{world};
    bench.prepare(call_kind::gather, {5, 3}, 1);
    rank_call& call = bench[0];
    ts::guarded_bytes second_memory{call.global_memory.size()};
    const std::vector<std::byte> second_before = second_memory.snapshot();
    ts::view_numbers second = call.global;
    second.data = second_memory.data();

    // Two threads enter as rank 0, in either order; rank 1 comes when one of them was refused.
    std::atomic<int> refused{0};
    std::vector<dg::status> said(2);
    const auto enter = [&](std::size_t who) {
      rank_call mine;
      mine.kind = call_kind::gather;
      mine.plan = call.plan;
      mine.local = call.local;
      mine.global = who == 0 ? call.global : second;
      said[who] = ts::call_bench::make_call(world[0], mine);
      if (said[who].code == errc::busy) {
        // The others are locked out too, until the first one is through.
        mine.kind = call_kind::combine;
        CHECK(ts::call_bench::make_call(world[0], mine).code == errc::busy);
        mine.kind = call_kind::scatter;
        CHECK(ts::call_bench::make_call(world[0], mine).code == errc::busy);
      }
      if (!said[who].ok()) ++refused;
    };
    std::thread first{enter, std::size_t{0}};
    std::thread other{enter, std::size_t{1}};
    while (refused == 0) std::this_thread::yield();
    bench.enter(1);
    first.join();
    other.join();
    CHECK(refused == 1);
    const std::size_t loser = said[0].ok() ? 1 : 0;
    CHECK(said[loser].code == errc::busy);
    CHECK(said[loser].rank == 0);
    CHECK(ts::message_has(said[loser], {"busy", "rank 0"}));
    CHECK(said[1 - loser].ok());
    CHECK(bench[1].got.ok());
    // The refused one wrote nothing.
    CHECK(second_memory.intact());
    if (loser == 1) {
      CHECK(second_memory.equals(second_before));
    } else {
      CHECK(call.global_memory.equals(call.global_before));
    }
    bench.check_next_call_works(call_kind::gather);
  }
}

TEST_CASE("busy: a second channel's thread in one communicator; that channel's next call works") {
  dg::steady_wait_clock clock;
  const dg::topology shape{.dp_size = 2};
  auto world = ts::gather_world::of<dg::exact_eager>(shape, ts::small_config());
  // A second channel on the same communicators.
  std::vector<std::vector<std::byte>> workspaces(2, std::vector<std::byte>(16 * 32));
  std::vector<std::unique_ptr<ts::gather_engine>> second;
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    dg::gather_config config = ts::small_config();
    config.topology = shape.at(rank);
    second.push_back(std::make_unique<ts::gather_engine_of<dg::exact_eager>>(
        world.comm(rank), config, workspaces[static_cast<std::size_t>(rank)]));
    REQUIRE(second.back()->check().ok());
  }
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, {5, 3}, 1);
  const auto engine = [&](std::int32_t rank, std::size_t channel) -> ts::gather_engine& {
    return channel == 0 ? world[rank] : *second[static_cast<std::size_t>(rank)];
  };
  std::atomic<int> loser{-1};
  std::vector<dg::status> said(2);
  ts::guarded_bytes memory{bench[0].global_memory.size()};
  const auto enter = [&](std::size_t channel) {
    rank_call mine;
    mine.plan = bench[0].plan;
    mine.local = bench[0].local;
    mine.global = bench[0].global;
    if (channel == 1) mine.global.data = memory.data();
    said[channel] = ts::call_bench::make_call(engine(0, channel), mine);
    if (!said[channel].ok()) loser = static_cast<int>(channel);
  };
  std::thread first{enter, std::size_t{0}};
  std::thread other{enter, std::size_t{1}};
  while (loser < 0) std::this_thread::yield();
  const auto lost = static_cast<std::size_t>(loser.load());
  bench[1].got = ts::call_bench::make_call(engine(1, 1 - lost), bench[1]);
  first.join();
  other.join();
  CHECK(said[lost].code == errc::busy);
  CHECK_MESSAGE(said[1 - lost].ok(), std::string{said[1 - lost].message().view()});
  CHECK(bench[1].got.ok());
  // What was refused as busy did not happen: the channel is where its peers are.
  bench.prepare(call_kind::gather, {5, 3}, 1);
  world.run([&](std::int32_t rank) {
    bench[rank].got = ts::call_bench::make_call(engine(rank, lost), bench[rank]);
  });
  bench.check_done();
}
