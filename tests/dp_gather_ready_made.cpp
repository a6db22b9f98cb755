// The ready-made policies, alignment and agreed misses, end to end.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/gather_cases.hpp"
#include "support/ready_made.hpp"

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

template <class Policy>
ts::gather_variant ready(const char* name, const ts::policy_options& means,
                         ts::tail_option tail = ts::tail_option::zero) {
  return ts::variant_of<Policy>(name, means, tail, false);
}

} // namespace

TEST_CASE("the ready-made policies give every byte") {
  using namespace test_support;
  std::vector<gather_variant> variants = ready_made_variants<>();
  variants.push_back(ready<pr8278_that_falls_back>(
      "pr8278_that_falls_back",
      with_graphs(all_reduced(chosen_by(rule_option::strict)), all_reduced(to_max), true)));
  variants.push_back(ready<aligned_max>(
      "aligned_max", with_graphs(aligned(to_max, 4), aligned(to_max, 4)), tail_option::poison));
  variants.push_back(ready<aligned_two_ways>("aligned_two_ways",
                                             with_graphs(aligned(to_max, 4), aligned(to_max, 5))));
  variants.push_back(ready<aligned_sum>(
      "aligned_sum", with_graphs(aligned(exact_sum, 3), aligned(exact_sum, 3), true)));
  variants.push_back(ready<eager_sum_aligned>(
      "eager_sum_aligned", without_graphs(aligned(chosen_by(rule_option::tie_to_max), 3))));
  run_gather_cases(variants, 6);
}
