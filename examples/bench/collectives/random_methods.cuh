#pragma once

/// @file
/// What a graph can do over NCCL when counts differ from replay to replay: move everybody's largest
/// number of rows.

#include "../support/check.cuh"
#include "../support/check_nccl.cuh"
#include "../support/device_rows.cuh"
#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "combine_methods.cuh"
#include "gather_methods.cuh"
#include "random_splits.hpp"
#include "section_kernels.cuh"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <nccl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace bench {

/// NCCL's methods for random counts on one rank. `room`: the case of all rows, which the inputs
/// were filled with. This object, the rank and the splits outlive the methods.
class random_methods {
public:
  random_methods(collective_rank& here, const collective_case& room, const random_splits& splits)
      : here_{here}, room_{room}, splits_{splits}, gathers_{here, room}, combines_{here, room} {}
  random_methods(const random_methods&) = delete;
  random_methods& operator=(const random_methods&) = delete;

  [[nodiscard]] std::vector<method> gather() {
    std::vector<method> out = gathers_.padded();
    out.push_back(trimmed());
    for (method& each : out) {
      by_splits(each);
      // The one that clears padding clears what another split calls rows.
      each.prepare = [this, poison = std::move(each.prepare)] {
        here_.rewrite_plain_rows(room_);
        poison();
      };
    }
    return out;
  }
  [[nodiscard]] std::vector<method> combine() {
    std::vector<method> out = combines_.padded();
    for (method& each : out) by_splits(each);
    return out;
  }

private:
  void by_splits(method& one) {
    one.before = [this](int n) {
      now_ = n;
      here_.write_counts_of(splits_.at(n));
    };
    one.verified = splits_.verified();
  }

  /// What engines run. Counts are on the device, so a kernel does what else a memset would do.
  [[nodiscard]] method trimmed() {
    const collective_buffers& in = here_.plain();
    std::byte* const slots = here_.packed().buffer(0); // nobody's while gathers run
    const std::size_t slot_bytes = static_cast<std::size_t>(room_.rows) * room_.row_bytes();
    return {.name = gather_methods::engine,
            .call =
                [this, &in, slots, slot_bytes](int i) {
                  launch(clear_padding<uint4>, std::clamp<std::int64_t>(room_.rows, 1, 1024), 256,
                         here_.stream(), reinterpret_cast<uint4*>(in.inputs.at(i)),
                         here_.counts() + here_.rank(), room_.rows,
                         static_cast<std::uint32_t>(room_.row_bytes() / sizeof(uint4)));
                  must(ncclAllGather(in.inputs.at(i), slots, slot_bytes / 2, ncclBfloat16,
                                     here_.comm(), here_.stream()),
                       "ncclAllGather");
                  must(dg::compact({.source = slots,
                                    .destination = in.global,
                                    .counts = here_.counts(),
                                    .offsets = here_.offsets(),
                                    .ranks = room_.ranks,
                                    .slot_rows = room_.rows,
                                    .row_bytes = room_.row_bytes(),
                                    .destination_rows = room_.slot_rows()},
                                   here_.stream()),
                       "compact");
                },
            .prepare = [this, &in] { poison_global(here_, room_, in.global); },
            .wrong = [this, &in](int calls) { return wrong_trimmed(in, calls); }};
  }
  /// In the output, and in the padding of the inputs that the calls [0, n) took.
  [[nodiscard]] std::int64_t wrong_trimmed(const collective_buffers& in, int calls) const {
    const collective_case& now = splits_.at(now_);
    std::int64_t out =
        wrong_after_gather(here_, now, in.global, in.inputs.index(calls - 1), row_layout::packed);
    for (int b = 0; b < std::min(calls, in.inputs.count()); ++b)
      out += here_.checker().wrong(in.inputs.buffer(b), now.rows, now.hidden,
                                   own_rows{now, here_.rank(), b}, here_.stream());
    return out;
  }

  collective_rank& here_;
  collective_case room_;
  const random_splits& splits_;
  gather_methods gathers_;
  combine_methods combines_;
  int now_ = 0; // the split whose counts are on the device
};

} // namespace bench
