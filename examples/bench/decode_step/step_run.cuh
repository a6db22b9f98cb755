#pragma once

/// @file
/// All cases on one rank.

#include "../support/method.hpp"
#include "../support/run_group.cuh"
#include "../support/watchdog.hpp"
#include "dp_transports.cuh"
#include "nccl_transports.cuh"
#include "step_case.hpp"
#include "step_methods.cuh"
#include "step_options.hpp"
#include "step_rank.cuh"
#include "step_report.cuh"
#include "step_result.cuh"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace bench {

/// One rank's part in every case. Collective, like all that it calls.
class step_run {
public:
  step_run(dg::host_communicator ranks, step_rank& here, const step_options& with,
           step_report& results)
      : here_{here}, with_{with}, results_{results}, moved_{ranks, here}, methods_{here} {}
  step_run(const step_run&) = delete;
  step_run& operator=(const step_run&) = delete;
  /// Arenas go when no rank's kernels can touch them any more.
  ~step_run() {
    here_.place().wait("the end");
    here_.place().meet();
  }

  /// False when rows were wrong; what comes after them is not run.
  [[nodiscard]] bool all() {
    const bool apart = here_.expected().tells_rows_apart();
    if (!apart)
      std::fprintf(stderr, "rank %d: the expected rows are too much alike\n", here_.rank());
    if (here_.place().others.sum(apart ? 0 : 1) > 0) return false; // all ranks stop, or none
    const std::int32_t steps = std::max(with_.common.replays, 3);  // as many are verified
    const case_maker make{here_.shape().ranks, moved_.sizes(), moved_.sum_sizes(), with_.jitter,
                          steps};
    const std::pair<step_shares, const std::vector<std::int32_t>*> lists[] = {
        {step_shares::balanced, &with_.balanced},
        {step_shares::skewed, &with_.skewed},
        {step_shares::one, &with_.one}};
    for (const auto& [shares, rows] : lists)
      for (const std::int32_t each : *rows)
        if (!run(make.make(shares, each))) return false;
    return true;
  }

private:
  using ways = std::vector<std::shared_ptr<const transport>>;

  [[nodiscard]] bool run(const step_case& what) {
    watchdog::step("preparation of a case");
    const std::int32_t size = moved_.sizes().smallest_at_least(what.rows());
    ways all;
    const auto add = [&all](transport one) {
      all.push_back(std::make_shared<const transport>(std::move(one)));
    };
    add(moved_.padded(what));
    for (transport& each : nccl_transports::all(here_, size)) add(std::move(each));
    step_result out{what, what.mean_rows(with_.common.replays), all.size(), {}, {}, {}};
    add(moved_.coupled(what));
    add(moved_.decoupled(what));
    if (with_.launches)
      for (transport& each : moved_.launched(what)) add(std::move(each));
    add(moved_.left(what));

    group steps{what.title(), {}};
    for (std::size_t w = 0; w < all.size(); ++w) {
      methods_.load(*all[w]);
      steps.add(methods_.step(what, all[w], w >= out.nccl_methods || here_.shape().ranks == 2));
      out.runs_on.push_back({all[w]->own_rows, all[w]->ffn_rows});
    }
    const repetition times{1, with_.common.replays, with_.common.samples};
    std::optional<std::vector<method_result>> timed = run_group(here_.place(), steps, times);
    if (!timed) return false;
    out.all = *std::move(timed);
    if (with_.parts) {
      timed = run_group(here_.place(), parts_of(all), times);
      if (!timed) return false;
      out.parts = *std::move(timed);
    }
    if (here_.rank() == 0) results_.add(here_.shape(), std::move(out)); // the longest rank's rows
    return true;
  }
  [[nodiscard]] group parts_of(const ways& all) {
    group out;
    for (const auto& each : all)
      for (const step_part part : step_parts) out.add(methods_.part(part, each));
    return out;
  }

  step_rank& here_;
  const step_options& with_;
  step_report& results_;
  dp_transports moved_;
  step_methods methods_;
};

} // namespace bench
