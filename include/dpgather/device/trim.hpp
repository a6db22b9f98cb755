#pragma once

/// @file
/// The way back from padding: gathers the real units of padded tensors densely. As with padding,
/// the body is one text for the CPU and for kernels.
///
/// ```cpp
/// const dpgather::trim_tensor list[] = {
///     dpgather::trim_rows(logits, vocabulary, kept_logits, requests), // [T, vocabulary]
///     dpgather::trim_columns(positions, 3, kept_positions, tokens),   // [3, T]
/// };
/// if (const dpgather::status s = dpgather::trim(list); !s) return s;
/// ```

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

namespace dpgather::inline v0 {

/// One tensor to trim. Trivially copyable: kernels take it by value or from memory.
/// Shapes: source `outer` slices of `units.capacity` units; destination dense [outer, units.real].
/// Ownership: borrows both; the source is never written, its tails and gaps are never read.
struct trim_tensor {
  const void* source = nullptr;      ///< unit 0 of slice 0; null is legal with zero real units
  void* destination = nullptr;       ///< may be `source` when nothing moves; else apart from it
  std::size_t destination_bytes = 0; ///< room at the destination
  unit_counts units{};               ///< of the source; the first `real` of each slice are kept
  std::size_t unit_bytes = 0;        ///< contiguous bytes of a unit
  std::size_t unit_stride = 0;       ///< bytes from a unit of the source to the next one
  std::int32_t outer = 1;            ///< slices, e.g. 3 for positions [3, T]
  std::size_t outer_stride = 0; ///< bytes from a slice to the next one; not read when `outer` <= 1
};

namespace detail {

/// The first `real` units of every slice of the source.
[[nodiscard]] DPGATHER_HOST_DEVICE inline byte_runs source_runs(const trim_tensor& t,
                                                                std::int32_t real) noexcept {
  return byte_runs::of(reinterpret_cast<std::uintptr_t>(t.source), t.outer, t.outer_stride, real,
                       t.unit_stride, t.unit_bytes);
}

/// True when the real units are at their destination already, so that no byte may be touched.
[[nodiscard]] DPGATHER_HOST_DEVICE inline bool stays(const trim_tensor& t,
                                                     std::int32_t real) noexcept {
  const std::uint64_t slice = static_cast<std::uint64_t>(real) * t.unit_bytes;
  return t.source == t.destination && (real <= 1 || t.unit_stride == t.unit_bytes) &&
         (t.outer <= 1 || t.outer_stride == slice);
}

/// The most real units there may be when the job runs.
[[nodiscard]] constexpr std::int32_t most_real(const unit_counts& units) noexcept {
  return units.live == nullptr ? units.real : units.padded;
}
/// All that may be read.
[[nodiscard]] inline byte_runs source_runs(const trim_tensor& t) noexcept {
  return source_runs(t, most_real(t.units));
}
/// All that may be written.
[[nodiscard]] inline byte_runs destination_run(const trim_tensor& t) noexcept {
  const byte_runs from = source_runs(t);
  return one_run(t.destination, from.slices * from.runs * from.run_bytes);
}
/// Whether nothing moves for any count there may be.
[[nodiscard]] inline bool always_stays(const trim_tensor& t) noexcept {
  return stays(t, most_real(t.units)) && (t.units.live == nullptr || t.outer <= 1);
}

} // namespace detail

/// Checks a list of tensors before any of them is trimmed.
/// Errors: about `subject::tensor`; `peer` holds the tensor's index in the list, `value_name` says
/// what `value` is. All that `validate(std::span<const pad_tensor>)` says of counts, strides and
/// sizes, and
/// - `null_pointer`: source or destination null with real units;
/// - `capacity_exceeded{value = need, limit = have}`: the destination is too small, in bytes;
/// - `aliasing`: a destination shares a byte with real units of any source of the list, or with
///   another destination (`value` = the other's index, `limit` = tensors in the list). A
///   destination that *is* its source is legal when nothing moves: dense units, `outer` 1 or slices
///   `real` units apart.
[[nodiscard]] inline status validate(std::span<const trim_tensor> tensors) noexcept {
  constexpr const char* where = "trim";
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const trim_tensor& t = tensors[i];
    if (const status s =
            detail::check_units(t.source, detail::most_real(t.units), t.units, t.unit_bytes,
                                t.unit_stride, t.outer, t.outer_stride, i, where);
        !s) {
      return s;
    }
    const detail::byte_runs written = detail::destination_run(t);
    const auto refuse = [&](errc code, std::uint64_t limit) {
      return detail::refuse_tensor(code, i, written.run_bytes, limit, "destination bytes", where);
    };
    if (written.empty()) continue;
    if (t.destination == nullptr) return refuse(errc::null_pointer, 0);
    if (written.run_bytes > t.destination_bytes) {
      return refuse(errc::capacity_exceeded, t.destination_bytes);
    }
    if (written.start > UINTPTR_MAX - written.run_bytes) {
      return refuse(errc::size_overflow, UINTPTR_MAX - written.start);
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (detail::always_stays(tensors[i])) continue;
    const detail::byte_runs written = detail::destination_run(tensors[i]);
    for (std::size_t j = 0; j < tensors.size(); ++j) {
      if (detail::overlap(written, detail::source_runs(tensors[j])) ||
          (i != j && detail::overlap(written, detail::destination_run(tensors[j])))) {
        return detail::refuse_tensor(errc::aliasing, i, j, tensors.size(), "with tensor", where);
      }
    }
  }
  return {};
}

/// One worker's share of a trim, for CPU threads and kernels alike: call it for every worker in
/// [0, workers), in any order or at once. Reads real units only, byte for byte; copies are 16 bytes
/// wide where source and destination allow.
/// Precondition: `validate` has let the tensor through; `workers` > 0.
/// Capture: safe; the counts are those of the descriptor, or read through `units.live`.
DPGATHER_HOST_DEVICE inline void trim_share(const trim_tensor& tensor, std::uint64_t worker,
                                            std::uint64_t workers) noexcept {
  const std::int32_t real = tensor.units.real_now();
  const detail::byte_runs from = detail::source_runs(tensor, real);
  if (from.empty() || detail::stays(tensor, real)) return;
  const auto to = reinterpret_cast<std::uintptr_t>(tensor.destination);
  detail::copy_runs(detail::dense_like(from, to), from, worker, workers);
}

/// Gathers the real units of every tensor of the list densely into its destination. Bytes behind
/// the dense units stay as they are. Validates all tensors first; on an error nothing is written.
/// Host memory, calling thread.
/// Errors: those of `validate`.
[[nodiscard]] inline status trim(std::span<const trim_tensor> tensors) noexcept {
  if (const status s = validate(tensors); !s) return s;
  for (const trim_tensor& tensor : tensors) trim_share(tensor, 0, 1);
  return {};
}

/// A dense vector [T] to its first `units.real` elements.
template <class T>
requires std::is_trivially_copyable_v<T>
[[nodiscard]] constexpr trim_tensor trim_vector(const T* source,
                                                std::span<std::type_identity_t<T>> destination,
                                                const unit_counts& units) noexcept {
  return {.source = source,
          .destination = destination.data(),
          .destination_bytes = destination.size_bytes(),
          .units = units,
          .unit_bytes = sizeof(T),
          .unit_stride = sizeof(T)};
}

/// A dense matrix [T, width] to its first `units.real` rows.
template <class T>
requires std::is_trivially_copyable_v<T>
[[nodiscard]] constexpr trim_tensor trim_rows(const T* source, std::int32_t width,
                                              std::span<std::type_identity_t<T>> destination,
                                              const unit_counts& units) noexcept {
  trim_tensor out = trim_vector(source, destination, units);
  out.unit_bytes = out.unit_stride = static_cast<std::size_t>(width) * sizeof(T);
  return out;
}

/// A matrix [outer, units.capacity] to [outer, units.real].
template <class T>
requires std::is_trivially_copyable_v<T>
[[nodiscard]] constexpr trim_tensor trim_columns(const T* source, std::int32_t outer,
                                                 std::span<std::type_identity_t<T>> destination,
                                                 const unit_counts& units) noexcept {
  trim_tensor out = trim_vector(source, destination, units);
  out.outer = outer;
  out.outer_stride = static_cast<std::size_t>(units.capacity) * sizeof(T);
  return out;
}

} // namespace dpgather::inline v0
