#pragma once

/// @file
/// What the forward of a padded batch has written: how it is checked, looked through and cut.

#include <dpgather/batch_trim.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/leak_scan.hpp>
#include <dpgather/element.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// A tensor that the forward writes and that is cut afterwards, by `trim_rule_of`.
/// Shapes: `capacity` rows of `width` elements. Units: bytes for `row_stride`, 0: dense.
struct batch_result {
  batch_output tensor = batch_output::logits;
  const void* data = nullptr; ///< null: only `rows` is cut
  element type = element::bf16;
  std::int32_t width = 1;
  std::int32_t capacity = 0;
  std::size_t row_stride = 0;
  std::int64_t* rows = nullptr; ///< the engine's row count, set by the forward; null: `capacity`
};

namespace detail {

[[nodiscard]] constexpr std::size_t row_bytes_of(const batch_result& r) noexcept {
  return static_cast<std::size_t>(std::max(r.width, 0)) * size_of(r.type);
}
[[nodiscard]] constexpr std::size_t row_stride_of(const batch_result& r) noexcept {
  return r.row_stride != 0 ? r.row_stride : row_bytes_of(r);
}
/// Rows of result `i` that are left. Errors: those of `trim_rule_of`, `rows_left`; `peer` is `i`.
[[nodiscard]] inline result<std::int64_t>
left_of(std::span<const batch_result> results, std::size_t i, const batch_facts& facts) noexcept {
  const batch_result& r = results[i];
  const result<trim_rule> rule = trim_rule_of(r.tensor, facts);
  if (!rule) return rule.status();
  result<std::int64_t> left = rule->rows_left(r.rows == nullptr ? r.capacity : *r.rows);
  if (left) return left;
  status bad = left.status();
  bad.peer = static_cast<std::int32_t>(i);
  return bad;
}

} // namespace detail

/// Checks results, once, for all steps to come. Errors: about `subject::tensor`, `peer` its index:
/// - `count_out_of_range`, `capacity_exceeded`, `null_pointer`, `misaligned`, `size_overflow`: as
///   for a tensor to pad; elements must be aligned;
/// - `unsupported_type` under `poison`: bytes, of which every value may be right.
[[nodiscard]] inline status validate(std::span<const batch_result> results, bool poison) noexcept {
  constexpr const char* where = "batch results";
  for (std::size_t i = 0; i < results.size(); ++i) {
    const batch_result& r = results[i];
    if (r.data == nullptr) continue;
    const std::size_t size = size_of(r.type);
    const std::size_t stride = detail::row_stride_of(r);
    const unit_counts rows{.padded = r.capacity, .capacity = r.capacity};
    if (const status bad = detail::check_units(r.data, r.capacity, rows, detail::row_bytes_of(r),
                                               stride, 1, 0, i, where);
        !bad)
      return bad;
    const std::uint64_t skew = (reinterpret_cast<std::uintptr_t>(r.data) | stride) % size;
    if (skew != 0)
      return detail::refuse_tensor(errc::misaligned, i, skew, size, "remainder", where);
    if (poison && r.type == element::u8)
      return detail::refuse_tensor(errc::unsupported_type, i, 0, 0, "poison of bytes", where);
  }
  return {};
}

/// Sets every row count of the engine to the rows that are left. Cuts all that have the rows.
/// Errors: of the first that has not, `count_out_of_range{value = rows kept, limit = present}`;
/// those of `trim_rule_of`.
[[nodiscard]] inline status cut_results(std::span<const batch_result> results,
                                        const batch_facts& facts) noexcept {
  status first;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const result<std::int64_t> left = detail::left_of(results, i, facts);
    if (left && results[i].rows != nullptr) *results[i].rows = *left;
    if (!left && first.ok()) first = left.status();
  }
  return first;
}

/// Looks for poison in the rows that are left of every result, in one launch. Results that lack
/// rows are passed over: `cut_results` tells. Precondition: `validate` has let them through.
/// Stream: ordered. Errors: `native_error`.
template <class Stream>
[[nodiscard]] status scan_results(std::span<const batch_result> results, const batch_facts& facts,
                                  leak_record* found, std::uint64_t step, Stream stream) noexcept {
  std::array<scanned_rows, most_scanned_tensors> list;
  std::size_t count = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const batch_result& r = results[i];
    const result<std::int64_t> left = detail::left_of(results, i, facts);
    if (r.data == nullptr || !left) continue;
    list[count++] = {.data = static_cast<const std::byte*>(r.data),
                     .rows = static_cast<std::int32_t>(std::min<std::int64_t>(*left, r.capacity)),
                     .row_bytes = detail::row_bytes_of(r),
                     .row_stride = detail::row_stride_of(r),
                     .type = r.type,
                     .key = leak_record::key(step, static_cast<std::uint32_t>(i), 0),
                     .found = found};
  }
  return scan(std::span<const scanned_rows>{list.data(), count}, stream);
}

} // namespace dpgather::inline v0
