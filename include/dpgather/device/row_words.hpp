#pragma once

/// @file
/// Rows as one string of 8-byte words, whatever their size, distance and alignment: what lines
/// carry. One text for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

/// Calls `visit(shift, offset)` for the units of word `w`: bits of the word, bytes from the start.
template <class Visit>
DPGATHER_HOST_DEVICE void for_each_unit(std::uint32_t w, std::uint32_t unit,
                                        std::uint64_t row_bytes, std::uint64_t stride,
                                        std::uint64_t bytes, Visit visit) noexcept {
  std::uint64_t at = std::uint64_t{w} * 8;
  const bool dense = row_bytes == stride;
  std::uint64_t row = dense ? 0 : at / row_bytes;
  std::uint64_t column = dense ? at : at - row * row_bytes;
  for (std::uint32_t shift = 0; shift < 64 && at < bytes; shift += 8 * unit, at += unit) {
    visit(shift, row * stride + column);
    column += unit;
    if (!dense && column == row_bytes) column = 0, ++row;
  }
}

/// Out of line and by value: the slow way must not cost the fast one registers or memory.
DPGATHER_HOST_DEVICE __attribute__((noinline)) inline std::uint64_t
gather_word(const std::byte* data, std::uint32_t w, std::uint32_t unit, std::uint64_t row_bytes,
            std::uint64_t stride, std::uint64_t bytes) noexcept {
  std::uint64_t out = 0;
  for_each_unit(w, unit, row_bytes, stride, bytes, [&](std::uint32_t shift, std::uint64_t at) {
    const std::byte* const from = data + at;
    out |= (unit == 8   ? load_word<std::uint64_t>(from)
            : unit == 4 ? load_word<std::uint32_t>(from)
            : unit == 2 ? load_word<std::uint16_t>(from)
                        : load_word<std::uint8_t>(from))
           << shift;
  });
  return out;
}
DPGATHER_HOST_DEVICE __attribute__((noinline)) inline void
scatter_word(std::byte* data, std::uint32_t w, std::uint32_t unit, std::uint64_t row_bytes,
             std::uint64_t stride, std::uint64_t bytes, std::uint64_t value) noexcept {
  for_each_unit(w, unit, row_bytes, stride, bytes, [&](std::uint32_t shift, std::uint64_t at) {
    std::byte* const to = data + at;
    if (unit == 8) {
      store_word(to, value);
    } else if (unit == 4) {
      store_word(to, static_cast<std::uint32_t>(value >> shift));
    } else if (unit == 2) {
      store_word(to, static_cast<std::uint16_t>(value >> shift));
    } else {
      store_word(to, static_cast<std::uint8_t>(value >> shift));
    }
  });
}

} // namespace detail

/// `bytes` bytes of rows from `data` on, to read (`const std::byte`) or to write. Word w is bytes
/// 8 w to 8 w + 7 of the rows one after the other; the last one may be short: what is behind the
/// rows reads as zero and is never written. Below 4 GiB.
template <class Byte>
class row_words {
public:
  DPGATHER_HOST_DEVICE row_words(Byte* data, std::uint32_t row_bytes, std::uint64_t stride,
                                 std::uint32_t bytes) noexcept
      : data_{data}, stride_{stride}, row_bytes_{row_bytes}, bytes_{bytes} {
    const auto address = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(data_));
    const bool dense = stride == row_bytes;
    const std::uint32_t bits =
        8 | address | row_bytes_ | (dense ? 0 : static_cast<std::uint32_t>(stride));
    unit_ = bits & (~bits + 1);
    plain_ = unit_ == 8 && dense;
  }
  /// Rows without gaps.
  DPGATHER_HOST_DEVICE row_words(Byte* data, std::uint32_t row_bytes, std::uint32_t bytes) noexcept
      : row_words{data, row_bytes, row_bytes, bytes} {}

  /// Rows without gaps that are known to be whole aligned words.
  [[nodiscard]] DPGATHER_HOST_DEVICE static row_words whole(Byte* data,
                                                            std::uint32_t bytes) noexcept {
    row_words out{data, 8, bytes};
    out.plain_ = true;
    return out;
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint32_t words() const noexcept {
    return bytes_ / 8 + (bytes_ % 8 != 0 ? 1 : 0);
  }
  /// Word `w`, below `words()`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t get(std::uint32_t w) const noexcept {
    if (plain_) return detail::load_word<std::uint64_t>(data_ + std::uint64_t{w} * 8);
    return detail::gather_word(data_, w, unit_, row_bytes_, stride_, bytes_);
  }
  DPGATHER_HOST_DEVICE void put(std::uint32_t w, std::uint64_t value) const noexcept {
    if (plain_) {
      detail::store_word(data_ + std::uint64_t{w} * 8, value);
    } else {
      detail::scatter_word(data_, w, unit_, row_bytes_, stride_, bytes_, value);
    }
  }

private:
  Byte* data_;
  std::uint64_t stride_;
  std::uint32_t row_bytes_, bytes_;
  std::uint32_t unit_ = 1; // bytes that every address and length is a multiple of, at most 8
  bool plain_ = false;     // whole aligned words only
};

} // namespace dpgather::inline v0
