/// @file
/// Benchmark: decoupled buckets as graphs, by every way: how many graphs, what their capture takes,
/// what a way adds to a layer; and what a step costs the host besides the forward. One GPU; the
/// host's part with two, if they reach each other's memory.

#include "step_graphs/host_step.cuh"
#include "step_graphs/way_costs.cuh"
#include "support/check.cuh"
#include "support/command_line.hpp"
#include "support/gpu_info.cuh"
#include "support/json.hpp"
#include "support/table.hpp"
#include "support/watchdog.hpp"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

namespace dg = dpgather;

constexpr const char* help = R"(usage: step_graphs [options]
  --layers N      layers of the step (61; with --smoke 3)
  --sums N        sizes of the sum (8; with --smoke 2)
  --ranks N       ranks that the ladders are for (8)
  --cycles N      GPU cycles that half a layer takes (8000)
  --steps N       steps in which the host is timed (2000; with --smoke 20)
)";

struct options {
  bench::common_options common;
  std::int32_t layers = 0, sums = 0, ranks = 0, cycles = 0, steps = 0;
};

/// SGLang's sizes up to 256 a rank, and sums evenly spaced.
dg::graph_ladders ladders_of(const options& with) {
  dg::graph_ladders out{.own = dg::ladder::sglang<256>::sizes(), .shared = {}, .ranks = with.ranks};
  for (std::int32_t i = 1; i <= with.sums; ++i) out.shared.append(256 * with.ranks / with.sums * i);
  return out;
}

void run_ways(const options& with, bench::json_writer& json) {
  const dg::graph_ladders ladders = ladders_of(with);
  cudaStream_t stream = nullptr;
  bench::must(cudaSetDevice(0), "cudaSetDevice");
  bench::must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  const bench::device_memory total{sizeof(std::int64_t)};
  const std::int64_t rows = 256;
  bench::must(cudaMemcpy(total.data(), &rows, sizeof rows, cudaMemcpyHostToDevice), "cudaMemcpy");
  const bench::busy_step step{.count = with.layers, .cycles = with.cycles};
  const bench::way_options how{with.common.replays, with.common.samples};
  const auto* const on_device = reinterpret_cast<const std::int64_t*>(total.data());
  const dg::graph_sizes sizes{.own = 64, .shared = ladders.shared[0]};
  std::vector<bench::way_cost> all;
  const auto add = [&]<class Way>(Way, const dg::graph_sizes& at) {
    all.push_back(bench::cost_of<Way>(step, ladders, on_device, at, how, stream));
  };
  add(dg::graph_way::coupled{}, {ladders.shared[0], ladders.shared[0]});
  add(dg::graph_way::pairs{}, sizes);
  add(dg::graph_way::piecewise{}, sizes);
  add(dg::graph_way::switch_on_sum{}, sizes);
  add(dg::graph_way::device_rows{}, sizes);
  bench::must(cudaStreamDestroy(stream), "stream");

  std::printf("\n%d layers of two parts of %d cycles, %d own sizes, %d sums, %d ranks; graphs for "
              "all sizes that can occur\n",
              with.layers, with.cycles, ladders.own.size(), ladders.shared.size(), with.ranks);
  bench::table out{{"way", "graphs", "nodes", "capture ms", "MiB", "us per step", "us more a layer",
                    "host us a step"}};
  json.key("ways").open_list();
  const double base = all[1].step_us;
  for (const bench::way_cost& each : all) {
    const dg::graph_cost& cost = each.report.cost;
    const double more = (each.step_us - base) / with.layers;
    out.add({each.name, std::to_string(cost.graphs), std::to_string(cost.nodes),
             bench::fixed(static_cast<double>(cost.capture_us) / 1000, 1),
             bench::fixed(static_cast<double>(cost.bytes) / (1 << 20), 1),
             bench::fixed(each.step_us, 1), bench::fixed(more, 2, true),
             bench::fixed(each.host_us, 1)});
    json.open_object().field("way", each.name).field("graphs", cost.graphs);
    json.field("nodes", cost.nodes).field("capture_us", cost.capture_us);
    json.field("bytes", cost.bytes).field("step_us", each.step_us);
    json.field("layer_us", more).field("host_us", each.host_us).close_object();
  }
  json.close_list();
  out.print(stdout);
  std::fflush(stdout);
}

/// The host's part on `ranks` ranks; the slower one counts.
void run_host(const options& with, std::int32_t ranks, bool inside, bench::json_writer& json) {
  bench::watchdog::step("host's part", 60);
  std::vector<bench::host_times> times(static_cast<std::size_t>(ranks));
  dg::steady_wait_clock clock;
  dg::host_world world{dg::topology{.dp_size = ranks}, clock, 100'000'000'000};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    bench::must(cudaSetDevice(comm.rank()), "cudaSetDevice");
    bench::host_step step{comm, 1024};
    times[static_cast<std::size_t>(comm.rank())] = step.measure(with.steps, inside);
    bench::must(comm.barrier(), "end");
  });
  const bench::host_times& slowest = *std::ranges::max_element(
      times, {}, [](const bench::host_times& each) { return each.us.back(); });
  std::printf("\nthe host's part of a step, %d %s, %d steps, pad and trim %s the graph: median us "
              "(99th percentile)%s; target 15: %s\n",
              ranks, ranks == 1 ? "rank" : "ranks, a thread each", with.steps,
              inside ? "in" : "around", ranks == 1 ? "" : " of the slower rank",
              slowest.us.back() <= 15 ? "met" : "missed");
  bench::table out{{"part", "us", "99 %"}};
  json.open_object().field("ranks", ranks).field("inside", inside);
  for (std::size_t part = 0; part < slowest.us.size(); ++part) {
    const char* const name = bench::host_times::names[part];
    out.add({name, bench::fixed(slowest.us[part], 2), bench::fixed(slowest.p99_us[part], 2)});
    json.field(name, slowest.us[part]);
  }
  json.close_object();
  out.print(stdout);
  std::fflush(stdout);
}

void run_hosts(const options& with, bench::json_writer& json) {
  int there = 0, back = 0;
  if (bench::gpu_count() > 1) {
    bench::must(cudaDeviceCanAccessPeer(&there, 0, 1), "cudaDeviceCanAccessPeer");
    bench::must(cudaDeviceCanAccessPeer(&back, 1, 0), "cudaDeviceCanAccessPeer");
  }
  json.key("host").open_list();
  for (const std::int32_t ranks : {1, 2}) {
    if (ranks == 2 && (there == 0 || back == 0)) continue;
    for (const bool inside : {false, true}) run_host(with, ranks, inside, json);
  }
  json.close_list();
}

int usage(const std::string& fault) {
  std::fprintf(stderr, "step_graphs: %s\n%s%s", fault.c_str(), help,
               bench::common_options::help_text);
  return 2;
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with;
  with.common = bench::common_options::of(line);
  const bool smoke = with.common.smoke;
  with.layers = line.number("--layers", smoke ? 3 : 61, 1, 1000);
  with.sums = line.number("--sums", smoke ? 2 : 8, 1, 64);
  with.ranks = line.number("--ranks", 8, 1, 256);
  with.cycles = line.number("--cycles", 8000, 0, 10'000'000);
  with.steps = line.number("--steps", smoke ? 20 : 2000, 1, 1'000'000);
  if (const std::string fault = line.fault(); !fault.empty()) return usage(fault);
  if (with.common.help) {
    std::printf("%s%s", help, bench::common_options::help_text);
    return 0;
  }
  bench::watchdog::start(with.common.timeout_seconds);
  if (bench::gpu_count() < 1) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  std::ofstream file;
  if (!with.common.json.empty()) {
    file.open(with.common.json);
    if (!file) return usage("cannot write " + with.common.json);
  }
  bench::json_writer json;
  json.open_object().field("benchmark", "step_graphs");
  (void)bench::describe_gpus(1, json);
  run_ways(with, json);
  run_hosts(with, json);
  json.close_object();
  if (file.is_open() && !(file << json.text() << std::endl))
    return usage("cannot write the JSON file");
  return 0;
}
