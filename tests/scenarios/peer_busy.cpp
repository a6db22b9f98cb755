// Two kernels in one channel: one of them finds the other, and nobody goes on.
#include <support/expected_races.hpp>
#include <support/peer_host_stage.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <thread>
#include <vector>

namespace dg = dpgather;
using namespace test_support;

namespace {

/// Every call that any thread makes of rank 0 is this one; rank 1 makes none.
struct lonely_world {
  lonely_world(bool combines, dg::counts_kind source) {
    with.row_bytes[0] = 64;
    random_source random{1};
    stage = std::make_unique<host_stage>(with, random, 7);
    calls = draw_story<dg::detail::f32_sum>(random, with, 1, 1);
    calls[0].combines = combines;
    calls[0].blocks = 1;
    calls[0].source = source;
    calls[0].partial = false;
  }
  story_options with;
  std::unique_ptr<host_stage> stage;
  std::vector<story_call> calls;
};

} // namespace

TEST_CASE("a second stream in a channel is named, on every rank") {
  struct kind {
    bool combines;
    dg::counts_kind source;
  };
  for (const auto& [combines, source] :
       {kind{false, dg::counts_kind::agreed}, kind{false, dg::counts_kind::exchanged},
        kind{true, dg::counts_kind::agreed}}) {
    CAPTURE(combines);
    CAPTURE(name_of(source));
    lonely_world world{combines, source};
    dg::steady_wait_clock clock;
    // The first waits for rank 1, which never comes; the second must not take its epoch. Both write
    // to the same view until one of them knows.
    const expected_races racing;
    std::vector<std::thread> streams;
    for (int s = 0; s < 2; ++s)
      streams.emplace_back([&] {
        dg::peer_table table{};
        telling_block<dg::peer_rules> block{0, 1, clock, table, dg::peer_rules{}};
        const auto meet = [] {};
        story_teller<dg::detail::f32_sum, telling_block<dg::peer_rules>, decltype(meet)> teller{
            block, world.stage->story_ranks[0], meet};
        teller.make(world.calls[0]);
      });
    for (std::thread& each : streams) each.join();
    const dg::peer_record& first = world.stage->controls[0].first;
    REQUIRE(first.written != 0);
    CHECK(static_cast<dg::errc>(first.code) == dg::errc::busy);
    CHECK(static_cast<dg::subject>(first.about) == dg::subject::call);
    CHECK(first.rank == 0);
    // Word of it lies with the peer.
    const auto& peer = *reinterpret_cast<const dg::peer_state*>(world.stage->arenas[1].get() +
                                                                world.stage->layout.state);
    CHECK((peer.poison & 0xff) == static_cast<std::uint64_t>(dg::errc::busy));
  }
}
