#pragma once

/// @file
/// Views of token rows. The type says who still owes a reduction, so that a missing or doubled one
/// does not compile (sglang #24785: gsm8k 0.564 instead of 0.975 from one doubled reduction).

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// The rows are final, and the same on every rank that holds them.
struct replicated {};
/// The rows are one addend of several: a sum over the attention-TP peers (local rows) or over the
/// world (global rows) is still owed.
struct partial {};

template <class T>
concept row_state = std::same_as<T, replicated> || std::same_as<T, partial>;

namespace detail {
template <class T>
struct element_of_type;
template <>
struct element_of_type<std::byte> : std::integral_constant<element, element::u8> {};
template <>
struct element_of_type<std::uint8_t> : std::integral_constant<element, element::u8> {};
template <>
struct element_of_type<std::int32_t> : std::integral_constant<element, element::i32> {};
template <>
struct element_of_type<std::int64_t> : std::integral_constant<element, element::i64> {};
template <>
struct element_of_type<float> : std::integral_constant<element, element::f32> {};
template <>
struct element_of_type<double> : std::integral_constant<element, element::f64> {};
} // namespace detail

/// Rows of a matrix: pointer, number of rows, bytes of a row, bytes from row to row.
///
/// Shape: `[rows, row_bytes / size_of(element)]`. Ownership: borrows. `Byte` is `const std::byte`
/// for inputs. A view may have more rows than are real; which rows are real is in the plan.
template <row_state State, class Byte = std::byte>
requires std::same_as<std::remove_const_t<Byte>, std::byte>
class token_rows {
public:
  using state = State;

  /// No rows.
  constexpr token_rows() noexcept = default;

  /// Rows of run-time type. `row_stride` is in bytes, 0 for rows that follow each other.
  constexpr token_rows(Byte* data, std::int64_t rows, dpgather::v0::element type,
                       std::size_t row_bytes, std::size_t row_stride = 0) noexcept
      : data_{data}, rows_{rows}, row_bytes_{row_bytes},
        row_stride_{row_stride == 0 ? row_bytes : row_stride}, element_{type} {}

  /// A view to read through.
  template <class Other>
  requires(std::is_const_v<Byte> && !std::is_const_v<Other>) constexpr token_rows(
      const token_rows<State, Other>& writable) noexcept
      : token_rows{writable.data(), writable.rows(), writable.element(), writable.row_bytes(),
                   writable.row_stride()} {}

  [[nodiscard]] constexpr Byte* data() const noexcept { return data_; }
  [[nodiscard]] constexpr std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] constexpr dpgather::v0::element element() const noexcept { return element_; }
  [[nodiscard]] constexpr std::size_t row_bytes() const noexcept { return row_bytes_; }
  [[nodiscard]] constexpr std::size_t row_stride() const noexcept { return row_stride_; }
  [[nodiscard]] constexpr bool contiguous() const noexcept { return row_stride_ == row_bytes_; }
  /// Bytes from the first to the end of the last row.
  [[nodiscard]] constexpr std::size_t extent() const noexcept {
    return rows_ <= 0 ? 0 : static_cast<std::size_t>(rows_ - 1) * row_stride_ + row_bytes_;
  }
  [[nodiscard]] constexpr Byte* row(std::int64_t i) const noexcept {
    return data_ + static_cast<std::size_t>(i) * row_stride_;
  }
  /// The first `rows` rows.
  [[nodiscard]] constexpr token_rows first(std::int64_t rows) const noexcept {
    return {data_, rows, element_, row_bytes_, row_stride_};
  }

private:
  Byte* data_ = nullptr;
  std::int64_t rows_ = 0;
  std::size_t row_bytes_ = 0;
  std::size_t row_stride_ = 0;
  dpgather::v0::element element_ = dpgather::v0::element::u8;
};

/// A run of rows.
struct row_range {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Rows to read.
template <row_state State>
using const_token_rows = token_rows<State, const std::byte>;

/// Typed memory as rows of `hidden` elements: `rows_of<partial>(floats, rows, hidden)`.
template <row_state State, class T>
[[nodiscard]] auto rows_of(T* data, std::int64_t rows, std::int64_t hidden) noexcept {
  using byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return token_rows<State, byte>{reinterpret_cast<byte*>(data), rows,
                                 detail::element_of_type<std::remove_const_t<T>>::value,
                                 static_cast<std::size_t>(hidden) * sizeof(T)};
}

} // namespace dpgather::inline v0
