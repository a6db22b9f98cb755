#pragma once

/// @file
/// Gather and combine over a communicator that moves rows itself, and what it takes to begin and
/// end in the engine's own memory. Arguments have been checked.

#include <dpgather/channel.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/masks.hpp>
#include <dpgather/device/peer_stage.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/options.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// What one gather brings along with the hidden rows, in the same launch.
struct gather_along {
  /// Tensors with the same rows, in the order of `peer_options::more_row_bytes`. Their pad rows
  /// become zero, unless tails are left.
  std::span<const const_token_rows<replicated>> tensors{};
  /// Masks of the gathered rows; `places` is filled in. May be null.
  const row_masks* masks = nullptr;
};

namespace detail {

/// One call of one rank. `Options` is what the policy says for the situation.
template <class Options, row_mover Communicator>
class moved_call {
public:
  using stream_type = typename Communicator::stream_type;
  using run_on = executor<stream_type>;

  moved_call(channel<Communicator>& lane, const step_plan& plan, stream_type stream) noexcept
      : lane_{lane}, plan_{plan}, stream_{stream} {}

  /// Into the channel's view, and from there to `global` if that is other memory: one more launch.
  template <row_state State>
  [[nodiscard]] status gather(const const_token_rows<State>& local,
                              const token_rows<replicated>& global,
                              const gather_along& along) noexcept {
    const fill_word fill = Options::tail::fill(local.element());
    const bool owes_sum = std::same_as<State, partial> && lane_.topo.tp_size > 1;
    if (owes_sum) {
      if constexpr (std::same_as<State, partial>) {
        if (status bad = lane_.comm.gather(shape(local.rows()), plan_, local, fill, stream_); !bad)
          return bad;
      }
    } else {
      const_token_rows<replicated> tensors[max_peer_tensors];
      fill_word fills[max_peer_tensors];
      std::size_t count = 0;
      tensors[count] = {local.data(), local.rows(), local.element(), local.row_bytes(),
                        local.row_stride()};
      if constexpr (!Options::row_op::is_identity) {
        if (status bad = apply(tensors[0]); !bad) return bad;
      }
      fills[count++] = fill;
      for (const const_token_rows<replicated>& each : along.tensors) {
        tensors[count] = each;
        fills[count++].leave = fill.leave;
      }
      if (status bad = lane_.comm.gather(shape(local.rows()), plan_, {tensors, count},
                                         {fills, count}, along.masks, stream_);
          !bad)
        return bad;
    }
    if (global.data() == lane_.comm.view()) return {};
    return run_on::run(
        copy_global{.from = {lane_.comm.view(), global.row_bytes(), global.row_bytes()},
                    .to = row_places<std::byte>::of(global),
                    .places = lane_.live_places(plan_).sharing_real_rows(),
                    .fill = fill,
                    .dp_size = plan_.dp_size,
                    .most_rows = plan_.global_rows},
        Options::launch::blocks, stream_);
  }

  /// From one of the channel's inputs, or from other memory by way of one: one more launch.
  [[nodiscard]] status combine(const const_token_rows<partial>& global,
                               const token_rows<replicated>& local) noexcept {
    const std::int32_t input = lane_.comm.input_at(global.data());
    if (input < 0) {
      if (status bad =
              run_on::run(stage_input{.from = row_places<const std::byte>::of(global),
                                      .lane = lane_.comm.world().lane(),
                                      .places = lane_.live_places(plan_).sharing_real_rows(),
                                      .dp_size = plan_.dp_size,
                                      .most_rows = plan_.global_rows},
                          Options::launch::blocks, stream_);
          !bad)
        return bad;
    }
    return lane_.comm.combine(shape(local.rows()), plan_, input, local,
                              Options::tail::fill(local.element()), stream_);
  }

private:
  [[nodiscard]] typename Communicator::call_shape shape(std::int64_t local_rows) const noexcept {
    typename Communicator::call_shape out;
    out.places = lane_.live_places(plan_);
    out.live = lane_.live;
    out.counts = Options::counts::kind;
    out.local_rows = local_rows;
    out.blocks = Options::launch::blocks;
    out.dependent = Options::launch::blocks == 0 || Options::launch::dependent;
    return out;
  }
  /// The row functor, by way of the workspace: a line knows nothing of rows.
  [[nodiscard]] status apply(const_token_rows<replicated>& rows) noexcept {
    const token_rows<replicated> to =
        lane_.staged(rows.rows(), {nullptr, 0, rows.element(), rows.row_bytes()});
    if (status bad = run_on::run(
            apply_rows<typename Options::row_op>{.from = row_places<const std::byte>::of(rows),
                                                 .to = row_places<std::byte>::of(to),
                                                 .places = lane_.live_places(plan_),
                                                 .dp_rank = lane_.topo.dp_rank,
                                                 .most_rows = rows.rows()},
            Options::launch::blocks, stream_);
        !bad)
      return bad;
    rows = to;
    return {};
  }

  channel<Communicator>& lane_;
  const step_plan& plan_;
  stream_type stream_;
};

} // namespace detail

} // namespace dpgather::inline v0
