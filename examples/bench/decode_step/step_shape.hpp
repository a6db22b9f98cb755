#pragma once

/// @file
/// The model that a decode step runs through, as far as its shapes go.

#include <bit>
#include <cstddef>
#include <cstdint>

namespace bench {

/// Layers of one local GEMM and one FFN that is sharded over all ranks; bf16.
///
/// The defaults are the dense FFN of DeepSeek-V3: hidden 7168, intermediate 18432. (Its experts are
/// 2048 wide, of which a token meets 8 and a shared one: the same 18432.) The GEMM of hidden times
/// hidden stands for what data-parallel attention does with this rank's own rows beside its KV
/// cache, which costs the same whoever moves the rows afterwards.
struct step_shape {
  std::int32_t ranks = 2;
  std::int32_t hidden = 7168;
  std::int32_t intermediate = 18432;
  std::int32_t layers = 8;
  std::int32_t most_rows = 0; ///< of one rank in any case; a captured size

  /// Of the intermediate elements, those of one rank.
  [[nodiscard]] std::int32_t shard() const { return intermediate / ranks; }
  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(hidden) * 2; }
  [[nodiscard]] std::int64_t most_global_rows() const { return std::int64_t{most_rows} * ranks; }

  [[nodiscard]] std::size_t attention_elements() const {
    return static_cast<std::size_t>(hidden) * static_cast<std::size_t>(hidden);
  }
  /// Gate and up.
  [[nodiscard]] std::size_t up_elements() const {
    return 2 * static_cast<std::size_t>(shard()) * static_cast<std::size_t>(hidden);
  }
  [[nodiscard]] std::size_t down_elements() const {
    return static_cast<std::size_t>(shard()) * static_cast<std::size_t>(hidden);
  }
  /// Bytes of all weights of one layer on one rank.
  [[nodiscard]] std::size_t layer_bytes() const {
    return 2 * (attention_elements() + up_elements() + down_elements());
  }

  // Whole numbers stay small by powers of two, which change no digit.
  /// Of gates and ups, so that they are a few units.
  [[nodiscard]] float up_scale() const {
    return power_of_two(-static_cast<std::int32_t>(std::bit_width(unsigned(hidden))) + 1);
  }
  /// Of what one layer leaves to the next.
  [[nodiscard]] float norm_scale() const {
    return power_of_two(-static_cast<std::int32_t>(std::bit_width(unsigned(intermediate))) / 2);
  }

private:
  [[nodiscard]] static float power_of_two(std::int32_t exponent) {
    return exponent < 0 ? 1 / static_cast<float>(1u << -exponent)
                        : static_cast<float>(1u << exponent);
  }
};

} // namespace bench
