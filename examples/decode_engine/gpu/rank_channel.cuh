#pragma once

/// @file
/// What is the library's on one rank: the link to the others, `DpGather`, and the global tensors,
/// which over peers are the channel's own memory.

#include "../model.hpp"
#include "gpu_policies.cuh"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace engine::gpu {

template <class Switch>
class rank_channel {
public:
  using policy = typename Switch::policy;
  using link_type = typename Switch::link;
  using dp_type = dg::DpGather<policy, typename link_type::communicator_type>;
  static constexpr bool moves_rows = dg::row_mover<typename link_type::communicator_type>;

  /// Collective. Borrows `ranks`. Throws `dpgather::error`.
  rank_channel(dg::host_communicator& ranks, const dg::gather_config& config,
               const dg::planner<policy>& rules)
      : local_rows_{rules.max_padded_rows()}, gathered_{floats(rules)}, addends_{floats(rules)},
        workspace_{
            std::max<std::size_t>(256, dg::value_or_throw(dp_type::workspace_bytes(config)))},
        link_{ranks, config}, dp_{link_.communicator(), config, workspace_.span()} {
    dg::throw_if_failed(dp_.check());
  }

  [[nodiscard]] link_type& link() noexcept { return link_; }
  [[nodiscard]] dp_type& dp() noexcept { return dp_; }
  [[nodiscard]] const dp_type& dp() const noexcept { return dp_; }

  /// Everybody's rows, summed over the attention-TP peers: `[plan.global_rows, hidden]`.
  [[nodiscard]] dg::result<dg::token_rows<dg::replicated>>
  gather(const serve::device_array<float>& local, const dg::step_plan& plan,
         cudaStream_t stream) noexcept {
    const auto mine = own<dg::partial>(local);
    if constexpr (moves_rows) {
      return dp_.gather(mine, plan, stream); // a view, valid until the next call
    } else {
      return dp_.gather(mine,
                        dg::rows_of<dg::replicated>(gathered_.data(), plan.global_rows, hidden),
                        plan, stream);
    }
  }
  /// Where the FFN writes what `combine` sums: `[plan.global_rows, hidden]`.
  [[nodiscard]] dg::token_rows<dg::partial> addends(const dg::step_plan& plan) noexcept {
    if constexpr (moves_rows) {
      return dp_.combine_input(plan);
    } else {
      return dg::rows_of<dg::partial>(addends_.data(), plan.global_rows, hidden);
    }
  }
  [[nodiscard]] dg::status combine(const dg::token_rows<dg::partial>& addends,
                                   const serve::device_array<float>& local,
                                   const dg::step_plan& plan, cudaStream_t stream) noexcept {
    return dp_.combine(addends, own<dg::replicated>(local), plan, stream);
  }
  /// Own rows of a global tensor, without communication.
  [[nodiscard]] dg::status scatter(const serve::device_array<float>& global,
                                   const serve::device_array<float>& local,
                                   const dg::step_plan& plan, cudaStream_t stream) noexcept {
    return dp_.scatter(dg::rows_of<dg::replicated>(global.data(), plan.global_rows, hidden),
                       own<dg::replicated>(local), plan, stream);
  }

private:
  [[nodiscard]] static std::size_t floats(const dg::planner<policy>& rules) noexcept {
    return moves_rows ? 1 : static_cast<std::size_t>(rules.max_global_rows()) * hidden;
  }
  /// With room for the rows of any replay.
  template <dg::row_state State>
  [[nodiscard]] auto own(const serve::device_array<float>& of) const noexcept {
    return dg::rows_of<State>(of.data(), local_rows_, hidden);
  }

  std::int64_t local_rows_;
  serve::device_array<float> gathered_, addends_; ///< `[global rows, hidden]`, but over peers
  serve::device_array<std::byte> workspace_;
  link_type link_;
  dp_type dp_;
};

} // namespace engine::gpu
