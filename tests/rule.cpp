#include <dpgather/rule.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace dg = dpgather;
using dg::alternative;
using dg::choice;
using dg::reason;
using dg::volume;
namespace rule = dg::rule;

namespace {

volume volume_of(const std::vector<std::int64_t>& rows) {
  volume v;
  v.ranks = static_cast<std::int32_t>(rows.size());
  for (const std::int64_t n : rows) {
    if (n > v.max_rows) v.max_rows = n;
    v.sum_rows += n;
    v.any_idle = v.any_idle || n == 0;
  }
  return v;
}

template <class Rule>
bool picks_max(const std::vector<std::int64_t>& rows) {
  return Rule::decide(volume_of(rows)).which == alternative::pad_to_max;
}

/// Each count up to `most` for each of `ranks` ranks.
template <class F>
void for_all_counts(std::int32_t ranks, std::int64_t most, F f) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(ranks), 0);
  while (true) {
    f(rows);
    std::size_t at = 0;
    while (at < rows.size() && rows[at] == most) rows[at++] = 0;
    if (at == rows.size()) return;
    ++rows[at];
  }
}

} // namespace

TEST_CASE("the volumes of the pull request, by hand") {
  using strict = rule::strict_volume;
  using tie = rule::volume_or_tie;
  CHECK(picks_max<strict>({8, 8, 8, 8}));          // 2 * 32 > 8 * 4
  CHECK(picks_max<strict>({8, 8, 8, 0}));          // 2 * 24 > 32
  CHECK_FALSE(picks_max<strict>({8, 8, 0, 0}));    // 2 * 16 == 32: a tie is an all-reduce
  CHECK(picks_max<tie>({8, 8, 0, 0}));             // ... or an all-gather, in later code
  CHECK(picks_max<strict>({8, 8, 1, 0}));          // one row past the tie
  CHECK_FALSE(picks_max<tie>({9, 8, 0, 0}));       // one row before it: 34 < 36
  CHECK_FALSE(picks_max<tie>({2048, 1, 1, 1, 1})); // a prompt beside decoding ranks
  CHECK(picks_max<strict>({5}));                   // W = 1: 10 > 5
  CHECK_FALSE(picks_max<strict>({0, 0}));          // no rows at all are a tie
  CHECK(picks_max<tie>({0, 0}));
}

TEST_CASE("all small count vectors are decided by 2 * sum against max * W") {
  for (std::int32_t ranks = 1; ranks <= 5; ++ranks) {
    for_all_counts(ranks, 5, [&](const std::vector<std::int64_t>& rows) {
      const volume v = volume_of(rows);
      // Rows that a rank receives in W - 1 ring steps: all-gather max each; all-reduce twice sum /
      // W.
      const std::int64_t to_max = v.max_rows * ranks;
      const std::int64_t to_sum = 2 * v.sum_rows;
      const choice strict = rule::strict_volume::decide(v);
      const choice tie = rule::volume_or_tie::decide(v);
      REQUIRE((strict.which == alternative::pad_to_max) == (to_sum > to_max));
      REQUIRE((tie.which == alternative::pad_to_max) == (to_sum >= to_max));
      const reason why = to_sum > to_max   ? reason::max_moves_less
                         : to_sum < to_max ? reason::sum_moves_less
                                           : reason::volumes_equal;
      REQUIRE(strict.why == why);
      REQUIRE(tie.why == why);
    });
  }
}

TEST_CASE("volumes are compared in 64 bits") {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const auto& rows :
       {std::vector<std::int64_t>(256, most), std::vector<std::int64_t>(3, most)}) {
    CHECK(rule::strict_volume::decide(volume_of(rows)).why == reason::max_moves_less);
  }
  std::vector<std::int64_t> one_hot(256, 0);
  one_hot[17] = most;
  CHECK(rule::strict_volume::decide(volume_of(one_hot)).why == reason::sum_moves_less);
  std::vector<std::int64_t> half(256, 0);
  for (std::size_t r = 0; r < 128; ++r) half[r] = most;
  CHECK(rule::strict_volume::decide(volume_of(half)).why == reason::volumes_equal);
  half[200] = 1;
  CHECK(rule::strict_volume::decide(volume_of(half)).why == reason::max_moves_less);
}

TEST_CASE("prefill takes the sum, whatever the volumes; an idle rank takes the maximum") {
  using in_prefill = rule::sum_in_prefill<rule::volume_or_tie>;
  using when_idle = rule::max_when_idle<rule::strict_volume>;
  using both = rule::max_when_idle<rule::sum_in_prefill<rule::strict_volume>>;
  using swapped = rule::sum_in_prefill<rule::max_when_idle<rule::strict_volume>>;
  for (std::int32_t ranks = 1; ranks <= 4; ++ranks) {
    for_all_counts(ranks, 4, [&](const std::vector<std::int64_t>& rows) {
      volume v = volume_of(rows);
      for (const bool prefill : {false, true}) {
        v.any_prefill = prefill;
        const choice strict = rule::strict_volume::decide(v);
        const choice tie = rule::volume_or_tie::decide(v);
        const auto same = [](const choice& a, const choice& b) {
          return a.which == b.which && a.why == b.why;
        };
        const choice prefill_sum{alternative::pad_to_sum, reason::prefill};
        const choice idle_max{alternative::pad_to_max, reason::idle_rank};
        REQUIRE(same(in_prefill::decide(v), prefill ? prefill_sum : tie));
        REQUIRE(same(when_idle::decide(v), v.any_idle ? idle_max : strict));
        REQUIRE(same(both::decide(v), v.any_idle ? idle_max : prefill ? prefill_sum : strict));
        REQUIRE(same(swapped::decide(v), prefill ? prefill_sum : v.any_idle ? idle_max : strict));
      }
    });
  }
}

TEST_CASE("random large volumes agree with exact arithmetic") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        std::vector<std::int64_t> rows(random.between<std::size_t>(1, 64));
        const std::int64_t most = random.pick<std::int64_t>({1, 2, 512, 2'147'483'647});
        for (std::int64_t& n : rows) {
          n = random.chance(30)   ? 0
              : random.chance(50) ? most
                                  : random.between<std::int64_t>(0, most);
        }
        const volume v = volume_of(rows);
        // Exact without products: compare sum / W with max / 2 as a sum of signed parts.
        std::int64_t difference = 0;
        for (const std::int64_t n : rows) difference += 2 * n - v.max_rows;
        REQUIRE((rule::strict_volume::decide(v).which == alternative::pad_to_max) ==
                (difference > 0));
        REQUIRE((rule::volume_or_tie::decide(v).which == alternative::pad_to_max) ==
                (difference >= 0));
      },
      test_support::case_count(20'000));
}

TEST_CASE("every reason has a name, and the table of reasons has room for each") {
  std::set<std::string> names;
  for (std::size_t i = 0; i < dg::reason_count; ++i) {
    const std::string name = name_of(static_cast<reason>(i));
    CHECK(name != "unknown");
    CHECK(names.insert(name).second);
  }
  CHECK(std::string{name_of(static_cast<reason>(dg::reason_count))} == "unknown");
}

namespace {

struct of_the_engine {
  static constexpr choice decide(const volume& v) noexcept {
    return {v.ranks > 2 ? alternative::pad_to_max : alternative::pad_to_sum};
  }
};
struct may_throw {
  static choice decide(const volume&) { return {}; }
};
struct answers_bool {
  static bool decide(const volume&) noexcept { return true; }
};

} // namespace

static_assert(dg::mode_rule<of_the_engine>);
static_assert(dg::mode_rule<rule::max_when_idle<of_the_engine>>);
static_assert(!dg::mode_rule<may_throw> && !dg::mode_rule<answers_bool> && !dg::mode_rule<int>);
static_assert(of_the_engine::decide({.ranks = 3}).why == reason::user_rule);
static_assert(rule::strict_volume::decide({.max_rows = 8, .sum_rows = 16, .ranks = 4}).why ==
              reason::volumes_equal);
