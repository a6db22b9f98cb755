#pragma once

/// @file
/// What 04_serve_trace takes.

#include "backend.hpp"
#include "command_line.hpp"
#include "launch.hpp"
#include "scheduler.hpp"
#include "usage_error.hpp"

#include <dpgather/bucket_list.hpp>
#include <dpgather/hash.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace serve {

inline constexpr const char* serve_help = R"(usage: 04_serve_trace [options]
  --trace FILE    requests in the format of the Azure LLM inference trace 2023
                  (TIMESTAMP,ContextTokens,GeneratedTokens); without it, generated ones
  --ranks W       data-parallel ranks, 1 to 64 (8; under a launcher, as many as it started)
  --tp A          attention-TP ranks in each, 1 to 8 (1)
  --steps N       steps to run (2000 of a trace, 1000 of generated requests)
  --start S       first second of the trace to run; what came before is scheduled, not run (0)
  --stride N      schedule every step, run every N-th that has work (20000 / steps): a sample of a
                  long stretch, since no short window of a trace stands for the whole
  --speed X       arrivals X times as fast as recorded (1)
  --policy NAME   run only this one; may be repeated: pr8278 sglang_now max_always sum_always
                  exact_eager exact_graph
  --seed N        of the generated requests (1)
  --backend B     auto, host or nccl (auto: nccl where there is a GPU for each of the W * A ranks
                  and it was built in, else host)
  --launch L      what ranks are. threads: of this process, the only ones that host has.
                  processes: this program starts itself once for each rank. env: a launcher has
                  started this process as a rank (torchrun: RANK, WORLD_SIZE; mpirun:
                  OMPI_COMM_WORLD_RANK, _SIZE; or PMI_RANK, PMI_SIZE). (env where torchrun or
                  mpirun started more than one, else threads.) All ranks are on one host and see
                  all its GPUs
  --rank R        this process is world rank R: ranks started by hand or by anything else
  --socket PATH   where processes meet, the same for all (/tmp/dpgather-<parent's pid>.sock)
  --fit-ladder N  run nothing: plan the decode steps of the whole trace, fit ladders of N sizes on
                  the first half of them and score them on the second (0: as many sizes as the
                  policy's ladder used); and how many graphs buy how many rows. --policy and what
                  is said of ranks that are processes have no say in it
  --json          print one JSON object instead of the table
  --help          print this
exit code: 0 when all values are right, 1 when some are wrong or a rank failed, 2 for wrong usage,
77 when nccl is asked for and there are too few GPUs
)";

struct serve_options {
  std::string trace; ///< empty: generated requests
  std::vector<std::string> policies;
  std::int64_t steps = 0;
  std::uint64_t seed = 1;
  bool json = false;
  std::int32_t fit_ladder = -1; ///< sizes; 0: as many as are used; -1: not asked for
  backend_kind backend = backend_kind::automatic;
  launch_options launch;
  schedule_options schedule;

  [[nodiscard]] bool generated() const noexcept { return trace.empty(); }

  /// Of all that ranks must have been given alike.
  [[nodiscard]] std::uint64_t digest() const noexcept {
    dpgather::digest_builder out;
    const auto add = [&out](const auto& value) {
      for (const char c : std::to_string(value)) out.add(static_cast<unsigned char>(c));
      out.add(0);
    };
    const auto add_text = [&out](const std::string& text) {
      for (const char c : text) out.add(static_cast<unsigned char>(c));
      out.add(0);
    };
    add_text(trace);
    for (const std::string& each : policies) add_text(each);
    add(steps);
    add(seed);
    add(launch.attention_ranks);
    add(schedule.start_seconds);
    add(schedule.stride);
    add(schedule.speed);
    add_text(launch.socket);
    return out.value();
  }
};

/// Errors: `usage_error`. Prints the help and ends the program where it is asked for.
[[nodiscard]] inline serve_options parse_serve_options(int argc, char** argv) {
  serve_options out;
  out.schedule.stride = 0; // not given
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help") {
      std::fputs(serve_help, stdout);
      std::exit(0);
    }
    if (name == "--json") {
      out.json = true;
      continue;
    }
    if (i + 1 == argc) throw usage_error{"unknown option or missing value: " + std::string{name}};
    const std::string_view value = argv[++i];
    if (name == "--trace") {
      out.trace = value;
    } else if (name == "--ranks") {
      out.launch.ranks = number<std::int32_t>(name, value, 1, 64);
    } else if (name == "--tp") {
      out.launch.attention_ranks = number<std::int32_t>(name, value, 1, 8);
    } else if (name == "--steps") {
      out.steps = number<std::int64_t>(name, value, 1, 1'000'000);
    } else if (name == "--start") {
      out.schedule.start_seconds = number<double>(name, value, 0, 1e9);
    } else if (name == "--stride") {
      out.schedule.stride = number<std::int32_t>(name, value, 1, 1'000'000);
    } else if (name == "--speed") {
      out.schedule.speed = number<double>(name, value, 1e-3, 1e3);
    } else if (name == "--fit-ladder") {
      out.fit_ladder = number<std::int32_t>(name, value, 0, dpgather::bucket_list::max_stated);
    } else if (name == "--policy") {
      out.policies.emplace_back(value);
    } else if (name == "--seed") {
      out.seed = number<std::uint64_t>(name, value, 0, UINT64_MAX);
    } else if (name == "--backend") {
      out.backend = backend_named(value);
    } else if (name == "--launch") {
      out.launch.how = value;
    } else if (name == "--rank") {
      out.launch.rank = number<std::int32_t>(name, value, 0, 511);
    } else if (name == "--socket") {
      out.launch.socket = value;
    } else {
      throw usage_error{"unknown option " + std::string{name}};
    }
  }
  if (out.fit_ladder >= 0) { // planning is cheap: all steps
    if (out.steps == 0) out.steps = INT64_MAX;
    if (out.schedule.stride == 0) out.schedule.stride = 1;
  }
  if (out.steps == 0) out.steps = out.generated() ? 1000 : 2000;
  if (out.schedule.stride == 0)
    out.schedule.stride = static_cast<std::int32_t>(std::max<std::int64_t>(1, 20'000 / out.steps));
  return out;
}

} // namespace serve
