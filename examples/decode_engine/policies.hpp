#pragma once

/// @file
/// The variants of the library that the engine can be switched to: types, one instantiation each.
///
/// All agree to run a step eagerly where no captured size fits, so that misses are counted instead
/// of ending the run.

#include <dpgather/policies.hpp>
#include <dpgather/policy.hpp>

namespace engine {

namespace dg = dpgather;

template <class Base>
struct eager_on_miss : Base {
  using on_miss_type = dg::on_miss::agreed_eager;
};

/// SGLang PR #8278. In a graph: all-gather, attention and FFN at the bucket of the longest rank.
struct pr8278 : eager_on_miss<dg::pr8278> {};

/// All-reduce of the sum, always. In a graph: attention at the bucket of the own count, the FFN at
/// that of the sum.
struct all_reduce : eager_on_miss<dg::sum_always> {};

/// Only real rows travel, in the shapes of PR #8278: buckets stay coupled.
struct exact_coupled
    : eager_on_miss<dg::policy<dg::mode::exact, dg::padding::max_len, dg::lookup::max,
                               dg::ladder::from_config, dg::eager<dg::padding::none>>> {};

/// Only real rows travel, attention at the bucket of the own count, the FFN at that of the sum.
struct exact_decoupled : eager_on_miss<dg::exact_graph> {};

/// What the others are compared with: one rank, nothing padded, no graphs.
struct single_rank : dg::exact_eager {};

/// Calls `visit(Policy{}, name)` for each that can be asked for.
template <class Visitor>
void for_each_policy(Visitor&& visit) {
  visit(pr8278{}, "pr8278");
  visit(all_reduce{}, "all_reduce");
  visit(exact_coupled{}, "exact_coupled");
  visit(exact_decoupled{}, "exact_decoupled");
}

} // namespace engine
