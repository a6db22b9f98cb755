// The ready-made policies, alignment and agreed misses, end to end.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

template <class Rule>
using chosen = dg::mode::choose<Rule, dg::mode::with<dg::mode::all_gather, dg::padding::max_len>,
                                dg::mode::with<dg::mode::all_reduce, dg::padding::sum_len>>;

struct pr8278_that_falls_back : dg::pr8278 {
  using on_miss_type = dg::on_miss::agreed_eager;
};
struct aligned_max : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::padding::align<4>,
                                dg::ladder::from_config, dg::tail::poison> {};
/// Outside graphs whole fours, inside whole fives: neither is a multiple of the other.
struct aligned_two_ways
    : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::ladder::from_config,
                 dg::eager<dg::padding::align<4>>, dg::in_graph<dg::padding::align<5>>> {};
struct aligned_sum
    : dg::policy<dg::mode::exact, dg::padding::sum_len, dg::padding::align<3>,
                 dg::ladder::from_config, dg::lookup::own_and_sum, dg::on_miss::agreed_eager> {};
struct eager_sum_aligned : dg::policy<chosen<dg::rule::volume_or_tie>, dg::padding::align<3>> {};

/// All-gather at the bucket of the maximum.
constexpr ts::shape_options to_max{
    .mode = ts::cell_mode::all_gather, .padding = dg::padding_kind::max_len, .slots = true};
constexpr ts::shape_options to_sum{.mode = ts::cell_mode::all_reduce,
                                   .padding = dg::padding_kind::sum_len,
                                   .lookup = dg::lookup_kind::own_and_sum};
constexpr ts::shape_options real_only{};

constexpr ts::shape_options chosen_by(ts::rule_option rule) {
  return {.mode = ts::cell_mode::choose, .rule = rule};
}
constexpr ts::shape_options all_reduced(ts::shape_options o) {
  o.combine = dg::combine_kind::all_reduce_then_scatter;
  return o;
}
constexpr ts::shape_options aligned(ts::shape_options o, std::int32_t rows) {
  o.align = rows;
  return o;
}

constexpr ts::policy_options without_graphs(ts::shape_options eager) {
  ts::policy_options out;
  out.eager = eager;
  return out;
}
constexpr ts::policy_options with_graphs(ts::shape_options eager, ts::shape_options graph,
                                         bool miss_goes_eager = false) {
  return {.eager = eager, .graph = graph, .has_graphs = true, .miss_goes_eager = miss_goes_eager};
}

template <class Policy>
ts::gather_variant ready(const char* name, const ts::policy_options& means,
                         ts::tail_option tail = ts::tail_option::zero) {
  return ts::variant_of<Policy>(name, means, tail, false);
}

} // namespace

TEST_CASE("the ready-made policies give every byte") {
  using enum ts::rule_option;
  constexpr ts::shape_options exact_sum{.mode = ts::cell_mode::exact,
                                        .padding = dg::padding_kind::sum_len,
                                        .lookup = dg::lookup_kind::own_and_sum};
  std::vector<ts::gather_variant> variants;
  variants.push_back(ready<dg::pr8278>(
      "pr8278", with_graphs(all_reduced(chosen_by(strict)), all_reduced(to_max))));
  variants.push_back(ready<pr8278_that_falls_back>(
      "pr8278_that_falls_back",
      with_graphs(all_reduced(chosen_by(strict)), all_reduced(to_max), true)));
  variants.push_back(ready<dg::sglang_now>(
      "sglang_now", with_graphs(all_reduced(chosen_by(prefill_to_sum)), all_reduced(to_max))));
  variants.push_back(ready<dg::max_always>("max_always", with_graphs(to_max, to_max)));
  variants.push_back(
      ready<dg::sum_always>("sum_always", with_graphs(all_reduced(to_sum), all_reduced(to_sum))));
  variants.push_back(ready<dg::exact_eager>("exact_eager", without_graphs(real_only)));
  variants.push_back(ready<dg::exact_graph>("exact_graph", with_graphs(real_only, exact_sum)));
  variants.push_back(ready<aligned_max>(
      "aligned_max", with_graphs(aligned(to_max, 4), aligned(to_max, 4)), ts::tail_option::poison));
  variants.push_back(ready<aligned_two_ways>("aligned_two_ways",
                                             with_graphs(aligned(to_max, 4), aligned(to_max, 5))));
  variants.push_back(ready<aligned_sum>(
      "aligned_sum", with_graphs(aligned(exact_sum, 3), aligned(exact_sum, 3), true)));
  variants.push_back(ready<eager_sum_aligned>("eager_sum_aligned",
                                              without_graphs(aligned(chosen_by(tie_to_max), 3))));
  ts::run_gather_cases(variants, 6);
}
