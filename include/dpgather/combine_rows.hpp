#pragma once

/// @file
/// The combine of each mode, in terms of a communicator's collectives. Arguments have been checked.

#include <dpgather/channel.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/options.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tail.hpp>
#include <dpgather/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0::detail {

/// One combine of one rank: this rank's real rows of the sum go to `local`, whose other rows become
/// what the tail policy says.
template <class Options, communicator Communicator>
class combine_call {
public:
  using stream_type = typename Communicator::stream_type;
  using run_on = executor<stream_type>;

  combine_call(channel<Communicator>& lane, const const_token_rows<partial>& global,
               const token_rows<replicated>& local, const step_plan& plan, stream_type stream,
               bool frozen) noexcept
      : lane_{lane}, global_{global}, local_{local}, plan_{plan}, places_{plan, lane.counts},
        stream_{stream}, frozen_{frozen}, own_{lane.topo.dp_rank}, share_{places_.share(
                                                                       own_, lane.topo.tp_rank)} {}

  /// Equal slots: a reduce-scatter over the world, then the attention-TP peers share their slices.
  [[nodiscard]] status all_gather() noexcept {
    const bool direct = local_.contiguous() && local_.rows() >= plan_.stride;
    const token_rows<replicated> out = direct ? local_ : lane_.staged(plan_.stride, local_);
    std::byte* const place = out.row(share_.first);
    const std::size_t share_bytes = static_cast<std::size_t>(share_.count) * out.row_bytes();
    if (status bad = lane_.comm.reduce_scatter(
            global_.data(), place, share_bytes / size_of(out.element()), out.element(), stream_);
        !bad)
      return bad;
    if (lane_.topo.tp_size > 1) {
      if (status bad = lane_.attention_tp.all_gather(place, out.data(), share_bytes, stream_); !bad)
        return bad;
    }
    return direct ? fill_tail() : take(out, false);
  }

  /// Every rank sums everything and keeps its own rows.
  [[nodiscard]] status all_reduce_then_scatter() noexcept {
    const token_rows<replicated> sums = lane_.staged(plan_.global_rows, local_);
    const std::size_t count = static_cast<std::size_t>(plan_.global_rows) * elements();
    if (status bad =
            lane_.comm.all_reduce(global_.data(), sums.data(), count, sums.element(), stream_);
        !bad)
      return bad;
    return take(sums, true);
  }

  /// Real rows only: each world rank receives the sum of its share, then the peers exchange shares.
  [[nodiscard]] status exact() noexcept {
    const bool direct = local_.contiguous();
    const token_rows<replicated> out = direct ? local_ : lane_.staged(places_.rows(own_), local_);
    std::byte* const place = out.row(share_.first);
    if (status bad = lane_.comm.reduce_scatter_v(
            global_.data(), place, lane_.world_pieces(places_, elements()), out.element(), stream_);
        !bad)
      return bad;
    if (lane_.topo.tp_size > 1) {
      if (status bad = lane_.attention_tp.all_gather_v(
              place, out.data(), lane_.attention_pieces(places_, out.row_bytes()), stream_);
          !bad)
        return bad;
    }
    return direct ? fill_tail() : take(out, false);
  }

private:
  [[nodiscard]] std::size_t elements() const noexcept {
    return global_.row_bytes() / size_of(global_.element());
  }
  /// This rank's real rows out of `sums`, and the tail behind them.
  [[nodiscard]] status take(const token_rows<replicated>& sums, bool from_global) noexcept {
    return run_on::run(take_rows{.sums = {sums.data(), sums.row_bytes(), sums.row_stride()},
                                 .local = detail::row_places<std::byte>::of(local_),
                                 .places = lane_.live_places(plan_),
                                 .fill = Options::tail::fill(local_.element()),
                                 .dp_rank = own_,
                                 .from_global = from_global,
                                 .local_rows = local_.rows()},
                       Options::launch::blocks, stream_);
  }
  /// The sums are in place already.
  [[nodiscard]] status fill_tail() noexcept {
    if constexpr (std::same_as<typename Options::tail, tail::leave>) {
      return {};
    } else {
      // The host knows when there is none, unless a replay may bring other counts.
      if (plan_.counts_known && !frozen_ && local_.rows() == places_.rows(own_)) return {};
      return take(token_rows<replicated>{}, false);
    }
  }

  channel<Communicator>& lane_;
  const const_token_rows<partial>& global_;
  const token_rows<replicated>& local_;
  const step_plan& plan_;
  placement places_;
  stream_type stream_;
  bool frozen_;      // shapes, in a graph; counts are those of the replay
  std::int32_t own_; // this data-parallel rank
  row_range share_;  // what this attention-TP rank speaks for, from the first row of own_
};

} // namespace dpgather::inline v0::detail
