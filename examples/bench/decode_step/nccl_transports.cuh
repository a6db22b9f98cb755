#pragma once

/// @file
/// Rows padded to the captured size of the longest rank, moved by NCCL's calls and nothing else.

#include "../support/check_nccl.cuh"
#include "../support/full_dependency.cuh"
#include "step_rank.cuh"
#include "transport.cuh"

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// NCCL's kernels differ by the memory that they get, and which is better depends on the size and
/// on the call: every combination that won somewhere. Pads are left as they are, which is the least
/// that a padded step can cost.
class nccl_transports {
public:
  /// `size`: captured, of the longest rank.
  [[nodiscard]] static std::vector<transport> all(step_rank& here, std::int32_t size) {
    std::vector<transport> out{make("NCCL, padded", here, size, here.plain(), here.plain())};
    if (!here.has_windows()) return out;
    out.push_back(make("NCCL, padded, symmetric", here, size, here.windows(), here.windows()));
    out.push_back(make("NCCL, padded, symmetric gather", here, size, here.windows(), here.plain()));
    return out;
  }

private:
  [[nodiscard]] static transport make(std::string name, step_rank& here, std::int32_t size,
                                      const step_buffers& before, const step_buffers& after) {
    const std::size_t count =
        static_cast<std::size_t>(size) * static_cast<std::size_t>(here.shape().hidden);
    return {.name = std::move(name),
            .own_rows = size,
            .ffn_rows = std::int64_t{size} * here.shape().ranks,
            .local = before.local,
            .gathered = before.gathered,
            .addends = after.addends,
            .sums = after.sums,
            .gather =
                [&here, before, count, waits = must_wait(here, before)] {
                  if (waits) wait_for_completion(here.stream());
                  must(ncclAllGather(before.local, before.gathered, count, ncclBfloat16,
                                     here.comm(), here.stream()),
                       "ncclAllGather");
                },
            .combine =
                [&here, after, count, waits = must_wait(here, after)] {
                  if (waits) wait_for_completion(here.stream());
                  must(ncclReduceScatter(after.addends, after.sums, count, ncclBfloat16, ncclSum,
                                         here.comm(), here.stream()),
                       "ncclReduceScatter");
                }};
  }
  /// NCCL's own kernels for plain memory are launched in order.
  [[nodiscard]] static bool must_wait(const step_rank& here, const step_buffers& in) {
    return in.local == here.windows().local && symmetric_kernels_do_not_wait();
  }
};

} // namespace bench
