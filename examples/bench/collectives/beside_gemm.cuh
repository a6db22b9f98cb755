#pragma once

/// @file
/// A collective and a GEMM on two streams of each GPU: how much slower is each for the other?

#include "../support/captured_graph.cuh"
#include "../support/check.cuh"
#include "../support/method.hpp"
#include "../support/run_group.cuh"
#include "../support/statistics.hpp"
#include "../support/watchdog.hpp"
#include "gemm.cuh"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {

/// Times in microseconds: of one call, and of one GEMM.
struct beside_result {
  std::string name;
  summary alone, beside;
  summary gemm_alone, gemm_beside;
  bool covered = true; ///< the collectives went on for as long as the GEMMs beside them
};

/// One group of methods on one rank. All steps are collective. What is timed on one stream has the
/// other one busy from before its begin to behind its end: with GEMMs, of which each rank adds more
/// as long as it takes, or with collectives, of which all ranks have to start the same number.
class beside_run {
public:
  beside_run(const bench_place& at, const gemm& other, const std::vector<method>& methods,
             const repetition& times)
      : at_{at}, other_{other}, methods_{methods}, times_{times} {
    for (cudaEvent_t& each : events_)
      must(cudaEventCreateWithFlags(&each, cudaEventDefault), "cudaEventCreate");
  }
  beside_run(const beside_run&) = delete;
  beside_run& operator=(const beside_run&) = delete;
  ~beside_run() {
    for (cudaEvent_t each : events_) (void)cudaEventDestroy(each);
  }

  /// Nothing when a byte was wrong on any rank.
  [[nodiscard]] std::optional<std::vector<beside_result>> all() {
    prepare();
    if (verify() > 0) return {};
    watchdog::step("beside a GEMM", 120);
    std::vector<sample_lists> samples(methods_.size());
    std::vector<bool> covered(methods_.size(), true);
    for (std::int32_t s = -1; s < times_.samples; ++s) { // the first one warms up
      for (std::size_t m = 0; m < methods_.size(); ++m) {
        const sample one = one_sample(m);
        if (s < 0) continue;
        covered[m] = covered[m] && one.covered;
        for (std::size_t i = 0; i < one.us.size(); ++i) samples[m][i].push_back(one.us[i]);
      }
    }
    std::vector<beside_result> out;
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      std::array<summary, 4> of;
      for (std::size_t i = 0; i < of.size(); ++i) of[i] = summarize(samples[m][i]);
      out.push_back({methods_[m].name, of[0], of[1], of[2], of[3], covered[m]});
    }
    return out;
  }

private:
  using sample_lists = std::array<std::vector<double>, 4>;
  /// As in `beside_result`, of the slowest rank.
  struct sample {
    std::array<double, 4> us{};
    bool covered = true;
  };

  void prepare() {
    watchdog::step("first call of each method");
    for (const method& each : methods_) {
      at_.meet();
      each.call(0);
      at_.wait("first call");
    }
    for (const method& each : methods_) {
      at_.meet();
      graphs_.push_back(captured_graph{at_.stream, [&] {
                                         for (std::int32_t i = 0; i < times_.calls; ++i)
                                           each.call(i);
                                       }});
    }
    at_.wait("upload");
    at_.meet();
  }
  /// With a GEMM beside it.
  [[nodiscard]] std::int64_t verify() {
    watchdog::step("verification beside a GEMM");
    std::int64_t wrong = 0;
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      methods_[m].prepare();
      at_.wait("preparation");
      at_.meet();
      (void)calls_beside(m, 1);
      const std::int64_t here = methods_[m].wrong(times_.calls);
      if (here > 0)
        std::fprintf(stderr, "rank %d: %s, beside a GEMM: %lld wrong\n", at_.rank,
                     methods_[m].name.c_str(), static_cast<long long>(here));
      wrong += here;
    }
    return at_.others.sum(wrong);
  }

  [[nodiscard]] sample one_sample(std::size_t m) {
    sample out;
    at_.meet();
    graphs_[m].replay(at_.stream); // brings the ranks together
    mark(begin, at_.stream);
    for (std::int32_t i = 0; i < times_.replays; ++i) graphs_[m].replay(at_.stream);
    mark(end, at_.stream);
    at_.wait("collectives alone");
    out.us[0] = all_ranks(elapsed(begin, end)) / calls(times_.replays);

    at_.meet();
    other_.replay();
    mark(begin, other_.stream());
    for (std::int32_t i = 0; i < gemm_replays; ++i) other_.replay();
    mark(end, other_.stream());
    await(end);
    out.us[2] = all_ranks(elapsed(begin, end)) / gemms();

    at_.meet();
    out.us[1] = all_ranks(calls_beside(m, times_.replays)) / calls(times_.replays);

    // Twice what the GEMMs took alone; more where that was not enough on some rank.
    auto cover = static_cast<std::int32_t>(
        std::clamp(std::ceil(2 * out.us[2] * gemms() / (out.us[1] * times_.calls)), 1.0, 400.0));
    for (std::int32_t attempt = 0; attempt < 3; ++attempt, cover *= 2) {
      at_.meet();
      bool here = true;
      out.us[3] = all_ranks(gemms_beside(m, cover, here)) / gemms();
      out.covered = at_.others.sum(here ? 0 : 1) == 0;
      if (out.covered) break;
    }
    return out;
  }

  /// Microseconds of some replays, of which the first begins when the GEMMs have.
  [[nodiscard]] double calls_beside(std::size_t m, std::int32_t replays) {
    other_.replay();
    mark(started, other_.stream());
    must(cudaStreamWaitEvent(at_.stream, events_[started], 0), "cudaStreamWaitEvent");
    other_.replay();
    mark(queued, other_.stream());
    other_.replay();
    mark(begin, at_.stream);
    for (std::int32_t i = 0; i < replays; ++i) graphs_[m].replay(at_.stream);
    mark(end, at_.stream);
    while (!is_done(end)) { // one graph runs, one waits behind it
      if (is_done(queued)) {
        mark(queued, other_.stream());
        other_.replay();
      }
      std::this_thread::sleep_for(std::chrono::microseconds{20});
    }
    at_.wait("collectives beside GEMMs");
    mark(queued, other_.stream());
    await(queued);
    return elapsed(begin, end);
  }
  /// Microseconds of `gemm_replays` replays while `cover` replays of the collective run. `covered`:
  /// whether those ended last.
  [[nodiscard]] double gemms_beside(std::size_t m, std::int32_t cover, bool& covered) {
    graphs_[m].replay(at_.stream);
    mark(started, at_.stream);
    must(cudaStreamWaitEvent(other_.stream(), events_[started], 0), "cudaStreamWaitEvent");
    graphs_[m].replay(at_.stream);
    mark(begin, other_.stream());
    for (std::int32_t i = 0; i < gemm_replays; ++i) other_.replay();
    mark(end, other_.stream());
    for (std::int32_t i = 1; i < cover; ++i) graphs_[m].replay(at_.stream);
    mark(queued, at_.stream);
    await(end);
    at_.wait("collectives beside GEMMs");
    covered = elapsed(end, queued) >= 0;
    return elapsed(begin, end);
  }

  /// Number of GEMMs in one time.
  [[nodiscard]] static double gemms() { return double{gemm_replays} * gemm::in_graph; }
  [[nodiscard]] double calls(std::int32_t replays) const {
    return static_cast<double>(replays) * times_.calls;
  }
  [[nodiscard]] double all_ranks(double us) const {
    return at_.others.slowest(at_.rank, {us}).front();
  }

  enum event : std::size_t { begin, end, started, queued, event_count };
  void mark(event which, cudaStream_t stream) {
    must(cudaEventRecord(events_[which], stream), "cudaEventRecord");
  }
  void await(event which) const {
    must(cudaEventSynchronize(events_[which]), "cudaEventSynchronize");
  }
  [[nodiscard]] bool is_done(event which) const {
    const cudaError_t answer = cudaEventQuery(events_[which]);
    if (answer != cudaErrorNotReady) must(answer, "cudaEventQuery");
    return answer == cudaSuccess;
  }
  [[nodiscard]] double elapsed(event from, event to) const {
    float milliseconds = 0;
    must(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]), "cudaEventElapsedTime");
    return double{milliseconds} * 1000;
  }

  static constexpr std::int32_t gemm_replays = 2;
  const bench_place& at_;
  const gemm& other_;
  const std::vector<method>& methods_;
  repetition times_;
  std::vector<captured_graph> graphs_;
  std::array<cudaEvent_t, event_count> events_{};
};

} // namespace bench
