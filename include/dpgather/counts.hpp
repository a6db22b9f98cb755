#pragma once

/// @file
/// Row counts of all ranks. Real and padded counts are two types that do not convert into each
/// other: most accuracy bugs of the field come from one list that was both (sglang #40643, #9107,
/// #12115, #16974, #26016).

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace dpgather::inline v0 {

/// Most data-parallel ranks that a plan holds in place.
inline constexpr std::int32_t max_ranks = 256;

/// Rows of each data-parallel rank, held in place. Units: token rows unless the tag says otherwise.
template <class Tag>
class row_counts {
public:
  constexpr row_counts() noexcept = default;

  /// Checked construction: at most `max_ranks` counts, each in [0, limit].
  /// Errors: `too_many_ranks`, `count_out_of_range{rank, value, limit}`.
  [[nodiscard]] static constexpr result<row_counts> make(std::span<const std::int32_t> rows,
                                                         std::int32_t limit) noexcept {
    if (rows.size() > static_cast<std::size_t>(max_ranks)) {
      return status{.code = errc::too_many_ranks,
                    .about = subject::counts,
                    .value = static_cast<std::int64_t>(rows.size()),
                    .limit = max_ranks,
                    .where = "row_counts::make"};
    }
    row_counts out;
    out.size_ = static_cast<std::int32_t>(rows.size());
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (rows[r] < 0 || rows[r] > limit) {
        return status{.code = errc::count_out_of_range,
                      .about = subject::counts,
                      .rank = static_cast<std::int32_t>(r),
                      .value = rows[r],
                      .limit = limit,
                      .where = "row_counts::make"};
      }
      out.rows_[r] = rows[r];
    }
    return out;
  }

  /// `size` zeros.
  [[nodiscard]] static constexpr row_counts zeros(std::int32_t size) noexcept {
    row_counts out;
    out.size_ = size;
    return out;
  }

  [[nodiscard]] constexpr std::int32_t size() const noexcept { return size_; }
  [[nodiscard]] constexpr std::int32_t operator[](std::int32_t rank) const noexcept {
    return rows_[static_cast<std::size_t>(rank)];
  }
  /// Unchecked; the caller keeps `rows` within the limit it validated against.
  constexpr void set(std::int32_t rank, std::int32_t rows) noexcept {
    rows_[static_cast<std::size_t>(rank)] = rows;
  }
  [[nodiscard]] constexpr std::span<const std::int32_t> span() const noexcept {
    return {rows_.data(), static_cast<std::size_t>(size_)};
  }
  [[nodiscard]] constexpr std::int64_t sum() const noexcept {
    std::int64_t total = 0;
    for (const std::int32_t rows : span()) total += rows;
    return total;
  }
  [[nodiscard]] constexpr std::int32_t max() const noexcept {
    std::int32_t largest = 0;
    for (const std::int32_t rows : span()) largest = std::max(largest, rows);
    return largest;
  }
  friend constexpr bool operator==(const row_counts& a, const row_counts& b) noexcept {
    return std::ranges::equal(a.span(), b.span());
  }

private:
  std::array<std::int32_t, max_ranks> rows_{};
  std::int32_t size_ = 0;
};

struct real_rows_tag {};
struct padded_rows_tag {};
struct request_counts_tag {};

/// What each rank holds: `n[r]`.
using real_rows = row_counts<real_rows_tag>;
/// What each rank is padded to: `p[r]`.
using padded_rows = row_counts<padded_rows_tag>;
/// Requests of each rank, the unit of ladders.
using request_counts = row_counts<request_counts_tag>;

/// `value` rounded up to a multiple of `multiple` (> 0).
[[nodiscard]] constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) noexcept {
  return (value + multiple - 1) / multiple * multiple;
}
/// The same for bytes. Modulo 2^n: the caller sees to it that there is room.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T round_up(T value, std::type_identity_t<T> multiple) noexcept {
  return static_cast<T>((value + multiple - 1) / multiple * multiple);
}

} // namespace dpgather::inline v0
