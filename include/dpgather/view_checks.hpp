#pragma once

/// @file
/// What can be wrong with one view, or with two views of one call.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// A fault without a rank and a place; true when there is one.
struct view_fault {
  errc code = errc::ok;
  subject about = subject::none;
  std::int64_t value = 0;
  std::int64_t limit = 0;
  constexpr explicit operator bool() const noexcept { return code != errc::ok; }
};

/// `null_pointer` (null with rows; null without is legal), `misaligned` (rows that are not whole
/// elements, a stride below the row or not whole elements, a pointer not aligned to the element).
template <row_state State, class Byte>
[[nodiscard]] view_fault check_view(const token_rows<State, Byte>& view, subject name) noexcept {
  const std::size_t unit = size_of(view.element());
  const auto fault = [&](errc code, std::size_t value, std::size_t limit) {
    return view_fault{code, name, static_cast<std::int64_t>(value),
                      static_cast<std::int64_t>(limit)};
  };
  if (view.rows() > 0 && view.data() == nullptr) {
    return fault(errc::null_pointer, static_cast<std::size_t>(view.rows()), 0);
  }
  if (view.row_bytes() == 0 || view.row_bytes() % unit != 0)
    return fault(errc::misaligned, view.row_bytes(), unit);
  if (view.row_stride() < view.row_bytes())
    return fault(errc::misaligned, view.row_stride(), view.row_bytes());
  if (view.row_stride() % unit != 0) return fault(errc::misaligned, view.row_stride(), unit);
  const auto address = reinterpret_cast<std::uintptr_t>(view.data());
  if (address % unit != 0) return fault(errc::misaligned, address % unit, unit);
  return {};
}

/// `shape_mismatch`: the two views of a call have one element and one row size.
template <row_state A, class AByte, row_state B, class BByte>
[[nodiscard]] constexpr view_fault check_same_shape(const token_rows<A, AByte>& a,
                                                    const token_rows<B, BByte>& b) noexcept {
  if (a.element() != b.element())
    return {errc::shape_mismatch, subject::element, static_cast<std::int64_t>(a.element()),
            static_cast<std::int64_t>(b.element())};
  if (a.row_bytes() != b.row_bytes())
    return {errc::shape_mismatch, subject::row_bytes, static_cast<std::int64_t>(a.row_bytes()),
            static_cast<std::int64_t>(b.row_bytes())};
  return {};
}

/// Whether two views share a byte of their extents.
template <row_state A, class AByte, row_state B, class BByte>
[[nodiscard]] bool overlap(const token_rows<A, AByte>& a, const token_rows<B, BByte>& b) noexcept {
  if (a.extent() == 0 || b.extent() == 0) return false;
  const auto from_a = reinterpret_cast<std::uintptr_t>(a.data());
  const auto from_b = reinterpret_cast<std::uintptr_t>(b.data());
  return from_a < from_b + b.extent() && from_b < from_a + a.extent();
}

} // namespace dpgather::inline v0
