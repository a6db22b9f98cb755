#pragma once

/// @file
/// From a plan's mode to what moves the rows: the collectives of each mode, or a communicator that
/// moves rows itself. Arguments have been checked.

#include <dpgather/channel.hpp>
#include <dpgather/combine_rows.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/gather_rows.hpp>
#include <dpgather/moved_rows.hpp>
#include <dpgather/options.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/validate.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0::detail {

/// One call of one rank in a situation. Only modes that the policy can come to are instantiated.
template <class Policy, situation Situation, communicator Communicator>
class row_calls {
public:
  using stream_type = typename Communicator::stream_type;
  using options = resolved<Policy, Situation>;

  /// `frozen`: in a graph, whose replays may bring other counts.
  row_calls(channel<Communicator>& lane, const step_plan& plan, stream_type stream,
            bool frozen) noexcept
      : lane_{lane}, plan_{plan}, stream_{stream}, frozen_{frozen} {}

  template <row_state State>
  [[nodiscard]] status gather(const const_token_rows<State>& local,
                              const token_rows<replicated>& global,
                              [[maybe_unused]] const gather_along& along) noexcept {
    if constexpr (row_mover<Communicator>) {
      return moved_call<options, Communicator>{lane_, plan_, stream_}.gather(local, global, along);
    } else {
      gather_call<options, Communicator, State> of{lane_, local, global, plan_, stream_, frozen_};
      if constexpr (may_choose<Policy, Situation>(mode_kind::all_gather))
        if (plan_.mode == mode_kind::all_gather) return of.all_gather();
      if constexpr (may_choose<Policy, Situation>(mode_kind::all_reduce))
        if (plan_.mode == mode_kind::all_reduce) return of.all_reduce();
      if constexpr (may_choose<Policy, Situation>(mode_kind::exact))
        if (plan_.mode == mode_kind::exact) return of.exact();
      return foreign_plan("gather");
    }
  }

  [[nodiscard]] status combine(const const_token_rows<partial>& global,
                               const token_rows<replicated>& local) noexcept {
    if constexpr (row_mover<Communicator>) {
      return moved_call<options, Communicator>{lane_, plan_, stream_}.combine(global, local);
    } else {
      combine_call<options, Communicator> of{lane_, global, local, plan_, stream_, frozen_};
      if constexpr (may_choose<Policy, Situation>(mode_kind::all_gather))
        if (plan_.mode == mode_kind::all_gather) return of.all_gather();
      if constexpr (may_choose<Policy, Situation>(mode_kind::all_reduce)) {
        if constexpr (may_sum_everything<Policy, Situation>()) {
          if (plan_.mode == mode_kind::all_reduce) return of.all_reduce_then_scatter();
        } else {
          if (plan_.mode == mode_kind::all_reduce) return of.exact();
        }
      }
      if constexpr (may_choose<Policy, Situation>(mode_kind::exact))
        if (plan_.mode == mode_kind::exact) return of.exact();
      return foreign_plan("combine");
    }
  }

  [[nodiscard]] status scatter(const const_token_rows<replicated>& global,
                               const token_rows<replicated>& local) noexcept {
    return channel<Communicator>::run_on::run(
        take_rows{.sums = row_places<const std::byte>::of(global),
                  .local = row_places<std::byte>::of(local),
                  .places = lane_.live_places(plan_),
                  .fill = options::tail::fill(local.element()),
                  .dp_rank = lane_.topo.dp_rank,
                  .from_global = true,
                  .local_rows = local.rows()},
        options::launch::blocks, stream_);
  }

private:
  /// All ranks hold the same plan, but it is of another policy.
  [[nodiscard]] status foreign_plan(const char* where) const noexcept {
    return {.code = errc::bad_config,
            .about = subject::mode,
            .rank = lane_.topo.world_rank(),
            .value = static_cast<std::int64_t>(plan_.mode),
            .value_name = name_of(plan_.mode),
            .where = where};
  }

  channel<Communicator>& lane_;
  const step_plan& plan_;
  stream_type stream_;
  [[maybe_unused]] bool frozen_;
};

} // namespace dpgather::inline v0::detail
