#include <dpgather/agreement.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace dg = dpgather;
using dg::agreement;
using dg::errc;
using dg::phase;
using dg::result;
using dg::step_record;
using dg::subject;
using dg::topology;

namespace {

constexpr std::uint8_t both_votes = step_record::graph_vote | step_record::overlap_vote;

/// Records of a world in which nothing is wrong: rank d of the data-parallel ranks holds
/// `tokens[d]` tokens, as many requests, and votes for everything.
std::vector<step_record> records_of(const std::vector<std::int32_t>& tokens, std::int32_t tp = 1) {
  std::vector<step_record> out;
  for (const std::int32_t n : tokens) {
    for (std::int32_t t = 0; t < tp; ++t) {
      step_record r;
      r.phase = n == 0 ? phase::idle : phase::decode;
      r.votes = both_votes;
      r.step = 41;
      r.config_hash = 0xfeedface;
      r.last_plan = 0xabad1dea;
      r.world_rank = static_cast<std::int32_t>(out.size());
      r.tokens = r.logits_tokens = r.draft_tokens = r.requests = n;
      out.push_back(r);
    }
  }
  return out;
}

topology world_of(const std::vector<step_record>& records, std::int32_t tp = 1) {
  return {static_cast<std::int32_t>(records.size()) / tp, tp, 0, 0};
}

bool same_status(const dg::status& a, const dg::status& b) {
  return a.code == b.code && a.cause == b.cause && a.about == b.about && a.rank == b.rank &&
         a.peer == b.peer && a.native == b.native && a.value == b.value && a.limit == b.limit &&
         a.call == b.call && a.message().view() == b.message().view();
}

/// Merges as every rank does and requires that all get the same; answers what they got.
result<agreement> merge_everywhere(const std::vector<step_record>& records, const topology& world) {
  const result<agreement> first = dg::merge(records, world);
  for (std::int32_t r = 0; r < world.world_size(); ++r) {
    const result<agreement> other = dg::merge(records, world.at(r));
    REQUIRE(same_status(first.status(), other.status()));
    if (first.ok()) REQUIRE(*first == *other);
  }
  return first;
}

void check_refused(const std::vector<step_record>& records, const topology& world, errc code,
                   subject about, std::int32_t rank, std::int32_t peer, std::int64_t value,
                   std::int64_t limit) {
  const result<agreement> merged = merge_everywhere(records, world);
  CAPTURE(std::string{merged.status().message().view()});
  CHECK(merged.code() == code);
  CHECK(merged.status().about == about);
  CHECK(merged.status().rank == rank);
  CHECK(merged.status().peer == peer);
  CHECK(merged.status().value == value);
  CHECK(merged.status().limit == limit);
}

} // namespace

// --- what is merged -----------------------------------------------------------------------------

TEST_CASE("counts are kept per rank, in order") {
  auto records = records_of({3, 0, 7, 5});
  for (std::size_t r = 0; r < records.size(); ++r) {
    records[r].logits_tokens = static_cast<std::int32_t>(10 + r);
    records[r].draft_tokens = static_cast<std::int32_t>(20 + r);
    records[r].requests = static_cast<std::int32_t>(30 + r);
  }
  const auto merged = merge_everywhere(records, world_of(records));
  REQUIRE(merged.ok());
  CHECK(merged->dp_size == 4);
  CHECK(merged->tp_size == 1);
  CHECK(merged->step == 41);
  for (std::int32_t r = 0; r < 4; ++r) {
    CHECK(merged->tokens[r] == std::array{3, 0, 7, 5}[static_cast<std::size_t>(r)]);
    CHECK(merged->logits_tokens[r] == 10 + r);
    CHECK(merged->draft_tokens[r] == 20 + r);
    CHECK(merged->requests[r] == 30 + r);
  }
  CHECK(merged->tokens.size() == 4);
  CHECK(merged->rows(dg::row_kind::hidden) == merged->tokens);
  CHECK(merged->rows(dg::row_kind::logits) == merged->logits_tokens);
  CHECK(merged->rows(dg::row_kind::draft) == merged->draft_tokens);
}

TEST_CASE("graph and overlap votes pass when all ranks cast them") {
  const std::int32_t ranks = 4;
  for (std::int32_t against = -1; against < ranks; ++against) {
    for (const std::uint8_t cast :
         {std::uint8_t{0}, step_record::graph_vote, step_record::overlap_vote, both_votes}) {
      auto records = records_of(std::vector<std::int32_t>(ranks, 2));
      if (against >= 0) records[static_cast<std::size_t>(against)].votes = cast;
      const auto merged = merge_everywhere(records, world_of(records));
      REQUIRE(merged.ok());
      CHECK(merged->can_run_graph == (against < 0 || (cast & step_record::graph_vote) != 0));
      CHECK(merged->can_overlap == (against < 0 || (cast & step_record::overlap_vote) != 0));
    }
  }
}

TEST_CASE("an idle rank votes like any other") {
  auto records = records_of({4, 0});
  records[1].votes = 0;
  const auto merged = merge_everywhere(records, world_of(records));
  REQUIRE(merged.ok());
  CHECK_FALSE(merged->can_run_graph);
  CHECK_FALSE(merged->can_overlap);
}

TEST_CASE("extend in the batch is true when one rank processes prompts") {
  for (const phase p : {phase::idle, phase::decode, phase::extend, phase::mixed, phase::verify,
                        phase::draft_extend}) {
    for (std::size_t who = 0; who < 3; ++who) {
      auto records = records_of({2, 2, 2});
      records[who].phase = p;
      const auto merged = merge_everywhere(records, world_of(records));
      REQUIRE(merged.ok());
      CAPTURE(std::string{name_of(p)});
      CHECK(merged->extend_in_batch == (p == phase::extend || p == phase::mixed));
    }
  }
}

TEST_CASE("the prefix is the longest of all ranks") {
  auto records = records_of({1, 1, 1, 0});
  records[0].prefix = 17;
  records[1].prefix = 4096;
  records[2].prefix = 99;
  CHECK(merge_everywhere(records, world_of(records))->longest_prefix == 4096);
  records[3].prefix = 5000;
  CHECK(merge_everywhere(records, world_of(records))->longest_prefix == 5000);
  CHECK(merge_everywhere(records_of({1, 2}), {2, 1, 0, 0})->longest_prefix == 0);
}

TEST_CASE("an idle rank takes part with zeros; nothing is made up for it") {
  const auto records = records_of({5, 0, 0});
  const auto merged = merge_everywhere(records, world_of(records));
  REQUIRE(merged.ok());
  CHECK(merged->any_idle);
  CHECK(merged->tokens.sum() == 5);
  CHECK(merged->requests.sum() == 5);
  CHECK_FALSE(merge_everywhere(records_of({5, 1, 1}), {3, 1, 0, 0})->any_idle);
}

TEST_CASE("all ranks idle is a step like any other") {
  const auto records = records_of({0, 0, 0, 0});
  const auto merged = merge_everywhere(records, world_of(records));
  REQUIRE(merged.ok());
  CHECK(merged->tokens.sum() == 0);
  CHECK(merged->any_idle);
  CHECK(merged->can_run_graph);
  CHECK(merged->width == 1);
}

TEST_CASE("one rank alone goes through the same merge") {
  const auto merged = merge_everywhere(records_of({6}), {1, 1, 0, 0});
  REQUIRE(merged.ok());
  CHECK(merged->dp_size == 1);
  CHECK(merged->tokens[0] == 6);
  CHECK(merged->can_run_graph);

  auto foreign = records_of({6});
  foreign[0].magic ^= 1;
  CHECK(merge_everywhere(foreign, {1, 1, 0, 0}).code() == errc::bad_record);
}

TEST_CASE("attention-TP peers count once") {
  const auto records = records_of({3, 0, 7}, 4);
  const auto merged = merge_everywhere(records, {3, 4, 0, 0});
  REQUIRE(merged.ok());
  CHECK(merged->dp_size == 3);
  CHECK(merged->tp_size == 4);
  CHECK(merged->tokens.size() == 3);
  CHECK(merged->tokens.sum() == 10);
  CHECK(merged->tokens[2] == 7);

  auto one_against = records;
  one_against[7].votes = 0;
  CHECK_FALSE(merge_everywhere(one_against, {3, 4, 0, 0})->can_run_graph);
}

TEST_CASE("the width is that of the ranks that have tokens") {
  auto records = records_of({0, 8, 0, 12});
  records[0].width = 77;
  records[1].width = 4;
  records[2].width = 0;
  records[3].width = 4;
  const auto merged = merge_everywhere(records, world_of(records));
  REQUIRE(merged.ok());
  CHECK(merged->width == 4);
}

// --- what is refused ----------------------------------------------------------------------------

TEST_CASE("the number of records is the world") {
  const auto records = records_of({1, 2, 3, 4});
  check_refused(records, {3, 1, 0, 0}, errc::bad_group, subject::world, -1, -1, 4, 3);
  check_refused(records, {5, 1, 0, 0}, errc::bad_group, subject::world, -1, -1, 4, 5);
  check_refused(records, {4, 2, 0, 0}, errc::bad_group, subject::world, -1, -1, 4, 8);
  check_refused({}, {2, 1, 0, 0}, errc::bad_group, subject::world, -1, -1, 0, 2);
  CHECK(dg::merge(records, {0, 1, 0, 0}).code() == errc::bad_group);
  CHECK(dg::merge(records, {4, 1, 4, 0}).code() == errc::bad_group);
  CHECK(dg::merge(records, {257, 1, 0, 0}).code() == errc::too_many_ranks);
}

TEST_CASE("a record at another rank's place is a bad group") {
  auto swapped = records_of({1, 2, 3, 4});
  std::swap(swapped[1], swapped[3]);
  check_refused(swapped, {4, 1, 0, 0}, errc::bad_group, subject::rank, 1, -1, 3, 1);

  auto twice = records_of({1, 2, 3, 4});
  twice[2] = twice[1];
  check_refused(twice, {4, 1, 0, 0}, errc::bad_group, subject::rank, 2, -1, 1, 2);

  auto outside = records_of({1, 2, 3, 4});
  outside[3].world_rank = 4;
  check_refused(outside, {4, 1, 0, 0}, errc::bad_group, subject::rank, 3, -1, 4, 3);
  outside[3].world_rank = -1;
  check_refused(outside, {4, 1, 0, 0}, errc::bad_group, subject::rank, 3, -1, -1, 3);

  // A record that never came is all zeros, and that is no record.
  auto missing = records_of({1, 2, 3, 4});
  std::memset(static_cast<void*>(&missing[2]), 0, sizeof(step_record));
  CHECK(merge_everywhere(missing, {4, 1, 0, 0}).code() == errc::bad_record);
  CHECK(merge_everywhere(missing, {4, 1, 0, 0}).status().rank == 2);
}

TEST_CASE("foreign records are named") {
  auto records = records_of({1, 2, 3});
  records[1].magic = 0x12345678;
  check_refused(records, {3, 1, 0, 0}, errc::bad_record, subject::record, 1, -1, 0x12345678,
                step_record::expected_magic);
  records = records_of({1, 2, 3});
  records[2].version = 9;
  check_refused(records, {3, 1, 0, 0}, errc::bad_record, subject::record, 2, -1, 9,
                step_record::expected_version);
  records = records_of({1, 2, 3});
  records[0].phase = static_cast<phase>(6);
  CHECK(merge_everywhere(records, {3, 1, 0, 0}).code() == errc::bad_record);
  CHECK(merge_everywhere(records, {3, 1, 0, 0}).status().rank == 0);
}

TEST_CASE(
    "ranks that were configured differently, or are in another step, are named with both sides") {
  auto records = records_of({1, 2, 3});
  records[2].config_hash = 5;
  check_refused(records, {3, 1, 0, 0}, errc::config_mismatch, subject::config, 2, 0, 5, 0xfeedface);
  records = records_of({1, 2, 3});
  records[1].step = 42;
  check_refused(records, {3, 1, 0, 0}, errc::config_mismatch, subject::step, 1, 0, 42, 41);
}

TEST_CASE("a rank that executed another plan is a plan mismatch") {
  auto records = records_of({1, 2, 3});
  records[1].last_plan = 0x1234;
  check_refused(records, {3, 1, 0, 0}, errc::plan_mismatch, subject::last_plan, 1, 0, 0x1234,
                0xabad1dea);
}

TEST_CASE("ranks with tokens have one width") {
  auto records = records_of({8, 0, 8});
  records[0].width = 2;
  records[1].width = 9; // idle: does not count
  records[2].width = 4;
  check_refused(records, {3, 1, 0, 0}, errc::config_mismatch, subject::width, 2, 0, 4, 2);
}

TEST_CASE("a rank that processes prompts has no width that verifying ranks must share") {
  // Speculative decoding: rank 0 prefills, the others verify 4 tokens per request.
  auto records = records_of({2048, 8, 12});
  records[0].phase = phase::extend;
  records[0].votes = 0;
  for (const std::size_t r : {1u, 2u}) {
    records[r].phase = phase::verify;
    records[r].width = 4;
  }
  const auto merged = merge_everywhere(records, world_of(records));
  CAPTURE(std::string{merged.status().message().view()});
  CHECK(merged.ok());
}

TEST_CASE("negative counts are named with rank, value and limit") {
  struct {
    subject about;
    std::int32_t step_record::*field;
  } const fields[] = {{subject::tokens, &step_record::tokens},
                      {subject::logits_tokens, &step_record::logits_tokens},
                      {subject::draft_tokens, &step_record::draft_tokens},
                      {subject::requests, &step_record::requests},
                      {subject::prefix, &step_record::prefix}};
  for (const auto& f : fields) {
    for (const std::int32_t bad : {-1, std::numeric_limits<std::int32_t>::min()}) {
      auto records = records_of({1, 2, 3, 4});
      records[2].*f.field = bad;
      CAPTURE(std::string{name_of(f.about)});
      const auto merged = merge_everywhere(records, {4, 1, 0, 0});
      CHECK(merged.code() == errc::count_out_of_range);
      CHECK(merged.status().about == f.about);
      CHECK(merged.status().rank == 2);
      CHECK(merged.status().value == bad);
    }
  }
  for (const std::int32_t bad : {0, -3}) {
    auto records = records_of({1, 2, 3, 4});
    records[1].width = bad;
    const auto merged = merge_everywhere(records, {4, 1, 0, 0});
    CHECK(merged.code() == errc::count_out_of_range);
    CHECK(merged.status().about == subject::width);
    CHECK(merged.status().rank == 1);
  }
}

TEST_CASE("attention-TP peers that disagree are named") {
  struct {
    subject about;
    std::int32_t step_record::*field;
  } const fields[] = {{subject::tokens, &step_record::tokens},
                      {subject::logits_tokens, &step_record::logits_tokens},
                      {subject::draft_tokens, &step_record::draft_tokens},
                      {subject::requests, &step_record::requests}};
  for (const auto& f : fields) {
    auto records = records_of({5, 6, 7}, 2);
    records[3].*f.field = 9;
    CAPTURE(std::string{name_of(f.about)});
    check_refused(records, {3, 2, 0, 0}, errc::config_mismatch, f.about, 3, 2, 9, 6);
    // The same counts on two data-parallel ranks of their own are no mismatch.
    CHECK(merge_everywhere(records, {6, 1, 0, 0}).ok());
  }
  auto records = records_of({5, 6, 7}, 2);
  records[5].phase = phase::verify;
  const auto merged = merge_everywhere(records, {3, 2, 0, 0});
  CHECK(merged.code() == errc::config_mismatch);
  CHECK(merged.status().about == subject::phase);
  CHECK(merged.status().rank == 5);
  CHECK(merged.status().peer == 4);
  const std::string text = merged.status().message().c_str();
  CHECK(text.find("verify") != std::string::npos);
  CHECK(text.find("decode") != std::string::npos);
}

TEST_CASE("attention-TP peers that hold different widths are named") {
  auto records = records_of({8, 8}, 2);
  for (auto& r : records) r.width = 2;
  records[3].width = 4;
  const auto merged = merge_everywhere(records, {2, 2, 0, 0});
  CHECK(merged.code() == errc::config_mismatch);
  CHECK(merged.status().about == subject::width);
  CHECK(merged.status().rank == 3);
}

TEST_CASE("a rank that cannot run is named, with its reason") {
  auto records = records_of({1, 2, 3});
  records[1].cannot_run = static_cast<std::int32_t>(errc::native_error);
  const auto merged = merge_everywhere(records, {3, 1, 0, 0});
  CHECK(merged.code() == errc::rank_cannot_run);
  CHECK(merged.status().rank == 1);
  CHECK(merged.status().cause == errc::native_error);
  CHECK(std::string{merged.status().message().c_str()}.find("native_error") != std::string::npos);
}

TEST_CASE("the reason of a rank that cannot run is not hidden by what it could not fill in") {
  // It failed before it had counts: its attention-TP peer has them.
  auto records = records_of({4, 6}, 2);
  records[3].tokens = records[3].logits_tokens = records[3].draft_tokens = records[3].requests = 0;
  records[3].phase = phase::idle;
  records[3].cannot_run = static_cast<std::int32_t>(errc::capacity_exceeded);
  auto merged = merge_everywhere(records, {2, 2, 0, 0});
  CAPTURE(std::string{merged.status().message().view()});
  CHECK(merged.code() == errc::rank_cannot_run);
  CHECK(merged.status().rank == 3);
  CHECK(merged.status().cause == errc::capacity_exceeded);

  // It failed in the middle of the step before: the others executed a plan that it did not.
  records = records_of({4, 6});
  records[1].last_plan = 0;
  records[1].cannot_run = static_cast<std::int32_t>(errc::native_error);
  merged = merge_everywhere(records, {2, 1, 0, 0});
  CAPTURE(std::string{merged.status().message().view()});
  CHECK(merged.code() == errc::rank_cannot_run);
  CHECK(merged.status().rank == 1);
  CHECK(merged.status().cause == errc::native_error);
}

TEST_CASE("a reason that no error has is a bad record, not another reason") {
  // 256 is `ok` in eight bits.
  for (const std::int32_t reason : {-1, 256, 1000, 256 + static_cast<std::int32_t>(errc::busy)}) {
    auto records = records_of({1, 2, 3});
    records[1].cannot_run = reason;
    const auto merged = merge_everywhere(records, {3, 1, 0, 0});
    CAPTURE(reason);
    CAPTURE(std::string{merged.status().message().view()});
    CHECK(merged.code() == errc::bad_record);
    CHECK(merged.status().rank == 1);
  }
}

// --- the same on every rank ---------------------------------------------------------------------

namespace {

/// Votes, counts and fields merged in another style: column by column.
agreement expected_agreement(const std::vector<step_record>& records, const topology& world) {
  const auto column = [&](auto field) {
    std::vector<std::int32_t> out;
    for (std::size_t r = 0; r < records.size(); r += static_cast<std::size_t>(world.tp_size)) {
      out.push_back(records[r].*field);
    }
    return out;
  };
  const std::int32_t any = std::numeric_limits<std::int32_t>::max();
  agreement out;
  out.dp_size = world.dp_size;
  out.tp_size = world.tp_size;
  out.step = records.front().step;
  out.tokens = *dg::real_rows::make(column(&step_record::tokens), any);
  out.logits_tokens = *dg::real_rows::make(column(&step_record::logits_tokens), any);
  out.draft_tokens = *dg::real_rows::make(column(&step_record::draft_tokens), any);
  out.requests = *dg::request_counts::make(column(&step_record::requests), any);
  const auto all = [&](auto test) { return std::all_of(records.begin(), records.end(), test); };
  out.can_run_graph =
      all([](const step_record& r) { return (r.votes & step_record::graph_vote) != 0; });
  out.can_overlap =
      all([](const step_record& r) { return (r.votes & step_record::overlap_vote) != 0; });
  out.extend_in_batch = !all(
      [](const step_record& r) { return r.phase != phase::extend && r.phase != phase::mixed; });
  out.any_idle = !all([](const step_record& r) { return r.tokens != 0; });
  for (const step_record& r : records) {
    out.longest_prefix = std::max(out.longest_prefix, r.prefix);
    // Prompts have no width; random worlds have one width for all that do.
    if (r.tokens != 0 && r.phase != phase::extend && r.phase != phase::mixed) out.width = r.width;
  }
  return out;
}

} // namespace

TEST_CASE("random worlds merge into what each column says, equally on all ranks") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        const std::int32_t tp = random.pick({1, 1, 2, 4});
        const topology world{random.between(1, 16), tp, 0, 0};
        const std::int32_t width = random.pick({1, 2, 4, 8});
        const std::int32_t idle_percent = random.pick({0, 30, 100});
        std::vector<step_record> records;
        for (std::int32_t d = 0; d < world.dp_size; ++d) {
          step_record r;
          r.step = 7;
          r.requests = random.chance(static_cast<int>(idle_percent)) ? 0 : random.between(0, 300);
          r.tokens = r.requests * width;
          r.logits_tokens = random.between(0, 300);
          r.draft_tokens = random.between(0, 300);
          r.width = r.tokens == 0 ? random.between(-1, 5) : width;
          r.phase = static_cast<phase>(random.between(0, 5));
          for (std::int32_t t = 0; t < tp; ++t) {
            r.world_rank = d * tp + t;
            r.votes =
                random.chance(90) ? both_votes : static_cast<std::uint8_t>(random.between(0, 3));
            r.prefix = random.between(0, 4096);
            records.push_back(r);
          }
        }
        const auto merged = merge_everywhere(records, world);
        REQUIRE(merged.ok());
        agreement expected = expected_agreement(records, world);
        const bool only_prompts =
            std::none_of(records.begin(), records.end(), [](const step_record& r) {
              return r.tokens != 0 && r.phase != phase::extend && r.phase != phase::mixed;
            });
        if (only_prompts) expected.width = merged->width;
        REQUIRE(*merged == expected);
      },
      test_support::case_count(5'000));
}

TEST_CASE("whatever bytes arrive, every rank answers the same") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        const topology world{random.between(1, 8), random.pick({1, 2}), 0, 0};
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(world.dp_size));
        for (std::int32_t& n : tokens) n = random.between(0, 9);
        auto records = records_of(tokens, world.tp_size);
        const auto intact = records;
        const int flips = random.between(1, 3);
        for (int i = 0; i < flips; ++i) {
          auto& record = records[random.between<std::size_t>(0, records.size() - 1)];
          std::array<std::byte, sizeof(step_record)> bytes{};
          std::memcpy(bytes.data(), &record, sizeof record);
          bytes[random.between<std::size_t>(0, sizeof(step_record) - 1)] ^=
              static_cast<std::byte>(1 << random.between(0, 7));
          std::memcpy(&record, bytes.data(), sizeof record);
        }
        const auto merged = merge_everywhere(records, world);
        if (records == intact) REQUIRE(merged.ok());
        if (!merged.ok()) {
          REQUIRE(merged.status().rank >= 0);
          REQUIRE(merged.status().rank < world.world_size());
          REQUIRE(merged.status().message().view().find("rank ") == 0);
        }
      },
      test_support::case_count(20'000));
}

// The whole merge can be worked out by the compiler.
static_assert([] {
  std::array<step_record, 2> records{};
  records[1].world_rank = 1;
  records[0].tokens = 3;
  records[0].votes = records[1].votes = step_record::graph_vote;
  const auto merged = dg::merge(records, {2, 1, 1, 0});
  return merged.ok() && merged->tokens[0] == 3 && merged->can_run_graph && !merged->can_overlap &&
         merged->any_idle;
}());
