#pragma once

/// @file
/// The switches of a run on GPUs: a policy, what connects the ranks, and how its two sizes become
/// graphs.

#include "../policies.hpp"
#include "links.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/step_graphs.cuh>

namespace engine::gpu {

/// Over peer memory. Few blocks: ranks may share a GPU, where a waiting kernel must not be in the
/// way of the one it waits for.
template <class Policy>
struct over_peers : dg::rebind_comm<Policy, dg::comm::peer> {
  using launch_type = dg::launch::shape<8, true>;
};
template <class Policy>
struct over_nccl : dg::rebind_comm<Policy, dg::comm::nccl> {};

/// What is run: types, an instantiation each.
template <class Policy, class Link, class Way>
struct gpu_switch {
  using policy = Policy;
  using link = Link;
  using way = Way;
};
template <class Policy, class Way>
using by_peers = gpu_switch<over_peers<Policy>, peer_link<over_peers<Policy>>, Way>;
template <class Policy, class Way>
using by_nccl = gpu_switch<over_nccl<Policy>, nccl_link<over_nccl<Policy>>, Way>;

using alone = by_peers<single_rank, dg::graph_way::coupled>;

/// Calls `visit(gpu_switch{}, policy's name, own name, needs a GPU for each rank)`.
template <class Visitor>
void for_each_switch(Visitor&& visit) {
  namespace way = dg::graph_way;
  visit(by_nccl<pr8278, way::coupled>{}, "pr8278", "pr8278", true);
  visit(by_nccl<all_reduce, way::pairs>{}, "all_reduce", "all_reduce", true);
  visit(by_peers<exact_coupled, way::coupled>{}, "exact_coupled", "exact_coupled", false);
  visit(by_peers<exact_decoupled, way::pairs>{}, "exact_decoupled", "exact/pairs", false);
  visit(by_peers<exact_decoupled, way::piecewise>{}, "exact_decoupled", "exact/piecewise", false);
  visit(by_peers<exact_decoupled, way::switch_on_sum>{}, "exact_decoupled", "exact/switch", false);
  visit(by_peers<exact_decoupled, way::device_rows>{}, "exact_decoupled", "exact/device_rows",
        false);
}

} // namespace engine::gpu
