#include <dpgather/batch_trim.hpp>

#include <dpgather/device/trim.hpp>
#include <dpgather/phase.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

constexpr std::array outputs{batch_output::logits,
                             batch_output::hidden,
                             batch_output::positions,
                             batch_output::sequence_lengths,
                             batch_output::request_pool_indices,
                             batch_output::accept_lengths};

/// Expected rows of every output; empty: untouched.
using rows = std::optional<std::int64_t>;
struct expected_rows {
  rows logits{}, hidden{}, positions{}, sequence_lengths{}, request_pool_indices{},
      accept_lengths{};

  rows of(batch_output tensor) const {
    switch (tensor) {
    case batch_output::logits:
      return logits;
    case batch_output::hidden:
      return hidden;
    case batch_output::positions:
      return positions;
    case batch_output::sequence_lengths:
      return sequence_lengths;
    case batch_output::request_pool_indices:
      return request_pool_indices;
    case batch_output::accept_lengths:
      return accept_lengths;
    }
    return {};
  }
};

/// Rows of a forward's outputs, real first, then NaN.
std::vector<float> rows_then_nan(std::int64_t real, std::int64_t padded, std::int32_t width) {
  std::vector<float> out(static_cast<std::size_t>(padded * width),
                         std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < static_cast<std::size_t>(real * width); ++i) {
    out[i] = static_cast<float>(i) + 0.5f;
  }
  return out;
}

/// Every output is cut to the rows of the table and no further: a tensor of these rows and
/// `pad_rows` more of NaN is trimmed for real, and what comes out is real.
void check_branch(const batch_facts& facts, const expected_rows& expected, std::int32_t pad_rows) {
  CAPTURE(name_of(facts.step));
  CAPTURE(facts.requests);
  CAPTURE(pad_rows);
  constexpr std::int32_t width = 3;
  for (const batch_output tensor : outputs) {
    CAPTURE(static_cast<int>(tensor));
    const auto rule = trim_rule_of(tensor, facts);
    REQUIRE(rule.ok());
    const rows kept = expected.of(tensor);
    CHECK(rule->touched == kept.has_value());
    CHECK(rule->rows == kept.value_or(0));
    CHECK(*rule->rows_left(0) == 0); // absent

    const std::int64_t real = kept.value_or(facts.requests);
    const std::vector<float> source = rows_then_nan(real, real + pad_rows, width);
    const auto left = rule->rows_left(real + pad_rows);
    REQUIRE(left.ok());
    CHECK(*left == (kept.has_value() ? real : real + pad_rows));
    std::vector<float> out(source.size(), -7.0f);
    const auto present = static_cast<std::int32_t>(real) + pad_rows;
    const unit_counts units{
        .real = static_cast<std::int32_t>(*left), .padded = present, .capacity = present};
    const trim_tensor list[] = {trim_rows(source.data(), width, out, units)};
    REQUIRE(trim(list).ok());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (i < static_cast<std::size_t>(real * width)) {
        REQUIRE(out[i] == source[i]);
      } else if (kept.has_value()) {
        REQUIRE(out[i] == -7.0f);
      } else {
        REQUIRE(std::isnan(out[i]));
      }
    }
  }
}

/// {0 real / 0 padded, 0 / p, n / p, n / n} of one branch. `expected(facts)` is the table's cell.
template <class Expected>
void check_shapes(phase step, speculation spec, Expected expected,
                  draft_extend_form form = draft_extend_form::row_per_request) {
  struct shape {
    std::int32_t requests, pad_rows;
  };
  for (const shape s : {shape{0, 0}, shape{0, 6}, shape{3, 6}, shape{3, 0}}) {
    for (const std::int32_t k : {1, 4}) {
      const batch_facts facts{.step = step,
                              .spec = spec,
                              .form = form,
                              .requests = s.requests,
                              .tokens_per_request = k,
                              .saved_hidden_rows = s.requests * 5, // unlike any other count
                              .sequence_length_sum = s.requests * 37};
      check_branch(facts, expected(facts), s.pad_rows);
    }
  }
}

expected_rows results(std::int64_t n) { return {.logits = n, .hidden = n}; }

// The rules are readable by the compiler.
static_assert(trim_rule_of(batch_output::logits, {.step = phase::verify,
                                                  .spec = speculation::active,
                                                  .requests = 3,
                                                  .tokens_per_request = 4})
                  .value()
                  .rows == 12);

} // namespace

TEST_CASE("trim table: decode without speculation keeps bs rows") {
  check_shapes(phase::decode, speculation::none,
               [](const batch_facts& f) { return results(f.requests); });
}
TEST_CASE("trim table: decode of the draft keeps the saved hidden rows, lengths and indices bs") {
  check_shapes(phase::decode, speculation::active, [](const batch_facts& f) {
    return expected_rows{.logits = f.saved_hidden_rows,
                         .hidden = f.saved_hidden_rows,
                         .positions = f.saved_hidden_rows,
                         .sequence_lengths = f.requests,
                         .request_pool_indices = f.requests};
  });
}
TEST_CASE("trim table: target verify keeps bs * k rows") {
  check_shapes(phase::verify, speculation::active, [](const batch_facts& f) {
    return results(std::int64_t{f.requests} * f.tokens_per_request);
  });
}
TEST_CASE("trim table: draft extend keeps bs rows and accept lengths") {
  check_shapes(phase::draft_extend, speculation::active, [](const batch_facts& f) {
    return expected_rows{.logits = f.requests, .hidden = f.requests, .accept_lengths = f.requests};
  });
}
TEST_CASE("trim table: draft extend in its newer form keeps bs * k rows, bs accept lengths") {
  check_shapes(
      phase::draft_extend, speculation::active,
      [](const batch_facts& f) {
        const std::int64_t n = std::int64_t{f.requests} * f.tokens_per_request;
        return expected_rows{.logits = n, .hidden = n, .accept_lengths = f.requests};
      },
      draft_extend_form::row_per_token);
}
TEST_CASE("trim table: extend without speculation keeps the sum of the sequence lengths") {
  check_shapes(phase::extend, speculation::none,
               [](const batch_facts& f) { return results(f.sequence_length_sum); });
}
TEST_CASE("trim table: mixed without speculation keeps the sum of the sequence lengths") {
  check_shapes(phase::mixed, speculation::none,
               [](const batch_facts& f) { return results(f.sequence_length_sum); });
}
TEST_CASE("trim table: extend and mixed, the documented deviation: logits have bs rows already") {
  for (const phase step : {phase::extend, phase::mixed}) {
    const batch_facts facts{.step = step, .requests = 3, .sequence_length_sum = 111};
    const auto rule = trim_rule_of(batch_output::logits, facts);
    REQUIRE(rule.ok());
    CHECK(rule->at_most);
    CHECK(*rule->rows_left(3) == 3);     // fewer rows than the sum: complete, not an error
    CHECK(*rule->rows_left(110) == 110); // padded rows below the sum of the prefixes: they stay
    CHECK(*rule->rows_left(111) == 111);
    CHECK(*rule->rows_left(112) == 111);
    CHECK(*rule->rows_left(0) == 0);
    const auto other = trim_rule_of(batch_output::positions, facts);
    CHECK_FALSE(other->at_most);
    CHECK_FALSE(other->touched);
  }
}
TEST_CASE("trim table: extend with speculation keeps bs rows") {
  check_shapes(phase::extend, speculation::active,
               [](const batch_facts& f) { return results(f.requests); });
}
TEST_CASE("trim table: mixed with speculation keeps bs rows") {
  check_shapes(phase::mixed, speculation::active,
               [](const batch_facts& f) { return results(f.requests); });
}
TEST_CASE("trim table: idle without speculation keeps bs rows") {
  check_shapes(phase::idle, speculation::none,
               [](const batch_facts& f) { return results(f.requests); });
}
TEST_CASE("trim table: idle with speculation keeps bs rows") {
  check_shapes(phase::idle, speculation::active,
               [](const batch_facts& f) { return results(f.requests); });
}

TEST_CASE("trim table: verify and draft extend without speculation are refused") {
  for (const phase step : {phase::verify, phase::draft_extend}) {
    for (const batch_output tensor : outputs) {
      const auto rule = trim_rule_of(tensor, {.step = step, .requests = 3});
      CHECK(rule.code() == errc::bad_config);
      CHECK(rule.status().about == subject::phase);
      CHECK(rule.status().value == static_cast<std::int64_t>(step));
    }
    CHECK(trim_rule_of(batch_output::logits,
                       {.step = step, .spec = speculation::active, .requests = 3})
              .ok());
  }
}

TEST_CASE("trim table: refused facts, by name") {
  const auto check = [](const batch_facts& facts, subject about, std::int64_t value,
                        std::int64_t limit) {
    const auto rule = trim_rule_of(batch_output::logits, facts);
    CHECK(rule.code() == errc::count_out_of_range);
    CHECK(rule.status().about == about);
    CHECK(rule.status().value == value);
    CHECK(rule.status().limit == limit);
    CHECK(std::string_view{rule.status().where} == "trim_rule_of");
  };
  check({.requests = -1}, subject::requests, -1, 0);
  check({.tokens_per_request = 0}, subject::width, 0, 1);
  check({.saved_hidden_rows = -2}, subject::draft_tokens, -2, 0);
  check({.sequence_length_sum = -3}, subject::tokens, -3, 0);
  CHECK(trim_rule_of(batch_output::logits, {}).ok());
}

TEST_CASE("trim rule: missing real rows are an error, an absent tensor is none") {
  const auto rule = trim_rule_of(batch_output::logits, {.step = phase::decode, .requests = 5});
  REQUIRE(rule.ok());
  CHECK(*rule->rows_left(5) == 5);
  CHECK(*rule->rows_left(8) == 5);
  CHECK(*rule->rows_left(0) == 0);
  const auto left = rule->rows_left(4);
  CHECK(left.code() == errc::count_out_of_range);
  CHECK(left.status().value == 5);
  CHECK(left.status().limit == 4);
  CHECK(rule->rows_left(-1).code() == errc::count_out_of_range);
  CHECK(*trim_rule{}.rows_left(4) == 4);
}

TEST_CASE("trim rule: rows beyond 2^31") {
  const batch_facts facts{.step = phase::verify,
                          .spec = speculation::active,
                          .requests = 2'000'000'000,
                          .tokens_per_request = 2'000'000'000};
  CHECK(trim_rule_of(batch_output::hidden, facts)->rows == 4'000'000'000'000'000'000);
}

namespace {

/// A batch as lists of row numbers, and the steps after the forward as an engine would write them
/// down: one branch after the other, slice by slice. The reference of the property test.
struct listed_batch {
  std::optional<std::vector<int>> logits, hidden, positions, lengths, indices, accepted;
};

void slice(std::optional<std::vector<int>>& x, std::int64_t n) {
  while (x && std::ssize(*x) > n) x->pop_back();
}

void after_forward(listed_batch& b, const batch_facts& f) {
  std::int64_t n = f.requests;
  if (f.spec == speculation::active && f.step == phase::decode) {
    n = f.saved_hidden_rows;
    slice(b.positions, n);
    slice(b.lengths, f.requests);
    slice(b.indices, f.requests);
  }
  if (f.step == phase::verify ||
      (f.step == phase::draft_extend && f.form == draft_extend_form::row_per_token)) {
    n = 0;
    for (std::int32_t r = 0; r < f.requests; ++r) n += f.tokens_per_request;
  }
  if (f.step == phase::draft_extend) slice(b.accepted, f.requests);
  if (f.spec == speculation::none && (f.step == phase::extend || f.step == phase::mixed)) {
    n = f.sequence_length_sum;
  }
  slice(b.logits, n);
  slice(b.hidden, n);
}

} // namespace

TEST_CASE("trim table: random batches equal an engine's slices, absent tensors included") {
  test_support::for_random_cases([](random_source& random) {
    batch_facts f;
    f.step = random.pick({phase::idle, phase::decode, phase::extend, phase::mixed, phase::verify,
                          phase::draft_extend});
    const bool must = f.step == phase::verify || f.step == phase::draft_extend;
    f.spec = must || random.chance(50) ? speculation::active : speculation::none;
    f.form = random.pick({draft_extend_form::row_per_request, draft_extend_form::row_per_token});
    f.requests = random.chance(20) ? 0 : random.between(0, 6);
    f.tokens_per_request = random.between(1, 4);
    f.saved_hidden_rows = random.between(0, 9);
    f.sequence_length_sum = f.requests + random.between(0, 9);
    const auto padded = [&](std::int64_t real) {
      std::optional<std::vector<int>> out;
      if (random.chance(85)) {
        out.emplace(
            static_cast<std::size_t>(real + (random.chance(40) ? 0 : random.between(0, 5))));
      }
      return out;
    };
    // As many rows as the longest rule keeps, so that only pad rows can be cut; logits of a prefill
    // have a row per request.
    const std::int64_t most =
        std::max<std::int64_t>(f.requests * f.tokens_per_request, f.saved_hidden_rows);
    listed_batch b;
    b.logits = padded(is_prefill(f.step) ? f.requests : most);
    b.hidden = padded(most);
    b.positions = padded(most);
    b.lengths = padded(f.requests);
    b.indices = padded(f.requests);
    b.accepted = padded(f.requests);

    const auto left = [&](batch_output tensor, const std::optional<std::vector<int>>& x) {
      const auto rule = trim_rule_of(tensor, f);
      REQUIRE(rule.ok());
      const auto n = rule->rows_left(x ? std::ssize(*x) : 0);
      REQUIRE(n.ok());
      return *n;
    };
    const std::array got{left(batch_output::logits, b.logits),
                         left(batch_output::hidden, b.hidden),
                         left(batch_output::positions, b.positions),
                         left(batch_output::sequence_lengths, b.lengths),
                         left(batch_output::request_pool_indices, b.indices),
                         left(batch_output::accept_lengths, b.accepted)};
    after_forward(b, f);
    const auto size = [](const std::optional<std::vector<int>>& x) -> std::ptrdiff_t {
      return x ? std::ssize(*x) : 0;
    };
    const std::array want{size(b.logits),  size(b.hidden),  size(b.positions),
                          size(b.lengths), size(b.indices), size(b.accepted)};
    for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == want[i]);
  });
}
