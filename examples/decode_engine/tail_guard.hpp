#pragma once

/// @file
/// `--poison`: finds any kernel that lets a tail reach a real row, and says which row it was.
///
/// Tails are filled with NaN before they can be read, and every real row is looked through after
/// each stage. A NaN has 22 bits to spare, and arithmetic carries them along: they hold the tensor
/// and the row that the NaN was put in. So what is found in a real row tells where it came from.

#include "tensor.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <string>

namespace engine {

/// The first real row that a tail has reached on one rank, and where it came from.
struct leak {
  std::uint64_t step = 0;
  std::int64_t stage = 0; ///< within the step: what comes first is the cause
  std::int32_t layer = 0;
  std::int32_t rank = -1; ///< of the world; -1: none
  tensor_name found_in = tensor_name::unknown;
  std::int64_t found_row = 0;
  tensor_name from = tensor_name::unknown;
  std::int64_t from_row = 0;

  [[nodiscard]] std::string sentence() const {
    char text[200];
    if (from == tensor_name::unknown) { // bf16 has no room for where a NaN was put
      std::snprintf(text, sizeof text,
                    "rank %d, step %llu, layer %d: a tail row reached row %lld of %s", rank,
                    static_cast<unsigned long long>(step), layer, static_cast<long long>(found_row),
                    name_of(found_in));
      return text;
    }
    std::snprintf(text, sizeof text,
                  "rank %d, step %llu, layer %d: tail row %lld of %s reached row %lld of %s", rank,
                  static_cast<unsigned long long>(step), layer, static_cast<long long>(from_row),
                  name_of(from), static_cast<long long>(found_row), name_of(found_in));
    return text;
  }
};

class tail_guard {
public:
  tail_guard(bool on, std::int32_t world_rank) noexcept : on_{on}, rank_{world_rank} {}

  [[nodiscard]] bool on() const noexcept { return on_; }
  void begin(std::uint64_t step) noexcept {
    step_ = step;
    stage_ = 0;
  }
  void enter_layer(std::int32_t layer) noexcept { layer_ = layer; }

  /// Fills the tails of a tensor that a stage is about to read.
  void poison(tensor& t, const row_sets& rows) const noexcept {
    if (!on_) return;
    for (const dg::row_range tail : rows.tails) poison(t, tail);
  }
  /// Fills rows of a tensor, real or not, before a stage writes them.
  void poison(tensor& t, dg::row_range range) const noexcept {
    if (!on_) return;
    for (std::int64_t r = range.first; r < range.first + range.count; ++r)
      std::fill_n(t.row(r), t.width(), mark(t.name(), r));
  }

  /// Looks through the real rows that a stage has written.
  void check(const tensor& t, const row_sets& rows) noexcept {
    if (!on_) return;
    ++stage_;
    for (const dg::row_range real : rows.real)
      for (std::int64_t r = real.first; r < real.first + real.count; ++r) check_row(t, r);
  }

  [[nodiscard]] std::int64_t leaks() const noexcept { return leaks_; }     ///< real rows
  [[nodiscard]] std::int64_t checked() const noexcept { return checked_; } ///< real rows
  [[nodiscard]] const leak& first() const noexcept { return first_; }

private:
  static constexpr std::uint32_t quiet_nan = 0x7fc00000U;
  static constexpr std::uint32_t row_bits = 18;
  static constexpr std::uint32_t row_mask = (1U << row_bits) - 1;

  /// A quiet NaN that says where it was put.
  [[nodiscard]] static float mark(tensor_name name, std::int64_t row) noexcept {
    return std::bit_cast<float>(quiet_nan | static_cast<std::uint32_t>(name) << row_bits |
                                (static_cast<std::uint32_t>(row) & row_mask));
  }

  void check_row(const tensor& t, std::int64_t row) noexcept {
    ++checked_;
    const float* const values = t.row(row);
    for (std::int32_t c = 0; c < t.width(); ++c) {
      if (values[c] == values[c]) continue;
      const auto bits = std::bit_cast<std::uint32_t>(values[c]);
      if (leaks_++ == 0)
        first_ = {step_,
                  stage_,
                  layer_,
                  rank_,
                  t.name(),
                  row,
                  static_cast<tensor_name>(bits >> row_bits & 0xfU),
                  bits & row_mask};
      return;
    }
  }

  bool on_;
  std::int32_t rank_;
  std::uint64_t step_ = 0;
  std::int64_t stage_ = 0;
  std::int32_t layer_ = 0;
  std::int64_t leaks_ = 0;
  std::int64_t checked_ = 0;
  leak first_;
};

} // namespace engine
