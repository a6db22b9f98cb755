#pragma once

/// @file
/// The engine's activations: rows of floats with a name, sized once.

#include <dpgather/placement.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

namespace dg = dpgather;

/// Names, for reports of rows that went where they must not.
enum class tensor_name : std::uint8_t {
  unknown,
  hidden_rows,
  normed,
  qkv,
  context,
  attention_addends,
  gathered,
  ffn_input,
  activated,
  ffn_addends,
  combined,
  kv_cache,
};

[[nodiscard]] constexpr const char* name_of(tensor_name t) noexcept {
  constexpr const char* names[] = {"unknown",   "hidden_rows",       "normed",   "qkv",
                                   "context",   "attention_addends", "gathered", "ffn_input",
                                   "activated", "ffn_addends",       "combined", "kv_cache"};
  return names[static_cast<std::size_t>(t)];
}

/// `[capacity, width]`, dense. A step uses the first rows of it.
class tensor {
public:
  tensor(tensor_name name, std::int64_t capacity, std::int32_t width)
      : name_{name}, width_{width},
        values_(static_cast<std::size_t>(capacity) * static_cast<std::size_t>(width)) {}

  [[nodiscard]] tensor_name name() const noexcept { return name_; }
  [[nodiscard]] std::int32_t width() const noexcept { return width_; }
  [[nodiscard]] float* row(std::int64_t i) noexcept { return values_.data() + i * width_; }
  [[nodiscard]] const float* row(std::int64_t i) const noexcept {
    return values_.data() + i * width_;
  }
  /// The first `rows` rows, as the library takes them.
  template <dg::row_state State>
  [[nodiscard]] auto rows(std::int64_t rows) noexcept {
    return dg::rows_of<State>(values_.data(), rows, width_);
  }

private:
  tensor_name name_;
  std::int32_t width_;
  std::vector<float> values_;
};

/// Which rows of a step's tensors are real and which are tails.
struct row_sets {
  std::vector<dg::row_range> real, tails;
  std::int64_t rows = 0; ///< all of them

  /// This rank's own: `real` rows, then a tail up to `padded`.
  void set_local(std::int32_t real_rows, std::int32_t padded) {
    real.assign(1, {0, real_rows});
    tails.assign(1, {real_rows, padded - real_rows});
    rows = padded;
  }
  /// Those of the global tensor, wherever the plan's layout has them.
  void set_global(const dg::placement& places, std::int32_t dp_size) {
    real.clear();
    tails.clear();
    for (std::int32_t d = 0; d < dp_size; ++d) real.push_back({places.offset(d), places.rows(d)});
    tail_list found;
    places.for_each_tail(found);
    tails.insert(tails.end(), found.ranges, found.ranges + found.count);
    rows = places.global_rows();
  }

private:
  /// A visitor that a kernel could have, which is what `for_each_tail` wants where nvcc compiles.
  struct tail_list {
    dg::row_range ranges[dg::max_ranks];
    std::int32_t count = 0;
    DPGATHER_HOST_DEVICE void operator()(dg::row_range tail) noexcept { ranges[count++] = tail; }
  };
};

} // namespace engine
