/// @file
/// Benchmark: gathers and combines of two to eight GPUs that NVLink joins: NCCL's ways to have
/// them, this library's, and the floor under both.
///
/// One thread per GPU. Every method is a CUDA graph of some calls that is replayed. NCCL takes
/// graph mixing from the environment only: run it with NCCL_GRAPH_MIXING_SUPPORT=0 and without.

#include "collectives/collective_options.hpp"
#include "collectives/collective_rank.cuh"
#include "collectives/collective_report.cuh"
#include "collectives/floors.cuh"
#include "collectives/gather_methods.cuh"
#include "collectives/gemm.cuh"
#include "collectives/peer_methods.cuh"
#include "collectives/rank_run.cuh"
#include "support/command_line.hpp"
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
using options = bench::collective_options;

int usage(const std::string& fault) {
  std::fprintf(stderr, "collectives: %s\n%s%s", fault.c_str(), options::help_text,
               bench::common_options::help_text);
  return 2;
}

void print_environment(const options& with, bench::json_writer& json) {
  bench::print_nccl(json);
  std::printf(
      "%d ranks, rows of %d bf16, %zu bytes; graphs of %d calls, %d replays in a sample, %d "
      "samples\n"
      "microseconds per call of the slowest rank; ratios by medians\n"
      "bytes: what the busiest rank has to receive or send of real rows; GB/s: these bytes\n"
      "inputs in turn: a buffer for each call, or as many as fill twice the L2 cache\n",
      with.shape.ranks, with.shape.hidden, with.shape.row_bytes(), with.common.calls,
      with.common.replays, with.common.samples);
  if (with.wants(bench::section::random))
    std::printf("random counts: %d replays in a sample, each with other ones; seed %d\n",
                with.splits, with.seed);
  json.field("seed", with.seed).field("ranks", with.shape.ranks);
  json.field("hidden", with.shape.hidden).field("calls", with.common.calls);
  json.field("replays", with.common.replays).field("samples", with.common.samples);
}

void print_windows(const bench::collective_rank& here, bench::json_writer& json) {
  json.field("symmetric_windows", here.has_windows());
  if (!here.has_windows()) std::printf("without symmetric windows: %s\n", here.why_no_windows());
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with = options::of(line, bench::peer_methods::known_blocks);
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
  if (!bench::all_are_peers(with.shape.ranks)) return 77;
  if (!bench::multicast_is_off("collectives")) return 2;
  std::ofstream json_file, svg_file;
  if (!bench::opens(json_file, with.common.json)) return usage("cannot write " + with.common.json);
  if (!bench::opens(svg_file, with.svg)) return usage("cannot write " + with.svg);

  bench::collective_report results{"collectives", bench::gather_methods::engine};
  const std::vector<bench::gpu_info> gpus = bench::describe_gpus(with.shape.ranks, results.json());
  print_environment(with, results.json());
  if (with.wants(bench::section::gemm) && !bench::has_gemm)
    std::printf("section gemm is left out: built without cuBLAS\n");

  bench::team team{with.shape.ranks};
  std::atomic<bool> right{true};
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{with.shape.ranks}, clock};
  dg::run_ranks(world, [&](dg::host_communicator ranks) {
    const auto here =
        std::make_unique<bench::collective_rank>(ranks, with.shape, gpus[0].cache_bytes, team);
    if (here->rank() == 0) print_windows(*here, results.json());
    bench::rank_run run{ranks, *here, with, gpus[0].multiprocessors, results};
    if (!run.all()) right = false;
  });
  const std::string& json = results.finish(right);
  if (json_file.is_open() && !(json_file << json << std::endl))
    return usage("cannot write the JSON file");
  const std::string title = std::to_string(with.shape.ranks) + " x " + gpus[0].name + ", rows of " +
                            std::to_string(with.shape.hidden) + " bf16";
  if (svg_file.is_open() && !(svg_file << results.svg(title) << std::flush))
    return usage("cannot write the SVG file");
  return right ? 0 : 1;
}
