#pragma once

/// @file
/// This library's channel over peer memory on one rank, and what one policy needs of it.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "random_splits.hpp"

#include <dpgather/dpgather.cuh>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// What is measured is the real thing: counts in device memory, packed rows, offsets, pad bits and
/// origins of rows written, counts and plans compared.
struct peer_policy : dg::rebind_comm<dg::exact_eager, dg::comm::peer> {};
/// Each rank knows its own count only.
struct peer_exchanged
    : dg::policy<dg::mode::exact, dg::padding::none, dg::counts::exchanged, dg::comm::peer> {};
/// Few blocks, to leave the GPU to a GEMM beside it.
template <std::int32_t Blocks>
struct peer_blocks : peer_policy {
  using launch_type = dg::launch::shape<Blocks, true>;
};
/// Without programmatic dependent launch.
struct peer_not_dependent : peer_policy {
  using launch_type = dg::launch::shape<dg::max_peer_blocks, false>;
};
/// One graph for all counts: its shape has room for them.
struct peer_graph : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {};

/// Memory and world of all peer methods. Collective to construct, before anything is timed.
class peer_channel {
public:
  peer_channel(dg::host_communicator ranks, const collective_shape& shape)
      : limits_{limits_of(ranks.topology(), shape)}, memory_{ranks, arena_bytes(limits_)},
        world_{ranks, ranks.topology(), memory_.pointers(), limits_} {
    must(memory_.check(), "peer memory");
    must(world_.check(), "peer_world");
    const auto rows = static_cast<std::size_t>(limits_.view_rows);
    mask_memory_ =
        device_memory{rows * sizeof(dg::row_source) + (rows / 32 + 1) * sizeof(std::uint32_t)};
    masks_.sources = reinterpret_cast<dg::row_source*>(mask_memory_.data());
    masks_.pad_bits =
        reinterpret_cast<std::uint32_t*>(mask_memory_.data() + rows * sizeof(dg::row_source));
  }
  peer_channel(const peer_channel&) = delete;
  peer_channel& operator=(const peer_channel&) = delete;

  [[nodiscard]] dg::peer_world& world() { return world_; }
  /// What every gather writes beside the rows.
  [[nodiscard]] const dg::row_masks& masks() const { return masks_; }

private:
  /// Room for the largest case, and one row behind it that nobody may write.
  static dg::peer_limits limits_of(const dg::topology& place, const collective_shape& shape) {
    dg::gather_config most;
    most.topology = place;
    most.row_bytes = shape.row_bytes();
    most.max_rows_per_rank =
        static_cast<std::int32_t>(shape.most_local_bytes() / shape.row_bytes()) + 1;
    return must(dg::peer_limits_of<peer_policy>(most), "limits");
  }
  static std::size_t arena_bytes(const dg::peer_limits& limits) {
    return static_cast<std::size_t>(must(dg::peer_layout::of(limits), "layout").bytes);
  }

  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_memory mask_memory_{256};
  dg::row_masks masks_;
};

/// One policy and the shape of one case.
template <class Policy>
struct peer_user {
  using communicator = dg::basic_peer_communicator<dg::element::bf16>;

  peer_user(peer_channel& channel, const collective_case& of)
      : what{of}, now{of}, config{config_of(of, channel.world().topology())},
        workspace{must(dg::DpGather<Policy, communicator>::workspace_bytes(config), "workspace")},
        dp{communicator{channel.world()}, config, {workspace.data(), workspace.size()}} {
    must(dp.check(), "DpGather");
    if constexpr (dg::has_graphs<Policy>) {
      plan = must(dp.capture_plan(dp.rules().captured_sizes().largest()), "capture_plan");
    } else {
      plan = plan_of(of);
    }
  }
  peer_user(const peer_user&) = delete;
  peer_user& operator=(const peer_user&) = delete;

  /// The plan of a step with these counts.
  [[nodiscard]] dg::step_plan plan_of(const collective_case& counts) const {
    std::vector<dg::step_record> records;
    for (std::int32_t r = 0; r < counts.ranks; ++r) {
      dg::step_record one = dp.record(1);
      one.world_rank = r;
      one.tokens = one.requests = counts.counts[r];
      one.phase = counts.counts[r] == 0 ? dg::phase::idle : dg::phase::decode;
      one.votes = dg::step_record::graph_vote;
      records.push_back(one);
    }
    if constexpr (Policy::counts_type::kind == dg::counts_kind::agreed) {
      return must(dp.plan(records), "plan");
    } else {
      const std::int32_t own = config.topology.dp_rank;
      return must(dp.plan(records[static_cast<std::size_t>(own)]), "plan");
    }
  }
  /// Plans for all splits, of which `bring` takes one.
  void plan_all(const random_splits& splits) {
    for (const collective_case& each : splits.all()) {
      cases.push_back(each);
      plans.push_back(plan_of(each));
    }
  }
  /// Brings the n-th split's counts to the device: what an engine does before a replay.
  void bring(int n, cudaStream_t stream) {
    now = cases[static_cast<std::size_t>(n)];
    must(dp.refresh_counts(plans[static_cast<std::size_t>(n)], stream), "refresh_counts");
  }

  collective_case what; ///< the shape
  collective_case now;  ///< whose counts are on the device
  dg::gather_config config;
  device_memory workspace;
  dg::DpGather<Policy, communicator> dp;
  dg::step_plan plan;
  std::vector<collective_case> cases;
  std::vector<dg::step_plan> plans;

private:
  static dg::gather_config config_of(const collective_case& what, const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.row_bytes = what.row_bytes();
    out.max_rows_per_rank = what.rows;
    if constexpr (dg::has_graphs<Policy>) out.ladder.append(what.rows);
    return out;
  }
};

} // namespace bench
