// The relay: who is relayed, which slice is whose, what crosses the wires, and that no byte of any
// result depends on it.
#include <dpgather/device/peer_relay.hpp>

#include <support/peer_host_stage.hpp>
#include <support/peer_traffic.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;
using sum = dg::detail::bf16_sum;

/// A world by the limits of which counts are judged; no rows.
struct table_world {
  std::int32_t dp = 4, tp = 1, line_rows = 0, rank_rows = 100;
  std::size_t row_bytes = 16;

  /// Whom rank 0 takes for relayed. `any`: what it says of the call as a whole.
  template <class Rules = peer_rules>
  [[nodiscard]] std::vector<std::int32_t> relayed(const std::vector<std::int32_t>& counts,
                                                  std::int32_t copies, bool& any) const {
    peer_limits limits;
    limits.ranks = dp * tp;
    limits.tp_size = tp;
    limits.rank_rows = rank_rows;
    limits.view_rows = std::int64_t{rank_rows} * dp;
    limits.row_bytes[0] = row_bytes;
    limits.most_line_bytes = static_cast<std::size_t>(line_rows) * row_bytes;
    const auto layout = peer_layout::of(limits);
    REQUIRE(layout.ok());
    alignas(256) peer_state state = first_state(0); // is all of the arena that this touches
    peer_control control;
    peer_pointers pointers;
    pointers.size = layout->ranks;
    for (std::byte*& base : pointers.base) base = reinterpret_cast<std::byte*>(&state);
    step_plan plan;
    plan.mode = mode_kind::exact;
    plan.dp_size = dp;
    plan.tp_size = tp;
    plan.layout = layout_kind::packed;
    plan.global_rows = limits.view_rows;
    static const count_set none{};
    peer_rows rows = peer_rows::of(peer_lane::of(pointers, *layout, &control), {plan, none});
    rows.local_rows = rank_rows;
    peer_table table{};
    steady_wait_clock clock;
    host_block<Rules> block{0, 1, clock, table};
    peer_call<host_block<Rules>> call{block, rows.lane, 0};
    for (std::size_t d = 0; d < counts.size(); ++d) table.rows[d] = counts[d];
    rows.fill_table(call, block, 1, copies);
    REQUIRE_FALSE(call.failed());
    any = table.relays;
    std::vector<std::int32_t> out;
    for (std::int32_t r = 0; r < layout->ranks; ++r)
      if (table.share[r].relayed) out.push_back(r);
    return out;
  }
};

using ranks = std::vector<std::int32_t>;

ranks relayed(const table_world& world, const std::vector<std::int32_t>& counts,
              std::int32_t copies) {
  bool any = false;
  const ranks out = world.relayed(counts, copies, any);
  CHECK(any == !out.empty());
  return out;
}

} // namespace

TEST_CASE("who is relayed follows from the counts") {
  // All in lines, none; equal, none; above one and a half times the mean, yes; at it, no.
  CHECK(relayed({.line_rows = 100}, {100, 0, 0, 0}, 3) == ranks{});
  CHECK(relayed({}, {50, 50, 50, 50}, 3) == ranks{});
  CHECK(relayed({}, {0, 0, 0, 0}, 3) == ranks{});
  CHECK(relayed({}, {100, 0, 0, 0}, 3) == ranks{0});
  CHECK(relayed({}, {3, 2, 2, 1}, 3) == ranks{}); // 3 is one and a half times 2
  CHECK(relayed({}, {4, 2, 2, 2}, 3) == ranks{0});
  CHECK(relayed({}, {0, 1, 0, 0}, 3) == ranks{1});
  CHECK(relayed({}, {80, 1, 90, 1}, 3) == ranks{0, 2});
  CHECK(relayed({}, {80, 1, 60, 1}, 3) == ranks{0, 2});
  CHECK(relayed({}, {80, 1, 50, 1}, 3) == ranks{0, 2});             // above 1.5 * 33
  CHECK(relayed({}, {80, 1, 49, 1}, 3) == ranks{0});                // below 1.5 * 32.75
  CHECK(relayed({.line_rows = 79}, {80, 1, 70, 1}, 3) == ranks{0}); // the other is in lines
  // Two copies cannot be shared out.
  CHECK(relayed({}, {100, 0, 0, 0}, 2) == ranks{});
  CHECK(relayed({}, {100, 0, 0, 0}, 0) == ranks{});
  CHECK(relayed({.dp = 3}, {100, 0, 0}, 2) == ranks{});
  // 8:1 over eight ranks; attention-TP ranks share a count, and the lines' limit parts them.
  CHECK(relayed({.dp = 8}, {8, 1, 1, 1, 1, 1, 1, 1}, 7) == ranks{0});
  CHECK(relayed({.dp = 2, .tp = 4}, {10, 80}, 4) == ranks{4, 5, 6, 7});
  CHECK(relayed({.dp = 2, .tp = 4}, {30, 80}, 4) == ranks{});                        // mean 55
  CHECK(relayed({.dp = 4, .tp = 2, .line_rows = 20}, {0, 41, 0, 0}, 6) == ranks{3}); // 20 and 21
  // Counts as large as any.
  const std::int32_t most = INT32_MAX / max_peer_ranks;
  const std::vector<std::int32_t> full(16, most);
  std::vector<std::int32_t> one(16, 0), half(16, most / 2);
  one[15] = half[0] = most;
  CHECK(relayed({.dp = 16, .rank_rows = most}, full, 15) == ranks{});
  CHECK(relayed({.dp = 16, .rank_rows = most}, one, 15) == ranks{15});
  CHECK(relayed({.dp = 16, .rank_rows = most}, half, 15) == ranks{0});
}

TEST_CASE("the rule in 32 bits is the rule") {
  for_random_cases(
      [](random_source& random) {
        table_world world;
        world.tp = random.pick({1, 1, 2, 4});
        world.dp = random.between(1, 16 / world.tp);
        world.rank_rows = random.chance(20) ? INT32_MAX / max_peer_ranks : random.between(1, 40);
        world.line_rows = random.between(0, random.chance(50) ? 0 : world.rank_rows / 4);
        std::vector<std::int32_t> counts(static_cast<std::size_t>(world.dp));
        std::int64_t all = 0;
        for (std::int32_t& n : counts) {
          n = random.chance(50) ? random.between(0, world.rank_rows)
                                : random.between(0, world.rank_rows / 8);
          all += n;
        }
        const std::int32_t copies = random.between(0, 15);
        ranks expected;
        for (std::int32_t r = 0; r < world.dp * world.tp; ++r) {
          const std::int64_t n = counts[static_cast<std::size_t>(r / world.tp)];
          const std::int64_t t = r % world.tp;
          const std::int64_t share = n * (t + 1) / world.tp - n * t / world.tp;
          if (copies >= 3 && share > world.line_rows && 2 * n * world.dp > 3 * all)
            expected.push_back(r);
        }
        bool any = false;
        REQUIRE(world.relayed(counts, copies, any) == expected);
        REQUIRE(any == !expected.empty());
        REQUIRE(world.relayed<direct_rules>(counts, copies, any).empty());
        REQUIRE_FALSE(any);
      },
      case_count() / 20);
}

TEST_CASE("slices are all rows, receivers all ranks of other groups, warps all of a rank's") {
  for (std::int32_t slices = 1; slices <= 16; ++slices) {
    for (const std::int32_t count : {0, 1, 2, 7, 16, 100, INT32_MAX / max_peer_ranks}) {
      std::int32_t next = 0;
      for (std::int32_t k = 0; k < slices; ++k) {
        const row_range slice = dg::detail::slice_of(count, k, slices);
        REQUIRE(slice.first == next);
        REQUIRE(slice.count >= count / slices);
        REQUIRE(slice.count <= count / slices + 1);
        next += static_cast<std::int32_t>(slice.count);
      }
      REQUIRE(next == count);
    }
  }
  for (std::int32_t world = 1; world <= 16; ++world) {
    for (std::int32_t tp = 1; tp <= world; ++tp) {
      if (world % tp != 0) continue;
      peer_rows rows;
      rows.lane.layout.ranks = world;
      rows.tp_size = tp;
      for (std::int32_t h = 0; h < world; ++h) {
        const dg::detail::slice_receivers to{rows, h};
        std::set<std::int32_t> receivers;
        for (std::int32_t k = 0; k < to.count(); ++k) {
          REQUIRE(to.slice(to.rank(k)) == k);
          receivers.insert(to.rank(k));
        }
        for (std::int32_t r = 0; r < world; ++r) {
          REQUIRE(receivers.contains(r) == (r / tp != h / tp));
          REQUIRE((to.slice(r) < to.count()) == receivers.contains(r));
          REQUIRE(to.slice(r) >= 0);
        }
      }
    }
  }
  steady_wait_clock clock;
  peer_table table{};
  for (std::uint32_t warps = 1; warps <= 40; ++warps) {
    for (std::int32_t slices = 1; slices <= 15; ++slices) {
      std::vector<std::vector<int>> parts(static_cast<std::size_t>(slices));
      for (std::uint32_t w = 0; w < warps; ++w) {
        const host_block<peer_rules> block{w, warps, clock, table};
        dg::detail::for_each_slice(block, slices, [&](std::int32_t k, warp_group by) {
          auto& of = parts[static_cast<std::size_t>(k)];
          if (of.empty()) of.resize(by.count);
          REQUIRE(of.size() == by.count);
          REQUIRE(by.index < by.count);
          ++of[by.index];
        });
      }
      for (const auto& of : parts) {
        REQUIRE_FALSE(of.empty());
        for (const int times : of) REQUIRE(times == 1);
      }
    }
  }
}

namespace {

/// A world, and the calls of one story.
struct relay_world {
  story_options with{};
  std::vector<story_call> calls{};

  relay_world(std::int32_t dp, std::int32_t tp, std::int32_t rank_rows, std::int32_t blocks) {
    with.dp_size = dp;
    with.tp_size = tp;
    with.rank_rows = rank_rows;
    with.row_bytes[0] = 48;
    with.blocks = blocks;
    with.most_line_bytes = 0;
  }
  story_call& add(bool combines, const std::vector<std::int32_t>& rows) {
    return calls.emplace_back(
        packed_call(with, combines, rows, with.dp_size * with.rank_rows, calls.size() + 1));
  }

  /// Tells the story; every byte must be right. `visit(traffic)` sees what it took.
  template <class Rules, class Visit>
  void tell(Visit visit) const {
    random_source random{1};
    host_stage stage{with, random, 40};
    traffic seen{stage};
    steady_wait_clock clock;
    on_host_threads<sum, metering_block>(
        stage, with.blocks, [&](std::int32_t, std::int32_t) -> wait_clock& { return clock; },
        [&](std::int32_t rank) {
          metered<Rules> rules;
          rules.meter = &seen;
          rules.rank = rank;
          return rules;
        },
        [&](std::int32_t, auto&, auto& teller) {
          for (const story_call& call : calls) teller.tell(call);
        });
    REQUIRE(wrong_on_host(stage, true) == 0);
    visit(seen);
  }
};

/// One rank with eight times the rows of the others: 2048 rows and 7 times 256, scaled down.
std::vector<std::int32_t> eight_to_one(std::int32_t dp, std::int32_t few) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(dp), few);
  out[1] = 8 * few;
  return out;
}

} // namespace

TEST_CASE("a heavy rank sends its rows once, and the busiest rank half of what it did") {
  for (const bool combines : {false, true}) {
    CAPTURE(combines);
    relay_world world{8, 1, 128, 4};
    world.add(combines, eight_to_one(8, 16));
    const std::uint64_t row = world.with.row_bytes[0];
    std::uint64_t direct = 0, relayed = 0;
    world.tell<direct_rules>([&](const traffic& seen) {
      direct = combines ? seen.busiest_in() : seen.busiest_out();
      CHECK((combines ? seen.into(1) : seen.out_of(1)) == 7 * 128 * row);
    });
    world.tell<peer_rules>([&](const traffic& seen) {
      relayed = combines ? seen.busiest_in() : seen.busiest_out();
      // Gather: its rows once. Combine: an eighth from each peer, and seven eighths of the sums.
      CHECK((combines ? seen.into(1) : seen.out_of(1)) == (combines ? 7 * 16 + 7 * 16 : 128) * row);
    });
    const std::string what = combines ? "combine: ingress" : "gather: egress";
    MESSAGE(what, " of the busiest rank, in rows: ", direct / row, " directly, ", relayed / row,
            " relayed");
    CHECK(2 * relayed <= direct);
  }
}

TEST_CASE("worlds of four and more: heavy ranks are relieved, in both directions") {
  struct shape {
    std::int32_t dp, tp;
    std::vector<std::int32_t> rows;
  };
  const shape shapes[] = {
      {4, 1, {0, 64, 0, 0}},
      {5, 1, {8, 8, 64, 8, 8}},
      {8, 1, {64, 0, 0, 0, 60, 0, 1, 0}},
      {7, 1, {1, 2, 3, 64, 3, 2, 1}},
      {3, 2, {4, 64, 0}},
      {4, 2, {3, 3, 3, 63}},
      {2, 4, {61, 5}},
      {4, 4, {0, 0, 64, 0}},
  };
  for (const shape& each : shapes) {
    CAPTURE(each.dp);
    CAPTURE(each.tp);
    const std::int32_t world_size = each.dp * each.tp;
    for (const bool combines : {false, true}) {
      if (combines && each.tp > 1) continue; // not relayed
      CAPTURE(combines);
      for (const std::int32_t blocks : {1, 3}) {
        relay_world world{each.dp, each.tp, 64, blocks};
        world.add(combines, each.rows);
        const std::uint64_t row = world.with.row_bytes[0];
        std::int32_t all = 0, heavy = 0;
        for (const std::int32_t n : each.rows) all += n;
        std::uint64_t direct = 0;
        world.tell<direct_rules>([&](const traffic& seen) {
          direct = combines ? seen.busiest_in() : seen.busiest_out();
        });
        world.tell<peer_rules>([&](const traffic& seen) {
          CHECK((combines ? seen.busiest_in() : seen.busiest_out()) < direct);
          for (std::int32_t r = 0; r < world_size; ++r) {
            const std::int32_t n = each.rows[static_cast<std::size_t>(r / each.tp)];
            if (2 * n * each.dp <= 3 * all) continue;
            ++heavy;
            const std::int32_t t = r % each.tp;
            const auto share = static_cast<std::uint64_t>(n * (t + 1) / each.tp - n * t / each.tp);
            // Its own rows once, and its slices of other heavy ranks' on to the rest.
            if (!combines && all - n < 40) CHECK(seen.out_of(r) == share * row);
          }
        });
        CHECK(heavy > 0);
      }
    }
  }
}

TEST_CASE("no bit of a sum depends on who adds") {
  // Addends of every size, whose sum depends on its order.
  for_random_cases(
      [](random_source& random) {
        relay_world world{random.between(4, 8), 1, 40, random.between(1, 3)};
        const std::int32_t heavy = random.between(0, world.with.dp_size - 1);
        std::vector<std::int32_t> rows(static_cast<std::size_t>(world.with.dp_size));
        for (std::int32_t& n : rows) n = random.between(0, 4);
        rows[static_cast<std::size_t>(heavy)] = random.between(30, 40);
        const story_call call = world.add(true, rows);
        const std::size_t bytes = static_cast<std::size_t>(world.with.rank_rows) * 48;
        std::vector<std::vector<std::byte>> results;
        random_source for_stage{random()};
        const std::uint64_t addends = random();
        const auto combine = [&](auto rules) {
          random_source layout = for_stage, values{addends};
          host_stage stage{world.with, layout, 7};
          for (std::int32_t r = 0; r < stage.ranks(); ++r) {
            const auto i = static_cast<std::size_t>(r);
            for (std::size_t d = 0; d < rows.size(); ++d) stage.live[i].rows[d] = rows[d];
            stage.live[i].sum_up(world.with.dp_size);
            auto* const input =
                reinterpret_cast<std::uint16_t*>(stage.arenas[i].get() + stage.layout.inputs[0]);
            for (std::size_t e = 0; e < bytes / 2 * rows.size(); ++e)
              input[e] = sum::narrow(static_cast<float>(values.between(-1000, 1000)) *
                                     static_cast<float>(1 << values.between(0, 20)));
          }
          steady_wait_clock clock;
          on_host_threads<sum>(
              stage, world.with.blocks,
              [&](std::int32_t, std::int32_t) -> wait_clock& { return clock; },
              [&](std::int32_t) { return rules; },
              [&](std::int32_t, auto&, auto& teller) { teller.make(call); });
          REQUIRE(wrong_on_host(stage, true) == 0);
          for (const story_rank& rank : stage.story_ranks)
            results.emplace_back(rank.output, rank.output + bytes);
        };
        combine(peer_rules{});
        combine(direct_rules{});
        for (std::size_t r = 0; r < rows.size(); ++r)
          REQUIRE(results[r] == results[r + rows.size()]);
      },
      case_count(20'000) / 400);
}

namespace {

/// Whether a call is relayed, worked out from what was drawn.
bool is_relayed(const story_options& with, const story_call& call) {
  const std::int32_t world = with.dp_size * with.tp_size;
  if (call.partial || world - with.tp_size < 3) return false;
  if (call.combines && (with.tp_size > 1 || with.row_bytes[0] % 16 != 0)) return false;
  std::size_t row = 0;
  for (std::int32_t t = 0; t < with.tensors; ++t) row += with.row_bytes[t];
  std::int64_t all = 0;
  for (std::int32_t d = 0; d < with.dp_size; ++d) all += call.rows[d];
  for (std::int32_t d = 0; d < with.dp_size; ++d) {
    const std::int64_t largest = (call.rows[d] + with.tp_size - 1) / with.tp_size;
    if (static_cast<std::size_t>(largest) > with.most_line_bytes / row &&
        2 * std::int64_t{call.rows[d]} * with.dp_size > 3 * all)
      return true;
  }
  return false;
}

} // namespace

TEST_CASE("every byte is right in skewed worlds") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        story_options with;
        do with = draw_options(random, 8, sizeof(sum::storage));
        while (with.skewed == 0);
        host_stage stage{with, random, random.between<std::uint64_t>(0, 9)};
        const std::vector<story_call> calls = draw_story<sum>(random, with, 12, ++key);
        CAPTURE(with.dp_size);
        CAPTURE(with.tp_size);
        CAPTURE(with.most_line_bytes);
        REQUIRE(tell_on_host<sum>(stage, with, calls) == 0);
      },
      case_count(20'000) / 200);
}

TEST_CASE("stories as they are drawn, for GPUs too, are relayed often enough") {
  random_source random{seed()};
  int gathers = 0, groups = 0, combines = 0, calls = 0;
  for (std::uint64_t key = 0; key < 1000; ++key) {
    const story_options with = draw_options(random, 8, sizeof(sum::storage));
    for (const story_call& call : draw_story<sum>(random, with, 12, key)) {
      ++calls;
      if (!is_relayed(with, call)) continue;
      ++(call.combines ? combines : gathers);
      if (with.tp_size > 1) ++groups;
    }
  }
  MESSAGE("of ", calls, " calls ", gathers, " relayed gathers, ", groups, " of them with groups, ",
          combines, " relayed combines");
  CHECK(gathers > calls / 20);
  CHECK(groups > calls / 200);
  CHECK(combines > calls / 40);
}
