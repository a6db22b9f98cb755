#pragma once

/// @file
/// What 08_decode_engine takes.

#include "../serve/command_line.hpp"
#include "../serve/trace.hpp"
#include "../serve/usage_error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

inline constexpr const char* help = R"(usage: 08_decode_engine [options]
  --trace FILE    requests in the format of the Azure LLM inference trace 2023
                  (TIMESTAMP,ContextTokens,GeneratedTokens); without it, generated ones
  --requests N    the first N of them (240)
  --shrink-prompts D, --shrink-answers D
                  divides their lengths, so that a CPU is done in seconds (32 and 6)
  --speed X       arrivals X times as fast as recorded (3)
  --backend NAME  auto, host or cuda: ranks are threads of the CPU, or have a GPU each, or share
                  one where there is one only (auto: cuda where it was built and there is a GPU)
  --ranks W       data-parallel ranks (host: 4; cuda: as many as GPUs, 2 on one)
  --tp A          attention-TP ranks in each: 1, 2 or 4; W * A at most 16 (1)
  --largest N     requests of a rank in the largest captured size, 1 to 24; more than that in a step
                  is a miss (12)
  --policy NAME   run only this one; may be repeated: pr8278 all_reduce exact_coupled
                  exact_decoupled
  --poison        fill all tails with NaN before they can be read; look for it in all real rows
  --plant-leak    the same, with one kernel of the last rank made to read one tail row
  --bf16          on GPUs: once more in numbers that are on no grid, and how many tokens agree
  --svg FILE      on GPUs: plots step time and FFN rows over the rows of a step
  --help          print this
exit code: 0 when all token streams are those of a single rank and no tail has reached a real row,
1 when not or when a rank failed, 2 for wrong usage, 77 where --backend cuda finds no GPU; a planted
leak is one
)";

enum class backend : std::uint8_t { automatic, host, cuda };

struct options {
  std::string trace; ///< empty: generated requests
  std::string svg;   ///< empty: no plot
  backend where = backend::automatic;
  std::vector<std::string> policies;
  std::int32_t requests = 240;
  std::int32_t shrink_prompts = 32;
  std::int32_t shrink_answers = 6;
  double speed = 3;
  std::int32_t ranks = 0; ///< 0: the backend's own
  std::int32_t attention_ranks = 1;
  std::int32_t largest_graph = 12;
  bool poison = false;
  bool plant_leak = false;
  bool bf16 = false;

  /// The requests to serve. Errors: those of `serve::read_trace`.
  [[nodiscard]] std::vector<serve::request> requests_to_serve() const {
    std::vector<serve::request> out =
        trace.empty() ? serve::generate_trace({}) : serve::read_trace(trace);
    out.resize(std::min(out.size(), static_cast<std::size_t>(requests)));
    for (serve::request& each : out) {
      each.prompt_tokens = std::max(1, each.prompt_tokens / shrink_prompts);
      each.output_tokens = std::max(1, each.output_tokens / shrink_answers);
    }
    return out;
  }
};

/// Errors: `usage_error`. Prints the help and ends the program where it is asked for.
[[nodiscard]] inline options parse_options(int argc, char** argv) {
  using serve::number;
  options out;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help") {
      std::fputs(help, stdout);
      std::exit(0);
    }
    if (name == "--bf16") {
      out.bf16 = true;
      continue;
    }
    if (name == "--poison" || name == "--plant-leak") {
      out.poison = true;
      out.plant_leak = out.plant_leak || name == "--plant-leak";
      continue;
    }
    if (i + 1 == argc)
      throw serve::usage_error{"unknown option or missing value: " + std::string{name}};
    const std::string_view value = argv[++i];
    if (name == "--svg") {
      out.svg = value;
    } else if (name == "--backend") {
      if (value != "auto" && value != "host" && value != "cuda")
        throw serve::usage_error{"--backend takes auto, host or cuda"};
      out.where = value == "auto"   ? backend::automatic
                  : value == "host" ? backend::host
                                    : backend::cuda;
    } else if (name == "--trace") {
      out.trace = value;
    } else if (name == "--requests") {
      out.requests = number<std::int32_t>(name, value, 1, 100'000);
    } else if (name == "--shrink-prompts") {
      out.shrink_prompts = number<std::int32_t>(name, value, 1, 10'000);
    } else if (name == "--shrink-answers") {
      out.shrink_answers = number<std::int32_t>(name, value, 1, 10'000);
    } else if (name == "--speed") {
      out.speed = number<double>(name, value, 1e-3, 1e3);
    } else if (name == "--ranks") {
      out.ranks = number<std::int32_t>(name, value, 1, 16);
    } else if (name == "--tp") {
      out.attention_ranks = number<std::int32_t>(name, value, 1, 4);
    } else if (name == "--largest") {
      out.largest_graph = number<std::int32_t>(name, value, 1, 24);
    } else if (name == "--policy") {
      out.policies.emplace_back(value);
    } else {
      throw serve::usage_error{"unknown option " + std::string{name}};
    }
  }
  if (out.attention_ranks == 3) throw serve::usage_error{"--tp takes 1, 2 or 4"};
  if (out.largest_graph < out.attention_ranks)
    throw serve::usage_error{"no captured size is a multiple of the attention-TP ranks"};
  if (std::max(out.ranks, 4) * out.attention_ranks > 16)
    throw serve::usage_error{"at most 16 ranks, attention-TP ranks counted"};
  return out;
}

} // namespace engine
