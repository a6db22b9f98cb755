#pragma once

/// @file
/// f16 and bf16 by their definitions, in double precision: nothing of the library's bit tricks.

#include <cmath>
#include <cstdint>
#include <limits>

namespace test_support {

/// A binary floating-point format of 16 bits.
struct half_format {
  int mantissa_bits;
  int exponent_bits;

  [[nodiscard]] constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  [[nodiscard]] constexpr unsigned all_ones() const { return (1U << exponent_bits) - 1; }
};
inline constexpr half_format binary16{10, 5};
inline constexpr half_format bfloat16{7, 8};

/// The number that 16 bits mean; NaN for every NaN pattern.
inline double meaning_of_half(half_format f, std::uint16_t bits) {
  const unsigned mantissa = bits & ((1U << f.mantissa_bits) - 1);
  const unsigned exponent = (static_cast<unsigned>(bits) >> f.mantissa_bits) & f.all_ones();
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  if (exponent == f.all_ones())
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  const double fraction = std::ldexp(static_cast<double>(mantissa), -f.mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - f.bias());
  return sign * std::ldexp(1.0 + fraction, static_cast<int>(exponent) - f.bias());
}

/// The nearest number of the format, ties to the even mantissa, infinity beyond half a step above
/// the largest; for numbers, not for NaN. In double precision every step here is exact.
inline std::uint16_t nearest_half(half_format f, double number) {
  const unsigned sign = std::signbit(number) ? 0x8000U : 0U;
  const double magnitude = std::fabs(number);
  const int smallest = 1 - f.bias();
  int exponent = smallest;
  if (magnitude > 0 && !std::isinf(magnitude) && std::ilogb(magnitude) > smallest)
    exponent = std::ilogb(magnitude);
  if (std::isinf(magnitude) || exponent > f.bias())
    return static_cast<std::uint16_t>(sign | f.all_ones() << f.mantissa_bits);
  // In units of the last place: below 2^mantissa_bits it is subnormal.
  const double units = std::ldexp(magnitude, f.mantissa_bits - exponent);
  const double below = std::floor(units);
  const double rest = units - below;
  const bool odd = std::fmod(below, 2.0) != 0;
  const auto rounded =
      static_cast<unsigned>(below) + (rest > 0.5 || (rest == 0.5 && odd) ? 1U : 0U);
  // A carry out of the mantissa lands in the exponent, as it should; past the largest, in infinity.
  const unsigned one = 1U << f.mantissa_bits;
  const unsigned base = static_cast<unsigned>(exponent - smallest) << f.mantissa_bits;
  return static_cast<std::uint16_t>(sign | (rounded < one ? rounded : base + rounded));
}

} // namespace test_support
