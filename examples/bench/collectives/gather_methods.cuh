#pragma once

/// @file
/// How a gather can be had from NCCL.

#include "../support/check.cuh"
#include "../support/check_nccl.cuh"
#include "../support/full_dependency.cuh"
#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// NCCL's gathers of one case on one rank; needs inputs of `fill_for_gather`. This object and the
/// rank outlive the methods.
class gather_methods {
public:
  static constexpr const char* engine = "memset + ncclAllGather + trim";

  gather_methods(collective_rank& here, const collective_case& what)
      : here_{here}, what_{what}, elements_{static_cast<std::size_t>(what.rows) *
                                            static_cast<std::size_t>(what.hidden)} {}
  gather_methods(const gather_methods&) = delete;
  gather_methods& operator=(const gather_methods&) = delete;

  /// The collective alone.
  [[nodiscard]] std::vector<method> padded() {
    std::vector<method> out{padded("ncclAllGather, padded", here_.plain())};
    if (here_.has_windows())
      out.push_back(padded("ncclAllGather, symmetric window", here_.windows()));
    return out;
  }
  [[nodiscard]] std::vector<method> all() {
    std::vector<method> out = padded();
    if (here_.has_windows() && symmetric_kernels_do_not_wait()) out.push_back(in_order());
    out.push_back(trimmed());
    out.push_back(broadcasts());
    return out;
  }

private:
  /// Symmetric kernels behind all that is before them: what a correct engine has to put there.
  [[nodiscard]] method in_order() {
    method out = padded("ncclAllGather, symmetric, in order", here_.windows());
    out.call = [this, call = std::move(out.call)](int i) {
      wait_for_completion(here_.stream());
      call(i);
    };
    return out;
  }
  /// What everybody's largest number of rows costs: the result lies in slots, padding included.
  [[nodiscard]] method padded(std::string name, const collective_buffers& in) {
    return {.name = std::move(name),
            .call = [this, &in](int i) { all_gather(in.inputs.at(i), in.global); },
            .prepare = [this, &in] { poison_global(here_, what_, in.global); },
            .wrong =
                [this, &in](int calls) {
                  return wrong_after_gather(here_, what_, in.global, in.inputs.index(calls - 1),
                                            row_layout::slots);
                }};
  }

  /// What engines run: the padding of the own rows is cleared, and the result packed by counts that
  /// are in device memory.
  [[nodiscard]] method trimmed() {
    const collective_buffers& in = here_.plain();
    std::byte* const slots = here_.packed().buffer(0); // nobody's while gathers run
    return {.name = engine,
            .call =
                [this, &in, slots](int i) {
                  if (padding_bytes() > 0)
                    must(cudaMemsetAsync(padding(i), 0, padding_bytes(), here_.stream()),
                         "cudaMemsetAsync");
                  all_gather(in.inputs.at(i), slots);
                  must(dg::compact({.source = slots,
                                    .destination = in.global,
                                    .counts = here_.counts(),
                                    .offsets = here_.offsets(),
                                    .ranks = what_.ranks,
                                    .slot_rows = what_.rows,
                                    .row_bytes = what_.row_bytes(),
                                    .destination_rows = what_.slot_rows()},
                                   here_.stream()),
                       "compact");
                },
            .prepare =
                [this, &in] {
                  poison_global(here_, what_, in.global);
                  for (int b = 0; b < in.inputs.count(); ++b) {
                    if (padding_bytes() > 0)
                      poison_bytes(padding(b), padding_bytes(), here_.stream());
                  }
                },
            .wrong = [this](int calls) { return wrong_packed(calls) + wrong_padding(calls); }};
  }

  /// Exact, but the counts are the host's: a graph freezes them.
  [[nodiscard]] method broadcasts() {
    const collective_buffers& in = here_.plain();
    return {.name = "grouped ncclBroadcast, frozen counts",
            .call =
                [this, &in](int i) {
                  must(ncclGroupStart(), "ncclGroupStart");
                  for (std::int32_t root = 0; root < what_.ranks; ++root) {
                    if (what_.counts[root] == 0) continue;
                    std::byte* const to = in.global + static_cast<std::size_t>(what_.offset(root)) *
                                                          what_.row_bytes();
                    const void* const from = root == here_.rank() ? in.inputs.at(i) : to;
                    must(ncclBroadcast(from, to, elements_of(root), ncclBfloat16, root,
                                       here_.comm(), here_.stream()),
                         "ncclBroadcast");
                  }
                  must(ncclGroupEnd(), "ncclGroupEnd");
                },
            .prepare = [this, &in] { poison_global(here_, what_, in.global); },
            .wrong = [this](int calls) { return wrong_packed(calls); }};
  }

  void all_gather(const std::byte* from, std::byte* to) {
    must(ncclAllGather(from, to, elements_, ncclBfloat16, here_.comm(), here_.stream()),
         "ncclAllGather");
  }
  [[nodiscard]] std::size_t elements_of(std::int32_t rank) const {
    return static_cast<std::size_t>(what_.counts[rank]) * static_cast<std::size_t>(what_.hidden);
  }
  /// Behind the own rows of the i-th call.
  [[nodiscard]] std::byte* padding(int call) const {
    return here_.plain().inputs.at(call) + elements_of(here_.rank()) * 2;
  }
  [[nodiscard]] std::size_t padding_bytes() const {
    return (elements_ - elements_of(here_.rank())) * 2;
  }
  [[nodiscard]] std::int64_t wrong_packed(int calls) const {
    const collective_buffers& in = here_.plain();
    return wrong_after_gather(here_, what_, in.global, in.inputs.index(calls - 1),
                              row_layout::packed);
  }

  /// Elements of the inputs that the calls [0, n) took and did not clear.
  [[nodiscard]] std::int64_t wrong_padding(int calls) const {
    const rotation& inputs = here_.plain().inputs;
    std::int64_t out = 0;
    for (int b = 0; b < std::min(calls, inputs.count()); ++b)
      out += here_.checker().wrong(inputs.buffer(b), what_.rows, what_.hidden,
                                   own_rows{what_, here_.rank(), b}, here_.stream());
    return out;
  }

  collective_rank& here_;
  collective_case what_;
  std::size_t elements_; // of a slot
};

} // namespace bench
