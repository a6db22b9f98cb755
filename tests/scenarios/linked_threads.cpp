// The complaints that led to PR #8278 and followed it, each by its number, and the classes of
// failures known from engines, as far as they show in plans.

#include <dpgather/plan.hpp>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
using dg::errc;
using dg::gather_config;
using dg::mode_kind;
using dg::result;
using dg::step_plan;
using dg::step_record;

namespace {

/// A ready-made policy with a ladder of its own, stated once, in requests per rank.
template <class P, class Ladder>
struct with_ladder : P {
  using ladder_type = Ladder;
};
template <class P>
struct going_eager : P {
  using on_miss_type = dg::on_miss::agreed_eager;
};

gather_config config_of(std::int32_t ranks, std::int32_t max_requests) {
  return {.topology = {ranks, 1, 0, 0},
          .row_bytes = 7168 * 2,
          .max_rows_per_rank = max_requests,
          .max_requests_per_rank = max_requests};
}

enum class votes { eager, graph };

template <class P>
result<step_plan> plan_of(const gather_config& config, const std::vector<std::int32_t>& tokens,
                          votes vote) {
  std::vector<step_record> records;
  for (const std::int32_t n : tokens) {
    step_record r;
    r.world_rank = static_cast<std::int32_t>(records.size());
    r.phase = n == 0 ? dg::phase::idle : dg::phase::decode;
    r.votes = vote == votes::graph ? step_record::graph_vote : std::uint8_t{0};
    r.tokens = r.logits_tokens = r.requests = n;
    records.push_back(r);
  }
  const auto agreed = dg::merge(records, config.topology);
  REQUIRE(agreed.ok());
  return dg::make_plan<P>(config, *agreed);
}

template <class P>
step_plan planned(const gather_config& config, const std::vector<std::int32_t>& tokens,
                  votes vote = votes::graph) {
  const auto plan = plan_of<P>(config, tokens, vote);
  CAPTURE(std::string{plan.status().message().view()});
  REQUIRE(plan.ok());
  return *plan;
}

std::vector<std::int32_t> each(std::int32_t ranks, std::int32_t tokens) {
  return std::vector<std::int32_t>(static_cast<std::size_t>(ranks), tokens);
}

} // namespace

// --- threads ------------------------------------------------------------------------------------

TEST_CASE("#5527: 32 requests a rank on 16 ranks hit a ladder that ends at 160") {
  using ladder = dg::ladder::sglang<160>;
  const gather_config config = config_of(16, 160);
  const step_plan classic = planned<with_ladder<dg::pr8278, ladder>>(config, each(16, 32));
  CHECK(classic.in_graph());
  CHECK_FALSE(classic.bucket_missed);
  CHECK(classic.shared_bucket == 32);
  CHECK(classic.global_rows == 512);
  CHECK(classic.own_bucket(0) == 32);

  const step_plan exact = planned<with_ladder<dg::exact_graph, ladder>>(config, each(16, 32));
  CHECK(exact.in_graph());
  CHECK_FALSE(exact.bucket_missed);
  CHECK(exact.own_bucket(15) == 32);
  CHECK(exact.shared_bucket >= 512);

  const step_plan sum = planned<with_ladder<dg::sum_always, ladder>>(config, each(16, 32));
  CHECK(sum.in_graph());
  CHECK(sum.padded[7] == 32);
}

TEST_CASE("#5527: what does not fit a graph is said, never skipped in silence") {
  using ladder = dg::ladder::sglang<160>;
  const gather_config config = config_of(16, 512);
  std::vector<std::int32_t> tokens = each(16, 32);
  tokens[3] = 161;
  CHECK(plan_of<with_ladder<dg::pr8278, ladder>>(config, tokens, votes::graph).code() ==
        errc::no_bucket);
  const step_plan counted =
      planned<going_eager<with_ladder<dg::pr8278, ladder>>>(config, tokens, votes::graph);
  CHECK_FALSE(counted.in_graph());
  CHECK(counted.bucket_missed);
}

TEST_CASE("#7951: 8 ranks of 512 requests run attention on 512 rows each, not on 4,096") {
  using ladder = dg::ladder::sglang<512>;
  const gather_config config = config_of(8, 512);
  const auto attention = [&]<class P>(std::type_identity<P>) {
    const step_plan p = planned<P>(config, each(8, 512));
    CHECK(p.in_graph());
    for (std::int32_t r = 0; r < 8; ++r) CHECK(p.padded[r] == 512);
    CHECK(p.global_rows == 4096);
  };
  attention(std::type_identity<with_ladder<dg::pr8278, ladder>>{});
  attention(std::type_identity<with_ladder<dg::sglang_now, ladder>>{});
  attention(std::type_identity<with_ladder<dg::max_always, ladder>>{});
  attention(std::type_identity<with_ladder<dg::sum_always, ladder>>{});
  attention(std::type_identity<with_ladder<dg::exact_graph, ladder>>{});
}

TEST_CASE("#4390: one token on 8 ranks is one row for an exact FFN, 8 for the classic graph") {
  using ladder = dg::ladder::sglang<160>;
  const gather_config config = config_of(8, 160);
  for (std::size_t owner = 0; owner < 8; ++owner) {
    std::vector<std::int32_t> tokens = each(8, 0);
    tokens[owner] = 1;
    CHECK(planned<with_ladder<dg::exact_graph, ladder>>(config, tokens).global_rows == 1);
    CHECK(planned<dg::exact_eager>(config, tokens, votes::eager).global_rows == 1);
    CHECK(planned<with_ladder<dg::pr8278, ladder>>(config, tokens).global_rows == 8);
    const step_plan eager = planned<with_ladder<dg::pr8278, ladder>>(config, tokens, votes::eager);
    CHECK(eager.global_rows == 1);
    CHECK(eager.mode == mode_kind::all_reduce);
  }
}

namespace {

/// What the two threads ask for, on random decode steps of worlds of 2 to 16 ranks: no misses, and
/// neither attention nor dispatched rows above the bucket that the rank's own count has in the
/// ladder as stated.
template <class P>
void check_no_growth(bool exact) {
  constexpr std::int32_t most = 160;
  const dg::bucket_list stated = P::ladder_type::sizes();
  test_support::for_random_cases(
      [&](test_support::random_source& random) {
        const std::int32_t ranks = random.between(2, 16);
        std::vector<std::int32_t> tokens = each(ranks, 0);
        const std::int32_t limit = random.pick({1, 8, most});
        for (auto& n : tokens) n = random.chance(20) ? 0 : random.between(0, limit);
        if (random.chance(10)) tokens = each(ranks, most);
        const step_plan p = planned<P>(config_of(ranks, most), tokens);
        REQUIRE(p.in_graph());
        REQUIRE_FALSE(p.bucket_missed);
        std::int64_t real = 0;
        for (std::int32_t r = 0; r < ranks; ++r) {
          if (exact) REQUIRE(p.padded[r] == stated.smallest_at_least(p.real[r]));
          REQUIRE(p.padded[r] <= stated.largest());
          real += p.real[r];
        }
        if (exact) {
          REQUIRE(p.gather_wire_rows == real);
          REQUIRE(p.combine_wire_rows == real);
        }
      },
      test_support::case_count(4'000));
}

} // namespace

TEST_CASE("#5557, #6092: padding does not multiply attention and dispatched rows") {
  check_no_growth<with_ladder<dg::exact_graph, dg::ladder::sglang<160>>>(true);
  check_no_growth<with_ladder<dg::exact_graph, dg::ladder::vllm<80>>>(true);
}

TEST_CASE("#5557, #6092: one ladder, stated per rank, has no misses for 2 to 16 ranks") {
  check_no_growth<with_ladder<dg::pr8278, dg::ladder::sglang<160>>>(false);
  check_no_growth<with_ladder<dg::sglang_now, dg::ladder::sglang<160>>>(false);
  check_no_growth<with_ladder<dg::max_always, dg::ladder::sglang<160>>>(false);
  check_no_growth<with_ladder<dg::sum_always, dg::ladder::powers_of_two<160>>>(false);
}

// --- classes of failures ------------------------------------------------------------------------

TEST_CASE("real and padded counts confused: a plan holds both, in two types, and neither changes") {
  const gather_config config = config_of(4, 64);
  const std::vector<std::int32_t> tokens = {9, 0, 33, 1};
  const step_plan p = planned<with_ladder<dg::pr8278, dg::ladder::sglang<64>>>(config, tokens);
  for (std::int32_t r = 0; r < 4; ++r) {
    CHECK(p.real[r] == tokens[static_cast<std::size_t>(r)]);
    CHECK(p.padded[r] == 40);
  }
  CHECK(p.total_rows == 43);
  static_assert(!std::is_same_v<decltype(p.real), decltype(p.padded)>);
  static_assert(!std::is_convertible_v<dg::padded_rows, dg::real_rows>);
  static_assert(!std::is_convertible_v<dg::real_rows, dg::padded_rows>);
}

TEST_CASE("made-up work on idle ranks: an idle rank has no rows, and no request is made up") {
  const gather_config config = config_of(4, 64);
  const std::vector<std::int32_t> tokens = {5, 0, 0, 2};
  const step_plan eager =
      planned<with_ladder<dg::sum_always, dg::ladder::sglang<64>>>(config, tokens, votes::eager);
  CHECK(eager.padded[1] == 0);
  CHECK(eager.global_rows == 7);
  const step_plan exact = planned<dg::exact_eager>(config, tokens, votes::eager);
  CHECK(exact.padded[2] == 0);
  CHECK(exact.offset(2) == exact.offset(3));
  const step_plan graph =
      planned<with_ladder<dg::exact_graph, dg::ladder::sglang<64>>>(config, tokens);
  CHECK(graph.real[1] == 0);
  CHECK(graph.own_bucket(1) == 1); // it still enters its graph
}

TEST_CASE("ranks disagree, then hang: one decision from the records, and a divergence has a name") {
  const gather_config config = config_of(2, 64);
  using P = with_ladder<dg::pr8278, dg::ladder::sglang<64>>;
  std::vector<step_record> records(2);
  for (std::size_t r = 0; r < 2; ++r) {
    records[r].world_rank = static_cast<std::int32_t>(r);
    records[r].tokens = 4;
  }
  // One rank cannot run a graph: no rank does.
  records[0].votes = step_record::graph_vote;
  for (std::int32_t r = 0; r < 2; ++r) {
    gather_config mine = config;
    mine.topology = config.topology.at(r);
    const auto plan = dg::make_plan<P>(mine, *dg::merge(records, mine.topology));
    REQUIRE(plan.ok());
    CHECK_FALSE(plan->in_graph());
  }
  // One rank executed something else: all are told, and by whom.
  records[1].last_plan = 99;
  for (std::int32_t r = 0; r < 2; ++r) {
    const auto merged = dg::merge(records, config.topology.at(r));
    CHECK(merged.code() == errc::plan_mismatch);
    CHECK(merged.status().rank == 1);
  }
}

TEST_CASE("buffers grow while serving: the largest step was known before the first") {
  const gather_config config = config_of(8, 64);
  using P = with_ladder<dg::pr8278, dg::ladder::sglang<64>>;
  const auto rules = dg::planner<P>::make(config);
  REQUIRE(rules.ok());
  const step_plan full = planned<P>(config, each(8, 64));
  CHECK(full.global_rows == rules->max_global_rows());
  CHECK(full.global_bytes() == rules->max_global_bytes());
}

TEST_CASE("offsets overflow: bytes pass 2^31 at 149,797 rows of 7168 bf16") {
  const gather_config config = config_of(8, 149'797);
  const step_plan p = planned<dg::exact_eager>(config, each(8, 149'797), votes::eager);
  CHECK(p.global_bytes() == std::size_t{8} * 149'797 * 7168 * 2);
  CHECK(static_cast<std::size_t>(p.offset(7)) * p.row_bytes == std::size_t{7} * 149'797 * 14'336);
}

TEST_CASE("graph quietly not used: a plan says what runs, and whether a bucket was missed") {
  const gather_config config = config_of(2, 64);
  using P = going_eager<with_ladder<dg::max_always, dg::ladder::list<8, 16>>>;
  struct {
    std::vector<std::int32_t> tokens;
    votes vote;
    bool graph, missed;
  } const steps[] = {{{16, 1}, votes::graph, true, false},
                     {{16, 1}, votes::eager, false, false},
                     {{17, 1}, votes::graph, false, true},
                     {{17, 1}, votes::eager, false, false}};
  for (const auto& s : steps) {
    const step_plan p = planned<P>(config, s.tokens, s.vote);
    CHECK(p.in_graph() == s.graph);
    CHECK(p.bucket_missed == s.missed);
  }
}
