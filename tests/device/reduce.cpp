#include <dpgather/device/reduce.hpp>

#include "support/random_cases.hpp"
#include "support/reference_floats.hpp"

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using dg::detail::bf16_sum;
using dg::detail::f16_sum;

namespace {

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <class Sum>
void widens_every_pattern(ts::half_format format) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float wide = Sum::widen(half);
    const double meaning = ts::meaning_of_half(format, half);
    if (std::isnan(meaning)) {
      if (!std::isnan(wide)) FAIL("pattern ", bits, " is NaN and widens to ", wide);
      // What the NaN carries goes along, at the top of the wider mantissa.
      const std::uint32_t all = std::bit_cast<std::uint32_t>(wide);
      const auto carried = (all & 0x7fffffU) >> (23 - format.mantissa_bits);
      if (carried != (bits & ((1U << format.mantissa_bits) - 1)) || (all >> 31) != bits >> 15)
        FAIL("pattern ", bits, " loses its payload");
    } else if (!same_bits(wide, static_cast<float>(meaning))) {
      FAIL("pattern ", bits, " widens to ", wide, ", means ", meaning);
    }
  }
}

template <class Sum>
void check_narrow(ts::half_format format, float number) {
  const std::uint16_t got = Sum::narrow(number);
  if (std::isnan(number)) {
    if (!std::isnan(ts::meaning_of_half(format, got))) FAIL("NaN narrows to ", got);
    if ((got & 0x8000U) != (std::signbit(number) ? 0x8000U : 0U)) FAIL("NaN changes its sign");
    return;
  }
  const std::uint16_t expected = ts::nearest_half(format, static_cast<double>(number));
  if (got != expected)
    FAIL("bits ", std::bit_cast<std::uint32_t>(number), " narrow to ", got, ", not ", expected);
}

template <class Sum>
void narrows_to_the_nearest(ts::half_format format) {
  // Every number of the format, the middle to its neighbour, and the floats beside both.
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double here = ts::meaning_of_half(format, static_cast<std::uint16_t>(bits));
    if (std::isnan(here)) continue;
    const double next = ts::meaning_of_half(format, static_cast<std::uint16_t>(bits + 1));
    const double middle =
        std::isinf(next) || std::isnan(next) ? here : here + (next - here) / 2; // exact
    for (const double number : {here, middle}) {
      const auto narrow = static_cast<float>(number);
      check_narrow<Sum>(format, narrow);
      check_narrow<Sum>(format, std::nextafter(narrow, std::numeric_limits<float>::infinity()));
      check_narrow<Sum>(format, std::nextafter(narrow, -std::numeric_limits<float>::infinity()));
    }
  }
  // Any float at all.
  ts::for_random_cases(
      [&](ts::random_source& random) {
        const auto word = static_cast<std::uint32_t>(random());
        check_narrow<Sum>(format, std::bit_cast<float>(word));
        // One in the format's range, more likely to be hard.
        const std::uint32_t near = (word & 0x807fffffU) | random.between(100U, 145U) << 23;
        check_narrow<Sum>(format, std::bit_cast<float>(near));
        check_narrow<Sum>(format, std::bit_cast<float>(near & 0xffffe000U)); // ties
      },
      ts::case_count(200'000));
}

} // namespace

static_assert(std::is_same_v<bf16_sum::accumulator, float>);
static_assert(std::is_same_v<f16_sum::accumulator, float>);
static_assert(dg::widest_integer(8) == element::i64 && dg::widest_integer(24) == element::i64);
static_assert(dg::widest_integer(4) == element::i32 && dg::widest_integer(12) == element::i32);
static_assert(dg::widest_integer(1) == element::u8 && dg::widest_integer(7) == element::u8 &&
              dg::widest_integer(6) == element::u8);

TEST_CASE("f16 and bf16 widen exactly, all 65,536 patterns, payloads of NaN included") {
  widens_every_pattern<f16_sum>(ts::binary16);
  widens_every_pattern<bf16_sum>(ts::bfloat16);
}

TEST_CASE("every number of f16 and bf16 comes back from widen and narrow") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (!std::isnan(ts::meaning_of_half(ts::binary16, half)))
      REQUIRE(f16_sum::narrow(f16_sum::widen(half)) == half);
    if (!std::isnan(ts::meaning_of_half(ts::bfloat16, half)))
      REQUIRE(bf16_sum::narrow(bf16_sum::widen(half)) == half);
  }
}

TEST_CASE("f16 narrows to the nearest, ties to even") {
  narrows_to_the_nearest<f16_sum>(ts::binary16);
}

TEST_CASE("bf16 narrows to the nearest, ties to even") {
  narrows_to_the_nearest<bf16_sum>(ts::bfloat16);
}

TEST_CASE("the edges of f16: largest, overflow, smallest normal, subnormals, underflow") {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(f16_sum::narrow(65504.0F) == 0x7bff);
  CHECK(f16_sum::narrow(65519.996F) == 0x7bff);
  CHECK(f16_sum::narrow(65520.0F) == 0x7c00); // half a step above the largest
  CHECK(f16_sum::narrow(-65520.0F) == 0xfc00);
  CHECK(f16_sum::narrow(inf) == 0x7c00);
  CHECK(f16_sum::narrow(-inf) == 0xfc00);
  CHECK(f16_sum::narrow(std::ldexp(1.0F, -14)) == 0x0400);
  CHECK(f16_sum::narrow(std::ldexp(1023.0F, -24)) == 0x03ff);
  CHECK(f16_sum::narrow(std::ldexp(1023.5F, -24)) == 0x0400); // a tie that becomes normal
  CHECK(f16_sum::narrow(std::ldexp(1.0F, -24)) == 0x0001);
  CHECK(f16_sum::narrow(std::ldexp(1.0F, -25)) == 0x0000); // a tie to even: zero
  CHECK(f16_sum::narrow(std::ldexp(1.000001F, -25)) == 0x0001);
  CHECK(f16_sum::narrow(-std::ldexp(1.0F, -25)) == 0x8000);
  CHECK(f16_sum::narrow(std::ldexp(1.0F, -140)) == 0x0000);
  CHECK(f16_sum::narrow(-0.0F) == 0x8000);
}

TEST_CASE("the edges of bf16: overflow, subnormals, NaN with a payload in the low bits only") {
  CHECK(bf16_sum::narrow(std::bit_cast<float>(0x7f7f7fffU)) == 0x7f7f);
  CHECK(bf16_sum::narrow(std::bit_cast<float>(0x7f7f8000U)) == 0x7f80);
  CHECK(bf16_sum::narrow(std::bit_cast<float>(0x00000001U)) == 0x0000);
  CHECK(bf16_sum::narrow(std::bit_cast<float>(0x00008000U)) == 0x0000); // a tie to even
  CHECK(bf16_sum::narrow(std::bit_cast<float>(0x00018000U)) == 0x0002);
  CHECK(std::isnan(bf16_sum::widen(bf16_sum::narrow(std::bit_cast<float>(0x7f800001U)))));
  CHECK(std::isnan(bf16_sum::widen(bf16_sum::narrow(std::bit_cast<float>(0xffffffffU)))));
  CHECK(std::isnan(f16_sum::widen(f16_sum::narrow(std::bit_cast<float>(0x7f800001U)))));
}

#if defined(__FLT16_MANT_DIG__)
TEST_CASE("f16 agrees with the compiler's own _Float16") {
  __extension__ typedef _Float16 compiler_half;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const auto native = std::bit_cast<compiler_half>(half);
    const auto wide = static_cast<float>(native);
    if (!std::isnan(wide)) REQUIRE(same_bits(f16_sum::widen(half), wide));
  }
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto word = static_cast<std::uint32_t>(random());
        const std::uint32_t near = (word & 0x807fffffU) | random.between(100U, 145U) << 23;
        for (const std::uint32_t bits : {word, near}) {
          const auto number = std::bit_cast<float>(bits);
          if (std::isnan(number)) continue;
          const auto native = std::bit_cast<std::uint16_t>(static_cast<compiler_half>(number));
          if (f16_sum::narrow(number) != native) FAIL("bits ", bits);
        }
      },
      ts::case_count(200'000));
}
#endif

// --- sums ---------------------------------------------------------------------------------------

namespace {

template <class T, class Sum>
std::vector<T> sums_of(const std::vector<std::vector<T>>& sources, std::size_t first,
                       std::size_t count, std::size_t workers = 1) {
  std::vector<const std::byte*> pointers;
  for (const auto& s : sources) pointers.push_back(reinterpret_cast<const std::byte*>(s.data()));
  std::vector<T> out(count + 1, T{42});
  for (std::size_t w = 0; w < workers; ++w)
    dg::sum_elements<Sum>(reinterpret_cast<std::byte*>(out.data()), pointers.data(),
                          static_cast<std::int32_t>(sources.size()), first, count, w, workers);
  CHECK(out.back() == T{42});
  out.pop_back();
  return out;
}

} // namespace

TEST_CASE("fp32 sums run in the order of the sources") {
  const float large = 16777216.0F; // 2^24: one more is lost, two more are not
  using list = std::vector<std::vector<float>>;
  const auto sum = [](const list& sources) {
    return sums_of<float, dg::detail::f32_sum>(sources, 0, 1)[0];
  };
  CHECK(sum({{large}, {1.0F}, {1.0F}}) == large);
  CHECK(sum({{1.0F}, {1.0F}, {large}}) == large + 2);
  CHECK(sum({{1.0F}, {large}, {1.0F}}) == large);
  CHECK(sum({{large}, {1.0F}, {-large}}) == 0.0F);
  CHECK(sum({{large}, {-large}, {1.0F}}) == 1.0F);
}

TEST_CASE("bf16 and f16 accumulate in fp32 and round once, at the end") {
  const auto bf16 = [](float number) { return bf16_sum::narrow(number); };
  const auto f16 = [](float number) { return f16_sum::narrow(number); };
  // Rounded after each addition 256 + 1 stays 256 in bf16, and 2048 + 1 stays 2048 in f16.
  CHECK(sums_of<std::uint16_t, bf16_sum>({{bf16(256)}, {bf16(1)}, {bf16(1)}}, 0, 1)[0] ==
        bf16(258));
  CHECK(sums_of<std::uint16_t, f16_sum>({{f16(2048)}, {f16(1)}, {f16(1)}}, 0, 1)[0] == f16(2050));
  // More than f16 holds on the way, less at the end.
  CHECK(sums_of<std::uint16_t, f16_sum>({{f16(60000)}, {f16(60000)}, {f16(-60000)}}, 0, 1)[0] ==
        f16(60000));
  // And the order is that of the sources here too.
  const auto large = bf16(16777216.0F);
  CHECK(sums_of<std::uint16_t, bf16_sum>({{large}, {bf16(1)}, {bf16(-16777216.0F)}}, 0, 1)[0] ==
        bf16(0));
  CHECK(sums_of<std::uint16_t, bf16_sum>({{large}, {bf16(-16777216.0F)}, {bf16(1)}}, 0, 1)[0] ==
        bf16(1));
}

TEST_CASE("f64 accumulates in f64; integers wrap") {
  const double large = 9007199254740992.0; // 2^53
  using f64 = std::vector<std::vector<double>>;
  CHECK(sums_of<double, dg::detail::f64_sum>(f64{{large}, {1.0}, {1.0}}, 0, 1)[0] == large);
  CHECK(sums_of<double, dg::detail::f64_sum>(f64{{1.0}, {1.0}, {large}}, 0, 1)[0] == large + 2);
  CHECK(sums_of<std::uint8_t, dg::detail::u8_sum>({{250}, {250}, {13}}, 0, 1)[0] == 1);
  CHECK(sums_of<std::uint32_t, dg::detail::u32_sum>({{0x7fffffff}, {1}, {0x80000001}}, 0, 1)[0] ==
        1);
  CHECK(sums_of<std::uint64_t, dg::detail::u64_sum>({{~0ULL}, {2}}, 0, 1)[0] == 1);
}

TEST_CASE("a run of elements, any number of sources and workers, against plain loops") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto ranks = random.between<std::size_t>(1, 17);
        const auto length = random.between<std::size_t>(1, 40);
        const auto first = random.between<std::size_t>(0, length - 1);
        const auto count = random.between<std::size_t>(0, length - first);
        const auto workers = random.between<std::size_t>(1, 5);
        std::vector<std::vector<float>> floats(ranks, std::vector<float>(length));
        std::vector<std::vector<std::uint32_t>> words(ranks, std::vector<std::uint32_t>(length));
        for (std::size_t r = 0; r < ranks; ++r) {
          for (std::size_t i = 0; i < length; ++i) {
            words[r][i] = static_cast<std::uint32_t>(random());
            floats[r][i] = std::ldexp(static_cast<float>(random.between(-9999, 9999)),
                                      random.between(-20, 20));
          }
        }
        const auto float_sums = sums_of<float, dg::detail::f32_sum>(floats, first, count, workers);
        const auto word_sums =
            sums_of<std::uint32_t, dg::detail::u32_sum>(words, first, count, workers);
        for (std::size_t i = 0; i < count; ++i) {
          float f = floats[0][first + i];
          std::uint32_t w = words[0][first + i];
          for (std::size_t r = 1; r < ranks; ++r) {
            f += floats[r][first + i];
            w += words[r][first + i];
          }
          if (!same_bits(f, float_sums[i]) || w != word_sums[i]) FAIL("element ", i);
        }
      },
      ts::case_count(5'000));
}

TEST_CASE("the output may be where one of the sources has the elements") {
  std::vector<float> a{1, 2, 3, 4};
  std::vector<float> b{10, 20, 30, 40};
  const std::byte* sources[] = {reinterpret_cast<const std::byte*>(a.data()),
                                reinterpret_cast<const std::byte*>(b.data())};
  dg::sum_elements<dg::detail::f32_sum>(reinterpret_cast<std::byte*>(b.data() + 1), sources, 2, 1,
                                        2, 0, 1);
  CHECK(a == std::vector<float>{1, 2, 3, 4});
  CHECK(b == std::vector<float>{10, 22, 33, 40});
}

TEST_CASE("with_sum_of picks a sum as wide as the element, integers unsigned") {
  for (const element e : {element::u8, element::i32, element::i64, element::f16, element::bf16,
                          element::f32, element::f64}) {
    bool called = false;
    dg::with_sum_of(e, [&]<class Sum>(Sum) {
      called = true;
      CHECK(sizeof(typename Sum::storage) == dg::size_of(e));
      const bool floats = std::is_floating_point_v<typename Sum::accumulator>;
      CHECK(floats == dg::is_floating(e));
      if (!floats) CHECK(std::is_unsigned_v<typename Sum::accumulator>);
      CHECK(std::is_same_v<Sum, f16_sum> == (e == element::f16));
      CHECK(std::is_same_v<Sum, bf16_sum> == (e == element::bf16));
    });
    CHECK(called);
  }
}

TEST_CASE("zero plus any integer keeps its bits: what a replicated gather by all-reduce rests on") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto bytes = random.between<std::size_t>(1, 64);
        std::vector<std::byte> row(bytes);
        for (std::byte& b : row) b = static_cast<std::byte>(random.between(0, 255));
        const std::vector<std::byte> zero(bytes);
        const std::byte* sources[] = {zero.data(), row.data(), zero.data()};
        std::vector<std::byte> out(bytes);
        const element type = dg::widest_integer(bytes);
        REQUIRE(bytes % dg::size_of(type) == 0);
        dg::with_sum_of(type, [&]<class Sum>(Sum) {
          dg::sum_elements<Sum>(out.data(), sources, 3, 0, bytes / dg::size_of(type), 0, 1);
        });
        REQUIRE(out == row);
      },
      ts::case_count(5'000));
}
