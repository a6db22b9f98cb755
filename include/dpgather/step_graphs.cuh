#pragma once

/// @file
/// Decoupled buckets as graphs: attention at the bucket of this rank's count, FFN at the bucket of
/// the sum. Needs the toolkit's headers, 13.0 or later; nvcc for `graph_way::switch_on_sum`.

#include <dpgather/captured_graph.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/side_stream.cuh>
#include <dpgather/graph_cost.hpp>
#include <dpgather/graph_sizes.hpp>
#include <dpgather/graph_step.cuh>
#include <dpgather/graph_ways.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace dpgather::inline v0 {

/// One rank's graphs of a step, by one of the ways of `graph_way::`.
///
/// ```cpp
/// dg::step_graphs<dg::graph_way::pairs> graphs{dg::graph_ladders::of(dp.rules()), options};
/// graphs.estimate(step).graphs; // how many there would be
/// // each step:
/// dp.refresh_counts(*plan, stream);
/// const auto sizes = dg::graph_sizes::of(*plan, dp_rank);
/// dg::status done = graphs.launch(sizes, step, stream); // captures what is missing, replays
/// if (done.code == dg::errc::over_budget) done = graphs.run(sizes, step, stream);
/// ```
///
/// Ranks replay different graphs, and one may replay while another runs eagerly: calls of the
/// library have the shape of the sum's bucket, whose digest they compare, in either.
/// Ownership: owns graphs only; what captured calls use must outlive them. Graphs of one object
/// never run at the same time, so one set of buffers of the largest sizes serves all.
/// Capture and stream: as `captured_graph`. Threads: one at a time.
template <graph_way_like Way>
class step_graphs {
public:
  explicit step_graphs(const graph_ladders& ladders, const step_graph_options& options = {})
      : ladders_{ladders}, options_{options} {}
  step_graphs(step_graphs&& other) noexcept
      : ladders_{other.ladders_}, options_{other.options_}, outline_{other.outline_},
        graphs_{std::exchange(other.graphs_, {})}, report_{std::exchange(other.report_, {})} {}
  step_graphs& operator=(step_graphs&& other) noexcept {
    if (this != &other) {
      ladders_ = other.ladders_;
      options_ = other.options_;
      outline_ = other.outline_;
      graphs_ = std::exchange(other.graphs_, {});
      report_ = std::exchange(other.report_, {});
    }
    return *this;
  }
  ~step_graphs() = default;

  // --- before ---------------------------------------------------------------------------------

  /// What graphs for all sizes that can occur would cost: their number; nodes, time and bytes as
  /// those captured so far have on average, zeros while there are none. Captures nothing.
  template <graph_step Step>
  [[nodiscard]] graph_cost estimate(const Step& step) const noexcept {
    return report_.cost.scaled_to(Way::graphs(ladders_, detail::outline_of(step)));
  }

  /// Captures the graphs for all sizes that can occur, largest first. Allocates, may throw
  /// `bad_alloc` and what the step throws. Replaces what was captured before; after an error or an
  /// exception there are no graphs, and the stream is usable. Errors: `over_budget{value = graphs
  /// needed, limit}` before anything is captured, or when their bytes turn out to be too many;
  /// those of the step, of `capture_switch`, `native_error`; `bad_buckets`, `bad_config` for no
  /// sizes, no layers.
  template <graph_step Step>
  [[nodiscard]] status capture(Step& step, cudaStream_t stream) {
    clear();
    if (ladders_.own.empty() || ladders_.shared.empty())
      return {.code = errc::bad_buckets,
              .about = subject::ladder,
              .limit = 1,
              .where = "step_graphs::capture"};
    const std::int64_t needed = Way::graphs(ladders_, detail::outline_of(step));
    if (needed > options_.budget.graphs) {
      ++report_.refused;
      return {.code = errc::over_budget,
              .about = subject::bucket,
              .value = needed,
              .limit = options_.budget.graphs,
              .where = "step_graphs::capture"};
    }
    const emptied_unless_done guard{*this};
    graphs_.reserve(static_cast<std::size_t>(needed));
    status done;
    Way::for_each_sizes(ladders_, [&](const graph_sizes& sizes) {
      if (done.ok()) done = add(sizes, step, stream);
    });
    return guard.end(done);
  }
  /// The same for sizes that were chosen, e.g. those seen most often, in the order given.
  template <graph_step Step>
  [[nodiscard]] status capture(std::span<const graph_sizes> chosen, Step& step,
                               cudaStream_t stream) {
    clear();
    const emptied_unless_done guard{*this};
    status done;
    for (const graph_sizes& sizes : chosen)
      if (done.ok()) done = add(sizes, step, stream);
    return guard.end(done);
  }

  /// Captures what is missing for one more pair of sizes; nothing if nothing is. As `capture`, but
  /// that after an error the graphs of other sizes stay. Takes milliseconds: peers wait for this
  /// rank meanwhile. Errors: also `no_bucket` for sizes that are in no ladder or that the way has
  /// no graphs for, `over_budget{own, shared}`.
  template <graph_step Step>
  [[nodiscard]] status add(const graph_sizes& sizes, Step& step, cudaStream_t stream) {
    constexpr const char* where = "step_graphs::add";
    const step_outline outline = detail::outline_of(step);
    if (outline.layers < 1 || (!graphs_.empty() && outline != outline_))
      return {.code = errc::bad_config,
              .value = outline.layers,
              .limit = graphs_.empty() ? 1 : outline_.layers,
              .value_name = "layers",
              .where = where};
    outline_ = outline;
    if (!Way::fits(sizes, ladders_)) return about(errc::no_bucket, sizes, where);
    std::int64_t missing = 0;
    Way::for_each_key(sizes, outline_, [&](const graph_key& key) { missing += !find(key); });
    if (missing == 0) return {};
    if (!options_.budget.allows(report_.cost, missing)) {
      ++report_.refused;
      return about(errc::over_budget, sizes, where);
    }
    std::optional<side_stream> side; // made before a capture, which would forbid it
    if constexpr (Way::switches) {
      if (status bad = side.emplace().check(); !bad) return bad;
    }
    detail::step_recorder<Step> to{step, ladders_, options_, stream,
                                   side ? side->stream() : nullptr};
    status done;
    Way::for_each_key(sizes, outline_, [&](const graph_key& key) {
      if (done.ok() && !find(key)) done = capture_one(key, to);
    });
    return done;
  }

  // --- each step ------------------------------------------------------------------------------

  /// Replays the graphs of a step. Allocates nothing; one launch, under `piecewise` two a layer.
  /// Launches all of a step's graphs or none, unless CUDA fails. `sizes.shared` may be 0 where the
  /// way does not ask the host and the ladder covers every sum.
  /// Errors: `graph_missing{own, shared}`, counted; `native_error`.
  [[nodiscard]] status launch(const graph_sizes& sizes, cudaStream_t stream) noexcept {
    constexpr const char* where = "step_graphs::launch";
    if (!has(sizes)) {
      ++report_.misses;
      return about(errc::graph_missing, sizes, where);
    }
    status done;
    Way::for_each_key(sizes, outline_, [&](const graph_key& key) noexcept {
      if (!done.ok()) return;
      done = find(key)->graph.launch(stream, where);
      report_.launches += done.ok() ? 1u : 0u;
    });
    report_.replays += done.ok() ? 1u : 0u;
    return done;
  }
  /// The same; graphs that are missing are captured first, if the budget has room. That holds the
  /// step up, on all ranks: their kernels wait for this rank's. Errors: those of `add`; then the
  /// engine may `run` the step.
  template <graph_step Step>
  [[nodiscard]] status launch(const graph_sizes& sizes, Step& step, cudaStream_t stream) {
    if (!has(sizes)) {
      ++report_.misses;
      if (status bad = add(sizes, step, stream); !bad) return bad;
      ++report_.late;
    }
    return launch(sizes, stream);
  }
  /// The step call by call, in the shapes of its graphs, so while peers replay theirs. Errors: the
  /// step's; `bad_config` for a step without layers; `no_bucket` for sizes in no ladder, or where
  /// the way needs a sum that no host knows.
  template <graph_step Step>
  [[nodiscard]] status run(const graph_sizes& sizes, Step& step, cudaStream_t stream) {
    const std::int32_t shared = Way::shared_size(sizes, ladders_);
    if (!Way::fits(sizes, ladders_) || shared == 0)
      return about(errc::no_bucket, sizes, "step_graphs::run");
    const step_outline outline = detail::outline_of(step);
    if (outline.layers < 1) return about(errc::bad_config, sizes, "step_graphs::run");
    for (std::int32_t layer = 0; layer < outline.layers; ++layer) {
      if (status bad = step.local(layer, sizes.own, stream); !bad) return bad;
      if (status bad = step.shared(layer, shared, stream); !bad) return bad;
    }
    if constexpr (detail::finishes<Step>) {
      if (status bad = step.finish(sizes.own, stream); !bad) return bad;
    }
    ++report_.eager;
    return {};
  }

  /// Whether `launch` has all that it needs for such sizes.
  [[nodiscard]] bool has(const graph_sizes& sizes) const noexcept {
    if (graphs_.empty() || !Way::fits(sizes, ladders_)) return false;
    bool all = true;
    Way::for_each_key(sizes, outline_,
                      [&](const graph_key& key) noexcept { all = all && find(key) != nullptr; });
    return all;
  }

  // --- after ----------------------------------------------------------------------------------

  [[nodiscard]] const graph_report& report() const noexcept { return report_; }
  [[nodiscard]] const graph_ladders& ladders() const noexcept { return ladders_; }
  [[nodiscard]] const graph_budget& budget() const noexcept { return options_.budget; }

  /// Destroys all graphs: before the communicators whose calls they hold. What was counted stays,
  /// but for the costs.
  void clear() noexcept {
    graphs_.clear();
    report_.cost = {};
  }

private:
  struct entry {
    graph_key key;
    captured_graph graph;
  };

  /// No graphs after a capture that failed or threw.
  class emptied_unless_done {
  public:
    explicit emptied_unless_done(step_graphs& of) noexcept : of_{of} {}
    emptied_unless_done(const emptied_unless_done&) = delete;
    emptied_unless_done& operator=(const emptied_unless_done&) = delete;
    ~emptied_unless_done() {
      if (!done_) of_.clear();
    }
    [[nodiscard]] status end(const status& how) const noexcept {
      done_ = how.ok();
      return how;
    }

  private:
    step_graphs& of_;
    mutable bool done_ = false;
  };

  [[nodiscard]] static status about(errc code, const graph_sizes& sizes,
                                    const char* where) noexcept {
    return {.code = code,
            .about = subject::bucket,
            .value = sizes.own,
            .limit = sizes.shared,
            .value_name = "own",
            .limit_name = "shared",
            .where = where};
  }

  [[nodiscard]] const entry* find(const graph_key& key) const noexcept {
    const auto at = std::ranges::lower_bound(graphs_, key, {}, &entry::key);
    return at == graphs_.end() || at->key != key ? nullptr : &*at;
  }
  template <class Step>
  [[nodiscard]] status capture_one(const graph_key& key, detail::step_recorder<Step>& to) {
    to.inner_nodes = 0;
    result<captured_graph> made = captured_graph::capture(
        to.stream, [&] { return Way::record(key, outline_, ladders_, to); }, "step_graphs::add");
    if (!made) return made.status();
    made->add_inner_nodes(to.inner_nodes);
    const graph_cost cost = made->cost();
    const auto at = std::ranges::lower_bound(graphs_, key, {}, &entry::key);
    graphs_.insert(at, entry{key, *std::move(made)});
    report_.cost += cost;
    return {};
  }

  graph_ladders ladders_;
  step_graph_options options_;
  step_outline outline_;
  std::vector<entry> graphs_; // ascending by key
  graph_report report_;
};

} // namespace dpgather::inline v0
