// Wrong input on one rank and on all: the named error, nothing written, the next correct call
// works.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/call_bench.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using dg::errc;
using dg::subject;
using ts::call_kind;
using ts::rank_call;

namespace {

/// What a rank must answer that was given wrong input.
struct refusal {
  errc code = errc::ok;
  subject about = subject::none;
  std::int64_t value = 0;
  std::int64_t limit = 0;
};

using breaker = std::function<refusal(rank_call&)>;

constexpr std::int32_t victim = 1;
const std::vector<std::int32_t> rows{5, 3, 0};

void check_named(const dg::status& said, const refusal& expected, std::int32_t rank) {
  CHECK_MESSAGE(said.code == expected.code, std::string{said.message().view()});
  CHECK(said.about == expected.about);
  CHECK(said.rank == rank);
  CHECK(said.value == expected.value);
  CHECK(said.limit == expected.limit);
  CHECK(ts::message_has(said, {dg::name_of(expected.code), "rank " + std::to_string(rank),
                               std::to_string(expected.value), std::to_string(expected.limit)}));
}

/// The call with `break_it` on one rank, then on all; after each the correct one.
void check_refused(const ts::gather_variant& policy, call_kind kind, const char* what,
                   const breaker& break_it, element type = element::f32, std::size_t row_bytes = 32,
                   dg::topology shape = {.dp_size = 3}) {
  CAPTURE(policy.name);
  CAPTURE(std::string{ts::name_of(kind)});
  CAPTURE(std::string{what});
  const std::vector<std::int32_t> counts(rows.begin(), rows.begin() + shape.dp_size);
  for (const bool on_all : {false, true}) {
    CAPTURE(on_all);
    ts::gather_world world{shape, ts::small_config(), policy};
    ts::call_bench bench{world};
    bench.prepare(kind, counts, 1, false, type, row_bytes);
    std::vector<refusal> expected(static_cast<std::size_t>(world.size()));
    for (std::int32_t rank = 0; rank < world.size(); ++rank) {
      if ((on_all && bench[rank].real() > 0) || rank == victim)
        expected[static_cast<std::size_t>(rank)] = break_it(bench[rank]);
    }
    bench.run();
    const refusal& first = on_all ? expected[0] : expected[victim];
    const std::int32_t first_rank = on_all ? 0 : victim;
    for (std::int32_t rank = 0; rank < world.size(); ++rank) {
      CAPTURE(rank);
      const refusal& own = expected[static_cast<std::size_t>(rank)];
      const dg::status& said = bench[rank].got;
      if (kind == call_kind::scatter && own.code == errc::ok) {
        CHECK_MESSAGE(said.ok(),
                      std::string{said.message().view()}); // local: nobody else hears of it
        continue;
      }
      if (own.code != errc::ok) {
        check_named(said, own, rank);
      } else {
        CHECK_MESSAGE(said.code == errc::peer_refused, std::string{said.message().view()});
        CHECK(said.cause == first.code);
        CHECK(said.about == first.about);
        CHECK(said.rank == first_rank);
        CHECK(said.value == first.value);
        CHECK(said.limit == first.limit);
        CHECK(ts::message_has(said, {"peer_refused", dg::name_of(first.code),
                                     "rank " + std::to_string(first_rank),
                                     std::to_string(first.value), std::to_string(first.limit)}));
      }
      CHECK(bench[rank].nothing_written());
    }
    CHECK(world.workspaces_intact());
    bench.check_next_call_works(kind == call_kind::gather_partial ? call_kind::gather : kind);
    bench.check_next_call_works(call_kind::combine);
  }
}

void check_refused_in_each_mode(call_kind kind, const char* what, const breaker& break_it) {
  for (const ts::gather_variant& policy : ts::one_of_each_mode())
    check_refused(policy, kind, what, break_it);
}

std::int64_t as_number(element e) { return static_cast<std::int64_t>(e); }

} // namespace

TEST_CASE("count_changed: fewer local rows than this rank announced") {
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "one row less", [](rank_call& c) {
      --c.local.rows;
      return refusal{errc::count_changed, subject::local, c.real() - 1, c.real()};
    });
    check_refused_in_each_mode(kind, "a negative number of rows", [](rank_call& c) {
      c.local.rows = -1;
      return refusal{errc::count_changed, subject::local, -1, c.real()};
    });
  }
}

TEST_CASE("capacity_exceeded: a global tensor that the plan does not fit in") {
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "one row less", [](rank_call& c) {
      --c.global.rows;
      return refusal{errc::capacity_exceeded, subject::global, c.plan.global_rows,
                     c.plan.global_rows - 1};
    });
  }
}

TEST_CASE("null_pointer: null with rows") {
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "local", [](rank_call& c) {
      c.local.data = nullptr;
      return refusal{errc::null_pointer, subject::local, c.real(), 0};
    });
    check_refused_in_each_mode(kind, "global", [](rank_call& c) {
      c.global.data = nullptr;
      return refusal{errc::null_pointer, subject::global, c.plan.global_rows, 0};
    });
  }
}

TEST_CASE("misaligned: pointers and strides that are not whole elements, rows over each other") {
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "local pointer", [](rank_call& c) {
      c.local.data += 1;
      return refusal{errc::misaligned, subject::local, 1, 4};
    });
    check_refused_in_each_mode(kind, "global pointer", [](rank_call& c) {
      c.global.data += 2;
      return refusal{errc::misaligned, subject::global, 2, 4};
    });
    check_refused_in_each_mode(kind, "stride below the row", [](rank_call& c) {
      c.local.stride = 28;
      return refusal{errc::misaligned, subject::local, 28, 32};
    });
    check_refused_in_each_mode(kind, "stride of broken elements", [](rank_call& c) {
      c.local.stride = 34;
      return refusal{errc::misaligned, subject::local, 34, 4};
    });
  }
}

TEST_CASE("misaligned: row bytes that are not whole elements") {
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "both views", [](rank_call& c) {
      c.local.row_bytes = c.global.row_bytes = 30;
      const bool gathers = c.kind == call_kind::gather;
      return refusal{errc::misaligned, gathers ? subject::local : subject::global, 30, 4};
    });
  }
}

TEST_CASE("shape_mismatch: the output's element, row size or gaps") {
  check_refused_in_each_mode(call_kind::gather, "element of global", [](rank_call& c) {
    c.global.type = element::i32;
    return refusal{errc::shape_mismatch, subject::element, as_number(element::f32),
                   as_number(element::i32)};
  });
  check_refused_in_each_mode(call_kind::gather, "row bytes of global", [](rank_call& c) {
    c.global.row_bytes = c.global.stride = 16;
    return refusal{errc::shape_mismatch, subject::row_bytes, 32, 16};
  });
  for (const call_kind kind : {call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "element of local", [](rank_call& c) {
      c.local.type = element::i32;
      return refusal{errc::shape_mismatch, subject::element, as_number(element::f32),
                     as_number(element::i32)};
    });
    check_refused_in_each_mode(kind, "row bytes of local", [](rank_call& c) {
      c.local.row_bytes = 16;
      return refusal{errc::shape_mismatch, subject::row_bytes, 32, 16};
    });
  }
  for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "gaps in global", [](rank_call& c) {
      c.global.stride = 64;
      return refusal{errc::shape_mismatch, subject::global, 64, 32};
    });
  }
}

// The rank at fault contradicts itself, so it is at fault, and not in disagreement with its peers.
TEST_CASE("shape_mismatch: the input's element or row size, on one rank, does not end the world") {
  check_refused_in_each_mode(call_kind::gather, "element of local", [](rank_call& c) {
    c.local.type = element::i32;
    return refusal{errc::shape_mismatch, subject::element, as_number(element::i32),
                   as_number(element::f32)};
  });
  check_refused_in_each_mode(call_kind::gather, "row bytes of local", [](rank_call& c) {
    c.local.row_bytes = 16;
    return refusal{errc::shape_mismatch, subject::row_bytes, 16, 32};
  });
  check_refused_in_each_mode(call_kind::combine, "element of global", [](rank_call& c) {
    c.global.type = element::i32;
    return refusal{errc::shape_mismatch, subject::element, as_number(element::i32),
                   as_number(element::f32)};
  });
}

TEST_CASE("aliasing: input and output share bytes, other than in place") {
  check_refused_in_each_mode(call_kind::gather, "a row further", [](rank_call& c) {
    c.local.data = c.global.data + static_cast<std::size_t>(c.plan.offset(c.dp_rank) + 1) * 32;
    if (c.plan.mode == dg::mode_kind::exact && c.plan.global_rows - c.plan.offset(c.dp_rank) <= 1)
      c.local.data = c.global.data;
    return refusal{errc::aliasing, subject::global, c.real(), 0};
  });
  check_refused_in_each_mode(call_kind::gather, "the last bytes of the output", [](rank_call& c) {
    c.local.data = c.global.data + static_cast<std::size_t>(c.plan.global_rows) * 32 - 4;
    return refusal{errc::aliasing, subject::global, c.real(), 0};
  });
  check_refused_in_each_mode(call_kind::gather, "at its place, but with gaps", [](rank_call& c) {
    c.local.data = c.global.data + static_cast<std::size_t>(c.plan.offset(c.dp_rank)) * 32;
    c.local.stride = 36;
    return refusal{errc::aliasing, subject::global, c.real(), 0};
  });
  for (const call_kind kind : {call_kind::combine, call_kind::scatter}) {
    check_refused_in_each_mode(kind, "output in the input", [](rank_call& c) {
      c.local.data = c.global.data + static_cast<std::size_t>(c.plan.offset(c.dp_rank)) * 32;
      return refusal{errc::aliasing, subject::local, c.real(), 0};
    });
  }
}

TEST_CASE("aliasing: an all-reduce zeroes its output, so nothing is in place") {
  check_refused(
      ts::named<dg::sum_always>("all_reduce"), call_kind::gather, "in place", [](rank_call& c) {
        c.local.data = c.global.data + static_cast<std::size_t>(c.plan.offset(c.dp_rank)) * 32;
        return refusal{errc::aliasing, subject::global, c.real(), 0};
      });
}

TEST_CASE("unsupported_type: bytes have no sum") {
  const refusal no_sum{errc::unsupported_type, subject::element, as_number(element::u8), 0};
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    CAPTURE(policy.name);
    for (const auto& [kind, peers] :
         {std::pair{call_kind::combine, 1}, std::pair{call_kind::combine, 2},
          std::pair{call_kind::gather_partial, 2}}) {
      ts::gather_world world{{.dp_size = 2, .tp_size = peers}, ts::small_config(), policy};
      ts::call_bench bench{world};
      bench.prepare(kind, {5, 3}, 1, false, element::u8, 7);
      bench.run();
      for (std::int32_t rank = 0; rank < world.size(); ++rank) {
        check_named(bench[rank].got, no_sum, rank);
        CHECK(bench[rank].nothing_written());
      }
      bench.check_next_call_works(kind);
    }
    // One attention-TP rank: partial is replicated, and bytes only move.
    ts::gather_world alone{{.dp_size = 2}, ts::small_config(), policy};
    ts::call_bench bench{alone};
    bench.prepare(call_kind::gather, {5, 3}, 1, false, element::u8, 7);
    for (std::int32_t rank = 0; rank < 2; ++rank) bench[rank].kind = call_kind::gather_partial;
    bench.run();
    for (std::int32_t rank = 0; rank < 2; ++rank) bench[rank].kind = call_kind::gather;
    bench.check_done();
  }
}

TEST_CASE("capacity_exceeded: rows larger than configured do not fit in the workspace") {
  // Gathered and scattered they may be: only a combine stages.
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    CAPTURE(policy.name);
    for (const bool strided : {false, true}) {
      CAPTURE(strided);
      ts::gather_world world{{.dp_size = 3}, ts::small_config(), policy};
      ts::call_bench bench{world};
      for (const call_kind kind : {call_kind::gather, call_kind::scatter}) {
        bench.prepare(kind, rows, 1, false, element::f32, 512);
        bench.run();
        bench.check_done();
      }
      bench.prepare(call_kind::combine, rows, 2, false, element::f32, 512);
      if (strided) bench[victim].local.stride = 516;
      bench.run();
      bool refused = false;
      for (std::int32_t rank = 0; rank < 3; ++rank) {
        const dg::status& said = bench[rank].got;
        refused = refused || !said.ok();
        if (said.ok()) continue;
        if (said.code != errc::peer_refused) {
          CHECK(said.code == errc::capacity_exceeded);
          CHECK(said.about == subject::workspace);
          CHECK(said.value > said.limit);
        }
        CHECK(bench[rank].nothing_written());
      }
      CHECK(world.workspaces_intact());
      if (!refused) bench.check_done();
      if (strided) CHECK(refused);
      bench.check_next_call_works(call_kind::combine);
    }
  }
}

TEST_CASE("bad_group: a plan for another world, on all ranks") {
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
      CAPTURE(policy.name);
      ts::gather_world world{{.dp_size = 3}, ts::small_config(), policy};
      ts::gather_world other{{.dp_size = 4}, ts::small_config(), policy};
      ts::call_bench bench{world};
      bench.prepare(kind, rows, 1);
      const std::vector<std::int32_t> four{5, 3, 0, 0};
      for (std::int32_t rank = 0; rank < 3; ++rank) bench[rank].plan = other.plan(rank, four);
      bench.run();
      for (std::int32_t rank = 0; rank < 3; ++rank) {
        check_named(bench[rank].got, {errc::bad_group, subject::world, 4, 3}, rank);
        CHECK(bench[rank].nothing_written());
      }
      bench.check_next_call_works(kind);
    }
  }
}

TEST_CASE("an idle rank's default view is taken or refused, and never ends the world") {
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    CAPTURE(policy.name);
    ts::gather_world world{{.dp_size = 3}, ts::small_config(), policy};
    ts::call_bench bench{world};
    bench.prepare(call_kind::gather, rows, 1);
    bench[2].local = {nullptr, 0, dg::token_rows<dg::replicated>{}.element(), 0, 0};
    bench.run();
    for (std::int32_t rank = 0; rank < 3; ++rank) {
      CAPTURE(std::string{bench[rank].got.message().view()});
      CHECK_FALSE(dg::is_sticky(bench[rank].got.code));
    }
    bench.check_next_call_works(call_kind::gather);
  }
}

TEST_CASE("an idle rank's null views are legal, with the element and row size of the others") {
  for (const ts::gather_variant& policy : ts::one_of_each_mode()) {
    CAPTURE(policy.name);
    for (const call_kind kind : {call_kind::gather, call_kind::combine, call_kind::scatter}) {
      ts::gather_world world{{.dp_size = 3}, ts::small_config(), policy};
      ts::call_bench bench{world};
      bench.prepare(kind, rows, 1);
      bench[2].local.data = nullptr;
      bench.run();
      bench.check_done();
      bench.prepare(kind, {0, 0, 0}, 2);
      for (std::int32_t rank = 0; rank < 3; ++rank)
        bench[rank].local.data = bench[rank].global.data = nullptr;
      bench.run();
      bench.check_done();
    }
  }
}

// --- counts that the host does not know ----------------------------------------------------------

namespace {
struct device_counts : dg::policy<dg::mode::exact, dg::counts::device> {};
struct exchanged_counts : dg::policy<dg::mode::exact, dg::counts::exchanged> {};
} // namespace

TEST_CASE(
    "counts::device: count_out_of_range, when the engine wrote too many or a negative number") {
  for (const std::int32_t bad : {17, -1}) {
    CAPTURE(bad);
    auto world = ts::gather_world::of<device_counts>({.dp_size = 3}, ts::small_config());
    ts::call_bench bench{world};
    for (const call_kind kind : {call_kind::gather, call_kind::combine}) {
      bench.prepare(kind, rows, 1);
      for (std::int32_t rank = 0; rank < 3; ++rank)
        world[rank].write_counts(std::vector<std::int32_t>{5, 3, bad});
      bench.run();
      for (std::int32_t rank = 0; rank < 3; ++rank) {
        CHECK(bench[rank].got.code == errc::count_out_of_range);
        CHECK(bench[rank].got.value == bad);
        CHECK(bench[rank].got.limit == 16);
        CHECK(bench[rank].nothing_written());
      }
      for (std::int32_t rank = 0; rank < 3; ++rank) world[rank].write_counts(rows);
      bench.check_next_call_works(kind);
    }
  }
}

TEST_CASE("counts::device: count_changed, when the engine wrote other than this rank announced") {
  auto world = ts::gather_world::of<device_counts>({.dp_size = 3}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, {5, 4, 0}, 1);
  for (std::int32_t rank = 0; rank < 3; ++rank) world[rank].write_counts(rows); // 5, 3, 0
  bench.run();
  check_named(bench[1].got, {errc::count_changed, subject::counts, 3, 4}, 1);
  CHECK(bench[0].got.code == errc::peer_refused);
  CHECK(bench[2].got.code == errc::peer_refused);
  for (std::int32_t rank = 0; rank < 3; ++rank) {
    CHECK(bench[rank].nothing_written());
    world[rank].write_counts(std::vector<std::int32_t>{5, 4, 0});
  }
  bench.check_next_call_works(call_kind::gather);
}

TEST_CASE("scatter: count_changed, when the last call learnt other counts than the plan has") {
  auto world = ts::gather_world::of<exchanged_counts>({.dp_size = 2}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, {5, 3}, 1);
  bench.run();
  bench.check_done();
  bench.prepare(call_kind::scatter, {5, 4}, 2);
  bench.run();
  check_named(bench[1].got, {errc::count_changed, subject::counts, 3, 4}, 1);
  CHECK(bench[1].nothing_written());
}

TEST_CASE("counts::exchanged: attention-TP peers that hold different counts are a named error") {
  for (const call_kind kind : {call_kind::gather, call_kind::gather_partial, call_kind::combine}) {
    CAPTURE(std::string{ts::name_of(kind)});
    auto world =
        ts::gather_world::of<exchanged_counts>({.dp_size = 2, .tp_size = 2}, ts::small_config());
    ts::call_bench bench{world};
    bench.prepare(kind, {5, 3}, 1);
    // World rank 1 is the peer of world rank 0, with a row less and no memory behind it.
    bench[1].plan = world.plan(1, std::vector<std::int32_t>{4, 3});
    bench[1].local.rows = 4;
    bench.run();
    for (std::int32_t rank = 0; rank < 4; ++rank) {
      CAPTURE(std::string{bench[rank].got.message().view()});
      CHECK_FALSE(bench[rank].got.ok());
      CHECK(bench[rank].got.code == bench[0].got.code);
      CHECK(bench[rank].nothing_written());
    }
  }
}

TEST_CASE("a width below one in the only record there is, is refused, not divided by") {
  struct in_graph : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::ladder::from_config,
                               dg::lookup::own> {};
  auto world = ts::gather_world::of<in_graph>({.dp_size = 1}, ts::small_config());
  dg::step_record own = world.records(std::vector<std::int32_t>{4}, 1, true)[0];
  for (const std::int32_t width : {0, -2}) {
    own.width = width;
    CHECK_FALSE(world[0].plan({}, own, dg::row_kind::hidden).ok());
  }
}

// --- tails that travel ---------------------------------------------------------------------------

namespace {
struct leave_tails : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::tail::leave> {};
} // namespace

TEST_CASE("tail::leave sends padded rows as they are: those must not lie in the output") {
  auto world = ts::gather_world::of<leave_tails>({.dp_size = 3}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, rows, 1);
  // Three real rows before the output, the two of the tail in it. Buffers of a rank touch.
  rank_call& call = bench[victim];
  ts::guarded_bytes memory{(3 + 15) * 32 + 64};
  call.local.data = memory.data();
  call.local.rows = 5;
  call.global.data = memory.data() + 3 * 32;
  const auto before = memory.snapshot();
  bench.run();
  check_named(bench[victim].got, {errc::aliasing, subject::global, bench[victim].got.value, 0},
              victim);
  CHECK(memory.equals(before));
  bench.check_next_call_works(call_kind::gather);
}

TEST_CASE("tail::leave and an idle rank whose padded rows are null") {
  auto world = ts::gather_world::of<leave_tails>({.dp_size = 3}, ts::small_config());
  ts::call_bench bench{world};
  bench.prepare(call_kind::gather, rows, 1);
  bench[2].local.data = nullptr;
  bench[2].local.rows = 5; // null with rows, none of them real
  bench.run();
  check_named(bench[2].got, {errc::null_pointer, subject::local, 5, 0}, 2);
  bench.check_next_call_works(call_kind::gather);
}
