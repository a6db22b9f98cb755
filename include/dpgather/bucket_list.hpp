#pragma once

/// @file
/// A strictly ascending list of captured sizes, held in place, and what is derived from one.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// Captured sizes in ascending order. Units: requests.
class bucket_list {
public:
  /// Most sizes that a user may state.
  static constexpr std::int32_t max_stated = 512;
  /// Room for those and for the sums derived from them.
  static constexpr std::int32_t capacity = 2 * max_stated;

  constexpr bucket_list() noexcept = default;

  /// A list that a user wrote. Errors: `bad_buckets{value = index of the offending size}` when
  /// empty, too long, not strictly ascending or not positive.
  [[nodiscard]] static constexpr result<bucket_list>
  make(std::span<const std::int32_t> sizes) noexcept {
    const auto refuse = [](std::size_t index, std::int64_t limit) {
      return status{.code = errc::bad_buckets,
                    .about = subject::ladder,
                    .value = static_cast<std::int64_t>(index),
                    .limit = limit,
                    .where = "bucket_list::make"};
    };
    if (sizes.empty()) return refuse(0, 1);
    if (sizes.size() > static_cast<std::size_t>(max_stated))
      return refuse(sizes.size(), max_stated);
    bucket_list out;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const std::int32_t floor = i == 0 ? 0 : sizes[i - 1];
      if (sizes[i] <= floor) return refuse(i, floor);
      out.append(sizes[i]);
    }
    return out;
  }

  /// Adds a size that is larger than all before it; others are ignored, as is one too many.
  constexpr void append(std::int32_t size) noexcept {
    if (size <= largest() || size_ == capacity) return;
    sizes_[static_cast<std::size_t>(size_++)] = size;
  }

  /// Adds the sizes of `other` that are larger than all before it: how a list goes on with another.
  constexpr void append(const bucket_list& other) noexcept {
    for (const std::int32_t size : other.span()) append(size);
  }

  /// `first`, `first + step`, ... up to `last`, none above `cap`.
  constexpr void append_range(std::int32_t first, std::int32_t last, std::int32_t step,
                              std::int32_t cap) noexcept {
    for (std::int64_t s = first; s <= last && s <= cap; s += step) {
      append(static_cast<std::int32_t>(s));
    }
  }

  [[nodiscard]] constexpr std::int32_t size() const noexcept { return size_; }
  [[nodiscard]] constexpr bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] constexpr std::int32_t operator[](std::int32_t i) const noexcept {
    return sizes_[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] constexpr std::int32_t largest() const noexcept {
    return size_ == 0 ? 0 : (*this)[size_ - 1];
  }
  [[nodiscard]] constexpr std::span<const std::int32_t> span() const noexcept {
    return {sizes_.data(), static_cast<std::size_t>(size_)};
  }

  /// The smallest size that is not below `count`, or 0 when every size is.
  [[nodiscard]] constexpr std::int32_t smallest_at_least(std::int64_t count) const noexcept {
    const auto all = span();
    const auto found = std::lower_bound(all.begin(), all.end(), count);
    return found == all.end() ? 0 : *found;
  }

  friend constexpr bool operator==(const bucket_list& a, const bucket_list& b) noexcept {
    return std::ranges::equal(a.span(), b.span());
  }

private:
  std::array<std::int32_t, capacity> sizes_{};
  std::int32_t size_ = 0;
};

/// The sizes that are a multiple of `multiple` and at most `cap`: the engines' filter, with
/// `multiple` = attention-TP size (times 2 under two-batch overlap). Source: SGLang.
[[nodiscard]] constexpr bucket_list filtered(const bucket_list& sizes, std::int64_t multiple,
                                             std::int32_t cap) noexcept {
  bucket_list out;
  for (const std::int32_t size : sizes.span()) {
    if (size % multiple == 0 && size <= cap) out.append(size);
  }
  return out;
}

/// The ladder for the sum over `ranks` that follows from a ladder per rank: the same sizes, then on
/// to `ranks * largest` with as many sizes per doubling as the stated ladder ends with (twice its
/// last step, doubled again with every doubling of the size). Users state one ladder, per rank,
/// which need not grow with W (SGLang #5527, #5557, #6092), and relative padding stays what it was
/// at the end of that ladder. Where that is more than the list holds, steps are doubled until it is
/// not: no sum that fits `ranks * largest` misses. A size added is a multiple of whatever all
/// stated sizes share.
[[nodiscard]] constexpr bucket_list sum_ladder(const bucket_list& per_rank,
                                               std::int32_t ranks) noexcept {
  const std::int64_t largest = per_rank.largest();
  const std::int64_t end = std::min<std::int64_t>(largest * ranks, INT32_MAX);
  const std::int64_t last_step =
      per_rank.size() > 1 ? 2 * (largest - per_rank[per_rank.size() - 2]) : largest;
  bucket_list out = per_rank;
  for (std::int64_t first_step = last_step; out.largest() < end; first_step *= 2) {
    out = per_rank;
    std::int64_t step = first_step;
    std::int64_t octave = 2 * largest;
    for (std::int64_t size = largest + step; size < end; size += step) {
      out.append(static_cast<std::int32_t>(size));
      while (size >= octave) {
        octave *= 2;
        step *= 2;
      }
    }
    out.append(static_cast<std::int32_t>(end)); // ignored by a full list
  }
  return out;
}

} // namespace dpgather::inline v0
