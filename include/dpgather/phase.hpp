#pragma once

/// @file
/// What a rank does in a step, in the engines' words.

#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Forward mode of one rank in one step (SGLang's ForwardMode without its engine-internal values).
enum class phase : std::uint8_t { idle, decode, extend, mixed, verify, draft_extend };

/// True for the phases that process prompt tokens, whose counts follow prompts and not requests.
[[nodiscard]] constexpr bool is_prefill(phase p) noexcept {
  return p == phase::extend || p == phase::mixed;
}

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(phase p) noexcept {
  switch (p) {
  case phase::idle:
    return "idle";
  case phase::decode:
    return "decode";
  case phase::extend:
    return "extend";
  case phase::mixed:
    return "mixed";
  case phase::verify:
    return "verify";
  case phase::draft_extend:
    return "draft_extend";
  }
  return "unknown";
}

/// Where a step runs: launched call by call, or replayed from a captured graph of fixed shapes.
enum class situation : std::uint8_t { eager, in_graph };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(situation s) noexcept {
  return s == situation::eager ? "eager" : "in_graph";
}

} // namespace dpgather::inline v0
