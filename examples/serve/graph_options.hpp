#pragma once

/// @file
/// What 05_graphs takes.

#include "command_line.hpp"
#include "usage_error.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace serve {

inline constexpr std::int32_t most_ranks = 64;
inline constexpr std::int64_t sampled_steps = 10'000; ///< of the schedule, by a stride

struct graph_options {
  std::string trace; ///< empty: generated requests
  std::int64_t steps = 500;
  std::int32_t ranks = 0; ///< 0: one for each GPU
  std::int32_t largest = 256;
};

inline constexpr const char* graph_help = R"(usage: 05_graphs [options]
  --trace FILE    requests in the format of the Azure LLM inference trace 2023
                  (TIMESTAMP,ContextTokens,GeneratedTokens); without it, generated ones
  --steps N       decode steps to run (500), of every (10000 / N)-th step of the schedule those
                  without prefill, which runs in no graph
  --ranks W       data-parallel ranks, each on a GPU of its own (all GPUs)
  --largest B     captured sizes end at B rows, 1 to 256 (256); a step with a longer rank misses
                  them and is counted, not run
  --help          print this
exit code: 0 when all values are right, 1 when some are wrong or a rank failed, 2 for wrong usage,
77 without a GPU
)";

/// Errors: `usage_error`. Prints the help and ends the program where it is asked for.
[[nodiscard]] inline graph_options parse_graph_options(int argc, char** argv) {
  graph_options out;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help") {
      std::fputs(graph_help, stdout);
      std::exit(0);
    }
    if (i + 1 == argc) throw usage_error{"unknown option or missing value: " + name};
    const std::string_view text = argv[++i];
    if (name == "--trace") {
      out.trace = text;
    } else if (name == "--steps") {
      out.steps = number<std::int64_t>(name, text, 1, 1'000'000);
    } else if (name == "--ranks") {
      out.ranks = number<std::int32_t>(name, text, 1, most_ranks);
    } else if (name == "--largest") {
      out.largest = number<std::int32_t>(name, text, 1, 256);
    } else {
      throw usage_error{"unknown option " + name};
    }
  }
  return out;
}

} // namespace serve
