#pragma once

/// @file
/// The gather of each mode, in terms of a communicator's collectives. Arguments have been checked.

#include <dpgather/channel.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tail.hpp>
#include <dpgather/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0::detail {

/// Whether an all-gather sends the caller's padded rows as they are, tails included, because nobody
/// minds what tails hold: the raw collective.
template <class Options, row_state State>
[[nodiscard]] bool sends_as_it_is(const const_token_rows<State>& local,
                                  const step_plan& plan) noexcept {
  if (!std::same_as<typename Options::tail, tail::leave> || !Options::row_op::is_identity)
    return false;
  if (std::same_as<State, partial> && plan.tp_size > 1) return false;
  return plan.mode == mode_kind::all_gather && local.contiguous() && local.rows() >= plan.stride;
}

/// One gather of one rank. `Options` is what the policy says for the situation; `owes_sum`: the
/// input still owes a sum over several attention-TP peers. Inputs are only read, but for the one
/// that already lies at its place in the output. Collectives take their sizes from the host: shapes
/// in a graph, counts only outside; everything else reads the counts when it runs.
template <class Options, communicator Communicator, row_state State>
class gather_call {
public:
  using stream_type = typename Communicator::stream_type;
  using run_on = executor<stream_type>;

  gather_call(channel<Communicator>& lane, const const_token_rows<State>& local,
              const token_rows<replicated>& global, const step_plan& plan, stream_type stream,
              bool frozen) noexcept
      : lane_{lane}, local_{local}, global_{global}, plan_{plan}, places_{plan, lane.counts},
        stream_{stream}, frozen_{frozen}, own_{lane.topo.dp_rank}, start_{places_.offset(own_)},
        share_{places_.share(own_, lane.topo.tp_rank)} {}

  /// Equal slots: this rank's slice goes to its own place in the output, which is then sent.
  [[nodiscard]] status all_gather() noexcept {
    const std::size_t share_bytes = static_cast<std::size_t>(share_.count) * global_.row_bytes();
    std::byte* const place = global_.row(start_ + share_.first);
    if (owes_sum()) {
      // Tails are added too: they must be numbers, whatever the input's tail holds.
      if (status bad = place_in(row_window::slot, plan_.stride, zero_fill()); !bad) return bad;
      if (status bad = lane_.attention_tp.reduce_scatter(global_.row(start_), place,
                                                         share_bytes / size_of(global_.element()),
                                                         global_.element(), stream_);
          !bad)
        return bad;
      if constexpr (!zeros_do) {
        if (status bad = fill_own_tail(); !bad) return bad;
      }
    } else if (sends_as_it_is<Options>(local_, plan_)) {
      return lane_.comm.all_gather(local_.row(share_.first), global_.data(), share_bytes, stream_);
    } else {
      if (status bad = place_in(row_window::share, share_.count, tail_fill()); !bad) return bad;
    }
    return lane_.comm.all_gather(place, global_.data(), share_bytes, stream_);
  }

  /// A zeroed buffer in which every row has one writer (partial: all attention-TP peers), summed.
  [[nodiscard]] status all_reduce() noexcept {
    const bool brings = owes_sum() || lane_.topo.tp_rank == 0;
    if (status bad = place_in(row_window::all, plan_.global_rows, zero_fill(), brings); !bad)
      return bad;
    const element type = owes_sum() ? global_.element() : widest_integer(global_.row_bytes());
    const std::size_t count =
        static_cast<std::size_t>(plan_.global_rows) * global_.row_bytes() / size_of(type);
    if (status bad = lane_.comm.all_reduce(global_.data(), global_.data(), count, type, stream_);
        !bad)
      return bad;
    if constexpr (zeros_do) {
      return {}; // sums of zeros
    } else {
      return fill_all_tails();
    }
  }

  /// Real rows only: from where they are, unless somebody changes them first or they have gaps.
  [[nodiscard]] status exact() noexcept {
    std::byte* const place = global_.row(start_ + share_.first);
    const std::byte* send = place;
    const std::int64_t rows = places_.rows(own_);
    if (owes_sum()) {
      if (status bad = place_in(row_window::slot, rows, no_fill()); !bad) return bad;
      const std::size_t elements = global_.row_bytes() / size_of(global_.element());
      if (status bad = lane_.attention_tp.reduce_scatter_v(
              global_.row(start_), place, lane_.attention_pieces(places_, elements),
              global_.element(), stream_);
          !bad)
        return bad;
    } else if (Options::row_op::is_identity && local_.contiguous()) {
      if (share_.count > 0) send = local_.row(share_.first);
    } else if (status bad = place_in(row_window::share, share_.count, no_fill()); !bad) {
      return bad;
    }
    if (status bad = lane_.comm.all_gather_v(
            send, global_.data(), lane_.world_pieces(places_, global_.row_bytes()), stream_);
        !bad)
      return bad;
    if constexpr (std::same_as<typename Options::tail, tail::leave> || only_real_rows) {
      return {};
    } else {
      return fill_all_tails();
    }
  }

private:
  /// Exact moves of agreed counts outside graphs: the output has no other rows.
  static constexpr bool only_real_rows = [] {
    if constexpr (is_choice<typename Options::mode>) {
      return false; // its paddings come with its modes
    } else {
      return Options::where == situation::eager && Options::padding::kind == padding_kind::none &&
             Options::counts::kind == counts_kind::agreed;
    }
  }();
  /// What a sum leaves in the tails is what the policy wants there, or nobody minds.
  static constexpr bool zeros_do = std::same_as<typename Options::tail, tail::zero> ||
                                   std::same_as<typename Options::tail, tail::leave>;

  /// With one attention-TP rank nothing is owed to anybody: partial is replicated.
  [[nodiscard]] bool owes_sum() const noexcept {
    return std::same_as<State, partial> && lane_.topo.tp_size > 1;
  }
  [[nodiscard]] detail::row_places<std::byte> global_places() const noexcept {
    return detail::row_places<std::byte>::of(global_);
  }
  [[nodiscard]] status place_in(row_window window, std::int64_t most_rows, const fill_pattern& rest,
                                bool copies = true) noexcept {
    return run_on::run(
        place_rows<typename Options::row_op>{.local =
                                                 detail::row_places<const std::byte>::of(local_),
                                             .global = global_places(),
                                             .places = lane_.live_places(plan_),
                                             .fill = rest,
                                             .dp_rank = own_,
                                             .tp_rank = lane_.topo.tp_rank,
                                             .local_rows = local_.rows(),
                                             .most_rows = most_rows,
                                             .window = window,
                                             .copies = copies},
        Options::launch::blocks, stream_);
  }
  [[nodiscard]] fill_pattern tail_fill() const noexcept {
    return Options::tail::fill(global_.element());
  }
  /// The tail inside this rank's slice of its slot, before it is sent.
  [[nodiscard]] status fill_own_tail() noexcept {
    return run_on::run(fill_share_tail{.global = global_places(),
                                       .places = lane_.live_places(plan_),
                                       .fill = tail_fill(),
                                       .dp_rank = own_,
                                       .tp_rank = lane_.topo.tp_rank,
                                       .most_rows = share_.count},
                       Options::launch::blocks, stream_);
  }
  /// All tails, after the rows have come. The host knows when there are none, unless a replay may
  /// bring other counts.
  [[nodiscard]] status fill_all_tails() noexcept {
    const bool none = plan_.counts_known && !frozen_ && plan_.pad_rows() == 0;
    return run_on::run(fill_tails{.global = global_places(),
                                  .places = lane_.live_places(plan_),
                                  .fill = tail_fill(),
                                  .most_rows = none ? 0 : plan_.global_rows},
                       Options::launch::blocks, stream_);
  }

  channel<Communicator>& lane_;
  const const_token_rows<State>& local_;
  const token_rows<replicated>& global_;
  const step_plan& plan_;
  placement places_; // as the host knows it
  stream_type stream_;
  bool frozen_;        // shapes, in a graph; counts are those of the replay
  std::int32_t own_;   // this data-parallel rank
  std::int64_t start_; // its first global row
  row_range share_;    // what this attention-TP rank speaks for, from start_
};

} // namespace dpgather::inline v0::detail
