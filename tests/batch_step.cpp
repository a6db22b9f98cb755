#include <dpgather/batch_step.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

namespace {

using namespace dpgather;

constexpr unit_counts three_of_four{.real = 3, .padded = 4};

bool counts_are(const unit_counts& units, std::int32_t real, std::int32_t padded) {
  return units.real == real && units.padded == padded && units.live == nullptr;
}

static_assert(batch_step::verify(three_of_four, 5).tokens.padded == 20, "readable by the compiler");

} // namespace

TEST_CASE("presets: phase, speculation and tokens of each") {
  const batch_step decode = batch_step::decode(three_of_four);
  CHECK(decode.step == phase::decode);
  CHECK(decode.spec == speculation::none);
  CHECK(counts_are(decode.tokens, 3, 4));
  CHECK(counts_are(decode.requests, 3, 4));

  const unit_counts tokens{.real = 100, .padded = 128};
  const batch_step extend = batch_step::extend(three_of_four, tokens);
  CHECK(extend.step == phase::extend);
  CHECK(extend.spec == speculation::none);
  CHECK(counts_are(extend.requests, 3, 4));
  CHECK(counts_are(extend.tokens, 100, 128));
  const batch_step mixed = batch_step::mixed(three_of_four, tokens);
  CHECK(mixed.step == phase::mixed);
  CHECK(counts_are(mixed.tokens, 100, 128));

  const batch_step idle = batch_step::idle(4, 2);
  CHECK(idle.step == phase::idle);
  CHECK(counts_are(idle.requests, 0, 4));
  CHECK(counts_are(idle.tokens, 0, 8));

  const batch_step draft = batch_step::draft(three_of_four, 4);
  CHECK(draft.step == phase::decode);
  CHECK(draft.spec == speculation::active);
  CHECK(counts_are(draft.tokens, 12, 16));

  const batch_step verify = batch_step::verify(three_of_four, 5);
  CHECK(verify.step == phase::verify);
  CHECK(verify.spec == speculation::active);
  CHECK(verify.tokens_per_request == 5);
  CHECK(counts_are(verify.tokens, 15, 20));

  const batch_step extended =
      batch_step::draft_extend(three_of_four, 5, draft_extend_form::row_per_token);
  CHECK(extended.step == phase::draft_extend);
  CHECK(extended.spec == speculation::active);
  CHECK(extended.form == draft_extend_form::row_per_token);
  CHECK(batch_step::draft_extend(three_of_four, 5).form == draft_extend_form::row_per_request);
}

TEST_CASE("units of a step are those of the kind, and no kind stands in for another") {
  batch_step step = batch_step::verify(three_of_four, 5);
  step.draft_tokens = {.real = 7, .padded = 9};
  CHECK(counts_are(step.units(batch_unit::token), 15, 20));
  CHECK(counts_are(step.units(batch_unit::request), 3, 4));
  CHECK(counts_are(step.units(batch_unit::draft_token), 7, 9));
}

TEST_CASE("tokens follow the live count of requests, whose rows are tokens") {
  std::int32_t rows = 15;
  const batch_step step = batch_step::verify({.padded = 4, .live = &rows, .rows_per_unit = 5}, 5);
  CHECK(step.requests.real_now() == 3);
  CHECK(step.tokens.real_now() == 15);
  rows = 1000;
  CHECK(step.requests.real_now() == 4);
  CHECK(step.tokens.real_now() == 20);
  // Requests of one row and of five tokens do not go together: refused by `pad`.
  CHECK(batch_step::verify({.padded = 4, .live = &rows}, 5).tokens.rows_per_unit == 0);
  CHECK(batch_step::verify({.padded = 4, .live = &rows}, 0).tokens.rows_per_unit == 0);
}

TEST_CASE("products that do not fit stay above every capacity") {
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  CHECK(batch_step::verify({.real = 1, .padded = most}, most).tokens.padded == most);
  CHECK(batch_step::verify({.real = 65'536, .padded = 65'536}, 65'536).tokens.real == most);
  CHECK(batch_step::verify({.real = -65'536, .padded = 4}, 65'536).tokens.real == -most);
}
