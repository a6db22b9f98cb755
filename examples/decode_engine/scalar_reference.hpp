#pragma once

/// @file
/// The decoder once more, as plainly as it can be said: one request alone, one token after the
/// other, in whole numbers, without ranks, batches, pages or the library. What it decodes must be
/// what the engine does, which shows that the engine's fp32 sums are exact.

#include "model.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

class scalar_reference {
public:
  /// The answer to request `number` of the trace, `tokens` long.
  [[nodiscard]] std::vector<std::int32_t> decode(std::int32_t number, std::int32_t prompt_tokens,
                                                 std::int32_t tokens) {
    for (auto& layer : seen_) layer.clear();
    std::vector<std::int32_t> out;
    for (std::int32_t p = 0; static_cast<std::int32_t>(out.size()) < tokens; ++p) {
      const std::int32_t next = forward(p < prompt_tokens ? prompt_token(number, p) : out.back(),
                                        static_cast<std::uint32_t>(p));
      if (p + 1 >= prompt_tokens) out.push_back(next);
    }
    return out;
  }

private:
  using values = std::vector<std::int64_t>;

  /// `n / d`, ties to even, clamped.
  [[nodiscard]] static std::int64_t divided(std::int64_t n, std::int64_t d, std::int64_t low,
                                            std::int64_t high) {
    std::int64_t q = n / d - (n % d < 0 ? 1 : 0);
    const std::int64_t twice = 2 * (n - q * d);
    if (twice > d || (twice == d && q % 2 != 0)) ++q;
    return std::clamp(q, low, high);
  }
  [[nodiscard]] static values divided(values in, std::int64_t d, std::int64_t low,
                                      std::int64_t high) {
    for (std::int64_t& each : in) each = divided(each, d, low, high);
    return in;
  }
  [[nodiscard]] static values times(const values& x, const matrix& w) {
    values out(w.size() / x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      for (std::size_t j = 0; j < out.size(); ++j)
        out[j] += x[i] * static_cast<std::int64_t>(w[i * out.size() + j]);
    return out;
  }

  [[nodiscard]] std::int32_t forward(std::int32_t token, std::uint32_t position) {
    values residual(hidden);
    for (std::uint32_t c = 0; c < hidden; ++c)
      residual[c] =
          static_cast<std::int64_t>(model_.embedding[static_cast<std::size_t>(token) * hidden + c] +
                                    on_grid(9, position, c, 3));
    for (std::int32_t l = 0; l < layers; ++l) {
      const layer_weights& w = model_.layer[static_cast<std::size_t>(l)];
      const values attended = times(attention(l, divided(residual, 2, -7, 7)), w.output);
      for (std::size_t c = 0; c < hidden; ++c)
        residual[c] = divided(8 * residual[c] + attended[c], 8, -31, 31);
      const values ffn = is_moe(l) ? mixture(w, divided(residual, 2, -7, 7))
                                   : two_layers(w.up, w.down, divided(residual, 2, -7, 7));
      for (std::size_t c = 0; c < hidden; ++c)
        residual[c] = std::clamp<std::int64_t>(residual[c] + divided(ffn[c], 8, -31, 31), -31, 31);
    }
    const values logits = times(divided(residual, 2, -7, 7), model_.logits);
    return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
  }

  /// Of the newest token, whose key and value join those seen so far.
  [[nodiscard]] values attention(std::int32_t l, const values& x) {
    std::vector<values>& seen = seen_[static_cast<std::size_t>(l)];
    seen.push_back(divided(times(x, model_.layer[static_cast<std::size_t>(l)].qkv), 4, -7, 7));
    constexpr std::size_t columns = heads * head_dim;
    values out(columns);
    for (std::size_t h = 0; h < columns; h += head_dim) {
      values scores;
      for (const values& each : seen) {
        scores.push_back(0);
        for (std::size_t c = h; c < h + head_dim; ++c)
          scores.back() += seen.back()[c] * each[columns + c];
      }
      const std::int64_t best = std::ranges::max(scores);
      std::int64_t all = 0;
      for (std::size_t j = 0; j < seen.size(); ++j) {
        const std::int64_t weight = std::int64_t{1} << (6 + divided(scores[j] - best, 16, -6, 0));
        all += weight;
        for (std::size_t c = h; c < h + head_dim; ++c) out[c] += weight * seen[j][2 * columns + c];
      }
      for (std::size_t c = h; c < h + head_dim; ++c) out[c] = divided(2 * out[c], all, -7, 7);
    }
    return out;
  }

  [[nodiscard]] static values two_layers(const matrix& up, const matrix& down, const values& x) {
    return times(divided(times(x, up), 8, 0, 15), down);
  }

  [[nodiscard]] static values mixture(const layer_weights& w, const values& x) {
    values logits = times(x, w.router);
    values out(hidden);
    for (const std::int64_t gate : {2, 1}) {
      const auto best = std::ranges::max_element(logits);
      const expert_weights& e = w.own_experts[static_cast<std::size_t>(best - logits.begin())];
      const values addend = two_layers(e.up, e.down, x);
      for (std::size_t c = 0; c < hidden; ++c) out[c] += gate * addend[c];
      *best = INT64_MIN;
    }
    return out;
  }

  model_shard model_{dg::topology{}};            ///< all of it
  std::array<std::vector<values>, layers> seen_; ///< by layer and token: query, key, value
};

} // namespace engine
