#pragma once

/// @file
/// Exact rows of one graph beside NCCL's padded ones: times.

#include "kernels.cuh"
#include "padded_nccl.cuh"
#include "ranks.cuh"
#include "report.hpp"
#include "splits.hpp"
#include "stopwatch.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace exact {

/// Gather and combine of some splits without what lies between, beside NCCL's. Collective. All
/// ranks know all splits here, so nobody asks. `Channel`: a `DpGather` over peers, `shape`: of its
/// largest size.
template <class Channel>
[[nodiscard]] std::vector<timing>
compare(dg::host_communicator& ranks, dg::peer_world& world, Channel& dp,
        const dg::step_plan& shape, const std::vector<split>& splits,
        const dg::const_token_rows<dg::replicated>& local,
        const dg::token_rows<dg::replicated>& output, cudaStream_t stream) {
  constexpr std::int32_t calls = 20; // of each kind, in a graph
  const auto hidden = static_cast<std::int32_t>(local.row_bytes() / sizeof(bf16_bits));
  const auto most = static_cast<std::int32_t>(local.rows());
  dg::bucket_list ladder = dg::filtered(dg::ladder::sglang<2048>::sizes(), 1, most);
  ladder.append(most);
  dg::bucket_list needed;
  for (const std::int32_t size : ladder.span())
    for (const split& each : splits)
      if (ladder.smallest_at_least(longest(each)) == size) needed.append(size);

  padded_nccl nccl{ranks, needed, hidden, calls};
  stopwatch watch;
  dg::bucket_list one;
  one.append(1);
  dg::graph_set ours;
  dg::throw_if_failed(ours.capture(one, stream, [&](std::int32_t) {
    for (std::int32_t i = 0; i < calls; ++i) {
      if (const auto rows = dp.gather(local, shape, stream); !rows) return rows.status();
      if (dg::status bad = dp.combine(dp.combine_input(shape), output, shape, stream); !bad)
        return bad;
    }
    return dg::status{};
  }));

  std::vector<timing> out;
  for (const split& rows : splits) {
    std::vector<dg::step_record> records;
    for (std::int32_t r = 0; r < ranks.size(); ++r)
      records.push_back(record_of(dp.record(1), r, rows[static_cast<std::size_t>(r)]));
    const dg::step_plan plan = dg::value_or_throw(dp.plan(records));
    dg::throw_if_failed(dp.refresh_counts(plan, stream));
    timing now{rows, ladder.smallest_at_least(longest(rows))};
    now.ours = watch.time(
                   ranks, stream, [&] { return ours.launch(1, stream); },
                   [&] { return world.wait(stream, patience_ns); }) /
               calls;
    now.padded = watch.time(
                     ranks, nccl.stream(), [&] { return nccl.replay(now.bucket); },
                     [&] { return nccl.wait(); }) /
                 calls;
    out.push_back(now);
  }
  dg::throw_if_failed(nccl.close());
  return out;
}

} // namespace exact
