/// @file
/// Benchmark: the calls of `DpGather` over NCCL against the NCCL calls that they wrap.
///
/// One thread per GPU, all GPUs that are visible. Every method is a CUDA graph of some calls that
/// is replayed, but for the exact mode, which cannot be captured over NCCL. NCCL takes graph mixing
/// from the environment only: run it with NCCL_GRAPH_MIXING_SUPPORT=0 and without.

#include "nccl_calls/groups.cuh"
#include "nccl_calls/nccl_rank.cuh"
#include "nccl_calls/policies.hpp"
#include "support/command_line.hpp"
#include "support/gpu_info.cuh"
#include "support/json.hpp"
#include "support/nccl_environment.cuh"
#include "support/report.cuh"
#include "support/run_group.cuh"
#include "support/team.hpp"
#include "support/watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace {

namespace dg = dpgather;

constexpr const char* help = R"(usage: NCCL_NVLS_ENABLE=0 nccl_calls [options]
  --rows LIST     rows per rank (1,8,32,128,512,2048; with --smoke 1,16)
  --hidden H      bf16 elements of a row, a multiple of 8 (7168)
)";

struct options {
  bench::common_options common;
  bench::nccl_calls_shape shape;
};

/// All groups of all cases on one rank. False when a byte was wrong on any rank.
bool run_rank(bench::nccl_rank& here, const options& with, bench::report& results) {
  const bench::repetition times{with.common.calls, with.common.replays, with.common.samples};
  const auto run = [&](const bench::group& what) {
    const auto done = bench::run_group(here.place(), what, times);
    if (done && here.rank() == 0) results.add(what.title, *done);
    return done.has_value();
  };
  for (const std::int32_t rows : with.shape.rows) {
    bench::nccl_groups groups{here, rows};
    bench::watchdog::step("payload");
    here.fill_inputs(rows, times.calls);
    if (!run(groups.all_gather()) || !run(groups.all_reduce())) return false;
    if (!run(groups.exact_eager(1)) || (rows >= 8 && !run(groups.exact_eager(8)))) return false;
    bench::watchdog::step("payload");
    here.fill_inputs(std::int64_t{rows} * with.shape.ranks, times.calls);
    if (!run(groups.reduce_scatter())) return false;
  }
  return true;
}

int usage(const std::string& fault) {
  std::fprintf(stderr, "nccl_calls: %s\n%s%s", fault.c_str(), help,
               bench::common_options::help_text);
  return 2;
}

void print_environment(const options& with, bench::json_writer& json) {
  bench::print_nccl(json);
  std::printf("rows of %d bf16, %zu bytes; graphs of %d calls (exact: as many calls in a row), "
              "%d replays in a sample, %d samples\n"
              "microseconds per call of the slowest rank; ratio and extra us: to the method's "
              "baseline, by medians\n"
              "inputs in turn: a buffer for each call, or as many as fill twice the L2 cache\n",
              with.shape.hidden, with.shape.row_bytes(), with.common.calls, with.common.replays,
              with.common.samples);
  json.field("hidden", with.shape.hidden).field("calls", with.common.calls);
  json.field("replays", with.common.replays).field("samples", with.common.samples);
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with;
  with.common = bench::common_options::of(line);
  with.shape.hidden = line.number("--hidden", 7168, 8, 1 << 17);
  with.shape.rows =
      line.numbers("--rows",
                   with.common.smoke ? std::vector<std::int32_t>{1, 16}
                                     : std::vector<std::int32_t>{1, 8, 32, 128, 512, 2048},
                   1, 1 << 16);
  if (const std::string fault = line.fault(); !fault.empty()) return usage(fault);
  if (with.shape.hidden % 8 != 0) return usage("--hidden takes multiples of 8");
  if (with.shape.rows.size() > 64) return usage("--rows takes at most 64 numbers");
  if (with.common.help) {
    std::printf("%s%s", help, bench::common_options::help_text);
    return 0;
  }
  bench::watchdog::start(with.common.timeout_seconds);
  with.shape.ranks = bench::gpu_count();
  if (with.shape.ranks < 2) {
    std::printf("skipped: needs at least 2 GPUs, has %d\n", with.shape.ranks);
    return 77;
  }
  if (with.shape.ranks > bench::most_exact_ranks)
    return usage("sums are exact for 16 GPUs at most; see CUDA_VISIBLE_DEVICES");
  if (!bench::multicast_is_off("nccl_calls")) return 2;
  std::ofstream file;
  if (!with.common.json.empty()) {
    file.open(with.common.json);
    if (!file) return usage("cannot write " + with.common.json);
  }

  bench::report results{"nccl_calls"};
  const std::vector<bench::gpu_info> gpus = bench::describe_gpus(with.shape.ranks, results.json());
  print_environment(with, results.json());

  bench::team team{with.shape.ranks};
  std::atomic<bool> right{true};
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{with.shape.ranks}, clock};
  dg::run_ranks(world, [&](dg::host_communicator ranks) {
    const auto here =
        std::make_unique<bench::nccl_rank>(ranks, with.shape, gpus[0].cache_bytes, team);
    if (!run_rank(*here, with, results)) right = false;
  });
  const std::string& json = results.finish(right);
  if (file.is_open() && !(file << json << std::endl)) return usage("cannot write the JSON file");
  return right ? 0 : 1;
}
