#pragma once

/// @file
/// What 07_exact_in_graph takes.

#include "../serve/command_line.hpp"
#include "../serve/usage_error.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace exact {

/// Their sums of the toy FFN are exact in bf16 up to here.
inline constexpr std::int32_t most_ranks = 8;

struct options {
  std::string trace; ///< empty: built-in splits
  std::int64_t steps = 500;
  std::int32_t hidden = 7168;
  std::int32_t rows = 64;
  std::int32_t ranks = 0; ///< 0: one for each GPU
  bool show_error = false;
};

inline constexpr const char* help = R"(usage: 07_exact_in_graph [options]
  --trace FILE    requests in the format of the Azure LLM inference trace 2023
                  (TIMESTAMP,ContextTokens,GeneratedTokens), of whose schedule the decode steps are
                  taken; without it, built-in splits with idle and full ranks
  --steps N       steps to replay (500)
  --hidden H      bf16 elements of a row, a multiple of 8 (7168)
  --rows B        most rows of a rank, 1 to 2048 (64)
  --ranks W       ranks, a GPU each, 2 to 8 (all GPUs that reach each other's memory)
  --show-error    at the end one rank replays once more than the others; prints what it answers
  --help          print this
NCCL's times depend on NCCL_NVLS_ENABLE and NCCL_GRAPH_MIXING_SUPPORT; the README's are with both 0.
exit code: 0 when all values are right, 1 when some are wrong or a rank failed, 2 for wrong usage,
77 without two GPUs that reach each other's memory
)";

/// Errors: `usage_error`. Prints the help and ends the program where it is asked for.
[[nodiscard]] inline options parse(int argc, char** argv) {
  options out;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help") {
      std::fputs(help, stdout);
      std::exit(0);
    }
    if (name == "--show-error") {
      out.show_error = true;
      continue;
    }
    if (i + 1 == argc) throw serve::usage_error{"unknown option or missing value: " + name};
    const std::string_view text = argv[++i];
    if (name == "--trace") {
      out.trace = text;
    } else if (name == "--steps") {
      out.steps = serve::number<std::int64_t>(name, text, 1, 1'000'000);
    } else if (name == "--hidden") {
      out.hidden = serve::number<std::int32_t>(name, text, 8, 1 << 17);
      if (out.hidden % 8 != 0) throw serve::usage_error{"--hidden takes multiples of 8"};
    } else if (name == "--rows") {
      out.rows = serve::number<std::int32_t>(name, text, 1, 2048);
    } else if (name == "--ranks") {
      out.ranks = serve::number<std::int32_t>(name, text, 2, most_ranks);
    } else {
      throw serve::usage_error{"unknown option " + name};
    }
  }
  return out;
}

} // namespace exact
