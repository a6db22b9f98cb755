#pragma once

/// @file
/// The gathers and combines of this library that are compared with NCCL's: all that has to be
/// touched to add one.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// What is measured is the real thing: counts in device memory, packed rows, offsets, pad bits and
/// origins of rows written, counts and plans compared.
struct peer_policy : dg::rebind_comm<dg::exact_eager, dg::comm::peer> {};
/// Each rank knows its own count only.
struct peer_exchanged
    : dg::policy<dg::mode::exact, dg::padding::none, dg::counts::exchanged, dg::comm::peer> {};
/// Few blocks, to leave the GPU to a GEMM beside it.
struct peer_few_blocks : peer_policy {
  using launch_type = dg::launch::shape<16, true>;
};
/// Without programmatic dependent launch.
struct peer_not_dependent : peer_policy {
  using launch_type = dg::launch::shape<dg::max_peer_blocks, false>;
};

/// What this library has on one rank.
///
/// `here` has the place (team, rank, stream, a wait with a deadline), the NCCL communicator, inputs
/// and outputs, and counts and offsets in device memory; `what` has the counts of all ranks and the
/// size of rows. Both lists are asked for once per case, on all ranks, when inputs, counts and
/// offsets are in place and nothing runs; they are of the same length on all ranks.
///
/// A method is called once, captured as a graph of calls, of which call i takes `inputs.at(i)`,
/// verified, and timed in turn with the others. So what calls read on the device is written here,
/// before the first call; `prepare`, which comes right before the verification, poisons the output
/// (`poison_global`, `poison_local`); `wrong(n)` compares what the last of n calls left
/// (`wrong_after_gather`, `wrong_after_combine`, with `inputs.index(n - 1)`). Other inputs than the
/// rank's are filled by `write_rows` with `own_rows` or `partial_rows`.
class peer_methods {
public:
  /// Collective, before anything is timed: the place for what is allocated, registered and
  /// exchanged. Destroyed before the rank, when all ranks are done.
  peer_methods(dg::host_communicator ranks, collective_rank& here)
      : here_{here}, limits_{limits_of(ranks.topology(), here.shape())},
        memory_{ranks, arena_bytes(limits_)}, world_{ranks, ranks.topology(), memory_.pointers(),
                                                     limits_} {
    must(memory_.check(), "peer memory");
    must(world_.check(), "peer_world");
    const std::int64_t rows = limits_.view_rows;
    masks_ = device_memory{static_cast<std::size_t>(rows) * sizeof(dg::row_source) +
                           static_cast<std::size_t>(rows / 32 + 1) * sizeof(std::uint32_t)};
  }
  peer_methods(const peer_methods&) = delete;
  peer_methods& operator=(const peer_methods&) = delete;

  /// Inputs: `here.plain().inputs`, the own rows. Output: the channel's view.
  [[nodiscard]] std::vector<method> gather(const collective_case& what) {
    return {gather_by<peer_policy>("dpgather peer", what),
            gather_by<peer_exchanged>("dpgather peer, counts exchanged", what),
            gather_by<peer_few_blocks>("dpgather peer, at most 16 blocks", what),
            gather_by<peer_not_dependent>("dpgather peer, no dependent launch", what)};
  }

  /// Inputs: the channel's two, in turn. Output: the own rows, `here.plain().local`.
  [[nodiscard]] std::vector<method> combine(const collective_case& what) {
    return {combine_by<peer_policy>("dpgather peer", what),
            combine_by<peer_few_blocks>("dpgather peer, at most 16 blocks", what),
            combine_by<peer_not_dependent>("dpgather peer, no dependent launch", what)};
  }

private:
  using communicator = dg::basic_peer_communicator<dg::element::bf16>;
  using peer_world_ref = std::reference_wrapper<dg::peer_world>;

  /// One policy and one case.
  template <class Policy>
  struct user {
    user(peer_world_ref world, const collective_case& of, const dg::topology& place)
        : what{of}, config{config_of(of, place)},
          workspace{*dg::DpGather<Policy, communicator>::workspace_bytes(config)},
          dp{communicator{world.get()}, config, {workspace.data(), workspace.size()}} {
      must(dp.check(), "DpGather");
      std::vector<dg::step_record> records;
      for (std::int32_t r = 0; r < of.ranks; ++r) {
        dg::step_record one = dp.record(1);
        one.world_rank = r;
        one.tokens = one.requests = of.counts[r];
        one.phase = of.counts[r] == 0 ? dg::phase::idle : dg::phase::decode;
        records.push_back(one);
      }
      if constexpr (Policy::counts_type::kind == dg::counts_kind::agreed) {
        plan = *dp.plan(records);
      } else {
        plan = *dp.plan(records[static_cast<std::size_t>(place.dp_rank)]);
      }
    }
    collective_case what;
    dg::gather_config config;
    device_memory workspace;
    dg::DpGather<Policy, communicator> dp;
    dg::step_plan plan;
  };

  static dg::gather_config config_of(const collective_case& what, const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.row_bytes = what.row_bytes();
    out.max_rows_per_rank = what.rows;
    return out;
  }
  /// Room for the largest case, and one row behind it that nobody may write.
  static dg::peer_limits limits_of(const dg::topology& place, const collective_shape& shape) {
    dg::gather_config most;
    most.topology = place;
    most.row_bytes = shape.row_bytes();
    most.max_rows_per_rank =
        static_cast<std::int32_t>(shape.most_local_bytes() / shape.row_bytes()) + 1;
    const auto limits = dg::peer_limits_of<peer_policy>(most);
    must(limits.status(), "limits");
    return *limits;
  }
  static std::size_t arena_bytes(const dg::peer_limits& limits) {
    const auto layout = dg::peer_layout::of(limits);
    must(layout.status(), "layout");
    return static_cast<std::size_t>(layout->bytes);
  }

  template <class Policy>
  std::shared_ptr<user<Policy>> start(const collective_case& what) {
    auto made = std::make_shared<user<Policy>>(std::ref(world_), what, world_.topology());
    must(made->dp.refresh_counts(made->plan, here_.stream()), "counts");
    here_.place().wait("peer methods");
    return made;
  }

  template <class Policy>
  method gather_by(std::string name, const collective_case& what) {
    auto of = start<Policy>(what);
    const auto rows = static_cast<std::int64_t>(limits_.view_rows);
    dg::row_masks masks;
    masks.sources = reinterpret_cast<dg::row_source*>(masks_.data());
    masks.pad_bits = reinterpret_cast<std::uint32_t*>(
        masks_.data() + static_cast<std::size_t>(rows) * sizeof(dg::row_source));
    std::byte* const view = of->dp.view(of->plan).data();
    return {.name = std::move(name),
            .call =
                [this, of, masks](int i) {
                  const dg::const_token_rows<dg::replicated> local{here_.plain().inputs.at(i),
                                                                   of->what.rows, dg::element::bf16,
                                                                   of->what.row_bytes()};
                  must(of->dp.gather(local, of->plan, here_.stream(), {.masks = &masks}).status(),
                       "gather");
                },
            .prepare = [this, of, view] { poison_global(here_, of->what, view); },
            .wrong =
                [this, of, view](int calls) {
                  must(world_.check(), "peer_world");
                  return wrong_after_gather(here_, of->what, view,
                                            here_.plain().inputs.index(calls - 1),
                                            row_layout::packed, of->plan.global_rows);
                }};
  }

  template <class Policy>
  method combine_by(std::string name, const collective_case& what) {
    auto of = start<Policy>(what);
    for (std::int32_t i = 0; i < 2; ++i)
      write_rows(of->dp.combine_input(of->plan, i).data(), what.total(), what.hidden,
                 partial_rows{what, here_.rank(), i, true}, here_.stream());
    here_.place().wait("peer methods");
    return {.name = std::move(name),
            .call =
                [this, of](int i) {
                  const dg::token_rows<dg::replicated> local{
                      here_.plain().local, of->what.rows, dg::element::bf16, of->what.row_bytes()};
                  // No combine may take the input of the one right before it. Graphs have an even
                  // number of them; what runs outside takes the second input, behind a gather.
                  const bool captured = *dg::is_capturing(here_.stream());
                  if (!captured)
                    must(of->dp
                             .gather(dg::const_token_rows<dg::replicated>{local}, of->plan,
                                     here_.stream())
                             .status(),
                         "gather");
                  must(of->dp.combine(of->dp.combine_input(of->plan, captured ? i % 2 : 1), local,
                                      of->plan, here_.stream()),
                       "combine");
                },
            .prepare = [this, of] { poison_local(here_, of->what, here_.plain().local); },
            .wrong =
                [this, of](int calls) {
                  must(world_.check(), "peer_world");
                  return wrong_after_combine(here_, of->what, here_.plain().local, (calls - 1) % 2,
                                             row_layout::packed, true);
                }};
  }

  collective_rank& here_;
  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_memory masks_{256};
};

} // namespace bench
