#pragma once

/// @file
/// Rows as one string of 8-byte words, whatever their size, distance and alignment: what lines
/// carry. One text for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// `count` rows from `first` on of a tensor, to read (`const std::byte`) or to write. Word w is
/// bytes 8 w to 8 w + 7 of the rows one after the other; the last one may be short: what is behind
/// the rows reads as zero and is never written.
template <class Byte>
class row_words {
public:
  DPGATHER_HOST_DEVICE row_words(const detail::row_places<Byte>& rows, row_range which) noexcept
      : data_{rows.data + static_cast<std::uint64_t>(which.first) * rows.stride},
        row_bytes_{rows.row_bytes}, stride_{rows.stride},
        bytes_{which.count < 0 ? 0 : static_cast<std::uint64_t>(which.count) * rows.row_bytes} {
    const auto address = reinterpret_cast<std::uintptr_t>(data_);
    dense_ = stride_ == row_bytes_;
    unit_ = static_cast<std::uint32_t>(
        detail::lowest_bit(8 | address | row_bytes_ | (dense_ ? 0 : stride_)));
    plain_ = unit_ == 8 && dense_;
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept {
    return (bytes_ + 7) / 8;
  }
  /// Word `w`, below `words()`.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t get(std::uint64_t w) const noexcept {
    if (plain_) return detail::load_word<std::uint64_t>(data_ + w * 8);
    std::uint64_t out = 0;
    for_each_unit(w, [&](std::uint32_t shift, Byte* at) {
      switch (unit_) {
      case 8:
        out = detail::load_word<std::uint64_t>(at);
        break;
      case 4:
        out |= std::uint64_t{detail::load_word<std::uint32_t>(at)} << shift;
        break;
      case 2:
        out |= std::uint64_t{detail::load_word<std::uint16_t>(at)} << shift;
        break;
      default:
        out |= std::uint64_t{detail::load_word<std::uint8_t>(at)} << shift;
      }
    });
    return out;
  }
  DPGATHER_HOST_DEVICE void put(std::uint64_t w, std::uint64_t value) const noexcept {
    if (plain_) {
      detail::store_word(data_ + w * 8, value);
      return;
    }
    for_each_unit(w, [&](std::uint32_t shift, Byte* at) {
      switch (unit_) {
      case 8:
        detail::store_word(at, value);
        break;
      case 4:
        detail::store_word(at, static_cast<std::uint32_t>(value >> shift));
        break;
      case 2:
        detail::store_word(at, static_cast<std::uint16_t>(value >> shift));
        break;
      default:
        detail::store_word(at, static_cast<std::uint8_t>(value >> shift));
      }
    });
  }

private:
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each_unit(std::uint64_t w, Visit visit) const noexcept {
    std::uint64_t at = w * 8;
    std::uint64_t row = dense_ ? 0 : at / row_bytes_;
    std::uint64_t column = dense_ ? at : at - row * row_bytes_;
    for (std::uint32_t shift = 0; shift < 64 && at < bytes_; shift += 8 * unit_, at += unit_) {
      visit(shift, data_ + row * stride_ + column);
      column += unit_;
      if (!dense_ && column == row_bytes_) column = 0, ++row;
    }
  }

  Byte* data_;
  std::uint64_t row_bytes_, stride_, bytes_;
  std::uint32_t unit_ = 1; // bytes that every address and length is a multiple of, at most 8
  bool dense_ = false;
  bool plain_ = false; // whole aligned words only
};

} // namespace dpgather::inline v0
