#pragma once

/// @file
/// The sharded FFN: each rank has some of the intermediate units and runs them on the rows of all
/// ranks. What it leaves is an addend; the combine sums them.

#include "kernels.hpp"
#include "model.hpp"
#include "tail_guard.hpp"
#include "tensor.hpp"

#include <cstdint>

namespace engine {

class dense_ffn {
public:
  dense_ffn(std::int64_t global_capacity, std::int32_t own_units)
      : activated_{tensor_name::activated, global_capacity, own_units}, units_{own_units} {}

  /// `in`, `addends`: `[rows.rows, hidden]`, all ranks' rows.
  void run(const layer_weights& weights, tensor& in, tensor& addends, const row_sets& rows,
           tail_guard& guard) noexcept {
    guard.poison(in, rows);
    matmul(in.row(0), weights.up.data(), activated_.row(0), rows.rows, hidden, units_);
    // Clamped at 0 from below: that is the ReLU.
    requantise_all(activated_.row(0), activated_.row(0), rows.rows * units_, 0.125F, 0, 15);
    guard.check(activated_, rows);

    guard.poison(activated_, rows);
    matmul(activated_.row(0), weights.down.data(), addends.row(0), rows.rows, units_, hidden);
    guard.check(addends, rows);
  }

private:
  tensor activated_;
  std::int32_t units_;
};

} // namespace engine
