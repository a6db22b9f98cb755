#include <dpgather/ladder.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <string_view>
#include <vector>

namespace dg = dpgather;
using dg::bucket_list;
using sizes = std::vector<std::int32_t>;

namespace {

template <class Ladder>
sizes content() {
  const bucket_list list = Ladder::sizes();
  return {list.span().begin(), list.span().end()};
}

struct steps {
  std::int32_t first, last, step;
};

/// The union of ranges, without sizes above `max`.
std::set<std::int32_t> united(const std::vector<steps>& ranges, std::int32_t max) {
  std::set<std::int32_t> out;
  for (const steps& r : ranges) {
    for (std::int32_t s = r.first; s <= r.last; s += r.step) {
      if (s <= max) out.insert(s);
    }
  }
  return out;
}

template <std::int32_t Max>
void check_sglang() {
  CAPTURE(Max);
  auto decode = united({{1, 2, 1}, {4, 12, 4}, {16, 256, 8}, {272, 496, 16}, {512, Max, 32}}, Max);
  decode.insert(Max);
  CHECK(content<dg::ladder::sglang<Max>>() == sizes(decode.begin(), decode.end()));

  auto speculative =
      united({{1, 8, 1}, {10, 32, 2}, {40, 64, 4}, {72, 256, 8}, {272, Max, 16}}, Max);
  speculative.insert(Max);
  CHECK(content<dg::ladder::sglang_speculative<Max>>() ==
        sizes(speculative.begin(), speculative.end()));
}

template <std::int32_t... Max>
void check_all_sglang() {
  (check_sglang<Max>(), ...);
}

template <std::int32_t MaxSequences>
void check_vllm() {
  CAPTURE(MaxSequences);
  const auto max =
      static_cast<std::int32_t>(std::min(2 * std::int64_t{MaxSequences}, INT64_C(512)));
  const auto wanted = united({{1, 1, 1}, {2, 2, 1}, {4, 4, 1}, {8, 248, 8}, {256, max, 16}}, max);
  CHECK(content<dg::ladder::vllm<MaxSequences>>() == sizes(wanted.begin(), wanted.end()));
}

template <std::int32_t... MaxSequences>
void check_all_vllm() {
  (check_vllm<MaxSequences>(), ...);
}

} // namespace

TEST_CASE("SGLang's decode sizes, written out") {
  CHECK(content<dg::ladder::sglang<160>>() == sizes{1,   2,   4,   8,   12,  16,  24,  32,
                                                    40,  48,  56,  64,  72,  80,  88,  96,
                                                    104, 112, 120, 128, 136, 144, 152, 160});
  CHECK(content<dg::ladder::sglang<600>>() ==
        sizes{1,   2,   4,   8,   12,  16,  24,  32,  40,  48,  56,  64,  72,  80,
              88,  96,  104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192,
              200, 208, 216, 224, 232, 240, 248, 256, 272, 288, 304, 320, 336, 352,
              368, 384, 400, 416, 432, 448, 464, 480, 496, 512, 544, 576, 600});
  CHECK(content<dg::ladder::sglang<1>>() == sizes{1});
  CHECK(content<dg::ladder::sglang<3>>() == sizes{1, 2, 3});
  CHECK(content<dg::ladder::sglang<14>>() == sizes{1, 2, 4, 8, 12, 14});
}

TEST_CASE("SGLang's speculative sizes, written out") {
  CHECK(content<dg::ladder::sglang_speculative<300>>() ==
        sizes{1,   2,   3,   4,   5,   6,   7,   8,   10,  12,  14,  16,  18,  20,
              22,  24,  26,  28,  30,  32,  40,  44,  48,  52,  56,  60,  64,  72,
              80,  88,  96,  104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184,
              192, 200, 208, 216, 224, 232, 240, 248, 256, 272, 288, 300});
  CHECK(content<dg::ladder::sglang_speculative<9>>() == sizes{1, 2, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("vLLM's sizes, written out") {
  CHECK(content<dg::ladder::vllm<20>>() == sizes{1, 2, 4, 8, 16, 24, 32, 40});
  CHECK(content<dg::ladder::vllm<3>>() == sizes{1, 2, 4});
  CHECK(content<dg::ladder::vllm<1>>() == sizes{1, 2});
  CHECK(content<dg::ladder::vllm<1000>>() ==
        sizes{1,   2,   4,   8,   16,  24,  32,  40,  48,  56,  64,  72,  80,  88,  96,  104, 112,
              120, 128, 136, 144, 152, 160, 168, 176, 184, 192, 200, 208, 216, 224, 232, 240, 248,
              256, 272, 288, 304, 320, 336, 352, 368, 384, 400, 416, 432, 448, 464, 480, 496, 512});
}

TEST_CASE("the engines' sizes for many maxima, as unions of ranges") {
  check_all_sglang<1, 2, 4, 5, 8, 11, 12, 13, 15, 16, 17, 31, 33, 63, 65, 71, 73, 160, 255, 256,
                   257, 271, 272, 273, 495, 496, 497, 511, 512, 513, 543, 544, 1000, 1024>();
  check_all_vllm<1, 2, 3, 4, 5, 60, 123, 124, 127, 128, 129, 136, 255, 256, 257, 4096,
                 std::numeric_limits<std::int32_t>::max()>();
}

TEST_CASE("powers of two end with the maximum") {
  CHECK(content<dg::ladder::powers_of_two<1>>() == sizes{1});
  CHECK(content<dg::ladder::powers_of_two<64>>() == sizes{1, 2, 4, 8, 16, 32, 64});
  CHECK(content<dg::ladder::powers_of_two<100>>() == sizes{1, 2, 4, 8, 16, 32, 64, 100});
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  CHECK(dg::ladder::powers_of_two<most>::sizes().size() == 32);
  CHECK(dg::ladder::powers_of_two<most>::sizes().largest() == most);
}

TEST_CASE("a list is what was written; none and from_config bring no sizes") {
  CHECK(content<dg::ladder::list<3, 5, 160>>() == sizes{3, 5, 160});
  CHECK(content<dg::ladder::list<7>>() == sizes{7});
  CHECK(content<dg::ladder::none>().empty());
  CHECK(content<dg::ladder::from_config>().empty());
}

static_assert(dg::ladder::none::source == dg::ladder_source::none);
static_assert(dg::ladder::list<1>::source == dg::ladder_source::listed);
static_assert(dg::ladder::from_config::source == dg::ladder_source::config);
static_assert(dg::ladder::sglang<8>::source == dg::ladder_source::generated);
static_assert(dg::ladder::vllm<8>::source == dg::ladder_source::generated);
static_assert(dg::ladder::powers_of_two<8>::source == dg::ladder_source::generated);

TEST_CASE("the filters of the engines: attention-TP, two-batch overlap, request pool") {
  const bucket_list all = dg::ladder::sglang<64>::sizes();
  const auto kept = [&](std::int32_t multiple, std::int32_t cap) {
    const bucket_list list = filtered(all, multiple, cap);
    return sizes(list.span().begin(), list.span().end());
  };
  CHECK(kept(2, 64) == sizes{2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64});
  CHECK(kept(4 * 2, 64) == sizes{8, 16, 24, 32, 40, 48, 56, 64});
  CHECK(kept(8, 30) == sizes{8, 16, 24});
}

// --- the ladder for sums ------------------------------------------------------------------------

namespace {

/// What must hold for every stated ladder.
void check_derived(const bucket_list& stated, std::int32_t ranks) {
  CAPTURE(ranks);
  CAPTURE(stated.size());
  CAPTURE(stated.largest());
  const bucket_list sums = dg::sum_ladder(stated, ranks);
  const std::int64_t end = std::int64_t{stated.largest()} * ranks;

  // No sum that the ranks can hold inside their own buckets misses: with one rank more than fits
  // there is no size any more.
  REQUIRE(sums.largest() == end);
  REQUIRE(sums.smallest_at_least(end) == end);
  REQUIRE(sums.smallest_at_least(end + 1) == 0);

  std::int32_t shared = 0;
  for (const std::int32_t s : stated.span()) shared = std::gcd(shared, s);
  std::int32_t before = 0;
  for (const std::int32_t s : sums.span()) {
    REQUIRE(s > before);
    REQUIRE(s % shared == 0);
    before = s;
  }
}

/// Relative padding past the stated ladder is never more than at its end, where the last step
/// stands for the upper half: 2 * step / largest.
void check_relative_step(const bucket_list& stated, std::int32_t ranks) {
  const bucket_list sums = dg::sum_ladder(stated, ranks);
  const std::int64_t largest = stated.largest();
  const std::int64_t step = stated.size() > 1 ? largest - stated[stated.size() - 2] : largest;
  for (std::int32_t i = 1; i < sums.size(); ++i) {
    if (sums[i] <= largest) continue;
    const std::int64_t added = sums[i] - sums[i - 1];
    REQUIRE(added * largest <= 2 * step * sums[i - 1]);
  }
}

template <class Ladder>
void check_ladder() {
  const bucket_list stated = Ladder::sizes();
  for (const std::int32_t ranks : {1,  2,  3,  4,  5,  6,  7,  8,  9,   10,  11,  12, 13,
                                   14, 15, 16, 24, 32, 48, 64, 72, 128, 200, 255, 256}) {
    check_derived(stated, ranks);
    check_relative_step(stated, ranks);
    // Sums that fit one rank's ladder are padded no more than one rank's rows.
    const bucket_list sums = dg::sum_ladder(stated, ranks);
    for (std::int32_t n = 0; n <= stated.largest(); ++n) {
      REQUIRE(sums.smallest_at_least(n) == stated.smallest_at_least(n));
    }
  }
}

} // namespace

TEST_CASE("the derived ladder, by hand") {
  const auto sums = [](const bucket_list& stated, std::int32_t ranks) {
    const bucket_list list = dg::sum_ladder(stated, ranks);
    return sizes(list.span().begin(), list.span().end());
  };
  CHECK(sums(dg::ladder::powers_of_two<8>::sizes(), 4) == sizes{1, 2, 4, 8, 16, 32});
  CHECK(sums(dg::ladder::powers_of_two<8>::sizes(), 3) == sizes{1, 2, 4, 8, 16, 24});
  CHECK(sums(dg::ladder::list<5>::sizes(), 1) == sizes{5});
  CHECK(sums(dg::ladder::list<5>::sizes(), 8) == sizes{5, 10, 20, 40});
  // Four sizes per doubling, as the stated ladder ends: 20 24 28 32, then 40 48 56 64, then 80 ...
  CHECK(sums(dg::ladder::list<8, 12, 16, 20, 24, 28, 32>::sizes(), 3) ==
        sizes{8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96});
  CHECK(sums(bucket_list{}, 8).empty());
}

TEST_CASE("the engines' ladders give sum ladders without a miss, for 1 to 256 ranks") {
  check_ladder<dg::ladder::sglang<8>>();
  check_ladder<dg::ladder::sglang<160>>();
  check_ladder<dg::ladder::sglang<256>>();
  check_ladder<dg::ladder::sglang<512>>();
  check_ladder<dg::ladder::sglang<1024>>();
  check_ladder<dg::ladder::sglang_speculative<64>>();
  check_ladder<dg::ladder::sglang_speculative<256>>();
  check_ladder<dg::ladder::vllm<16>>();
  check_ladder<dg::ladder::vllm<256>>();
  check_ladder<dg::ladder::powers_of_two<1>>();
  check_ladder<dg::ladder::powers_of_two<256>>();
  check_ladder<dg::ladder::list<1>>();
  check_ladder<dg::ladder::list<160>>();
}

TEST_CASE("a maximum just past a regular size does not cost the large sums their sizes") {
  // Max is appended, so that the last step is small: 1 for 257, 2 for 250.
  for (const bucket_list& stated :
       {dg::ladder::sglang<250>::sizes(), dg::ladder::sglang<257>::sizes(),
        dg::ladder::sglang<513>::sizes(), dg::ladder::sglang<1025>::sizes(),
        dg::ladder::sglang_speculative<65>::sizes(), dg::ladder::powers_of_two<1025>::sizes()}) {
    for (std::int32_t ranks = 2; ranks <= 16; ++ranks) check_derived(stated, ranks);
    for (const std::int32_t ranks : {32, 64, 128, 256}) check_derived(stated, ranks);
  }
}

TEST_CASE("a ladder of every single size gives a sum ladder without a miss") {
  for (const std::size_t length : {2u, 64u, 100u, 200u, 256u, 500u, 512u}) {
    sizes every(length);
    std::iota(every.begin(), every.end(), 1);
    const auto stated = bucket_list::make(every);
    // A list that leaves no room for sums may be refused as too long, but never taken and missed.
    REQUIRE((stated.ok() || length > 500));
    if (!stated.ok()) continue;
    for (std::int32_t ranks = 2; ranks <= 16; ++ranks) check_derived(*stated, ranks);
    check_derived(*stated, 256);
  }
}

TEST_CASE("any ladder gives a sum ladder without a miss") {
  test_support::for_random_cases(
      [](test_support::random_source& random) {
        bucket_list stated;
        const std::int32_t unit = random.pick({1, 1, 2, 4, 8});
        const std::int32_t gap = random.pick({1, 2, 4, 32});
        const auto length = random.between<std::int32_t>(1, random.pick({4, 40, 500}));
        std::int32_t size = 0;
        for (std::int32_t i = 0; i < length; ++i) {
          size += unit * random.between<std::int32_t>(1, gap);
          stated.append(size);
        }
        check_derived(stated, random.between<std::int32_t>(1, 256));
      },
      test_support::case_count(3'000));
}

TEST_CASE("sums beyond 32 bits do not wrap") {
  const bucket_list stated =
      *bucket_list::make(std::vector<std::int32_t>{1 << 20, 1 << 24, 1 << 28, 3 << 28});
  const bucket_list sums = dg::sum_ladder(stated, 256);
  std::int32_t before = 0;
  for (const std::int32_t s : sums.span()) {
    REQUIRE(s > before);
    before = s;
  }
}

static_assert(dg::sum_ladder(dg::ladder::powers_of_two<8>::sizes(), 4).largest() == 32);
static_assert(std::string_view{name_of(dg::lookup_kind::own_and_sum)} == "own_and_sum");
static_assert(!dg::on_miss::error::go_eager && dg::on_miss::agreed_eager::go_eager);
