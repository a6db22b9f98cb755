#pragma once

/// @file
/// Ready-made policies. Take one as it is, rebind its communicator, or derive and replace an alias.

#include <dpgather/config.hpp>
#include <dpgather/policy.hpp>

namespace dpgather::inline v0 {

/// SGLang PR #8278, decision for decision. Eager: all-gather padded to the maximum iff
/// `2 * sum > max * W`, else all-reduce of the sum. In a graph: always all-gather, at the bucket of
/// the maximum. The ladder comes from `gather_config`.
struct pr8278
    : policy<mode::choose<rule::strict_volume, mode::with<mode::all_gather, padding::max_len>,
                          mode::with<mode::all_reduce, padding::sum_len>>,
             in_graph<mode::all_gather, padding::max_len>, lookup::max, ladder::from_config,
             combine::all_reduce_then_scatter> {};

/// What grew out of it: a tie goes to the all-gather, and steps with prefill pad to the sum.
struct sglang_now : policy<mode::choose<rule::sum_in_prefill<rule::volume_or_tie>,
                                        mode::with<mode::all_gather, padding::max_len>,
                                        mode::with<mode::all_reduce, padding::sum_len>>,
                           in_graph<mode::all_gather, padding::max_len>, lookup::max,
                           ladder::from_config, combine::all_reduce_then_scatter> {};

/// All-gather padded to the maximum, always.
struct max_always : policy<mode::all_gather, padding::max_len, lookup::max, ladder::from_config> {};

/// All-reduce of the sum, always; in a graph at the bucket of the sum.
struct sum_always : policy<mode::all_reduce, padding::sum_len, lookup::own_and_sum,
                           ladder::from_config, combine::all_reduce_then_scatter> {};

/// Only real rows, no graphs.
struct exact_eager : policy<mode::exact, padding::none> {};

/// Only real rows inside a graph: attention at the bucket of this rank, the FFN at the bucket of
/// the sum. Graphs need `comm::peer` (or `comm::host`, which has no graphs to freeze anything).
struct exact_graph : policy<mode::exact, padding::sum_len, lookup::own_and_sum, ladder::from_config,
                            eager<padding::none>> {};

} // namespace dpgather::inline v0
