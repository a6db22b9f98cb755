#pragma once

/// @file
/// Which options go together. `first_violation<P>()` is the answer as a value, `validate<P>()` as a
/// compile error of one sentence that names the fix. Kept apart from `policy`, so that an alias
/// replaced in a derived struct is seen.

#include <dpgather/config.hpp>
#include <dpgather/policy.hpp>

#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// The rules that a policy can break.
enum class violation : std::uint8_t {
  none,
  all_gather_needs_max_len,
  slots_need_max_len,
  all_gather_needs_slots,
  graph_freezes_one_mode,
  max_len_needs_lookup_max,
  sum_len_needs_lookup_sum,
  no_padding_needs_exact_own,
  nccl_exact_in_graph,
  nccl_combine_in_graph,
  nccl_needs_agreed_counts,
  rule_needs_agreed_counts,
  unknown_counts_need_exact,
  unknown_sum,
  unknown_counts_lookup,
  unknown_counts_cannot_agree,
  combine_needs_all_reduce,
};

namespace detail {

template <class P>
inline constexpr bool knows_counts = P::counts_type::kind == counts_kind::agreed;

/// The rules about one mode and its padding in one situation.
template <class P, situation Situation, class Mode, class Padding>
[[nodiscard]] consteval violation fixed_mode_violation() noexcept {
  using options = resolved<P, Situation>;
  constexpr bool graph = Situation == situation::in_graph;
  constexpr mode_kind mode = Mode::kind;
  constexpr padding_kind padding = Padding::kind;
  constexpr lookup_kind by = options::lookup::kind;
  constexpr bool slots = layout_for<typename options::layout, padding>() == layout_kind::slots;
  constexpr bool known = knows_counts<P>;

  if (mode == mode_kind::all_gather && padding != padding_kind::max_len)
    return violation::all_gather_needs_max_len;
  if (slots && padding != padding_kind::max_len) return violation::slots_need_max_len;
  if (mode == mode_kind::all_gather && !slots) return violation::all_gather_needs_slots;
  if (!known && mode != mode_kind::exact) return violation::unknown_counts_need_exact;
  if (!known && padding == padding_kind::sum_len) return violation::unknown_sum;
  if (graph && !known && by != lookup_kind::own) return violation::unknown_counts_lookup;
  if (graph && known && padding == padding_kind::max_len && by != lookup_kind::max)
    return violation::max_len_needs_lookup_max;
  if (graph && padding == padding_kind::sum_len && by != lookup_kind::sum &&
      by != lookup_kind::own_and_sum)
    return violation::sum_len_needs_lookup_sum;
  if (graph && padding == padding_kind::none &&
      !(mode == mode_kind::exact && by == lookup_kind::own))
    return violation::no_padding_needs_exact_own;
  if (graph && mode == mode_kind::exact && options::comm::kind == comm_kind::nccl)
    return violation::nccl_exact_in_graph;
  if (graph && mode == mode_kind::all_reduce && options::comm::kind == comm_kind::nccl &&
      options::combine::kind == combine_kind::reduce_scatter)
    return violation::nccl_combine_in_graph;
  return violation::none;
}

template <class P, situation Situation>
[[nodiscard]] consteval violation situation_violation() noexcept {
  using options = resolved<P, Situation>;
  using mode = typename options::mode;
  if constexpr (is_choice<mode>) {
    if (!knows_counts<P>) return violation::rule_needs_agreed_counts;
    if (Situation == situation::in_graph) return violation::graph_freezes_one_mode;
    using first = typename mode::pad_to_max;
    using second = typename mode::pad_to_sum;
    constexpr violation of_first =
        fixed_mode_violation<P, Situation, typename first::mode, typename first::padding>();
    if (of_first != violation::none) return of_first;
    return fixed_mode_violation<P, Situation, typename second::mode, typename second::padding>();
  } else {
    return fixed_mode_violation<P, Situation, mode, typename options::padding>();
  }
}

/// Whether a policy can come to a mode in a situation.
template <class P, situation Situation>
[[nodiscard]] consteval bool may_choose(mode_kind wanted) noexcept {
  if (Situation == situation::in_graph && !has_graphs<P>) return false;
  using mode = typename resolved<P, Situation>::mode;
  if constexpr (is_choice<mode>) {
    return mode::pad_to_max::mode::kind == wanted || mode::pad_to_sum::mode::kind == wanted;
  } else {
    return mode::kind == wanted;
  }
}

/// Whether its combine may sum the whole global tensor on every rank.
template <class P, situation Situation>
[[nodiscard]] consteval bool may_sum_everything() noexcept {
  return may_choose<P, Situation>(mode_kind::all_reduce) &&
         resolved<P, Situation>::combine::kind == combine_kind::all_reduce_then_scatter;
}

/// `all_reduce_then_scatter` where no all-reduce can come of it: stated for the policy and used in
/// neither situation, or stated for one situation and not used in that one.
template <class P>
[[nodiscard]] consteval bool combine_without_all_reduce() noexcept {
  constexpr auto all = combine_kind::all_reduce_then_scatter;
  if (P::combine_type::kind == all)
    return !may_choose<P, situation::eager>(mode_kind::all_reduce) &&
           !may_choose<P, situation::in_graph>(mode_kind::all_reduce);
  return (resolved<P, situation::eager>::combine::kind == all &&
          !may_choose<P, situation::eager>(mode_kind::all_reduce)) ||
         (has_graphs<P> && resolved<P, situation::in_graph>::combine::kind == all &&
          !may_choose<P, situation::in_graph>(mode_kind::all_reduce));
}

} // namespace detail

/// The first rule that `P` breaks, or `violation::none`.
template <policy_like P>
[[nodiscard]] consteval violation first_violation() noexcept {
  constexpr violation outside = detail::situation_violation<P, situation::eager>();
  if (outside != violation::none) return outside;
  if constexpr (has_graphs<P>) {
    constexpr violation inside = detail::situation_violation<P, situation::in_graph>();
    if (inside != violation::none) return inside;
  }
  if (P::comm_type::kind == comm_kind::nccl && !detail::knows_counts<P>)
    return violation::nccl_needs_agreed_counts;
  if (P::on_miss_type::go_eager && !detail::knows_counts<P>)
    return violation::unknown_counts_cannot_agree;
  if (detail::combine_without_all_reduce<P>()) return violation::combine_needs_all_reduce;
  return violation::none;
}

/// Refuses an illegal policy at compile time. Called by `make_plan` and `DpGather`.
template <policy_like P>
consteval bool validate() noexcept {
  constexpr violation broken = first_violation<P>();
  static_assert(broken != violation::all_gather_needs_max_len,
                "dpgather: mode::all_gather needs equal row counts; use padding::max_len, or "
                "mode::all_reduce with padding::sum_len");
  static_assert(broken != violation::slots_need_max_len,
                "dpgather: layout::slots needs one stride for all ranks; use padding::max_len, or "
                "layout::packed");
  static_assert(broken != violation::all_gather_needs_slots,
                "dpgather: mode::all_gather delivers slots; use layout::slots, or mode::exact with "
                "layout::packed");
  static_assert(
      broken != violation::graph_freezes_one_mode,
      "dpgather: a graph freezes one mode, so mode::choose cannot run in it; name the mode "
      "with in_graph<mode::..., padding::...>");
  static_assert(broken != violation::max_len_needs_lookup_max,
                "dpgather: padding::max_len in a graph pads to the bucket of the longest rank; use "
                "lookup::max, or padding::sum_len");
  static_assert(
      broken != violation::sum_len_needs_lookup_sum,
      "dpgather: padding::sum_len in a graph pads to the bucket of the sum; use lookup::sum "
      "or lookup::own_and_sum");
  static_assert(broken != violation::no_padding_needs_exact_own,
                "dpgather: a graph freezes shapes, so padding::none needs mode::exact with "
                "lookup::own; else use padding::max_len or padding::sum_len");
  static_assert(
      broken != violation::nccl_exact_in_graph,
      "dpgather: mode::exact over NCCL would freeze host counts in a graph; use comm::peer, "
      "or in_graph<mode::all_gather, padding::max_len>");
  static_assert(broken != violation::nccl_combine_in_graph,
                "dpgather: combine::reduce_scatter of an all-reduce mode over NCCL would freeze "
                "host counts in "
                "a graph; use combine::all_reduce_then_scatter, or comm::peer");
  static_assert(broken != violation::nccl_needs_agreed_counts,
                "dpgather: NCCL takes row counts from the host; use counts::agreed, or comm::peer");
  static_assert(broken != violation::rule_needs_agreed_counts,
                "dpgather: mode::choose looks at the counts of all ranks; use counts::agreed, or "
                "mode::exact");
  static_assert(
      broken != violation::unknown_counts_need_exact,
      "dpgather: counts::device and counts::exchanged need mode::exact; use mode::exact, or "
      "counts::agreed");
  static_assert(broken != violation::unknown_sum,
                "dpgather: padding::sum_len needs the sum on the host; use counts::agreed, or "
                "padding::none");
  static_assert(broken != violation::unknown_counts_lookup,
                "dpgather: counts::device and counts::exchanged leave the host with its own count; "
                "use lookup::own, or counts::agreed");
  static_assert(
      broken != violation::unknown_counts_cannot_agree,
      "dpgather: on_miss::agreed_eager needs the counts of all ranks; use counts::agreed, "
      "or on_miss::error");
  static_assert(broken != violation::combine_needs_all_reduce,
                "dpgather: combine::all_reduce_then_scatter belongs to mode::all_reduce; use "
                "combine::reduce_scatter");
  return broken == violation::none;
}

/// A policy whose options go together.
template <class P>
concept valid_policy = policy_like<P> && first_violation<P>()
== violation::none;

} // namespace dpgather::inline v0
