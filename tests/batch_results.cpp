#include <dpgather/batch_results.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

constexpr batch_facts verify{
    .step = phase::verify, .spec = speculation::active, .requests = 3, .tokens_per_request = 5};

} // namespace

TEST_CASE("cutting: every result of any phase keeps what its rule keeps") {
  test_support::for_random_cases([](random_source& random) {
    batch_facts facts{.step = random.pick({phase::idle, phase::decode, phase::extend, phase::mixed,
                                           phase::verify, phase::draft_extend}),
                      .spec = random.pick({speculation::none, speculation::active}),
                      .requests = random.between(0, 9),
                      .tokens_per_request = random.between(1, 4),
                      .saved_hidden_rows = random.between(0, 9),
                      .sequence_length_sum = random.between(0, 30)};
    std::vector<std::int64_t> rows(4);
    std::vector<batch_result> results;
    std::vector<std::int64_t> expected;
    status first;
    for (std::int64_t& count : rows) {
      count = random.between(0, 40);
      const auto tensor = random.pick({batch_output::logits, batch_output::hidden,
                                       batch_output::positions, batch_output::accept_lengths});
      results.push_back({.tensor = tensor, .rows = &count});
      expected.push_back(count);
      const auto rule = trim_rule_of(tensor, facts);
      const auto left = rule ? rule->rows_left(count) : result<std::int64_t>{rule.status()};
      if (left) expected.back() = *left;
      if (!left && first.ok()) first = left.status();
    }
    const status s = cut_results(results, facts);
    REQUIRE(rows == expected);
    REQUIRE(s.code == first.code);
    REQUIRE(s.value == first.value);
    REQUIRE(s.limit == first.limit);
  });
}

TEST_CASE("cutting: the first result that lacks rows is named, the others are cut") {
  std::int64_t rows[] = {20, 14, 20, 13};
  const batch_result results[] = {
      {.tensor = batch_output::logits, .rows = &rows[0]},
      {.tensor = batch_output::hidden, .rows = &rows[1]},
      {.tensor = batch_output::hidden, .rows = &rows[2]},
      {.tensor = batch_output::logits, .rows = &rows[3]},
      {.tensor = batch_output::logits, .capacity = 20}, // no count to cut
  };
  const status s = cut_results(results, verify);
  CHECK(s.code == errc::count_out_of_range);
  CHECK(s.peer == 1);
  CHECK(s.value == 15);
  CHECK(s.limit == 14);
  CHECK(rows[0] == 15);
  CHECK(rows[1] == 14);
  CHECK(rows[2] == 15);
  CHECK(rows[3] == 13);
}

TEST_CASE("looking: in rows that are left only, of the tensors that are there") {
  std::vector<float> logits(20, 1), hidden(40, 1);
  std::int64_t rows = 20, few = 3;
  const batch_result results[] = {
      {.tensor = batch_output::logits, .rows = &rows}, // no memory
      {.tensor = batch_output::hidden,
       .data = hidden.data(),
       .type = element::f32,
       .width = 1,
       .capacity = 20,
       .row_stride = 8,
       .rows = &rows},
      {.tensor = batch_output::hidden,
       .data = logits.data(),
       .type = element::f32,
       .width = 1,
       .capacity = 20,
       .rows = &few}, // lacks rows: told elsewhere
      {.tensor = batch_output::logits,
       .data = logits.data(),
       .type = element::f32,
       .width = 1,
       .capacity = 20},
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto found = [&] {
    leak_record record;
    CHECK(scan_results(results, verify, &record, 9, host_stream{}).ok());
    return record.first;
  };
  CHECK(found() == leak_record::none);
  logits[15] = hidden[30] = hidden[1] = nan; // a pad row, a pad row, between rows
  CHECK(found() == leak_record::none);
  logits[14] = nan;
  CHECK(found() == leak_record::key(9, 3, 14));
  hidden[28] = nan;
  CHECK(found() == leak_record::key(9, 1, 14));
}

TEST_CASE("checking: results by name") {
  alignas(8) std::byte memory[64]{};
  const batch_result good{.data = memory, .type = element::f32, .width = 2, .capacity = 8};
  const auto code = [](const batch_result& bad, bool poison = true) {
    const batch_result list[] = {{}, bad};
    const status s = validate(std::span<const batch_result>{list}, poison);
    if (!s.ok()) CHECK(s.peer == 1);
    return s.code;
  };
  CHECK(code(good) == errc::ok);
  batch_result bad = good;
  bad.data = memory + 2;
  CHECK(code(bad) == errc::misaligned);
  bad = good;
  bad.row_stride = 10;
  CHECK(code(bad) == errc::misaligned);
  bad = good;
  bad.row_stride = 4;
  CHECK(code(bad) == errc::misaligned);
  bad = good;
  bad.width = 0;
  CHECK(code(bad) == errc::count_out_of_range);
  bad = good;
  bad.capacity = -1;
  CHECK(code(bad) == errc::count_out_of_range);
  bad = good;
  bad.row_stride = std::size_t{1} << 62;
  CHECK(code(bad) == errc::size_overflow);
  bad = good;
  bad.type = element::u8;
  CHECK(code(bad) == errc::unsupported_type);
  CHECK(code(bad, false) == errc::ok);
}

TEST_CASE("outputs have names of their own") {
  CHECK(std::string_view{name_of(batch_output::logits)} == "logits");
  CHECK(std::string_view{name_of(batch_output::accept_lengths)} == "accept_lengths");
  CHECK(std::string_view{name_of(static_cast<batch_output>(99))} == "unknown");
}
