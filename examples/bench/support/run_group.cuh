#pragma once

/// @file
/// One group of methods: every one runs once, is captured, verified, and timed in turn with the
/// others.

#include "captured_graph.cuh"
#include "check.cuh"
#include "method.hpp"
#include "statistics.hpp"
#include "target.hpp"
#include "team.hpp"
#include "watchdog.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace bench {

/// Where one rank measures. Its device is current.
struct bench_place {
  team& others;
  std::int32_t rank = 0;
  cudaStream_t stream = nullptr;
  /// Until the stream is idle, with a deadline: work may wait for other ranks.
  std::function<void(const char*)> wait;

  void meet() const { others.meet(); }
};

struct repetition {
  std::int32_t calls = 20;   ///< in a graph, or in a row
  std::int32_t replays = 10; ///< of the graph, in a sample
  std::int32_t samples = 11;
};

/// What came of one method.
struct method_result {
  std::string name;
  measurement measured;
  std::int32_t baseline = 0;
  target goal{};
  bool captured = true;
  node_census nodes;
};

/// The times of methods between two events of a stream.
class stopwatch {
public:
  explicit stopwatch(cudaStream_t stream) : stream_{stream} {
    must(cudaEventCreateWithFlags(&begin_, cudaEventDefault), "cudaEventCreate");
    must(cudaEventCreateWithFlags(&end_, cudaEventDefault), "cudaEventCreate");
  }
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;
  ~stopwatch() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  /// Microseconds that the stream spends on what `body` enqueues.
  template <class Body>
  [[nodiscard]] double time(Body&& body) {
    must(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    body();
    must(cudaEventRecord(end_, stream_), "cudaEventRecord");
    // Not by asking again and again, which would take the driver's locks from ranks that still
    // enqueue. The watchdog bounds it.
    must(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    must(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return double{milliseconds} * 1000;
  }

private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

namespace detail {

/// A group on one rank. All steps are collective.
class group_run {
public:
  group_run(const bench_place& at, const group& what, const repetition& times)
      : at_{at}, methods_{what.methods}, times_{times}, graphs_(what.methods.size()) {}

  /// Outside a graph first: kernels are loaded and communicators connected while nothing is being
  /// captured and nothing spins.
  void warm_up() {
    watchdog::step("first call of each method");
    for (const method& each : methods_) {
      at_.meet();
      each.call(0);
      at_.wait("first call");
    }
    at_.meet();
  }
  void capture() {
    watchdog::step("capture");
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      if (!methods_[m].captured) continue;
      at_.meet();
      graphs_[m] = captured_graph{at_.stream, [&] { enqueue_calls(methods_[m]); }};
    }
    at_.wait("upload");
    at_.meet();
  }
  /// The same enqueued work that is timed. Answers what is wrong, over all ranks.
  [[nodiscard]] std::int64_t verify() {
    watchdog::step("verification");
    std::int64_t wrong = 0;
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      for (const int number : methods_[m].verified) wrong += verified_replay(m, number);
    }
    return at_.others.sum(wrong);
  }
  /// Per call, the slowest rank of each sample; methods take turns, so that what drifts drifts for
  /// all.
  [[nodiscard]] std::vector<method_result> time() {
    watchdog::step("timing", 120);
    stopwatch watch{at_.stream};
    std::vector<std::vector<double>> samples(methods_.size());
    for (std::int32_t s = -1; s < times_.samples; ++s) { // the first one warms up
      for (std::size_t m = 0; m < methods_.size(); ++m) {
        const double us = one_sample(m, watch);
        if (s >= 0) samples[m].push_back(us);
      }
    }
    at_.wait("timing");
    std::vector<method_result> out;
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      const method& each = methods_[m];
      out.push_back(
          {each.name,
           {summarize(at_.others.slowest(at_.rank, samples[m])), each.written, each.moved},
           each.baseline,
           each.goal,
           each.captured,
           graphs_[m].nodes()});
    }
    return out;
  }

private:
  void enqueue_calls(const method& each) {
    for (std::int32_t i = 0; i < times_.calls; ++i) each.call(i);
  }
  void run_once(std::size_t m) {
    if (methods_[m].captured) {
      graphs_[m].replay(at_.stream);
    } else {
      enqueue_calls(methods_[m]);
    }
  }
  [[nodiscard]] std::int64_t verified_replay(std::size_t m, int number) {
    const method& each = methods_[m];
    if (each.before) each.before(number);
    each.prepare();
    at_.wait("preparation");
    at_.meet(); // a peer may write what this rank poisons
    run_once(m);
    at_.wait("verified calls");
    const std::int64_t wrong = each.wrong(times_.calls);
    if (wrong > 0)
      std::fprintf(stderr, "rank %d: %s, replay %d: %lld wrong\n", at_.rank, each.name.c_str(),
                   number, static_cast<long long>(wrong));
    return wrong;
  }
  [[nodiscard]] double one_sample(std::size_t m, stopwatch& watch) {
    // Calls outside graphs are limited by the host as often as not: one row of calls is a sample.
    const std::int32_t replays = methods_[m].captured ? times_.replays : 1;
    at_.meet();
    run_once(m); // brings the ranks together on their devices too, and is not timed
    const double us = watch.time([&] {
      for (std::int32_t i = 0; i < replays; ++i) {
        if (methods_[m].before) methods_[m].before(i);
        run_once(m);
      }
    });
    return us / (static_cast<double>(replays) * times_.calls);
  }

  const bench_place& at_;
  const std::vector<method>& methods_;
  repetition times_;
  std::vector<captured_graph> graphs_;
};

} // namespace detail

/// Runs a group. Collective over the team, with groups that differ in addresses only. Nothing when
/// a byte was wrong on any rank, in which case nothing was timed.
[[nodiscard]] inline std::optional<std::vector<method_result>>
run_group(const bench_place& at, const group& what, const repetition& times) {
  detail::group_run run{at, what, times};
  run.warm_up();
  run.capture();
  if (run.verify() > 0) return {};
  return run.time();
}

} // namespace bench
