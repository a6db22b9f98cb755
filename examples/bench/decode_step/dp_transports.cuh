#pragma once

/// @file
/// This library's ways to move rows in a step: PR #8278 over NCCL, exact rows over peers.

#include "../support/check.cuh"
#include "dp_user.cuh"
#include "step_case.hpp"
#include "step_rank.cuh"
#include "transport.cuh"

#include <dpgather/dpgather.cuh>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// All of them on one rank. Collective to construct, before anything waits for a peer; destroyed
/// before the rank, when all ranks are done.
class dp_transports {
public:
  dp_transports(dg::host_communicator ranks, step_rank& here)
      : here_{here}, config_{step_config(here.shape(), ranks.topology())},
        limits_{must(dg::peer_limits_of<step_decoupled>(config_, {.inputs = 1}), "limits")},
        memory_{ranks,
                static_cast<std::size_t>(must(dg::peer_layout::of(limits_), "layout").bytes)},
        world_{ranks, ranks.topology(), memory_.pointers(), limits_}, padded_{dg::nccl_communicator{
                                                                                  here.world()},
                                                                              config_},
        coupled_{step_peer{usable_world()}, config_}, decoupled_{step_peer{world_}, config_},
        left_{step_peer{world_}, config_}, in_order_{step_peer{world_}, config_},
        in_16_{step_peer{world_}, config_}, in_4_{step_peer{world_}, config_} {}
  dp_transports(const dp_transports&) = delete;
  dp_transports& operator=(const dp_transports&) = delete;

  /// Sizes of one rank and of the sum that graphs are captured for.
  [[nodiscard]] const dg::bucket_list& sizes() const { return decoupled_.rules().ladder(); }
  [[nodiscard]] const dg::bucket_list& sum_sizes() const {
    return decoupled_.rules().shared_ladder();
  }

  [[nodiscard]] transport padded(const step_case& what) {
    return padded_.of("pr8278 over NCCL", what, here_.plain(), here_.stream());
  }
  [[nodiscard]] transport coupled(const step_case& what) {
    return over_peers("exact, one size", coupled_, what);
  }
  [[nodiscard]] transport decoupled(const step_case& what) {
    return over_peers("exact, own and sum sizes", decoupled_, what);
  }
  /// Pads are left as they are.
  [[nodiscard]] transport left(const step_case& what) {
    return over_peers("exact, own and sum sizes, pads left", left_, what);
  }
  /// `left` launched otherwise.
  [[nodiscard]] std::vector<transport> launched(const step_case& what) {
    return {over_peers("pads left, no dependent launch", in_order_, what),
            over_peers("pads left, at most 16 blocks", in_16_, what),
            over_peers("pads left, at most 4 blocks", in_4_, what)};
  }

private:
  [[nodiscard]] dg::peer_world& usable_world() {
    must(memory_.check(), "peer memory");
    must(world_.check(), "peer_world");
    return world_;
  }
  template <class User>
  [[nodiscard]] transport over_peers(std::string name, User& by, const step_case& what) {
    transport out = by.of(std::move(name), what, here_.plain(), here_.stream());
    out.check = [this] { must(world_.check(), "peer_world"); };
    return out;
  }

  step_rank& here_;
  dg::gather_config config_;
  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  dp_user<step_pr8278, dg::nccl_communicator> padded_;
  dp_user<step_coupled, step_peer> coupled_;
  dp_user<step_decoupled, step_peer> decoupled_;
  dp_user<step_left, step_peer> left_;
  dp_user<step_launched<dg::max_peer_blocks, false>, step_peer> in_order_;
  dp_user<step_launched<16, true>, step_peer> in_16_;
  dp_user<step_launched<4, true>, step_peer> in_4_;
};

} // namespace bench
