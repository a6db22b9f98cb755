#pragma once

/// @file
/// What is compared: NCCL's calls as an engine makes them, and the calls of this library that wrap
/// them, on the same buffers of the same communicator.

#include "../support/check.cuh"
#include "../support/method.hpp"
#include "../support/target.hpp"
#include "nccl_rank.cuh"
#include "policies.hpp"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// The same collective may cost so much more when it is called through `DpGather`.
inline constexpr target as_raw = target::time_ratio(1.03);
/// One kernel instead of memset and copy, in front of the same all-reduce.
inline constexpr target as_all_reduce = target::extra_us(1.0);

/// The groups of one case on one rank. The rank outlives them.
class nccl_groups {
public:
  nccl_groups(nccl_rank& here, std::int32_t rows)
      : here_{here}, rows_{rows}, equal_(static_cast<std::size_t>(here.shape().ranks), rows),
        slot_bytes_{static_cast<std::size_t>(rows) * here.shape().row_bytes()},
        elements_{static_cast<std::size_t>(rows) * static_cast<std::size_t>(here.shape().hidden)} {}

  /// Needs inputs of `rows` rows.
  [[nodiscard]] group all_gather() {
    group out{title("all-gather"), {}};
    const auto wrong = [this](int calls) {
      return wrong_after_gather(here_, equal_, global_rows(), here_.buffer_of(calls - 1));
    };
    const auto poison_all = [this] { poison_rows(here_, here_.global(), global_rows()); };
    const std::int32_t raw =
        out.add({.name = "ncclAllGather",
                 .call =
                     [this](int i) {
                       must(ncclAllGather(here_.input(i), here_.global(), elements_, ncclBfloat16,
                                          here_.comm(), here_.stream()),
                            "ncclAllGather");
                     },
                 .prepare = poison_all,
                 .wrong = wrong});
    out.add({.name = "ncclAllGather, in place",
             .call =
                 [this](int) {
                   must(ncclAllGather(own_place(), here_.global(), elements_, ncclBfloat16,
                                      here_.comm(), here_.stream()),
                        "ncclAllGather");
                 },
             .prepare =
                 [this, poison_all] {
                   poison_all();
                   copy_to_own_place(0);
                 },
             .wrong = [this](int) { return wrong_after_gather(here_, equal_, global_rows(), 0); }});
    out.add(gather("gather, tail::leave", here_.leave(), equal_, true, as_raw));
    out.add(gather("gather, tail::zero", here_.zero(), equal_, true, {}));
    out.add_again(raw);
    return out;
  }

  /// Needs inputs of `rows` rows for each rank.
  [[nodiscard]] group reduce_scatter() {
    group out{title("reduce-scatter"), {}};
    const std::int32_t raw =
        out.add({.name = "ncclReduceScatter",
                 .call =
                     [this](int i) {
                       must(ncclReduceScatter(here_.input(i), here_.local(), elements_,
                                              ncclBfloat16, ncclSum, here_.comm(), here_.stream()),
                            "ncclReduceScatter");
                     },
                 .prepare = [this] { poison_rows(here_, here_.local(), rows_); },
                 .wrong =
                     [this](int calls) {
                       return wrong_after_combine(here_, rows_, here_.buffer_of(calls - 1));
                     }});
    out.add(combine("combine, tail::leave", here_.leave(), as_raw));
    out.add(combine("combine, tail::zero", here_.zero(), {}));
    out.add_again(raw);
    return out;
  }

  /// Needs inputs of `rows` rows.
  [[nodiscard]] group all_reduce() {
    const dg::step_plan plan = must(plan_of(here_.sum(), equal_, true), "plan");
    group out{title("all-reduce of the sum") + ", bucket of " + std::to_string(plan.global_rows),
              {}};
    const auto all = static_cast<std::size_t>(plan.global_rows);
    const std::int32_t raw = out.add(
        {.name = "memset + copy + ncclAllReduce",
         .call =
             [this, all](int i) {
               const cudaStream_t stream = here_.stream();
               must(cudaMemsetAsync(here_.global(), 0, all * here_.shape().row_bytes(), stream),
                    "cudaMemsetAsync");
               copy_to_own_place(i);
               must(ncclAllReduce(here_.global(), here_.global(),
                                  all * static_cast<std::size_t>(here_.shape().hidden),
                                  ncclBfloat16, ncclSum, here_.comm(), stream),
                    "ncclAllReduce");
             },
         .prepare = [this, all] { poison_rows(here_, here_.global(), wide(all)); },
         .wrong =
             [this, all](int calls) {
               return wrong_after_gather(here_, equal_, wide(all), here_.buffer_of(calls - 1));
             }});
    out.add(gather("gather, mode::all_reduce", here_.sum(), equal_, true, as_all_reduce));
    out.add_again(raw);
    return out;
  }

  /// Rank 0 has all `rows`, the others one in `divisor` of them. Not captured: NCCL takes the
  /// counts from the host. Of equal counts the library makes one all-gather, not W broadcasts.
  /// Needs inputs of `rows` rows.
  [[nodiscard]] group exact_eager(std::int32_t divisor) {
    std::vector<std::int32_t> counts = equal_;
    for (std::size_t r = 1; r < counts.size(); ++r) counts[r] = rows_ / divisor;
    group out{title("exact, eager"), {}};
    if (divisor != 1)
      out.title += ", but " + std::to_string(rows_ / divisor) + " on all ranks but the first";
    std::int64_t total = 0;
    for (const std::int32_t n : counts) total += n;
    const std::int32_t raw =
        out.add({.name = "grouped ncclBroadcast",
                 .captured = false,
                 .call = [this, counts](int i) { broadcast_all(counts, i); },
                 .prepare = [this, total] { poison_rows(here_, here_.global(), total); },
                 .wrong =
                     [this, counts, total](int calls) {
                       return wrong_after_gather(here_, counts, total, here_.buffer_of(calls - 1));
                     }});
    out.add(gather("gather, mode::exact", here_.exactly(), counts, false, {}));
    out.add_again(raw);
    return out;
  }

private:
  [[nodiscard]] std::string title(const char* what) const {
    return std::string{what} + ", " + std::to_string(rows_) + " rows per rank";
  }
  [[nodiscard]] static std::int64_t wide(std::size_t rows) {
    return static_cast<std::int64_t>(rows);
  }
  [[nodiscard]] std::int64_t global_rows() const {
    return std::int64_t{here_.shape().ranks} * rows_;
  }
  [[nodiscard]] std::byte* own_place() const {
    return here_.global() + static_cast<std::size_t>(here_.rank()) * slot_bytes_;
  }
  void copy_to_own_place(int call) const {
    must(cudaMemcpyAsync(own_place(), here_.input(call), slot_bytes_, cudaMemcpyDeviceToDevice,
                         here_.stream()),
         "cudaMemcpyAsync");
  }
  void broadcast_all(const std::vector<std::int32_t>& counts, int call) const {
    must(ncclGroupStart(), "ncclGroupStart");
    std::byte* at = here_.global();
    for (std::int32_t root = 0; root < here_.shape().ranks; ++root) {
      const std::size_t bytes = static_cast<std::size_t>(counts[static_cast<std::size_t>(root)]) *
                                here_.shape().row_bytes();
      const void* const from = root == here_.rank() ? here_.input(call) : at;
      if (bytes > 0)
        must(ncclBroadcast(from, at, bytes, ncclUint8, root, here_.comm(), here_.stream()),
             "ncclBroadcast");
      at += bytes;
    }
    must(ncclGroupEnd(), "ncclGroupEnd");
  }

  /// A gather of `counts[r]` rows of rank r.
  template <class Policy>
  [[nodiscard]] method gather(std::string name, dg::DpGather<Policy>& dp,
                              const std::vector<std::int32_t>& counts, bool in_graph, target goal) {
    const dg::step_plan plan = must(plan_of(dp, counts, in_graph), "plan");
    return {.name = std::move(name),
            .goal = goal,
            .captured = in_graph,
            .call =
                [this, &dp, plan](int i) {
                  const std::int64_t own = plan.real[here_.rank()];
                  const dg::const_token_rows<dg::replicated> local{
                      here_.input(i), own, dg::element::bf16, here_.shape().row_bytes()};
                  const dg::token_rows<dg::replicated> global{here_.global(), plan.global_rows,
                                                              dg::element::bf16,
                                                              here_.shape().row_bytes()};
                  must(dp.gather(local, global, plan, here_.stream()).status(), "gather");
                },
            .prepare =
                [this, &dp, plan] {
                  must(dp.refresh_counts(plan, here_.stream()), "refresh_counts");
                  poison_rows(here_, here_.global(), plan.global_rows);
                },
            .wrong =
                [this, counts, plan](int calls) {
                  return wrong_after_gather(here_, counts, plan.global_rows,
                                            here_.buffer_of(calls - 1));
                }};
  }

  template <class Policy>
  [[nodiscard]] method combine(std::string name, dg::DpGather<Policy>& dp, target goal) {
    const dg::step_plan plan = must(plan_of(dp, equal_, true), "plan");
    return {.name = std::move(name),
            .goal = goal,
            .call =
                [this, &dp, plan](int i) {
                  const dg::const_token_rows<dg::partial> global{here_.input(i), plan.global_rows,
                                                                 dg::element::bf16,
                                                                 here_.shape().row_bytes()};
                  const dg::token_rows<dg::replicated> local{
                      here_.local(), rows_, dg::element::bf16, here_.shape().row_bytes()};
                  must(dp.combine(global, local, plan, here_.stream()), "combine");
                },
            .prepare =
                [this, &dp, plan] {
                  must(dp.refresh_counts(plan, here_.stream()), "refresh_counts");
                  poison_rows(here_, here_.local(), rows_);
                },
            .wrong =
                [this](int calls) {
                  return wrong_after_combine(here_, rows_, here_.buffer_of(calls - 1));
                }};
  }

  nccl_rank& here_;
  std::int32_t rows_;
  std::vector<std::int32_t> equal_; // rows of every rank
  std::size_t slot_bytes_;
  std::size_t elements_; // of one rank's rows
};

} // namespace bench
