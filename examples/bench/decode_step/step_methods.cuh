#pragma once

/// @file
/// Transports as methods that are captured, verified and timed: a step of all layers, and its parts
/// apart.

#include "../support/method.hpp"
#include "step_case.hpp"
#include "step_rank.cuh"
#include "transport.cuh"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace bench {

/// What of a step is timed apart.
enum class step_part : std::int32_t { attention, ffn, moves };
inline constexpr step_part step_parts[] = {step_part::attention, step_part::ffn, step_part::moves};
[[nodiscard]] constexpr const char* name_of(step_part which) {
  switch (which) {
  case step_part::attention:
    return "attention";
  case step_part::ffn:
    return "FFN";
  case step_part::moves:
    return "gather + combine";
  }
  return "?";
}

/// Of one rank. Methods refer to the rank and to what they are made of.
class step_methods {
public:
  explicit step_methods(step_rank& here) : here_{here} {}

  /// Runs a transport's own GEMMs once: cuBLAS loads its kernels, for which it may wait for the
  /// device, while nothing there waits for a peer. Waits.
  void load(const transport& by) {
    here_.model().attention(0, here_.expected().tokens(), here_.plain().local, by.own_rows);
    here_.model().ffn(0, here_.plain().gathered, here_.plain().addends, by.ffn_rows);
    here_.place().wait("GEMMs");
  }

  /// A decode step of `what`, one call of the method. Its rows are compared with the expected ones
  /// bit by bit after some replays; where more than two ranks add up, NCCL rounds on the way and is
  /// not held to it.
  [[nodiscard]] method step(const step_case& what, std::shared_ptr<const transport> by,
                            bool rounds_once) {
    const auto own = static_cast<std::size_t>(here_.rank());
    const auto real = std::make_shared<std::int32_t>(what.most[own]);
    by->bring(0);
    here_.place().wait("counts");
    method out{.name = by->name,
               .call = [this, by](int) { enqueue(*by); },
               .prepare = [this, by] { poison(*by); },
               .wrong =
                   [this, by, real, rounds_once](int) {
                     by->check();
                     return rounds_once ? here_.expected().wrong(by->sums, *real) : 0;
                   },
               .before =
                   [by, real, own, splits = what.splits](int n) {
                     *real = splits[static_cast<std::size_t>(n)][own];
                     by->bring(n);
                   },
               .verified = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}}; // for what goes wrong at times
    return out;
  }
  /// The same calls of all layers without the other parts.
  [[nodiscard]] method part(step_part which, std::shared_ptr<const transport> by) {
    return {.name = by->name + ": " + name_of(which),
            .call =
                [this, which, by](int) {
                  for (std::int32_t l = 0; l < here_.shape().layers; ++l) {
                    if (which == step_part::attention) attention(l, *by);
                    if (which == step_part::ffn) ffn(l, *by);
                    if (which != step_part::moves) continue;
                    by->gather();
                    by->combine();
                  }
                },
            .before = [by](int n) { by->bring(n); }};
  }

private:
  void attention(std::int32_t layer, const transport& by) {
    here_.model().attention(layer, layer == 0 ? here_.expected().tokens() : by.sums, by.local,
                            by.own_rows);
  }
  void ffn(std::int32_t layer, const transport& by) {
    here_.model().ffn(layer, by.gathered, by.addends, by.ffn_rows);
  }
  void enqueue(const transport& by) {
    for (std::int32_t l = 0; l < here_.shape().layers; ++l) {
      attention(l, by);
      by.gather();
      ffn(l, by);
      by.combine();
    }
  }
  /// All that a step writes, a peer's view of this rank's memory included.
  void poison(const transport& by) {
    here_.poison();
    const std::size_t bytes = static_cast<std::size_t>(by.ffn_rows) * here_.shape().row_bytes();
    poison_bytes(const_cast<std::byte*>(by.gathered), bytes, here_.stream());
    poison_bytes(by.addends, bytes, here_.stream());
  }

  step_rank& here_;
};

} // namespace bench
