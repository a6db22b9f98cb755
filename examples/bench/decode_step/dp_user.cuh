#pragma once

/// @file
/// One policy of this library in all cases, and the policies that are compared.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "step_case.hpp"
#include "step_rank.cuh"
#include "transport.cuh"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Slots of the longest rank's size, pads cleared, as engines do.
struct step_pr8278 : dg::rebind_comm<dg::pr8278, dg::comm::nccl> {};
/// Real rows travel; attention and FFN in the sizes of PR #8278.
struct step_coupled
    : dg::policy<dg::mode::exact, dg::padding::max_len, dg::lookup::max, dg::ladder::from_config,
                 dg::eager<dg::padding::none>, dg::comm::peer> {};
/// Real rows travel; attention in the size of the own rows, the FFN in that of the sum.
struct step_decoupled : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {};

/// The same without clearing pads, as NCCL's calls alone leave them.
struct step_left : step_decoupled {
  using tail_type = dg::tail::leave;
};
/// The same by kernels that are launched in another way.
template <std::int32_t Blocks, bool Dependent>
struct step_launched : step_left {
  using launch_type = dg::launch::shape<Blocks, Dependent>;
};

using step_peer = dg::basic_peer_communicator<dg::element::bf16>;

[[nodiscard]] inline dg::gather_config step_config(const step_shape& shape,
                                                   const dg::topology& place) {
  dg::gather_config out;
  out.topology = place;
  out.row_bytes = shape.row_bytes();
  out.max_rows_per_rank = shape.most_rows;
  out.ladder = dg::filtered(dg::ladder::sglang<2048>::sizes(), 1, shape.most_rows);
  out.ladder.append(shape.most_rows);
  return out;
}

/// A policy on one rank, for all cases.
template <class Policy, class Communicator>
class dp_user {
public:
  dp_user(Communicator comm, const dg::gather_config& config)
      : workspace_{must(dg::DpGather<Policy, Communicator>::workspace_bytes(config), "workspace")},
        dp_{comm, config, workspace_.span()} {
    must(dp_.check(), "DpGather");
  }

  [[nodiscard]] const dg::planner<Policy>& rules() const { return dp_.rules(); }

  /// Memory for what the communicator has none of its own for: `buffers`. This object outlives it.
  [[nodiscard]] transport of(std::string name, const step_case& what, const step_buffers& buffers,
                             cudaStream_t stream) {
    const std::int32_t own = dp_.config().topology.dp_rank;
    auto plans = std::make_shared<std::vector<dg::step_plan>>();
    for (const row_split& rows : what.splits) {
      plans->push_back(plan_of(rows));
      same_sizes(plans->front(), plans->back(), own);
    }
    const auto shape = std::make_shared<const dg::step_plan>(
        must(dp_.capture_plan(plans->front().shared_bucket), "capture_plan"));
    transport out{.name = std::move(name),
                  .own_rows = plans->front().padded[own],
                  .ffn_rows = shape->global_rows,
                  .local = buffers.local,
                  .gathered = buffers.gathered,
                  .addends = buffers.addends,
                  .sums = buffers.sums};
    out.bring = [this, plans, stream](int n) {
      must(dp_.refresh_counts((*plans)[static_cast<std::size_t>(n)], stream), "refresh_counts");
    };
    // Captured calls take local tensors that hold the rows of any replay, and clear no more.
    const std::int64_t room =
        shape->padding == dg::padding_kind::max_len
            ? shape->padded[own]
            : std::min<std::int64_t>(shape->global_rows, dp_.rules().ladder().largest());
    const std::size_t row_bytes = dp_.config().row_bytes;
    const dg::const_token_rows<dg::replicated> local{out.local, room, dg::element::bf16, row_bytes};
    const dg::token_rows<dg::replicated> sums{out.sums, room, dg::element::bf16, row_bytes};
    if constexpr (dg::row_mover<Communicator>) {
      out.gathered = dp_.view(*shape).data();
      out.addends = dp_.combine_input(*shape).data();
      out.gather = [this, shape, local, stream] {
        must(dp_.gather(local, *shape, stream).status(), "gather");
      };
      out.combine = [this, shape, sums, stream] {
        must(dp_.combine(dp_.combine_input(*shape), sums, *shape, stream), "combine");
      };
    } else {
      const dg::token_rows<dg::replicated> global{buffers.gathered, dp_.rules().max_global_rows(),
                                                  dg::element::bf16, row_bytes};
      const dg::const_token_rows<dg::partial> addends{out.addends, shape->global_rows,
                                                      dg::element::bf16, row_bytes};
      out.gather = [this, shape, local, global, stream] {
        must(dp_.gather(local, global, *shape, stream).status(), "gather");
      };
      out.combine = [this, shape, addends, sums, stream] {
        must(dp_.combine(addends, sums, *shape, stream), "combine");
      };
    }
    return out;
  }

private:
  [[nodiscard]] dg::step_plan plan_of(const row_split& rows) const {
    std::vector<dg::step_record> records;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      dg::step_record one = dp_.record(1);
      one.world_rank = static_cast<std::int32_t>(r);
      one.tokens = one.logits_tokens = one.requests = rows[r];
      one.phase = rows[r] == 0 ? dg::phase::idle : dg::phase::decode;
      one.votes = dg::step_record::graph_vote;
      records.push_back(one);
    }
    return must(dp_.plan(records), "plan");
  }
  /// A graph is captured for the first step and replayed for all.
  static void same_sizes(const dg::step_plan& a, const dg::step_plan& b, std::int32_t own) {
    if (a.in_graph() && b.in_graph() && a.shared_bucket == b.shared_bucket &&
        a.padded[own] == b.padded[own])
      return;
    std::fprintf(stderr, "steps of one case need several graphs\n");
    give_up(4);
  }

  device_memory workspace_;
  dg::DpGather<Policy, Communicator> dp_;
};

} // namespace bench
