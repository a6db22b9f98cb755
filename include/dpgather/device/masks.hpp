#pragma once

/// @file
/// What the FFN behind a gather needs to know of rows that are not real, from *real* counts.
/// (SGLang's own pad mask reads a list that holds padded counts in real runs, so it masks nothing.)

#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/placement.hpp>

#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// One global row's origin.
struct row_source {
  std::int32_t dp_rank = -1; ///< -1: the row is not real
  std::int32_t row = -1;     ///< of that rank
};

/// Masks of the rows of one global tensor; each is written where it is asked for. One launch.
struct row_masks {
  placement places{};
  std::uint32_t* pad_bits = nullptr; ///< [ceil(rows / 32)], bit `row % 32` set for a pad row
  row_source* sources = nullptr;     ///< [rows]
  std::int32_t* topk_ids = nullptr;  ///< [rows, topk]: those of pad rows become `pad_expert`
  float* topk_weights = nullptr;     ///< [rows, topk]: those of pad rows become 0
  std::int32_t topk = 0;
  std::int32_t pad_expert = -1; ///< 0 for kernels that cannot skip: then ask for the weights too

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(places.global_rows());
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    write(places, worker);
  }
  /// A worker for each row, and one for each 32 bits, so that no bit has two writers. `where`: a
  /// `placement`, or what answers like one.
  template <class Places>
  DPGATHER_HOST_DEVICE void write(const Places& where, worker_id worker) const noexcept {
    const auto rows = where.global_rows();
    using row_index = std::remove_const_t<decltype(rows)>;
    const auto first = static_cast<row_index>(worker.index);
    const auto step = static_cast<row_index>(worker.count);
    if (sources != nullptr || topk_ids != nullptr || topk_weights != nullptr) {
      DPGATHER_ROLLED
      for (row_index row = first; row < rows; row += step) {
        const std::int32_t owner = where.owner(row);
        if (owner < 0) mask_experts(row);
        if (sources != nullptr)
          sources[row] =
              owner < 0 ? row_source{}
                        : row_source{owner, static_cast<std::int32_t>(row - where.offset(owner))};
      }
    }
    if (pad_bits == nullptr) return;
    DPGATHER_ROLLED
    for (row_index group = first; group < rows / 32 + (rows % 32 != 0 ? 1 : 0); group += step)
      pad_bits[group] =
          pad_bits_of(where, group * 32, rows - group * 32 < 32 ? rows : group * 32 + 32);
  }

private:
  /// Bits of the rows `begin` to `end`, at most 32: set where a tail has them.
  template <class Places, class Row>
  [[nodiscard]] DPGATHER_HOST_DEVICE static std::uint32_t pad_bits_of(const Places& where,
                                                                      Row begin, Row end) noexcept {
    std::uint32_t bits = 0;
    where.for_each_tail([&](row_range tail) noexcept {
      const std::int64_t from = tail.first > begin ? tail.first : begin;
      const std::int64_t to = tail.first + tail.count < end ? tail.first + tail.count : end;
      if (from >= to) return;
      const std::uint32_t ones =
          to - from == 32 ? 0xffffffffu : (std::uint32_t{1} << (to - from)) - 1;
      bits |= ones << (from - begin);
    });
    return bits;
  }
  DPGATHER_HOST_DEVICE void mask_experts(std::int64_t row) const noexcept {
    for (std::int32_t k = 0; k < topk; ++k) {
      if (topk_ids != nullptr) topk_ids[row * topk + k] = pad_expert;
      if (topk_weights != nullptr) topk_weights[row * topk + k] = 0;
    }
  }
};

/// Writes the masks on a stream. Stream: ordered. Capture: safe, counts are read at replay.
/// Ownership: borrows all arrays. Errors: `native_error`.
template <class Stream>
[[nodiscard]] status write_masks(const row_masks& masks, Stream stream) noexcept {
  return executor<Stream>::run(masks, 0, stream);
}

} // namespace dpgather::inline v0
