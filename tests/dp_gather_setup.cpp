// Construction and agreement of `DpGather`: what is refused, and that every rank hears of it.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/call_bench.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using dg::errc;
using dg::subject;

namespace {

std::int64_t number(std::size_t n) { return static_cast<std::int64_t>(n); }

/// The constructor's verdict, which every later call repeats.
template <class Policy = dg::max_always>
dg::status constructed(const dg::gather_config& config, dg::topology world_shape,
                       std::int64_t workspace_less = 0, std::size_t workspace_skew = 0) {
  dg::steady_wait_clock clock;
  dg::host_world world{world_shape, clock};
  dg::host_communicator comm{world, 0};
  const auto bytes = dg::DpGather<Policy>::workspace_bytes(config);
  ts::guarded_bytes memory{(bytes.ok() ? *bytes : 0) + workspace_skew};
  const std::size_t size =
      bytes.ok() ? static_cast<std::size_t>(static_cast<std::int64_t>(*bytes) - workspace_less) : 0;
  dg::DpGather<Policy> dp{comm, config, {memory.data() + workspace_skew, size}};
  const dg::status said = dp.check();
  if (said.ok()) return said;
  // Nothing works, and everything says why.
  CHECK(dp.plan(dg::agreement{}).code() == said.code);
  CHECK(dp.plan(std::vector<dg::step_record>(1)).code() == said.code);
  std::byte byte{};
  const dg::token_rows<dg::replicated> none{&byte, 0, element::u8, 1};
  CHECK(dp.scatter(none, none, dg::step_plan{}, dg::host_stream{}).code == said.code);
  if (!bytes.ok()) CHECK(bytes.status().code == said.code);
  return said;
}

} // namespace

TEST_CASE("the constructor: configurations that mean nothing") {
  const dg::topology one{.dp_size = 1};
  const auto with = [](auto change) {
    dg::gather_config config = ts::small_config();
    change(config);
    return config;
  };
  CHECK(constructed(with([](auto&) {}), one).ok());

  dg::status said = constructed(with([](auto& c) { c.row_bytes = 0; }), one);
  CHECK(said.code == errc::bad_config);
  CHECK(said.about == subject::row_bytes);
  said = constructed(with([](auto& c) { c.row_bytes = 30; }), one);
  CHECK(said.code == errc::misaligned);
  CHECK(said.value == 30);
  CHECK(said.limit == 4);
  said = constructed(with([](auto& c) { c.max_rows_per_rank = 0; }), one);
  CHECK(said.code == errc::bad_config);
  CHECK(said.about == subject::max_rows);
  said = constructed(with([](auto& c) { c.draft_width = 0; }), one);
  CHECK(said.code == errc::bad_config);
  said = constructed(with([](auto& c) { c.waste_limit = 0.5; }), one);
  CHECK(said.code == errc::bad_config);
  CHECK(said.about == subject::waste_limit);
  said = constructed(with([](auto& c) {
                       c.row_bytes = std::size_t{1} << 60;
                       c.max_rows_per_rank = std::numeric_limits<std::int32_t>::max();
                     }),
                     one);
  CHECK(said.code == errc::size_overflow);
  said = constructed(with([](auto& c) { c.topology.dp_size = 257; }), one);
  CHECK(said.code == errc::too_many_ranks);
  CHECK(said.value == 257);
  CHECK(said.limit == 256);
  said = constructed(with([](auto& c) { c.topology.tp_size = 0; }), one);
  CHECK(said.code == errc::bad_group);
  said = constructed(with([](auto& c) { c.topology.dp_rank = 1; }), one);
  CHECK(said.code == errc::bad_group);

  said = constructed(with([](auto& c) { c.ladder = {}; }), one);
  CHECK(said.code == errc::bad_buckets);
  said = constructed(with([](auto& c) { c.ladder.append(17); }), one);
  CHECK(said.code == errc::bad_buckets);
  CHECK(said.value == 3); // the index: 4, 8, 16 fit
  said = constructed(with([](auto& c) {
                       c.topology.tp_size = 4;
                       c.ladder = {};
                       c.ladder.append(4), c.ladder.append(6);
                     }),
                     {.dp_size = 1, .tp_size = 4});
  CHECK(said.code == errc::bad_buckets);
  CHECK(said.value == 1);
  CHECK(said.limit == 4);
}

TEST_CASE("the constructor: a communicator of another world") {
  dg::gather_config config = ts::small_config();
  config.topology = {.dp_size = 2};
  dg::status said = constructed(config, {.dp_size = 3});
  CHECK(said.code == errc::bad_group);
  CHECK(said.about == subject::world);
  CHECK(said.value == 3);
  CHECK(said.limit == 2);
  CHECK(ts::message_has(said, {"bad_group", "world", "3", "2"}));

  config.topology.dp_rank = 1;
  said = constructed(config, {.dp_size = 2}); // the communicator is rank 0
  CHECK(said.code == errc::bad_group);
  CHECK(said.about == subject::rank);
  CHECK(said.value == 0);
  CHECK(said.limit == 1);
}

TEST_CASE("the constructor: as many ranks, but grouped in another way") {
  // Sums over attention-TP peers would silently run over other ranks.
  dg::gather_config config = ts::small_config();
  config.topology = {.dp_size = 2, .tp_size = 2};
  CHECK(constructed(config, {.dp_size = 4, .tp_size = 1}).code == errc::bad_group);
  CHECK(constructed(config, {.dp_size = 1, .tp_size = 4}).code == errc::bad_group);
  CHECK(constructed(config, {.dp_size = 2, .tp_size = 2}).ok());
}

TEST_CASE("the constructor: a workspace that is too small") {
  const auto check = []<class Policy>(Policy, std::size_t needed) {
    const dg::status said = constructed<Policy>(ts::small_config(), {.dp_size = 1}, 1);
    CHECK(said.code == errc::capacity_exceeded);
    CHECK(said.about == subject::workspace);
    CHECK(said.value == number(needed));
    CHECK(said.limit == number(needed) - 1);
    CHECK(said.rank == 0);
    CHECK(ts::message_has(said, {"capacity_exceeded", "workspace", std::to_string(needed)}));
  };
  check(dg::max_always{}, 16 * 32);
  check(dg::sum_always{}, 16 * 32);
  check(dg::exact_eager{}, 16 * 32);
}

TEST_CASE("the constructor: a workspace that is not aligned to 16 bytes") {
  const dg::status said = constructed(ts::small_config(), {.dp_size = 1}, 0, 4);
  CHECK(said.code == errc::misaligned);
  CHECK(said.about == subject::workspace);
}

// --- agreement -----------------------------------------------------------------------------------

namespace {

/// What every rank of a world answers to `agree` when `change` has been at one rank's record.
std::vector<dg::status> agreed_with(ts::gather_world& world, std::uint64_t step, std::int32_t who,
                                    const std::function<void(dg::step_record&)>& change) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(world.topology(0).dp_size), 2);
  std::vector<dg::step_record> records = world.records(counts, step, true);
  if (change) change(records[static_cast<std::size_t>(who)]);
  std::vector<dg::status> said(records.size());
  world.run([&](std::int32_t rank) {
    dg::host_communicator comm = world.comm(rank);
    said[static_cast<std::size_t>(rank)] =
        world[rank].agree(comm, records[static_cast<std::size_t>(rank)]).status();
  });
  return said;
}

} // namespace

TEST_CASE("agree: a wrong record of one rank is the same named error on all, the next step works") {
  struct wrong {
    const char* what;
    std::function<void(dg::step_record&)> change;
    errc code;
    subject about;
  };
  const std::vector<wrong> all{
      {"magic", [](auto& r) { r.magic ^= 1; }, errc::bad_record, subject::record},
      {"version", [](auto& r) { r.version = 2; }, errc::bad_record, subject::record},
      {"phase", [](auto& r) { r.phase = static_cast<dg::phase>(6); }, errc::bad_record,
       subject::phase},
      {"rank", [](auto& r) { r.world_rank = 0; }, errc::bad_group, subject::rank},
      {"configuration", [](auto& r) { r.config_hash ^= 1; }, errc::config_mismatch,
       subject::config},
      {"step", [](auto& r) { r.step += 1; }, errc::config_mismatch, subject::step},
      {"tokens", [](auto& r) { r.tokens = -1; }, errc::count_out_of_range, subject::tokens},
      {"width", [](auto& r) { r.width = 2; }, errc::config_mismatch, subject::width},
      {"width of none", [](auto& r) { r.width = 0; }, errc::count_out_of_range, subject::width},
      {"cannot run", [](auto& r) { r.cannot_run = static_cast<std::int32_t>(errc::graph_missing); },
       errc::rank_cannot_run, subject::step}};
  for (const dg::topology shape :
       {dg::topology{.dp_size = 3}, dg::topology{.dp_size = 2, .tp_size = 2}}) {
    auto world = ts::gather_world::of<dg::exact_graph>(shape, ts::small_config());
    std::uint64_t step = 0;
    const std::int32_t who = world.size() - 1;
    for (const wrong& w : all) {
      CAPTURE(std::string{w.what});
      const auto said = agreed_with(world, ++step, who, w.change);
      for (const dg::status& s : said) {
        CHECK(s.code == w.code);
        CHECK(s.about == w.about);
        CHECK(s.rank == who);
        CHECK(ts::message_has(s, {dg::name_of(w.code), "rank " + std::to_string(who)}));
        CHECK(s.message().view() == said[0].message().view());
      }
      if (w.code == errc::rank_cannot_run) CHECK(said[0].cause == errc::graph_missing);
      for (const dg::status& s : agreed_with(world, ++step, 0, nullptr)) CHECK(s.ok());
    }
  }
}

TEST_CASE("agree: attention-TP peers with different counts") {
  auto world =
      ts::gather_world::of<dg::exact_graph>({.dp_size = 2, .tp_size = 2}, ts::small_config());
  const auto said = agreed_with(world, 1, 3, [](auto& r) { r.tokens = 3; });
  for (const dg::status& s : said) {
    CHECK(s.code == errc::config_mismatch);
    CHECK(s.about == subject::tokens);
    CHECK(s.rank == 3);
    CHECK(s.peer == 2);
    CHECK(s.value == 3);
    CHECK(s.limit == 2);
  }
}

TEST_CASE("agree: a rank that executed another plan last time is named") {
  auto world = ts::gather_world::of<dg::exact_graph>({.dp_size = 3}, ts::small_config());
  const auto said = agreed_with(world, 1, 2, [](auto& r) { r.last_plan = 7; });
  for (const dg::status& s : said) {
    CHECK(s.code == errc::plan_mismatch);
    CHECK(s.about == subject::last_plan);
    CHECK(s.rank == 2);
  }
}

TEST_CASE(
    "agree: a rank whose constructor failed takes part, so that the others hear of it at once") {
  dg::steady_wait_clock clock;
  const dg::topology shape{.dp_size = 3};
  dg::host_world world{shape, clock, 3'000'000'000};
  std::vector<dg::status> said(3);
  std::vector<std::thread> threads;
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      dg::gather_config config = ts::small_config();
      config.topology = shape.at(rank);
      std::vector<std::byte> workspace(rank == 1 ? 0 : 16 * 32);
      dg::host_communicator comm{world, rank};
      dg::DpGather<dg::exact_eager> dp{comm, config, workspace};
      dg::step_record mine = dp.record(1);
      mine.world_rank = rank;
      said[static_cast<std::size_t>(rank)] = dp.agree(comm, mine).status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(said[1].code == errc::capacity_exceeded);
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    CHECK_MESSAGE(said[rank].code == errc::rank_cannot_run,
                  std::string{said[rank].message().view()});
    CHECK(said[rank].cause == errc::capacity_exceeded);
    CHECK(said[rank].rank == 1);
  }
}
