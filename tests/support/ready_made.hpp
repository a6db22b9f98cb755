#pragma once

/// @file
/// What the ready-made policies mean, for the tests that run them end to end.

#include "gather_engine.hpp"
#include "plan_oracle.hpp"

#include <dpgather/policies.hpp>

#include <cstdint>
#include <vector>

namespace test_support {

/// All-gather at the bucket of the maximum.
inline constexpr shape_options to_max{
    .mode = cell_mode::all_gather, .padding = dg::padding_kind::max_len, .slots = true};
inline constexpr shape_options to_sum{.mode = cell_mode::all_reduce,
                                      .padding = dg::padding_kind::sum_len,
                                      .lookup = dg::lookup_kind::own_and_sum};
inline constexpr shape_options real_only{};

constexpr shape_options chosen_by(rule_option rule) {
  return {.mode = cell_mode::choose, .rule = rule};
}
constexpr shape_options all_reduced(shape_options o) {
  o.combine = dg::combine_kind::all_reduce_then_scatter;
  return o;
}
constexpr shape_options aligned(shape_options o, std::int32_t rows) {
  o.align = rows;
  return o;
}

constexpr policy_options without_graphs(shape_options eager) {
  policy_options out;
  out.eager = eager;
  return out;
}
constexpr policy_options with_graphs(shape_options eager, shape_options graph,
                                     bool miss_goes_eager = false) {
  return {.eager = eager, .graph = graph, .has_graphs = true, .miss_goes_eager = miss_goes_eager};
}

inline constexpr shape_options exact_sum{.mode = cell_mode::exact,
                                         .padding = dg::padding_kind::sum_len,
                                         .lookup = dg::lookup_kind::own_and_sum};

/// The ready-made policies on one communicator, those that are legal there.
template <template <class> class Engine = gather_engine_of,
          class Communicator = dg::host_communicator>
std::vector<gather_variant> ready_made_variants() {
  using enum rule_option;
  using tag = typename Communicator::tag;
  std::vector<gather_variant> out;
  const auto add = [&]<class Policy>(Policy, const char* name, const policy_options& means) {
    using rebound = dg::rebind_comm<Policy, tag>;
    if constexpr (dg::valid_policy<rebound>)
      out.push_back(
          variant_of<rebound, Engine, Communicator>(name, means, tail_option::zero, false));
  };
  add(dg::pr8278{}, "pr8278", with_graphs(all_reduced(chosen_by(strict)), all_reduced(to_max)));
  add(dg::sglang_now{}, "sglang_now",
      with_graphs(all_reduced(chosen_by(prefill_to_sum)), all_reduced(to_max)));
  add(dg::max_always{}, "max_always", with_graphs(to_max, to_max));
  add(dg::sum_always{}, "sum_always", with_graphs(all_reduced(to_sum), all_reduced(to_sum)));
  add(dg::exact_eager{}, "exact_eager", without_graphs(real_only));
  add(dg::exact_graph{}, "exact_graph", with_graphs(real_only, exact_sum));
  return out;
}

} // namespace test_support
