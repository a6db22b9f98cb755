#include <support/fault_world.hpp>

#include <dpgather/protocol/call_record.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

constexpr call_record usual() {
  call_record out;
  out.call = 812;
  out.digest = 0x1111;
  out.counts_digest = 0x2222;
  out.step = 406;
  out.row_bytes = 14336;
  out.bucket = 256;
  out.rows = 7;
  out.what = operation::gather;
  out.mode = mode_kind::all_gather;
  out.layout = layout_kind::slots;
  out.element = element::bf16;
  return out;
}

/// One way in which a rank can differ, and what the sentence about it says of both sides.
struct difference {
  const char* name;
  subject about;
  void (*apply)(call_record&);
  const char* mine;   // in the sentence, of the rank that differs
  const char* theirs; // in the sentence, of the others
};

// In the order in which they are looked for: what a reader of the log wants to know first.
constexpr difference differences[] = {
    {"operation", subject::operation, [](call_record& r) { r.what = operation::combine; },
     "operation is combine", "has gather"},
    {"step", subject::step, [](call_record& r) { r.step = 405; }, "step is 405", "has 406"},
    {"mode", subject::mode, [](call_record& r) { r.mode = mode_kind::all_reduce; },
     "plan has mode=all_reduce bucket=256", "has mode=all_gather bucket=256"},
    {"bucket", subject::mode, [](call_record& r) { r.bucket = 64; },
     "plan has mode=all_gather bucket=64", "has mode=all_gather bucket=256"},
    {"layout", subject::layout, [](call_record& r) { r.layout = layout_kind::packed; },
     "layout is packed", "has slots"},
    {"element", subject::element, [](call_record& r) { r.element = element::f32; },
     "element is f32", "has bf16"},
    {"row bytes", subject::row_bytes, [](call_record& r) { r.row_bytes = 28672; },
     "row_bytes is 28672", "has 14336"},
    {"owes a sum", subject::local, [](call_record& r) { r.owes_sum = true; }, "local is partial",
     "has replicated"},
    {"counts", subject::counts, [](call_record& r) { r.counts_digest = 3; }, "counts is 3",
     "has 2222"},
    {"digest", subject::config, [](call_record& r) { r.digest = 4; }, "config is 4", "has 1111"},
    {"call", subject::call, [](call_record& r) { r.call = 813; }, "call is 813", "has 812"},
};
constexpr std::size_t difference_count = std::size(differences);

std::string text(const status& s) { return s.message().c_str(); }

bool contains(const std::string& all, std::string_view part) {
  return all.find(part) != std::string::npos;
}

/// What `judge` must say, worked out on its own from the order of `differences`.
struct expectation {
  errc code = errc::ok;
  subject about = subject::none;
  std::int32_t rank = -1;
};

// Nothing but values goes in: the verdict is known to the compiler.
constexpr call_record two_equal[] = {usual(), usual()};
static_assert(judge(two_equal).ok());
static_assert(judge({}).ok());
constexpr bool compiler_sees_a_mismatch() {
  call_record calls[] = {usual(), usual(), usual()};
  calls[2].bucket = 1;
  const status verdict = judge(calls);
  return verdict.code == errc::plan_mismatch && verdict.rank == 2 && verdict.peer == 0 &&
         verdict.value == 1 && verdict.limit == 256 && verdict.call == 812;
}
static_assert(compiler_sees_a_mismatch());

} // namespace

TEST_CASE("judge: equal calls pass, whatever the ranks' own rows are") {
  for (const std::size_t ranks : {1U, 2U, 16U}) {
    std::vector<call_record> calls(ranks, usual());
    for (std::size_t r = 0; r < ranks; ++r) {
      calls[r].dp_rank = static_cast<std::int32_t>(r);
      calls[r].rows = static_cast<std::int32_t>(r * 10);
    }
    CHECK(judge(calls).ok());
  }
}

TEST_CASE("judge: attention-TP peers speak for the same rows") {
  std::vector<call_record> calls(6, usual());
  for (std::size_t r = 0; r < 6; ++r) {
    calls[r].dp_rank = static_cast<std::int32_t>(r / 2);
    calls[r].rows = static_cast<std::int32_t>(r / 2 * 10);
  }
  CHECK(judge(calls).ok());
  calls[5].rows = 7;
  const status verdict = judge(calls);
  CHECK(verdict.code == errc::plan_mismatch);
  CHECK(verdict.about == subject::tokens);
  CHECK(verdict.rank == 5);
  CHECK(verdict.peer == 4);
  CHECK(verdict.value == 7);
  CHECK(verdict.limit == 20);
}

TEST_CASE("judge: each field is compared, and named on both sides") {
  for (const difference& d : differences) {
    for (const std::int32_t ranks : {2, 3, 16}) {
      for (const std::int32_t who : {1, ranks - 1}) {
        INFO(std::string{d.name});
        CAPTURE(who);
        std::vector<call_record> calls(static_cast<std::size_t>(ranks), usual());
        d.apply(calls[static_cast<std::size_t>(who)]);
        const status verdict = judge(calls);
        CHECK(verdict.code == errc::plan_mismatch);
        CHECK(is_sticky(verdict.code));
        CHECK(verdict.about == d.about);
        CHECK(verdict.rank == who);
        CHECK(verdict.peer == 0);
        CHECK(verdict.call == calls[static_cast<std::size_t>(who)].call);
        const std::string sentence = text(verdict);
        CAPTURE(sentence);
        CHECK(contains(sentence, "rank " + std::to_string(who) + ", call 81"));
        CHECK(contains(sentence, d.mine));
        CHECK(contains(sentence, std::string{"but rank 0 "} + d.theirs));
      }
    }
  }
}

TEST_CASE("judge: when rank 0 is the odd one, both sides are named all the same") {
  for (const difference& d : differences) {
    INFO(std::string{d.name});
    std::vector<call_record> calls(4, usual());
    d.apply(calls[0]);
    const status verdict = judge(calls);
    CHECK(verdict.code == errc::plan_mismatch);
    CHECK(verdict.about == d.about);
    CHECK(verdict.rank == 1);
    CHECK(verdict.peer == 0);
  }
}

TEST_CASE("judge: the sentence") {
  std::vector<call_record> calls(4, usual());
  calls[3].mode = mode_kind::all_reduce;
  calls[3].bucket = 64;
  CHECK(text(judge(calls)) ==
        "rank 3, call 812: plan has mode=all_reduce bucket=64, but rank 0 has "
        "mode=all_gather bucket=256 [gather]");
  calls[3] = usual();
  calls[2].refused = errc::count_changed;
  calls[2].refused_about = subject::local;
  calls[2].refused_value = 5;
  calls[2].refused_limit = 7;
  CHECK(text(judge(calls)) ==
        "rank 2, call 812: peer_refused: count_changed local=5 limit=7 [gather]");
}

TEST_CASE("judge: of several differences the first in the order of the list is named") {
  for (std::size_t a = 0; a < difference_count; ++a) {
    for (std::size_t b = a + 1; b < difference_count; ++b) {
      INFO(std::string{differences[a].name});
      INFO(std::string{differences[b].name});
      std::vector<call_record> calls(3, usual());
      differences[b].apply(calls[1]);
      differences[a].apply(calls[1]);
      CHECK(judge(calls).about == differences[a].about);
    }
  }
}

TEST_CASE("judge: of several ranks that differ the lowest is named") {
  std::vector<call_record> calls(5, usual());
  differences[difference_count - 1].apply(calls[2]);
  differences[0].apply(calls[4]);
  CHECK(judge(calls).rank == 2);
}

TEST_CASE(
    "judge: a refusal is named with its rank, cause, value and limit; the lowest rank first") {
  std::vector<call_record> calls(4, usual());
  for (const std::size_t r : {2U, 3U}) {
    calls[r].refused = r == 2 ? errc::null_pointer : errc::aliasing;
    calls[r].refused_about = r == 2 ? subject::local : subject::global;
    calls[r].refused_value = static_cast<std::int64_t>(r) * 11;
    calls[r].refused_limit = static_cast<std::int64_t>(r) * 13;
  }
  const status verdict = judge(calls);
  CHECK(verdict.code == errc::peer_refused);
  CHECK(!is_sticky(verdict.code));
  CHECK(verdict.cause == errc::null_pointer);
  CHECK(verdict.about == subject::local);
  CHECK(verdict.rank == 2);
  CHECK(verdict.value == 22);
  CHECK(verdict.limit == 26);
  CHECK(verdict.call == 812);
}

TEST_CASE("judge: a divergence counts more than a refusal") {
  // The refusing rank is where the others are, two others are not: no next call could be right.
  std::vector<call_record> calls(4, usual());
  calls[1].refused = errc::null_pointer;
  calls[3].bucket = 64;
  CHECK(judge(calls).code == errc::plan_mismatch);
  CHECK(judge(calls).rank == 3);
  // The refusing rank itself is at another call.
  for (const difference& d : {differences[0], differences[difference_count - 1]}) {
    INFO(std::string{d.name});
    std::vector<call_record> elsewhere(3, usual());
    elsewhere[2].refused = errc::null_pointer;
    d.apply(elsewhere[2]);
    CHECK(judge(elsewhere).code == errc::plan_mismatch);
    CHECK(judge(elsewhere).rank == 2);
  }
}

TEST_CASE("judge: views that were refused are refused, not a divergence") {
  // A rank that hands in an input and an output of different elements is told so. Nobody moves a
  // byte, so what those views were is no reason to give the world up.
  for (const subject about : {subject::element, subject::row_bytes, subject::local}) {
    for (const std::size_t who : {0U, 1U, 2U}) {
      INFO(std::string{name_of(about)});
      CAPTURE(who);
      std::vector<call_record> calls(3, usual());
      call_record& mine = calls[who];
      for (const difference& d : differences) {
        if (d.about == about) d.apply(mine);
      }
      mine.refused = errc::shape_mismatch;
      mine.refused_about = about;
      const status verdict = judge(calls);
      CHECK(verdict.code == errc::peer_refused);
      CHECK(verdict.cause == errc::shape_mismatch);
      CHECK(verdict.rank == static_cast<std::int32_t>(who));
    }
  }
}

TEST_CASE("judge: random calls against the order of the list, the same for every reader") {
  test_support::for_random_cases(
      [](random_source& random) {
        const auto ranks = random.between<std::size_t>(1, 9);
        std::vector<call_record> calls(ranks, usual());
        std::vector<std::vector<std::size_t>> applied(ranks);
        expectation want;
        for (std::size_t r = 1; r < ranks; ++r) {
          for (std::size_t d = 0; d < difference_count; ++d) {
            if (!random.chance(3)) continue;
            differences[d].apply(calls[r]);
            if (want.code == errc::ok) {
              want = {errc::plan_mismatch, differences[d].about, static_cast<std::int32_t>(r)};
            }
          }
        }
        // Refusals on ranks that do not differ.
        if (want.code == errc::ok) {
          for (std::size_t r = 0; r < ranks; ++r) {
            if (!random.chance(10)) continue;
            calls[r].refused = random.pick({errc::null_pointer, errc::count_changed});
            if (want.code == errc::ok)
              want = {errc::peer_refused, subject::none, static_cast<std::int32_t>(r)};
          }
        }
        const status verdict = judge(calls);
        REQUIRE(verdict.code == want.code);
        REQUIRE(verdict.rank == want.rank);
        REQUIRE(verdict.about == want.about);
        // Pure: a copy of the records, read by another rank, gives the same verdict to the letter.
        const std::vector<call_record> copy = calls;
        REQUIRE(text(judge(copy)) == text(verdict));
      },
      std::min<std::uint64_t>(test_support::case_count(), 20'000));
}

TEST_CASE("call record: says what the plan says") {
  step_plan plan;
  plan.digest = 77;
  plan.counts_digest = 78;
  plan.step = 9;
  plan.shared_bucket = 32;
  plan.mode = mode_kind::all_reduce;
  plan.layout = layout_kind::packed;
  plan.dp_size = 2;
  plan.real = real_rows::zeros(2);
  plan.real.set(1, 5);
  const call_record mine = call_record::of(operation::combine, plan, 3, 1);
  CHECK(mine.call == 3);
  CHECK(mine.digest == 77);
  CHECK(mine.counts_digest == 78);
  CHECK(mine.step == 9);
  CHECK(mine.bucket == 32);
  CHECK(mine.rows == 5);
  CHECK(mine.what == operation::combine);
  CHECK(mine.mode == mode_kind::all_reduce);
  CHECK(mine.layout == layout_kind::packed);
  CHECK(mine.refused == errc::ok);
  // A plan of a smaller world has no count for this rank; nothing outside it is read.
  CHECK(call_record::of(operation::gather, plan, 1, 2).rows == 0);
  CHECK(call_record::of(operation::gather, plan, 1, 255).rows == 0);
}
