#pragma once

/// @file
/// The decoder's dimensions, and the part of its weights that one rank holds.
///
/// Weights are made from their global indices, so a shard has exactly the columns and rows that the
/// whole would have. Layers alternate between a dense FFN and a mixture of experts.

#include "grid.hpp"

#include <dpgather/topology.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace engine {

namespace dg = dpgather;

inline constexpr std::int32_t vocabulary = 128;
inline constexpr std::int32_t hidden = 32;
inline constexpr std::int32_t heads = 4;         ///< dealt to the attention-TP ranks
inline constexpr std::int32_t head_dim = 8;      ///< of queries, keys and values
inline constexpr std::int32_t intermediate = 64; ///< of the dense FFN, dealt to all ranks
inline constexpr std::int32_t experts = 16;      ///< dealt to all ranks
inline constexpr std::int32_t expert_intermediate = 16;
inline constexpr std::int32_t top_k = 2;
inline constexpr std::int32_t layers = 4;

[[nodiscard]] constexpr bool is_moe(std::int32_t layer) noexcept { return layer % 2 == 1; }

/// Rows that the experts of all ranks run on for so many token rows: no tail is among them.
[[nodiscard]] constexpr std::int64_t expert_rows_of(std::int64_t token_rows) noexcept {
  std::int64_t out = 0;
  for (std::int32_t l = 0; l < layers; ++l) out += is_moe(l) ? token_rows * top_k : 0;
  return out;
}

/// Consecutive units of a dimension that one rank has.
struct shard {
  std::int32_t first = 0;
  std::int32_t count = 0;

  /// Part `rank` of `size` of `total` units; parts differ by at most one unit.
  [[nodiscard]] static constexpr shard of(std::int32_t total, std::int32_t rank,
                                          std::int32_t size) noexcept {
    const std::int32_t first = total * rank / size;
    return {first, total * (rank + 1) / size - first};
  }
};

/// A dense matrix `[rows, columns]`.
using matrix = std::vector<float>;

struct expert_weights {
  matrix up;   ///< `[hidden, expert_intermediate]`
  matrix down; ///< `[expert_intermediate, hidden]`
};

struct layer_weights {
  matrix qkv;    ///< `[hidden, 3 * own head columns]`: queries, keys, values
  matrix output; ///< `[own head columns, hidden]`
  matrix up;     ///< `[hidden, own units]`, dense layers only
  matrix down;   ///< `[own units, hidden]`
  matrix router; ///< `[hidden, experts]`, MoE layers only; replicated
  std::vector<expert_weights> own_experts;
};

/// All that one rank holds. Immutable after construction.
class model_shard {
public:
  /// `on_whole_numbers`: false adds a fraction to each weight, the same whoever holds it; then sums
  /// depend on their order.
  explicit model_shard(const dg::topology& where, bool on_whole_numbers = true)
      : fraction_{on_whole_numbers ? 0.0F : 1.0F}, own_heads{shard::of(heads, where.tp_rank,
                                                                       where.tp_size)},
        own_units{shard::of(intermediate, where.world_rank(), where.world_size())},
        own_experts{shard::of(experts, where.world_rank(), where.world_size())},
        embedding{made(0, {0, vocabulary}, {0, hidden}, 7)}, logits{made(1, {0, hidden},
                                                                         {0, vocabulary}, 1)} {
    for (std::int32_t l = 0; l < layers; ++l) {
      const auto id = [l](std::int32_t which) {
        return static_cast<std::uint32_t>(100 * l + which);
      };
      const shard all{0, hidden};
      const shard columns{own_heads.first * head_dim, own_heads.count * head_dim};
      layer_weights w;
      for (std::int32_t row = 0; row < hidden; ++row) {
        for (const std::int32_t which : {2, 3, 4}) {
          const matrix part = made(id(which), {row, 1}, columns, 1);
          w.qkv.insert(w.qkv.end(), part.begin(), part.end());
        }
      }
      w.output = made(id(5), columns, all, 1);
      if (is_moe(l)) {
        w.router = made(id(6), all, {0, experts}, 1);
        for (std::int32_t e = own_experts.first; e < own_experts.first + own_experts.count; ++e)
          w.own_experts.push_back({made(id(10 + 2 * e), all, {0, expert_intermediate}, 1),
                                   made(id(11 + 2 * e), {0, expert_intermediate}, all, 1)});
      } else {
        w.up = made(id(7), all, own_units, 1);
        w.down = made(id(8), own_units, all, 1);
      }
      layer.push_back(std::move(w));
    }
  }

private:
  float fraction_; ///< first, since weights are made with it

public:
  shard own_heads, own_units, own_experts;
  matrix embedding; ///< `[vocabulary, hidden]`
  matrix logits;    ///< `[hidden, vocabulary]`
  std::vector<layer_weights> layer;

  /// Floats of this rank's heads: a query, a key or a value.
  [[nodiscard]] std::int32_t head_columns() const noexcept { return own_heads.count * head_dim; }

private:
  [[nodiscard]] matrix made(std::uint32_t id, shard rows, shard columns, std::int32_t limit) const {
    matrix out;
    for (std::int32_t row = rows.first; row < rows.first + rows.count; ++row) {
      for (std::int32_t column = columns.first; column < columns.first + columns.count; ++column) {
        const auto r = static_cast<std::uint32_t>(row);
        const auto c = static_cast<std::uint32_t>(column);
        out.push_back(on_grid(id, r, c, limit) + fraction_ * on_grid(id + 5000, r, c, 400) / 1000);
      }
    }
    return out;
  }
};

/// The token at a position of a made-up prompt: traces tell lengths only.
[[nodiscard]] constexpr std::int32_t prompt_token(std::int32_t request,
                                                  std::int32_t position) noexcept {
  return static_cast<std::int32_t>(
      scramble(7, static_cast<std::uint32_t>(request), static_cast<std::uint32_t>(position)) %
      vocabulary);
}

} // namespace engine
