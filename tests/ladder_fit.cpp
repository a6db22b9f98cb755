#include <dpgather/ladder_fit.hpp>

#include <dpgather/planner.hpp>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace dg = dpgather;
using dg::errc;
using dg::subject;
using histogram = std::vector<std::int64_t>;
using sizes = std::vector<std::int32_t>;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t most_times = std::numeric_limits<std::int64_t>::max();

sizes content(const dg::bucket_list& list) { return {list.span().begin(), list.span().end()}; }

sizes fitted(const histogram& times, const dg::ladder_fit_options& options) {
  const auto made = dg::fit_ladder(times, options);
  CAPTURE(std::string{made.status().message().c_str()});
  REQUIRE(made.ok());
  return content(*made);
}

dg::bucket_list list_of(const sizes& all) {
  const auto made = dg::bucket_list::make(all);
  REQUIRE(made.ok());
  return *made;
}

/// One count after the other, one size after the other. Nothing when a count has no size.
std::optional<std::int64_t> pads_of(const histogram& times, const sizes& ladder) {
  std::int64_t pads = 0;
  for (std::size_t count = 0; count < times.size(); ++count) {
    if (times[count] == 0) continue;
    std::int64_t cheapest = -1;
    for (const std::int32_t size : ladder) {
      const std::int64_t lost = size - static_cast<std::int64_t>(count);
      if (lost >= 0 && (cheapest < 0 || lost < cheapest)) cheapest = lost;
    }
    if (cheapest < 0) return {};
    pads += times[count] * cheapest;
  }
  return pads;
}

/// Whether `a` comes before `b` among equals: fewer sizes, then smaller ones from the largest down.
bool comes_first(const sizes& a, const sizes& b) {
  if (a.size() != b.size()) return a.size() < b.size();
  return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
}

/// Every set of multiples up to `end`, of at most `options.sizes`, with the rule for equals.
sizes by_search(const histogram& times, const dg::ladder_fit_options& options, std::int32_t end) {
  sizes allowed;
  for (std::int64_t s = options.multiple; s <= end && s <= options.cap; s += options.multiple)
    allowed.push_back(static_cast<std::int32_t>(s));
  sizes best;
  std::int64_t least = -1;
  for (std::uint32_t set = 1; set < (1U << allowed.size()); ++set) {
    sizes ladder;
    for (std::size_t i = 0; i < allowed.size(); ++i) {
      if ((set >> i & 1U) != 0) ladder.push_back(allowed[i]);
    }
    if (ladder.size() > static_cast<std::size_t>(options.sizes)) continue;
    if (ladder.back() < options.cover) continue;
    const auto pads = pads_of(times, ladder);
    if (!pads) continue;
    if (least < 0 || *pads < least || (*pads == least && comes_first(ladder, best))) {
      least = *pads;
      best = ladder;
    }
  }
  return best;
}

void check_refused(const histogram& times, const dg::ladder_fit_options& options, errc code,
                   subject about, std::int64_t value, std::int64_t limit) {
  const auto made = dg::fit_ladder(times, options);
  CAPTURE(std::string{made.status().message().c_str()});
  REQUIRE_FALSE(made.ok());
  CHECK(made.code() == code);
  CHECK(made.status().about == about);
  CHECK(made.status().value == value);
  CHECK(made.status().limit == limit);
}

} // namespace

TEST_CASE("few sizes for a histogram that one can do by hand") {
  // 3 comes up 10 times, 5 once, 9 twice.
  const histogram times{0, 0, 0, 10, 0, 1, 0, 0, 0, 2};
  CHECK(fitted(times, {.sizes = 1}) == sizes{9});
  CHECK(fitted(times, {.sizes = 2}) == sizes{3, 9});
  CHECK(fitted(times, {.sizes = 3}) == sizes{3, 5, 9});
  CHECK(fitted(times, {.sizes = 4}) == sizes{3, 5, 9});
  CHECK(fitted(times, {.sizes = 512}) == sizes{3, 5, 9});
  CHECK(fitted(times, {.sizes = 2, .multiple = 4}) == sizes{4, 12});
  CHECK(fitted(times, {.sizes = 9, .multiple = 4}) == sizes{4, 8, 12});
  CHECK(fitted(times, {.sizes = 2, .cover = 64}) == sizes{9, 64});
  CHECK(fitted(times, {.sizes = 3, .cover = 64}) == sizes{3, 9, 64});
  CHECK(fitted(times, {.sizes = 3, .multiple = 3, .cover = 64}) == sizes{3, 9, 66});
  CHECK(fitted(times, {.sizes = 2, .cap = 9}) == sizes{3, 9});
  CHECK(fitted(times, {.sizes = 2, .cover = 7}) == sizes{3, 9});
}

TEST_CASE("of equal ladders the one with the smaller sizes, from the largest on") {
  CHECK(fitted({0, 1, 1, 1}, {.sizes = 2}) == sizes{1, 3});
  CHECK(fitted({0, 1, 1, 1, 1}, {.sizes = 2}) == sizes{2, 4});
  CHECK(fitted({0, 1, 1, 1, 1, 1}, {.sizes = 3}) == sizes{1, 3, 5});
  CHECK(fitted({0, 1, 0, 0, 1, 0, 0, 1}, {.sizes = 2}) == sizes{1, 7});
}

TEST_CASE("a count of zero runs at the smallest size") {
  CHECK(fitted({7}, {.sizes = 3}) == sizes{1});
  CHECK(fitted({7}, {.sizes = 3, .multiple = 8}) == sizes{8});
  CHECK(fitted({100, 0, 0, 1}, {.sizes = 1}) == sizes{3});
  CHECK(fitted({100, 0, 0, 1}, {.sizes = 2}) == sizes{1, 3});
}

TEST_CASE("no ladder of at most N sizes is better, by search through all of them") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        const std::int32_t last = random.between<std::int32_t>(0, 10);
        histogram times(static_cast<std::size_t>(last) + 1);
        const std::int64_t heights = random.pick({1, 2, 5, 1000});
        const int holes = random.pick({0, 30, 70});
        for (std::int64_t& t : times)
          t = random.chance(holes) ? 0 : random.between<std::int64_t>(0, heights);
        times.back() = random.between<std::int64_t>(1, heights);
        dg::ladder_fit_options options{.sizes = random.between<std::int32_t>(1, 6),
                                       .multiple = random.pick({1, 1, 1, 2, 3}),
                                       .cover = random.pick({0, 0, 4, 11, 12})};
        // One multiple past the end: no larger size is ever of use.
        const auto end = static_cast<std::int32_t>(
            dg::round_up(std::max({last, options.cover, 1}), options.multiple));
        if (random.chance(30)) options.cap = end + random.between<std::int32_t>(0, 2);
        const auto made = dg::fit_ladder(times, options);
        REQUIRE(made.ok());
        REQUIRE(content(*made) ==
                by_search(times, options, end + static_cast<std::int32_t>(options.multiple)));
        const auto score = dg::score_ladder(times, *made);
        REQUIRE(score.ok());
        REQUIRE(score->pad_rows == pads_of(times, content(*made)));
        REQUIRE(score->misses == 0);
      },
      test_support::case_count(5'000));
}

TEST_CASE("many counts and many sizes, against the same recurrence without halving") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        const auto last = random.between<std::size_t>(40, 160);
        const auto wanted = random.between<std::size_t>(1, 30);
        histogram times(last + 1);
        for (std::int64_t& t : times)
          t = random.chance(40) ? 0 : random.between<std::int64_t>(0, random.pick({1, 9, 100'000}));
        times.back() = 1;
        // cost[j]: of the best ladder of k sizes whose largest is j; `most_times`: none.
        std::vector<std::int64_t> cost(last + 1, most_times), next;
        std::int64_t least = most_times;
        for (std::size_t k = 1; k <= wanted; ++k) {
          next.assign(last + 1, most_times);
          for (std::size_t j = 1; j <= last; ++j) {
            std::int64_t pads = 0; // of counts in (i, j]
            for (std::size_t i = j; i-- > 0;) {
              pads += times[i + 1] * static_cast<std::int64_t>(j - i - 1);
              if (k == 1 && i == 0)
                next[j] = pads + times[0] * static_cast<std::int64_t>(j);
              else if (k > 1 && i > 0 && cost[i] != most_times)
                next[j] = std::min(next[j], cost[i] + pads);
            }
          }
          cost = next;
          least = std::min(least, cost[last]);
        }
        const auto made = dg::fit_ladder(times, {.sizes = static_cast<std::int32_t>(wanted)});
        REQUIRE(made.ok());
        REQUIRE(made->size() <= static_cast<std::int32_t>(wanted));
        REQUIRE(made->largest() == static_cast<std::int32_t>(last));
        REQUIRE(pads_of(times, content(*made)) == least);
      },
      test_support::case_count(300));
}

TEST_CASE("more sizes are never worse, and enough of them cost nothing") {
  histogram times(500);
  test_support::random_source random{test_support::seed()};
  for (std::int64_t& t : times) t = random.between<std::int64_t>(0, 50);
  times[0] = 0;
  std::int64_t before = most_times;
  for (std::int32_t n = 1; n <= dg::bucket_list::max_stated; n += n < 20 ? 1 : 41) {
    const auto made = dg::fit_ladder(times, {.sizes = n});
    REQUIRE(made.ok());
    const std::int64_t pads = dg::score_ladder(times, *made)->pad_rows;
    CHECK(pads < before);
    before = pads;
  }
  CHECK(dg::score_ladder(times, *dg::fit_ladder(times, {.sizes = 512}))->pad_rows == 0);
}

TEST_CASE("what a ladder costs: hits, misses, pads, and sizes in use") {
  const dg::bucket_list ladder = list_of({2, 4, 8, 16});
  const histogram times{1, 0, 3, 5, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4};
  CHECK(*dg::score_ladder(times, ladder) ==
        dg::ladder_score{.hits = 11, .misses = 8, .pad_rows = 2 + 5 + 2, .sizes_used = 3});
  CHECK(dg::score_ladder(times, ladder, dg::rows_per_pad(dg::lookup_kind::max, 8, 3))->pad_rows ==
        9 * 24);
  CHECK(dg::rows_per_pad(dg::lookup_kind::sum, 8, 3) == 3);
  CHECK(dg::rows_per_pad(dg::lookup_kind::own, 8) == 1);
  CHECK(dg::score_ladder(times, {})->misses == 19);
  CHECK(*dg::score_ladder({}, ladder) == dg::ladder_score{});
  CHECK(dg::score_ladder(times, ladder, 0).code() == errc::count_out_of_range);
  CHECK(dg::score_ladder(histogram{0, -1}, ladder).code() == errc::count_out_of_range);
  CHECK(dg::score_ladder(histogram{0, most_times}, ladder).code() == errc::size_overflow);
  CHECK(dg::score_ladder(histogram{0, most_times / 16 + 1}, ladder).code() == errc::size_overflow);
  CHECK(dg::score_ladder(histogram{0, most_times / 16}, ladder)->pad_rows == most_times / 16);
  CHECK(dg::score_ladder(histogram{0, most_times / 16}, ladder, 2).code() == errc::size_overflow);
}

TEST_CASE("wrong input is named") {
  const histogram times{0, 3, 0, 4};
  check_refused(times, {}, errc::bad_buckets, subject::ladder, 0, 512);
  check_refused(times, {.sizes = -1}, errc::bad_buckets, subject::ladder, -1, 512);
  check_refused(times, {.sizes = 513}, errc::bad_buckets, subject::ladder, 513, 512);
  check_refused(times, {.sizes = 1, .multiple = 0}, errc::bad_config, subject::ladder, 0, 1);
  check_refused(times, {.sizes = 1, .multiple = std::int64_t{1} << 31}, errc::bad_config,
                subject::ladder, std::int64_t{1} << 31, 1);
  check_refused(times, {.sizes = 1, .cover = -4}, errc::bad_config, subject::max_requests, -4, 0);
  check_refused({}, {.sizes = 1}, errc::bad_config, subject::counts, 0, 1);
  check_refused({}, {.sizes = 1, .cover = 8}, errc::bad_config, subject::counts, 0, 1);
  check_refused({0, 0, 0}, {.sizes = 1}, errc::bad_config, subject::counts, 0, 1);
  check_refused({0, 3, -2, 4}, {.sizes = 1}, errc::count_out_of_range, subject::counts, -2, 0);
  // A count or the cover above the cap, or between the last multiple below the cap and the cap.
  check_refused(times, {.sizes = 1, .cap = 2}, errc::no_bucket, subject::requests, 3, 2);
  check_refused(times, {.sizes = 1, .multiple = 2, .cap = 3}, errc::no_bucket, subject::requests, 3,
                2);
  check_refused(times, {.sizes = 1, .cap = 8, .cover = 9}, errc::no_bucket, subject::requests, 9,
                8);
  check_refused(times, {.sizes = 1, .cap = 0}, errc::no_bucket, subject::requests, 3, 0);
  check_refused(times, {.sizes = 1, .cap = -5}, errc::no_bucket, subject::requests, 3, 0);
  check_refused({1}, {.sizes = 1, .multiple = 4, .cap = 3}, errc::no_bucket, subject::requests, 1,
                0);
  check_refused(times, {.sizes = 1, .multiple = 2, .cover = most}, errc::no_bucket,
                subject::requests, most, most - 1);
}

TEST_CASE("a histogram whose sums leave 63 bits is refused, one that just fits is not") {
  check_refused({0, most_times, 1}, {.sizes = 1}, errc::size_overflow, subject::counts, 1, 0);
  check_refused({0, most_times / 2 + 1, 0}, {.sizes = 1, .cover = 2}, errc::size_overflow,
                subject::counts, most_times / 2 + 1, most_times / 2);
  CHECK(fitted({0, most_times}, {.sizes = 1}) == sizes{1});
  CHECK(fitted({0, most_times / 3 - 1, 0, 1}, {.sizes = 1}) == sizes{3});
  CHECK(fitted({0, most_times / most - 1, 1}, {.sizes = 2, .cover = most}) == sizes{1, most});
  CHECK(fitted({0, most_times / most}, {.sizes = 3, .multiple = most}) == sizes{most});
}

TEST_CASE("large counts: a candidate is a count that came up, not a number up to it") {
  histogram times(1'000'001);
  times[3] = 5;
  times[999'999] = 2;
  times[1'000'000] = 9;
  CHECK(fitted(times, {.sizes = 2}) == sizes{3, 1'000'000});
  CHECK(fitted(times, {.sizes = 3}) == sizes{3, 999'999, 1'000'000});
}

TEST_CASE("a planner takes what was fitted, per rank and for sums") {
  dg::gather_config config;
  config.topology = {8, 2, 0, 0};
  config.row_bytes = 2;
  config.max_rows_per_rank = 100;
  using planner = dg::planner<dg::exact_graph>;
  const std::int64_t multiple = planner::size_multiple(config);
  CHECK(multiple == 2);
  histogram own(101), sums(801);
  test_support::random_source random{test_support::seed()};
  for (int step = 0; step < 1000; ++step) {
    std::size_t sum = 0;
    for (int r = 0; r < 8; ++r) {
      const auto count = random.between<std::size_t>(0, 60);
      ++own[count];
      sum += count;
    }
    ++sums[sum];
  }
  const std::int32_t pool = planner::pool(config);
  CHECK(pool == 100);
  config.ladder =
      *dg::fit_ladder(own, {.sizes = 6, .multiple = multiple, .cap = pool, .cover = pool});
  config.sum_ladder = *dg::fit_ladder(
      sums, {.sizes = 20, .multiple = multiple, .cap = 8 * pool, .cover = 8 * pool});
  const auto made = planner::make(config);
  CAPTURE(std::string{made.status().message().c_str()});
  REQUIRE(made.ok());
  CHECK(made->ladder() == config.ladder);
  CHECK(made->captured_sizes() == config.sum_ladder);
  CHECK(made->ladder().size() == 6);
  CHECK(made->captured_sizes().size() == 20);
}
