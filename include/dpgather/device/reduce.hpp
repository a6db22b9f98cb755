#pragma once

/// @file
/// Sums of rows in rank order: one element at a time, the same text for the CPU and for kernels.
///
/// f16, bf16 and f32 accumulate in fp32, f64 in fp64, integers modulo 2^n. The order is the order
/// of the sources, so the result is bit-deterministic.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dpgather::inline v0 {

namespace detail {

DPGATHER_HOST_DEVICE inline float bits_to_float(std::uint32_t bits) noexcept {
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}
DPGATHER_HOST_DEVICE inline std::uint32_t float_to_bits(float value) noexcept {
  std::uint32_t out;
  memcpy(&out, &value, sizeof out);
  return out;
}

/// An element type as storage, accumulator, and the way between them.
struct bf16_sum {
  using storage = std::uint16_t;
  using accumulator = float;
  DPGATHER_HOST_DEVICE static float widen(storage s) noexcept {
    return bits_to_float(static_cast<std::uint32_t>(s) << 16);
  }
  /// Round to nearest, ties to even; NaN stays NaN.
  DPGATHER_HOST_DEVICE static storage narrow(float value) noexcept {
    const std::uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<storage>((bits >> 16) | 0x40u);
    return static_cast<storage>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

struct f16_sum {
  using storage = std::uint16_t;
  using accumulator = float;
  DPGATHER_HOST_DEVICE static float widen(storage s) noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(s & 0x8000u) << 16;
    const std::uint32_t exponent = (s >> 10) & 0x1fu;
    const std::uint32_t mantissa = s & 0x3ffu;
    if (exponent == 0x1fu) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    // Subnormal: mantissa * 2^-24 is exact in fp32.
    const float magnitude = static_cast<float>(mantissa) * bits_to_float(0x33800000u);
    return bits_to_float(sign | float_to_bits(magnitude));
  }
  /// Round to nearest, ties to even; NaN stays NaN, overflow becomes infinity.
  DPGATHER_HOST_DEVICE static storage narrow(float value) noexcept {
    const std::uint32_t bits = float_to_bits(value);
    const auto sign = static_cast<std::uint32_t>((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<storage>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<storage>(sign | 0x7c00u); // rounds to 65536
    if (magnitude >= 0x38800000u) { // normal in f16: rebias, then round away 13 bits
      const std::uint32_t rebased = magnitude - (112u << 23);
      return static_cast<storage>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
    }
    // Subnormal: adding 0.5 makes the fp32 adder round at bit 2^-24, ties to even.
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<storage>(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
};

template <class T>
struct plain_sum {
  using storage = T;
  using accumulator = T;
  DPGATHER_HOST_DEVICE static T widen(T s) noexcept { return s; }
  DPGATHER_HOST_DEVICE static T narrow(T value) noexcept { return value; }
};
using f32_sum = plain_sum<float>;
using f64_sum = plain_sum<double>;
// Unsigned: wraps, as integer sums of payloads must.
using u8_sum = plain_sum<std::uint8_t>;
using u16_sum = plain_sum<std::uint16_t>;
using u32_sum = plain_sum<std::uint32_t>;
using u64_sum = plain_sum<std::uint64_t>;

template <element E>
struct sum_of_element;
template <>
struct sum_of_element<element::u8> : std::type_identity<u8_sum> {};
template <>
struct sum_of_element<element::i32> : std::type_identity<u32_sum> {};
template <>
struct sum_of_element<element::i64> : std::type_identity<u64_sum> {};
template <>
struct sum_of_element<element::f16> : std::type_identity<f16_sum> {};
template <>
struct sum_of_element<element::bf16> : std::type_identity<bf16_sum> {};
template <>
struct sum_of_element<element::f32> : std::type_identity<f32_sum> {};
template <>
struct sum_of_element<element::f64> : std::type_identity<f64_sum> {};
/// The sum type of an element.
template <element E>
using sum_of = typename sum_of_element<E>::type;

} // namespace detail

/// Element `index` of the sum over `sources`, in their order, as `narrow` rounds it. The sources
/// are `source_count` pointers to at least `index + 1` elements, aligned to the element.
template <class Sum>
DPGATHER_HOST_DEVICE typename Sum::storage sum_element(const std::byte* const* sources,
                                                       std::int32_t source_count,
                                                       std::size_t index) noexcept {
  typename Sum::storage loaded;
  memcpy(&loaded, sources[0] + index * sizeof loaded, sizeof loaded);
  typename Sum::accumulator total = Sum::widen(loaded);
  for (std::int32_t s = 1; s < source_count; ++s) {
    memcpy(&loaded, sources[s] + index * sizeof loaded, sizeof loaded);
    total = static_cast<typename Sum::accumulator>(total + Sum::widen(loaded));
  }
  return Sum::narrow(total);
}

/// Sums elements `first` to `first + count` of the sources into `out[0]` to `out[count]`; worker
/// `worker` of `workers` takes every `workers`-th. `out` may be where one of the sources has them.
template <class Sum>
DPGATHER_HOST_DEVICE void sum_elements(std::byte* out, const std::byte* const* sources,
                                       std::int32_t source_count, std::size_t first,
                                       std::size_t count, std::size_t worker,
                                       std::size_t workers) noexcept {
  for (std::size_t i = worker; i < count; i += workers) {
    const typename Sum::storage total = sum_element<Sum>(sources, source_count, first + i);
    memcpy(out + i * sizeof total, &total, sizeof total);
  }
}

/// Calls `visit` with the sum type of a run-time element.
template <class Visitor>
void with_sum_of(element e, Visitor&& visit) noexcept {
  switch (e) {
  case element::u8:
    visit(detail::sum_of<element::u8>{});
    break;
  case element::i32:
    visit(detail::sum_of<element::i32>{});
    break;
  case element::i64:
    visit(detail::sum_of<element::i64>{});
    break;
  case element::f16:
    visit(detail::sum_of<element::f16>{});
    break;
  case element::bf16:
    visit(detail::sum_of<element::bf16>{});
    break;
  case element::f32:
    visit(detail::sum_of<element::f32>{});
    break;
  case element::f64:
    visit(detail::sum_of<element::f64>{});
    break;
  }
}

/// The widest integer element that divides `row_bytes`: a replicated gather by all-reduce sums with
/// it, because x + 0 keeps every bit of an integer, -0.0 and NaN payloads included.
[[nodiscard]] constexpr element widest_integer(std::size_t row_bytes) noexcept {
  if (row_bytes % 8 == 0) return element::i64;
  if (row_bytes % 4 == 0) return element::i32;
  return element::u8;
}

} // namespace dpgather::inline v0
