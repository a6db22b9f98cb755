#pragma once

/// @file
/// All sections on one rank.

#include "../support/method.hpp"
#include "../support/run_group.cuh"
#include "../support/watchdog.hpp"
#include "beside_gemm.cuh"
#include "collective_case.hpp"
#include "collective_options.hpp"
#include "collective_rank.cuh"
#include "collective_report.cuh"
#include "combine_methods.cuh"
#include "floors.cuh"
#include "gather_methods.cuh"
#include "gemm.cuh"
#include "gemm_report.cuh"
#include "peer_methods.cuh"
#include "random_methods.cuh"
#include "random_splits.hpp"
#include "slope.cuh"
#include "straggler.cuh"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// Every member that runs something is collective and answers false when a byte was wrong on any
/// rank. `results` is rank 0's to write.
class rank_run {
public:
  /// Allocates all memory and loads what can be loaded, before anything waits for a peer.
  rank_run(dg::host_communicator ranks, collective_rank& here, const collective_options& with,
           std::int32_t multiprocessors, collective_report& results)
      : here_{here}, with_{with}, results_{results}, ours_{ranks, here}, gemm_{a_gemm(with)},
        floors_{ranks, here.place(), multiprocessors} {}

  [[nodiscard]] bool all() {
    if (!floors()) return false;
    for (const distribution shares : with_.shape.shares) {
      for (const std::int32_t rows : with_.rows) {
        if (with_.wants(section::gather) && !fixed_counts(gathers, shares, rows)) return false;
        if (with_.wants(section::combine) && !fixed_counts(combines, shares, rows)) return false;
      }
    }
    if (!slopes(gathers) || !slopes(combines)) return false;
    if (with_.wants(section::random)) {
      for (const std::int32_t rows : with_.rows) {
        if (!random_counts(gathers, rows) || !random_counts(combines, rows)) return false;
      }
    }
    if (with_.wants(section::straggler)) {
      for (const std::int32_t rows : with_.straggler_rows) {
        if (!straggler(gathers, rows) || !straggler(combines, rows)) return false;
      }
    }
    if (with_.wants(section::gemm) && has_gemm) {
      for (const std::int32_t rows : with_.gemm_rows) {
        if (!beside(gathers, rows) || !beside(combines, rows)) return false;
      }
    }
    return true;
  }

private:
  static constexpr std::string_view gathers = "gather";
  static constexpr std::string_view combines = "combine";

  [[nodiscard]] static std::unique_ptr<gemm> a_gemm(const collective_options& with) {
    if (!has_gemm || !with.wants(section::gemm)) return {};
    gemm_shape shape;
    if (with.common.smoke) shape = {256, 256, 256};
    return std::make_unique<gemm>(shape);
  }

  [[nodiscard]] bool floors() {
    const auto latencies = run(floors_.latencies(), times());
    if (!latencies) return false;
    repetition few = times(); // large, and steady
    few.replays = std::min(few.replays, 2);
    const auto stores = run(floors_.stores(), few);
    if (stores && is_first()) results_.add_floors(*latencies, 1, *stores);
    return stores.has_value();
  }

  /// Writes the inputs of a case.
  void fill(std::string_view operation, const collective_case& what) {
    watchdog::step("payload");
    if (operation == gathers) {
      here_.fill_for_gather(what, with_.common.calls);
    } else {
      here_.fill_for_combine(what, with_.common.calls);
    }
  }
  /// Of a distribution that all numbers of rows have.
  [[nodiscard]] collective_case a_case(distribution shares, std::int32_t rows) const {
    return *collective_case::make(shares, with_.shape.ranks, with_.shape.hidden, rows);
  }

  [[nodiscard]] bool fixed_counts(std::string_view operation, distribution shares,
                                  std::int32_t rows) {
    const auto what = collective_case::make(shares, with_.shape.ranks, with_.shape.hidden, rows);
    if (!what) return true;
    fill(operation, *what);
    repetition often = times();
    if (rows > 2048) often.replays = std::min(often.replays, 2);
    if (operation == gathers) {
      gather_methods nccl{here_, *what};
      return run_case(operation, *what, what->least_bytes(), nccl.all(),
                      ours_.gather(*what, with_.blocks), often);
    }
    combine_methods nccl{here_, *what};
    return run_case(operation, *what, what->least_bytes(), nccl.all(),
                    ours_.combine(*what, with_.blocks), often);
  }
  /// Cases that were not among the others, and the bandwidth between them.
  [[nodiscard]] bool slopes(std::string_view operation) {
    const bool ran = with_.wants(operation == gathers ? section::gather : section::combine) &&
                     std::ranges::count(with_.shape.shares, distribution::equal) > 0;
    for (const std::int32_t rows : {with_.slope.low, with_.slope.high}) {
      const bool is_there = ran && std::ranges::count(with_.rows, rows) > 0;
      if (with_.wants(section::slope) && !is_there &&
          !fixed_counts(operation, distribution::equal, rows))
        return false;
    }
    if (is_first()) report_slopes(results_, std::string{operation}, with_.slope);
    return true;
  }
  [[nodiscard]] bool random_counts(std::string_view operation, std::int32_t rows) {
    const collective_case room = a_case(distribution::random, rows);
    const random_splits splits{room, with_.splits, with_.seed};
    fill(operation, room);
    random_methods nccl{here_, room, splits};
    repetition often = times();
    often.replays = splits.timed();
    if (operation == gathers)
      return run_case(operation, room, splits.bytes(), nccl.gather(),
                      {ours_.random_gather(room, splits)}, often);
    return run_case(operation, room, splits.bytes(), nccl.combine(),
                    {ours_.random_combine(room, splits)}, often);
  }
  [[nodiscard]] bool straggler(std::string_view operation, std::int32_t rows) {
    const collective_case what = a_case(distribution::equal, rows);
    fill(operation, what);
    gather_methods nccl_gathers{here_, what};
    combine_methods nccl_combines{here_, what};
    std::vector<method> all =
        operation == gathers ? ours_.gather_in(what, {}) : ours_.combine_in(what, {});
    all.push_back(operation == gathers ? nccl_gathers.padded().front()
                                       : nccl_combines.padded().front());
    const std::string title = "one rank late: " + what.title(operation);
    const auto done = run(straggler_group(here_, title, all), times());
    if (done && is_first()) report_straggler(results_, title, *done, peer_methods::name);
    return done.has_value();
  }
  [[nodiscard]] bool beside(std::string_view operation, std::int32_t rows) {
    const collective_case what = a_case(distribution::equal, rows);
    fill(operation, what);
    gather_methods nccl_gathers{here_, what};
    combine_methods nccl_combines{here_, what};
    std::vector<method> all =
        operation == gathers ? ours_.gather_in(what, {8}) : ours_.combine_in(what, {8});
    for (method& each : operation == gathers ? nccl_gathers.padded() : nccl_combines.padded())
      all.push_back(std::move(each));
    const gemm_shape& shape = gemm_->shape();
    const std::string title = "GEMM of " + std::to_string(shape.m) + " x " +
                              std::to_string(shape.n) + " x " + std::to_string(shape.k) +
                              " bf16 beside " + what.title(operation);
    repetition few = times();
    few.replays = std::min(few.replays, 5);
    few.samples = std::min(few.samples, 5);
    const auto done = beside_run{here_.place(), *gemm_, all, few}.all();
    if (done && is_first()) report_gemm(results_, title, shape, *done);
    return done.has_value();
  }

  [[nodiscard]] bool run_case(std::string_view operation, const collective_case& what, double bytes,
                              std::vector<method> nccl, std::vector<method> ours,
                              const repetition& often) {
    case_result result{
        std::string{operation}, what, bytes, static_cast<std::int32_t>(nccl.size()), {}};
    group methods{what.title(operation), std::move(nccl)};
    for (method& each : ours) methods.add(std::move(each));
    methods.add_again(0);
    auto done = run(methods, often);
    if (!done) return false;
    result.all = *std::move(done);
    if (is_first()) results_.add(std::move(result));
    return true;
  }
  [[nodiscard]] std::optional<std::vector<method_result>> run(const group& what,
                                                              const repetition& often) {
    return run_group(here_.place(), what, often);
  }
  [[nodiscard]] repetition times() const {
    return {with_.common.calls, with_.common.replays, with_.common.samples};
  }
  [[nodiscard]] bool is_first() const { return here_.rank() == 0; }

  collective_rank& here_;
  const collective_options& with_;
  collective_report& results_;
  peer_methods ours_;
  std::unique_ptr<gemm> gemm_;
  peer_floors floors_;
};

} // namespace bench
