#pragma once

/// @file
/// Padding in place: the tails of any number of tensors in one call. The body is one text for the
/// CPU and for kernels; nothing here needs a CUDA header.
///
/// ```cpp
/// const dpgather::unit_counts tokens{.real = 13, .padded = 16, .capacity = 64};
/// const dpgather::pad_tensor list[] = {
///     dpgather::pad_vector(input_ids, tokens),          // [T], zeros
///     dpgather::pad_vector(out_cache_loc, tokens, -1),  // [T], the engine's sacrificial slot
///     dpgather::pad_rows(embeddings, 7168, tokens),     // [T, 7168]
///     dpgather::pad_columns(positions, 3, tokens),      // [3, 64], padded along dim 1
/// };
/// if (const dpgather::status s = dpgather::pad(list); !s) return s;
/// ```

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

namespace dpgather::inline v0 {

/// One tensor to pad in place. Trivially copyable: kernels take it by value or from memory.
/// Shapes: `outer` slices of `units.capacity` units of `unit_bytes` bytes. Units: bytes for
/// strides. Ownership: borrows `data`.
struct pad_tensor {
  void* data = nullptr;         ///< unit 0 of slice 0; null is legal with zero padded units
  unit_counts units{};          ///< along the padded axis, the same in every slice
  std::size_t unit_bytes = 0;   ///< contiguous bytes of a unit
  std::size_t unit_stride = 0;  ///< bytes from a unit to the next one, at least `unit_bytes`
  std::int32_t outer = 1;       ///< slices, e.g. 3 for positions [3, T]
  std::size_t outer_stride = 0; ///< bytes from a slice to the next one; not read when `outer` <= 1
  fill_word fill{};             ///< what the tail holds afterwards
};

namespace detail {

/// The units [first, padded) of every slice.
[[nodiscard]] DPGATHER_HOST_DEVICE inline byte_runs units_from(const pad_tensor& t,
                                                               std::int32_t first) noexcept {
  const std::uintptr_t start =
      reinterpret_cast<std::uintptr_t>(t.data) + static_cast<std::uint64_t>(first) * t.unit_stride;
  return byte_runs::of(start, t.outer, t.outer_stride, t.units.padded - first, t.unit_stride,
                       t.unit_bytes);
}

/// The fewest real units there may be when the job runs: all others may be written.
[[nodiscard]] constexpr std::int32_t least_real(const unit_counts& units) noexcept {
  return units.live == nullptr ? units.real : 0;
}

} // namespace detail

/// Checks a list of tensors before any of them is padded. Costs one look per tensor and one
/// comparison of address ranges per pair.
/// Errors: about `subject::tensor`; `peer` holds the tensor's index in the list (no peer takes
/// part), `value_name` says what `value` is.
/// - `count_out_of_range`: `outer` or `real` negative, real > padded, no `unit_bytes`;
/// - `capacity_exceeded{value = need, limit = have}`: padded > capacity;
/// - `null_pointer`: null with padded units;
/// - `bad_fill`: a pattern that is not 1, 2, 4 or 8 bytes, or does not divide the unit;
/// - `misaligned`: `unit_stride` < `unit_bytes`, or pointer or stride not a multiple of the
///   pattern, which is the element (patterns of one byte go anywhere);
/// - `size_overflow`: the bytes of the capacity do not fit signed 64-bit arithmetic;
/// - `aliasing`: slices of one tensor overlap (`value = outer_stride`); or a tail that is written
///   shares a byte with real or padded units of another tensor (`value` = its index, `limit` =
///   tensors in the list). Real units may be shared, and interleaved columns are legal.
[[nodiscard]] inline status validate(std::span<const pad_tensor> tensors) noexcept {
  constexpr const char* where = "pad";
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const pad_tensor& t = tensors[i];
    if (const status s = detail::check_units(t.data, t.units.padded, t.units, t.unit_bytes,
                                             t.unit_stride, t.outer, t.outer_stride, i, where);
        !s) {
      return s;
    }
    const std::uint64_t size = t.fill.size;
    if (size > 8 || !std::has_single_bit(size) || t.unit_bytes % size != 0) {
      return detail::refuse_tensor(errc::bad_fill, i, size, t.unit_bytes, "pattern bytes", where);
    }
    const std::uint64_t places = reinterpret_cast<std::uintptr_t>(t.data) | t.unit_stride |
                                 (t.outer > 1 ? t.outer_stride : 0);
    if (places % size != 0) {
      return detail::refuse_tensor(errc::misaligned, i, places % size, size, "remainder", where);
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].fill.leave) continue;
    const detail::byte_runs tail =
        detail::units_from(tensors[i], detail::least_real(tensors[i].units));
    for (std::size_t j = 0; j < tensors.size(); ++j) {
      if (i != j && detail::overlap(tail, detail::units_from(tensors[j], 0))) {
        return detail::refuse_tensor(errc::aliasing, i, j, tensors.size(), "with tensor", where);
      }
    }
  }
  return {};
}

/// One worker's share of a tail, for CPU threads and kernels alike: call it for every worker in
/// [0, workers), in any order or at once. Writes the tail only, by select and never by multiply;
/// neither reads nor writes a real unit. Stores are 8 bytes wide where alignment allows.
/// Precondition: `validate` has let the tensor through; `workers` > 0.
/// Capture: safe; nothing but the descriptor is read, and `units.live` where it is set.
DPGATHER_HOST_DEVICE inline void pad_share(const pad_tensor& tensor, std::uint64_t worker,
                                           std::uint64_t workers) noexcept {
  const std::int32_t real = tensor.units.real_now();
  if (tensor.fill.leave || tensor.units.padded <= real) return;
  const detail::byte_runs tail = detail::units_from(tensor, real);
  if (tail.empty()) return;
  detail::fill_runs(tail, tensor.fill.bits, worker, workers);
}

/// Pads every tensor of the list in place: afterwards each unit of [real, padded) holds its fill.
/// Validates all tensors first; on an error nothing is written. Host memory, calling thread.
/// Errors: those of `validate`.
/// Source: sglang PR #8278 pads each tensor into a copy; here there is room and no copy.
[[nodiscard]] inline status pad(std::span<const pad_tensor> tensors) noexcept {
  if (const status s = validate(tensors); !s) return s;
  for (const pad_tensor& tensor : tensors) pad_share(tensor, 0, 1);
  return {};
}

/// An element that padding can write: 1, 2, 4 or 8 bytes without a constructor to respect.
template <class T>
concept padding_element = std::is_trivially_copyable_v<T> && !std::is_const_v<T> &&
                          (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

/// What a tail of T holds: a value of T, or any pattern (`zero_fill()`, `no_fill()`, ...).
template <padding_element T>
struct typed_fill {
  fill_pattern pattern{};

  constexpr typed_fill(const fill_pattern& p) noexcept : pattern{p} {} // NOLINT: implicit
  constexpr typed_fill(const T& value) noexcept {                      // NOLINT: implicit
    const auto bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
    pattern.size = sizeof(T);
    for (std::size_t i = 0; i < 8; ++i) pattern.bytes[i] = bytes[i % sizeof(T)];
  }
};

/// A dense vector [T]. Shapes: `data[units.capacity]`.
template <padding_element T>
[[nodiscard]] constexpr pad_tensor
pad_vector(T* data, const unit_counts& units,
           const std::type_identity_t<typed_fill<T>>& fill = zero_fill()) noexcept {
  return {.data = data,
          .units = units,
          .unit_bytes = sizeof(T),
          .unit_stride = sizeof(T),
          .fill = fill.pattern};
}

/// A dense matrix [T, width], padded along dim 0. Shapes: `data[units.capacity][width]`.
template <padding_element T>
[[nodiscard]] constexpr pad_tensor
pad_rows(T* data, std::int32_t width, const unit_counts& units,
         const std::type_identity_t<typed_fill<T>>& fill = zero_fill()) noexcept {
  return {.data = data,
          .units = units,
          .unit_bytes = static_cast<std::size_t>(width) * sizeof(T),
          .unit_stride = static_cast<std::size_t>(width) * sizeof(T),
          .fill = fill.pattern};
}

/// A matrix [outer, T] padded along dim 1. Shapes: `data[outer][units.capacity]`; set
/// `outer_stride` of the result, in bytes, when the slices are further apart.
template <padding_element T>
[[nodiscard]] constexpr pad_tensor
pad_columns(T* data, std::int32_t outer, const unit_counts& units,
            const std::type_identity_t<typed_fill<T>>& fill = zero_fill()) noexcept {
  pad_tensor out = pad_vector(data, units, fill);
  out.outer = outer;
  out.outer_stride = static_cast<std::size_t>(units.capacity) * sizeof(T);
  return out;
}

} // namespace dpgather::inline v0
