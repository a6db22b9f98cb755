/// @file
/// Benchmark: whole decode steps of two GPUs with data-parallel attention and a sharded FFN, from
/// captured graphs: rows padded and moved by NCCL, as engines do it, against exact rows over peers.
///
/// One thread per GPU. All methods run the same GEMMs, on as many rows as they leave them. NCCL
/// takes graph mixing from the environment only: run it with NCCL_GRAPH_MIXING_SUPPORT=0 and
/// without.

#include "decode_step/step_options.hpp"
#include "decode_step/step_plots.cuh"
#include "decode_step/step_rank.cuh"
#include "decode_step/step_report.cuh"
#include "decode_step/step_run.cuh"
#include "support/command_line.hpp"
#include "support/full_dependency.cuh"
#include "support/gpu_info.cuh"
#include "support/json.hpp"
#include "support/nccl_environment.cuh"
#include "support/output_file.hpp"
#include "support/team.hpp"
#include "support/watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace {

namespace dg = dpgather;
using options = bench::step_options;

int usage(const std::string& fault) {
  std::fprintf(stderr, "decode_step: %s\n%s%s", fault.c_str(), options::help_text,
               bench::common_options::help_text);
  return 2;
}

void print_environment(const options& with, bench::json_writer& json) {
  bench::print_nccl(json);
  const bench::step_shape& shape = with.shape;
  std::printf(
      "%d ranks; %d layers, each a GEMM of %d x %d on this rank's rows (in place of attention), a "
      "gather,\nan FFN of %d x %d that the ranks share, a combine; bf16, sums in fp32 by cuBLAS; "
      "%.0f MiB of weights\na layer and rank, all layers' apart\n"
      "%d replays in a sample, each of a step with other rows (up to %d %% fewer) in the same "
      "captured sizes;\n%d samples; microseconds per step of the slowest rank\n"
      "*: the best over NCCL, which ratios are to; tokens/s: real rows of all ranks\n",
      shape.ranks, shape.layers, shape.hidden, shape.hidden, shape.hidden, shape.intermediate,
      static_cast<double>(shape.layer_bytes()) / (1 << 20), with.common.replays, with.jitter,
      with.common.samples);
  json.field("ranks", shape.ranks).field("layers", shape.layers).field("hidden", shape.hidden);
  json.field("intermediate", shape.intermediate).field("jitter_percent", with.jitter);
  json.field("replays", with.common.replays).field("samples", with.common.samples);
}

void print_windows(const bench::step_rank& here) {
  if (!here.has_windows()) {
    std::printf("without symmetric windows: %s\n", here.why_no_windows());
  } else if (bench::symmetric_kernels_do_not_wait()) {
    std::printf("NCCL's symmetric kernels do not wait for the kernel before them in this release: "
                "a full\ndependency of the graph does it for them\n");
  }
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with = options::of(line);
  if (!with.fault.empty()) return usage(with.fault);
  if (with.common.help) {
    std::printf("%s%s", options::help_text, bench::common_options::help_text);
    return 0;
  }
  bench::watchdog::start(with.common.timeout_seconds);
  with.shape.ranks = std::min(bench::gpu_count(), with.most_ranks);
  if (with.shape.ranks < 2) {
    std::printf("skipped: needs at least 2 GPUs, has %d\n", with.shape.ranks);
    return 77;
  }
  if (with.shape.intermediate % (8 * with.shape.ranks) != 0)
    return usage("--intermediate takes multiples of 8 times the ranks");
  if (!bench::all_are_peers(with.shape.ranks)) return 77;
  if (!bench::multicast_is_off("decode_step")) return 2;
  std::ofstream json_file, svg_file;
  if (!bench::opens(json_file, with.common.json)) return usage("cannot write " + with.common.json);
  if (!bench::opens(svg_file, with.svg)) return usage("cannot write " + with.svg);

  bench::step_report results{"decode_step"};
  const std::vector<bench::gpu_info> gpus = bench::describe_gpus(with.shape.ranks, results.json());
  print_environment(with, results.json());

  bench::team team{with.shape.ranks};
  std::atomic<bool> right{true};
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{with.shape.ranks}, clock};
  dg::run_ranks(world, [&](dg::host_communicator ranks) {
    const auto here = std::make_unique<bench::step_rank>(ranks, with.shape, team);
    if (here->rank() == 0) print_windows(*here);
    bench::step_run run{ranks, *here, with, results};
    if (!run.all()) right = false;
  });
  const std::string& json = results.finish(with.shape, right);
  if (json_file.is_open() && !(json_file << json << std::endl))
    return usage("cannot write the JSON file");
  const std::string title = std::to_string(with.shape.ranks) + " x " + gpus[0].name + ", " +
                            std::to_string(with.shape.layers) + " layers, hidden " +
                            std::to_string(with.shape.hidden) + ", intermediate " +
                            std::to_string(with.shape.intermediate);
  if (svg_file.is_open() && !(svg_file << bench::plots_of(title, results.cases()) << std::flush))
    return usage("cannot write the SVG file");
  return right ? 0 : 1;
}
