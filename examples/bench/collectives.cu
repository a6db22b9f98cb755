/// @file
/// Benchmark: gathers and combines of two to eight GPUs that NVLink joins: NCCL's ways to have
/// them, this library's, and the floor under both.
///
/// One thread per GPU. Every method is a CUDA graph of some calls that is replayed. NCCL takes
/// graph mixing from the environment only: run it with NCCL_GRAPH_MIXING_SUPPORT=0 and without.

#include "collectives/collective_case.hpp"
#include "collectives/collective_rank.cuh"
#include "collectives/collective_report.cuh"
#include "collectives/combine_methods.cuh"
#include "collectives/floors.cuh"
#include "collectives/gather_methods.cuh"
#include "collectives/peer_methods.cuh"
#include "support/command_line.hpp"
#include "support/gpu_info.cuh"
#include "support/json.hpp"
#include "support/nccl_environment.cuh"
#include "support/run_group.cuh"
#include "support/team.hpp"
#include "support/watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace dg = dpgather;

constexpr const char* help = R"(usage: NCCL_NVLS_ENABLE=0 collectives [options]
  --rows LIST     rows of the longest rank (1,8,32,128,512,2048; with --smoke 1,16)
  --dists LIST    the others' rows: equal, 8:1 (an eighth), one (none) (equal,8:1,one)
  --only WHICH    gather or combine (both)
  --ranks W       GPUs, 2 to 8 (all that are visible)
  --hidden H      bf16 elements of a row, a multiple of 8 (7168)
  --svg FILE      also plot time and goodput over rows
)";

struct options {
  bench::common_options common;
  bench::collective_shape shape;
  std::string only, svg;

  [[nodiscard]] bool wants(const char* operation) const {
    return only.empty() || only == operation;
  }
  [[nodiscard]] bench::repetition times() const {
    return {common.calls, common.replays, common.samples};
  }
};

/// All cases on one rank. `results` is rank 0's to write.
class rank_run {
public:
  rank_run(dg::host_communicator ranks, bench::collective_rank& here, const options& with,
           std::int32_t multiprocessors, bench::collective_report& results)
      : here_{here}, with_{with}, results_{results}, ours_{ranks, here}, floors_{ranks,
                                                                                 here.place(),
                                                                                 multiprocessors} {}

  /// False when a byte was wrong on any rank.
  [[nodiscard]] bool all() {
    if (!floors()) return false;
    for (const bench::distribution shares : with_.shape.shares) {
      for (const std::int32_t rows : with_.shape.rows) {
        const auto what =
            bench::collective_case::make(shares, with_.shape.ranks, with_.shape.hidden, rows);
        if (!what) continue;
        if (with_.wants("gather") && !gather(*what)) return false;
        if (with_.wants("combine") && !combine(*what)) return false;
      }
    }
    return true;
  }

private:
  [[nodiscard]] bool floors() {
    const auto latencies = run(floors_.latencies(), with_.times());
    if (!latencies) return false;
    bench::repetition few = with_.times(); // large, and steady
    few.replays = std::min(few.replays, 2);
    const auto stores = run(floors_.stores(), few);
    if (stores && here_.rank() == 0) results_.add_floors(*latencies, 1, *stores);
    return stores.has_value();
  }
  [[nodiscard]] bool gather(const bench::collective_case& what) {
    bench::watchdog::step("payload");
    here_.fill_for_gather(what, with_.common.calls);
    bench::gather_methods nccl{here_, what};
    return run_case("gather", what, nccl.all(), ours_.gather(what));
  }
  [[nodiscard]] bool combine(const bench::collective_case& what) {
    bench::watchdog::step("payload");
    here_.fill_for_combine(what, with_.common.calls);
    bench::combine_methods nccl{here_, what};
    return run_case("combine", what, nccl.all(), ours_.combine(what));
  }
  [[nodiscard]] bool run_case(const char* operation, const bench::collective_case& what,
                              std::vector<bench::method> nccl, std::vector<bench::method> ours) {
    bench::case_result result{operation, what, static_cast<std::int32_t>(nccl.size()), {}};
    bench::group methods{what.title(operation), std::move(nccl)};
    for (bench::method& each : ours) methods.add(std::move(each));
    methods.add_again(0);
    auto done = run(methods, with_.times());
    if (!done) return false;
    result.all = *std::move(done);
    if (here_.rank() == 0) results_.add(std::move(result));
    return true;
  }
  [[nodiscard]] std::optional<std::vector<bench::method_result>>
  run(const bench::group& what, const bench::repetition& times) {
    return bench::run_group(here_.place(), what, times);
  }

  bench::collective_rank& here_;
  const options& with_;
  bench::collective_report& results_;
  bench::peer_methods ours_;
  bench::peer_floors floors_;
};

int usage(const std::string& fault) {
  std::fprintf(stderr, "collectives: %s\n%s%s", fault.c_str(), help,
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
  json.field("ranks", with.shape.ranks);
  json.field("hidden", with.shape.hidden).field("calls", with.common.calls);
  json.field("replays", with.common.replays).field("samples", with.common.samples);
}

void print_windows(const bench::collective_rank& here, bench::json_writer& json) {
  json.field("symmetric_windows", here.has_windows());
  if (!here.has_windows()) std::printf("without symmetric windows: %s\n", here.why_no_windows());
}

/// Opens a file to write, where one was named. False when that fails.
bool opens(std::ofstream& file, const std::string& name) {
  if (!name.empty()) file.open(name);
  return file.good();
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with;
  with.common = bench::common_options::of(line);
  with.only = line.text("--only");
  with.svg = line.text("--svg");
  with.shape.hidden = line.number("--hidden", 7168, 8, 1 << 17);
  with.shape.rows =
      line.numbers("--rows",
                   with.common.smoke ? std::vector<std::int32_t>{1, 16}
                                     : std::vector<std::int32_t>{1, 8, 32, 128, 512, 2048},
                   1, 1 << 16);
  const std::string shares = line.text("--dists");
  const auto known = bench::distributions_of(shares.empty() ? "equal,8:1,one" : shares);
  const std::int32_t wanted = line.number("--ranks", bench::most_ranks, 2, bench::most_ranks);
  if (const std::string fault = line.fault(); !fault.empty()) return usage(fault);
  if (with.shape.hidden % 8 != 0) return usage("--hidden takes multiples of 8");
  if (!known) return usage("--dists takes equal, 8:1 and one");
  if (!with.wants("gather") && !with.wants("combine"))
    return usage("--only takes gather or combine");
  with.shape.shares = *known;
  if (with.common.help) {
    std::printf("%s%s", help, bench::common_options::help_text);
    return 0;
  }
  bench::watchdog::start(with.common.timeout_seconds);
  with.shape.ranks = std::min(bench::gpu_count(), wanted);
  if (with.shape.ranks < 2) {
    std::printf("skipped: needs at least 2 GPUs, has %d\n", with.shape.ranks);
    return 77;
  }
  if (!bench::all_are_peers(with.shape.ranks)) return 77;
  if (!bench::multicast_is_off("collectives")) return 2;
  std::ofstream json_file, svg_file;
  if (!opens(json_file, with.common.json)) return usage("cannot write " + with.common.json);
  if (!opens(svg_file, with.svg)) return usage("cannot write " + with.svg);

  bench::collective_report results{"collectives", bench::gather_methods::engine};
  const std::vector<bench::gpu_info> gpus = bench::describe_gpus(with.shape.ranks, results.json());
  print_environment(with, results.json());

  bench::team team{with.shape.ranks};
  std::atomic<bool> right{true};
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{with.shape.ranks}, clock};
  dg::run_ranks(world, [&](dg::host_communicator ranks) {
    const auto here =
        std::make_unique<bench::collective_rank>(ranks, with.shape, gpus[0].cache_bytes, team);
    if (here->rank() == 0) print_windows(*here, results.json());
    rank_run run{ranks, *here, with, gpus[0].multiprocessors, results};
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
