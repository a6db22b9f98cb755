#include <dpgather/fill.hpp>
#include <dpgather/tail.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace dg = dpgather;
using dg::element;
using dg::fill_pattern;

namespace {

constexpr element elements[] = {element::u8,   element::i32, element::i64, element::f16,
                                element::bf16, element::f32, element::f64};

/// The first element of a region that a pattern was repeated over.
template <class T>
T first(const fill_pattern& fill) {
  static_assert(sizeof(T) <= 8);
  T value;
  std::memcpy(&value, fill.bytes.data(), sizeof value);
  return value;
}

/// The value of a binary floating-point number with `exponent_bits` and `fraction_bits`, from its
/// definition in IEEE 754.
double decode(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const std::uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const std::uint32_t exponent = (bits >> fraction_bits) & ((1u << exponent_bits) - 1);
  const double sign = (bits >> (exponent_bits + fraction_bits)) != 0 ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == (1u << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  const double scale = std::ldexp(1.0, -fraction_bits);
  if (exponent == 0) return sign * fraction * scale * std::ldexp(1.0, 1 - bias);
  return sign * (1.0 + fraction * scale) * std::ldexp(1.0, static_cast<int>(exponent) - bias);
}
double decode_f16(const fill_pattern& fill) { return decode(first<std::uint16_t>(fill), 5, 10); }
double decode_bf16(const fill_pattern& fill) { return decode(first<std::uint16_t>(fill), 8, 7); }

/// Toward zero, `digits` significant binary digits.
double truncated(std::int64_t value, int digits) {
  int exponent = 0;
  const double mantissa = std::frexp(static_cast<double>(value), &exponent);
  return std::ldexp(std::trunc(std::ldexp(mantissa, digits)), exponent - digits);
}

void check_shape(const fill_pattern& fill, element e) {
  REQUIRE(fill.size == size_of(e));
  REQUIRE_FALSE(fill.leave);
  for (std::size_t i = 0; i < 8; ++i) REQUIRE(fill.bytes[i] == fill.bytes[i % size_of(e)]);
}

} // namespace

TEST_CASE("the decoder of these tests knows the well-known numbers") {
  CHECK(decode(0x3c00, 5, 10) == 1.0);
  CHECK(decode(0xc000, 5, 10) == -2.0);
  CHECK(decode(0x7bff, 5, 10) == 65504.0);
  CHECK(decode(0x3f80, 8, 7) == 1.0);
  CHECK(decode(0xc2c8, 8, 7) == -100.0);
  CHECK(std::isnan(decode(0x7e00, 5, 10)));
}

TEST_CASE("16-bit floats hold every integer that they can hold exactly") {
  for (std::int64_t v = -2048; v <= 2048; ++v) {
    const fill_pattern f16 = value_fill(element::f16, v);
    check_shape(f16, element::f16);
    REQUIRE(decode_f16(f16) == static_cast<double>(v));
  }
  for (std::int64_t v = -256; v <= 256; ++v) {
    const fill_pattern bf16 = value_fill(element::bf16, v);
    check_shape(bf16, element::bf16);
    REQUIRE(decode_bf16(bf16) == static_cast<double>(v));
  }
  CHECK(first<std::uint16_t>(value_fill(element::f16, 0)) == 0);
  CHECK(first<std::uint16_t>(value_fill(element::bf16, 0)) == 0);
  CHECK(decode_f16(value_fill(element::f16, 65504)) == 65504.0);
  CHECK(decode_f16(value_fill(element::f16, -65504)) == -65504.0);
  for (int k = 0; k < 63; ++k) {
    const std::int64_t v = std::int64_t{1} << k;
    REQUIRE(decode_bf16(value_fill(element::bf16, v)) == std::ldexp(1.0, k));
    REQUIRE(decode_bf16(value_fill(element::bf16, -v)) == -std::ldexp(1.0, k));
    if (k < 16) REQUIRE(decode_f16(value_fill(element::f16, v)) == std::ldexp(1.0, k));
  }
}

TEST_CASE("integers that 16-bit floats cannot hold are truncated") {
  for (std::int64_t v = 2049; v < 65536; v += 7) {
    REQUIRE(decode_f16(value_fill(element::f16, v)) == truncated(v, 11));
    REQUIRE(decode_f16(value_fill(element::f16, -v)) == -truncated(v, 11));
  }
  for (std::int64_t v = 257; v < (1 << 24); v += 9973) {
    REQUIRE(decode_bf16(value_fill(element::bf16, v)) == truncated(v, 8));
    REQUIRE(decode_bf16(value_fill(element::bf16, -v)) == -truncated(v, 8));
  }
}

TEST_CASE("wider elements hold the bytes that the machine stores for the value") {
  constexpr std::int64_t values[] = {0,
                                     1,
                                     -1,
                                     2,
                                     -2,
                                     255,
                                     -128,
                                     1'000'003,
                                     -7'654'321,
                                     std::numeric_limits<std::int32_t>::max(),
                                     std::numeric_limits<std::int32_t>::min()};
  for (const std::int64_t v : values) {
    CAPTURE(v);
    for (const element e : elements) check_shape(value_fill(e, v), e);
    CHECK(first<std::uint8_t>(value_fill(element::u8, v)) == static_cast<std::uint8_t>(v));
    CHECK(first<std::int32_t>(value_fill(element::i32, v)) == static_cast<std::int32_t>(v));
    CHECK(first<std::int64_t>(value_fill(element::i64, v)) == v);
    CHECK(first<float>(value_fill(element::f32, v)) == static_cast<float>(v));
    CHECK(first<double>(value_fill(element::f64, v)) == static_cast<double>(v));
  }
  constexpr std::int64_t wide = std::numeric_limits<std::int64_t>::min() + 12345;
  CHECK(first<std::int64_t>(value_fill(element::i64, wide)) == wide);
}

TEST_CASE("poison is NaN in every float and the most negative integer otherwise") {
  for (const element e : elements) check_shape(poison_fill(e), e);
  CHECK(std::isnan(decode_f16(poison_fill(element::f16))));
  CHECK(std::isnan(decode_bf16(poison_fill(element::bf16))));
  CHECK(std::isnan(first<float>(poison_fill(element::f32))));
  CHECK(std::isnan(first<double>(poison_fill(element::f64))));
  CHECK(first<std::int32_t>(poison_fill(element::i32)) == std::numeric_limits<std::int32_t>::min());
  CHECK(first<std::int64_t>(poison_fill(element::i64)) == std::numeric_limits<std::int64_t>::min());
  CHECK(first<std::int8_t>(poison_fill(element::u8)) == std::numeric_limits<std::int8_t>::min());
}

TEST_CASE("zero is zero bytes, leave is nothing at all") {
  const fill_pattern zero = dg::zero_fill();
  CHECK_FALSE(zero.leave);
  CHECK(zero.size == 1);
  for (const std::byte b : zero.bytes) CHECK(b == std::byte{0});
  CHECK(dg::no_fill().leave);
  CHECK_FALSE(dg::no_fill() == zero);
}

TEST_CASE("every pattern divides every unit of whole elements") {
  for (const element e : elements) {
    for (const fill_pattern& fill : {value_fill(e, 5), poison_fill(e), dg::zero_fill()}) {
      CHECK((fill.size == 1 || fill.size == 2 || fill.size == 4 || fill.size == 8));
      CHECK(size_of(e) % fill.size == 0);
    }
  }
}

TEST_CASE("each tail option fills with what its name says") {
  for (const element e : elements) {
    CHECK(dg::tail::zero::fill(e) == dg::zero_fill());
    CHECK(dg::tail::leave::fill(e).leave);
    CHECK(dg::tail::poison::fill(e) == poison_fill(e));
    CHECK(dg::tail::sentinel<-1>::fill(e) == value_fill(e, -1));
    CHECK(dg::tail::sentinel<200>::fill(e) == value_fill(e, 200));
  }
}

// Fills of a policy are known when it is compiled.
static_assert(value_fill(element::bf16, 1) == dg::tail::sentinel<1>::fill(element::bf16));
static_assert(value_fill(element::i32, -1).bytes[3] == std::byte{0xff});
