/// @file
/// Benchmark: padding, trimming and moving rows on one GPU, against the launch, the memset and the
/// copy that they replace. Every method is a CUDA graph of some calls that is replayed.

#include "pad_trim/batches.cuh"
#include "pad_trim/large_tails.cuh"
#include "pad_trim/row_moves.cuh"
#include "pad_trim/small_groups.cuh"
#include "pad_trim/unit_tensors.hpp"
#include "support/check.cuh"
#include "support/command_line.hpp"
#include "support/gpu_info.cuh"
#include "support/report.cuh"
#include "support/run_group.cuh"
#include "support/team.hpp"
#include "support/watchdog.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

constexpr const char* help = R"(usage: pad_trim [options]
  --tails LIST    MiB of the large tails (64,256; with --smoke 1,2)
  --rows N        rows that are placed and taken (512; with --smoke 16)
)";

struct options {
  bench::common_options common;
  std::vector<std::int32_t> tails;
  std::int32_t rows = 0;
};

/// The first GPU and one stream of it.
class one_gpu {
public:
  one_gpu(const options& with, bench::report& results)
      : with_{with}, results_{results}, stream_{make_stream()},
        place_{alone_, 0, stream_, [this](const char* what) {
                 bench::must(cudaStreamSynchronize(stream_), what); // the watchdog bounds it
               }} {}
  one_gpu(const one_gpu&) = delete;
  one_gpu& operator=(const one_gpu&) = delete;
  ~one_gpu() { (void)cudaStreamDestroy(stream_); }

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// False when a byte was wrong.
  [[nodiscard]] bool run(const bench::group& what) {
    const bench::common_options& common = with_.common;
    const auto done =
        bench::run_group(place_, what, {common.calls, common.replays, common.samples});
    if (done) results_.add(what.title, *done);
    return done.has_value();
  }

private:
  static cudaStream_t make_stream() {
    bench::must(cudaSetDevice(0), "cudaSetDevice");
    cudaStream_t out = nullptr;
    bench::must(cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking), "cudaStreamCreate");
    return out;
  }

  const options& with_;
  bench::report& results_;
  bench::team alone_{1};
  cudaStream_t stream_;
  bench::bench_place place_;
};

bool run_small(one_gpu& gpu) {
  const bench::batch_units units{gpu.stream()};
  const bench::pad_batch batch{bench::decode_tensors(), units, gpu.stream()};
  if (!gpu.run(bench::pad_group(batch, bench::decode_tensors().size(), gpu.stream()))) return false;
  const bench::trim_batch results{bench::result_tensors(), units, gpu.stream()};
  if (!gpu.run(bench::trim_group(results, "3 tensors of a decode batch", bench::beyond_empty,
                                 gpu.stream())))
    return false;
  // 717 kB: what a kernel must read and write there takes longer than an empty one, so no target.
  const bench::trim_batch hidden{
      {{"hidden_states", dpgather::element::bf16, 0, 1, 7168}}, units, gpu.stream()};
  return gpu.run(bench::trim_group(hidden, "hidden states of 7168 bf16", {}, gpu.stream()));
}

bool run_large(one_gpu& gpu, const options& with, std::size_t cache_bytes) {
  for (const std::int32_t mib : with.tails) {
    bench::watchdog::step("large tails");
    bench::large_tails tails{static_cast<std::size_t>(mib) << 20, cache_bytes, with.common.calls,
                             gpu.stream()};
    if (!gpu.run(tails.compare())) return false;
  }
  bench::watchdog::step("rows");
  bench::row_moves rows{with.rows, cache_bytes, with.common.calls, gpu.stream()};
  return gpu.run(rows.place()) && gpu.run(rows.take());
}

int usage(const std::string& fault) {
  std::fprintf(stderr, "pad_trim: %s\n%s%s", fault.c_str(), help, bench::common_options::help_text);
  return 2;
}

} // namespace

int main(int argc, char** argv) {
  bench::command_line line{argc, argv};
  options with;
  with.common = bench::common_options::of(line);
  const bool smoke = with.common.smoke;
  with.tails = line.numbers(
      "--tails", smoke ? std::vector<std::int32_t>{1, 2} : std::vector<std::int32_t>{64, 256}, 1,
      4096);
  with.rows = line.number("--rows", smoke ? 16 : 512, 1, 1 << 16);
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

  bench::report results{"pad_trim"};
  const std::size_t cache_bytes = bench::describe_gpus(1, results.json())[0].cache_bytes;
  std::printf(
      "graphs of %d calls, %d replays in a sample, %d samples; microseconds per call; ratio "
      "and extra us: to the method's baseline, by medians\n"
      "GB/s written: bytes that a call writes; moved: bytes read and written, which for a "
      "copy are twice as many\n"
      "target of large tails: 85 %% of the bytes per second that the copy moves\n"
      "buffers in turn: together more than twice the L2 cache\n",
      with.common.calls, with.common.replays, with.common.samples);
  results.json().field("calls", with.common.calls).field("replays", with.common.replays);
  results.json().field("samples", with.common.samples);

  bool right = false;
  {
    one_gpu gpu{with, results};
    right = run_small(gpu) && run_large(gpu, with, cache_bytes);
  }
  const std::string& json = results.finish(right);
  if (file.is_open() && !(file << json << std::endl)) return usage("cannot write the JSON file");
  return right ? 0 : 1;
}
