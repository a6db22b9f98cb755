#pragma once

/// @file
/// How a combine can be had from NCCL.

#include "../support/check_nccl.cuh"
#include "../support/full_dependency.cuh"
#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "verification.cuh"

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// NCCL's combines of one case on one rank; needs inputs of `fill_for_combine`. This object and the
/// rank outlive the methods.
class combine_methods {
public:
  combine_methods(collective_rank& here, const collective_case& what) : here_{here}, what_{what} {}
  combine_methods(const combine_methods&) = delete;
  combine_methods& operator=(const combine_methods&) = delete;

  /// The collective alone.
  [[nodiscard]] std::vector<method> padded() {
    std::vector<method> out{padded("ncclReduceScatter, padded", here_.plain())};
    if (here_.has_windows())
      out.push_back(padded("ncclReduceScatter, symmetric window", here_.windows()));
    return out;
  }
  [[nodiscard]] std::vector<method> all() {
    std::vector<method> out = padded();
    if (here_.has_windows() && symmetric_kernels_do_not_wait()) out.push_back(in_order());
    out.push_back(reduces());
    return out;
  }

private:
  /// Symmetric kernels behind all that is before them: what a correct engine has to put there.
  [[nodiscard]] method in_order() {
    method out = padded("ncclReduceScatter, symmetric, in order", here_.windows());
    out.call = [this, call = std::move(out.call)](int i) {
      wait_for_completion(here_.stream());
      call(i);
    };
    return out;
  }
  /// What everybody's largest number of rows costs: the partial sums lie in slots.
  [[nodiscard]] method padded(std::string name, const collective_buffers& in) {
    return {.name = std::move(name),
            .call =
                [this, &in](int i) {
                  must(ncclReduceScatter(in.inputs.at(i), in.local, elements(what_.rows),
                                         ncclBfloat16, ncclSum, here_.comm(), here_.stream()),
                       "ncclReduceScatter");
                },
            .prepare = [this, &in] { poison_local(here_, what_, in.local); },
            .wrong =
                [this, &in](int calls) {
                  return wrong_after_combine(here_, what_, in.local, in.inputs.index(calls - 1),
                                             row_layout::slots);
                }};
  }

  /// Exact, from packed partial sums, but the counts are the host's: a graph freezes them.
  [[nodiscard]] method reduces() {
    std::byte* const local = here_.plain().local;
    return {.name = "grouped ncclReduce, frozen counts",
            .call =
                [this, local](int i) {
                  const std::byte* from = here_.packed().at(i);
                  must(ncclGroupStart(), "ncclGroupStart");
                  for (std::int32_t root = 0; root < what_.ranks; ++root) {
                    const std::size_t count = elements(what_.counts[root]);
                    if (count > 0)
                      must(ncclReduce(from, local, count, ncclBfloat16, ncclSum, root, here_.comm(),
                                      here_.stream()),
                           "ncclReduce");
                    from += count * 2;
                  }
                  must(ncclGroupEnd(), "ncclGroupEnd");
                },
            .prepare = [this, local] { poison_local(here_, what_, local); },
            .wrong =
                [this, local](int calls) {
                  return wrong_after_combine(here_, what_, local, here_.packed().index(calls - 1),
                                             row_layout::packed);
                }};
  }

  [[nodiscard]] std::size_t elements(std::int32_t rows) const {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(what_.hidden);
  }

  collective_rank& here_;
  collective_case what_;
};

} // namespace bench
