#include <dpgather/metrics.hpp>

#include <dpgather/plan.hpp>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dg = dpgather;
using dg::errc;
using dg::step_metrics;
using dg::subject;
using rows = std::vector<std::int32_t>;
using test_support::random_source;

namespace {

constexpr std::int32_t ranks = 4;
constexpr std::int64_t row_bytes = 6;

const rows own_sizes{2, 4, 8, 20};
const rows sum_sizes{1, 6, 20, 37, 60};

dg::bucket_list list_of(const rows& sizes) { return *dg::bucket_list::make(sizes); }

dg::gather_config config_of() {
  dg::gather_config config;
  config.topology.dp_size = ranks;
  config.row_bytes = row_bytes;
  config.max_rows_per_rank = 30;
  config.ladder = list_of(own_sizes);
  config.sum_ladder = list_of(sum_sizes);
  return config;
}

template <class P>
dg::planner<P> rules_of() {
  const auto made = dg::planner<P>::make(config_of());
  CAPTURE(std::string{made.status().message().c_str()});
  REQUIRE(made.ok());
  return *made;
}

dg::agreement agreed(const rows& tokens, bool graph) {
  dg::agreement out;
  out.dp_size = ranks;
  out.can_run_graph = graph;
  out.tokens = dg::real_rows::zeros(ranks);
  for (std::int32_t r = 0; r < ranks; ++r) out.tokens.set(r, tokens[static_cast<std::size_t>(r)]);
  return out;
}

struct going_eager : dg::exact_graph {
  using on_miss_type = dg::on_miss::agreed_eager;
};

struct replays_and_pads {
  std::int64_t replays = 0, pads = 0;
};

/// What is to come out for `exact_graph`, from the counts alone.
struct expected {
  std::int64_t graph_steps = 0, eager_steps = 0, missed = 0;
  std::int64_t real_in_graph = 0, ffn_in_graph = 0, attention_in_graph = 0, real_eager = 0;
  std::map<std::int32_t, replays_and_pads> own, sum;

  static std::int32_t bucket(const rows& sizes, std::int64_t count) {
    for (const std::int32_t size : sizes) {
      if (size >= count) return size;
    }
    return 0;
  }

  void add(const rows& tokens, bool graph, bool goes_eager) {
    std::int64_t real = 0;
    for (const std::int32_t n : tokens) real += n;
    bool fits = bucket(sum_sizes, real) != 0;
    for (const std::int32_t n : tokens) fits = fits && bucket(own_sizes, n) != 0;
    if (graph && !fits) ++missed;
    if (graph && !fits && !goes_eager) return;
    if (!graph || !fits) {
      ++eager_steps;
      real_eager += real;
      return;
    }
    ++graph_steps;
    real_in_graph += real;
    const std::int32_t shared = bucket(sum_sizes, real);
    ffn_in_graph += shared;
    sum[shared].replays += 1;
    sum[shared].pads += shared - real;
    for (const std::int32_t n : tokens) {
      const std::int32_t mine = bucket(own_sizes, n);
      attention_in_graph += mine;
      own[mine].replays += 1;
      own[mine].pads += mine - n;
    }
  }
};

void check_buckets(const dg::bucket_list& sizes, std::span<const dg::bucket_totals> got,
                   const std::map<std::int32_t, replays_and_pads>& want) {
  REQUIRE(got.size() == static_cast<std::size_t>(sizes.size()));
  for (std::int32_t i = 0; i < sizes.size(); ++i) {
    const auto found = want.find(sizes[i]);
    const replays_and_pads there = found == want.end() ? replays_and_pads{} : found->second;
    REQUIRE(got[static_cast<std::size_t>(i)].replays == there.replays);
    REQUIRE(got[static_cast<std::size_t>(i)].pad_rows == there.pads);
  }
}

rows random_step(random_source& random) {
  rows out(ranks);
  const std::int32_t most = random.pick({0, 5, 16, 22});
  for (auto& n : out) n = random.between(0, most);
  return out;
}

/// Random steps into metrics of `P`.
template <class P>
step_metrics random_metrics(random_source& random, const dg::planner<P>& rules, int steps) {
  step_metrics out{rules};
  for (int i = 0; i < steps; ++i)
    out.add(dg::make_plan(rules, agreed(random_step(random), random.chance(70))));
  return out;
}

template <class P>
void check_against_counts(random_source& random, const dg::planner<P>& rules, bool goes_eager) {
  step_metrics got{rules};
  expected want;
  for (int step = random.between(1, 60); step > 0; --step) {
    const rows tokens = random_step(random);
    const bool graph = random.chance(70);
    got.add(dg::make_plan(rules, agreed(tokens, graph)));
    want.add(tokens, graph, goes_eager);
  }
  REQUIRE(got.in_graph().steps == want.graph_steps);
  REQUIRE(got.in_graph().real_rows == want.real_in_graph);
  REQUIRE(got.in_graph().ffn_rows == want.ffn_in_graph);
  REQUIRE(got.in_graph().attention_rows == want.attention_in_graph);
  REQUIRE(got.in_graph().pad_rows() == want.ffn_in_graph - want.real_in_graph);
  REQUIRE(got.eager().steps == want.eager_steps);
  REQUIRE(got.eager().real_rows == want.real_eager);
  REQUIRE(got.eager().ffn_rows == want.real_eager);
  // The exact modes move real rows, there and back.
  REQUIRE(got.in_graph().wire_bytes == 2 * want.real_in_graph * row_bytes);
  REQUIRE(got.all().wire_bytes == 2 * (want.real_in_graph + want.real_eager) * row_bytes);
  REQUIRE(got.no_bucket() == (goes_eager ? 0 : want.missed));
  REQUIRE(got.agreed_eager() == (goes_eager ? want.missed : 0));
  REQUIRE(got.refused() == 0);
  REQUIRE(got.foreign_replays() == 0);
  check_buckets(got.attention_sizes(), got.attention(), want.own);
  check_buckets(got.ffn_sizes(), got.ffn(), want.sum);
}

} // namespace

static_assert(std::is_trivially_copyable_v<step_metrics> && sizeof(step_metrics) < 48 * 1024);
static_assert(noexcept(std::declval<step_metrics&>().add(std::declval<const dg::step_plan&>())));

TEST_CASE("random steps, against sums made from the counts") {
  const auto refusing = rules_of<dg::exact_graph>();
  const auto eager = rules_of<going_eager>();
  test_support::for_random_cases(
      [&](random_source& random) {
        check_against_counts(random, refusing, false);
        check_against_counts(random, eager, true);
      },
      test_support::case_count(300));
}

TEST_CASE("one bucket for all: attention and FFN replay the size of the longest rank") {
  const auto rules = rules_of<dg::pr8278>();
  step_metrics got{rules};
  got.add(dg::make_plan(rules, agreed({1, 0, 7, 3}, true)));
  got.add(dg::make_plan(rules, agreed({2, 2, 2, 2}, true)));
  got.add(dg::make_plan(rules, agreed({21, 0, 0, 0}, true)));
  CHECK(got.attention_sizes() == got.ffn_sizes());
  CHECK(got.ffn()[0] == dg::bucket_totals{.replays = 1, .pad_rows = 0});
  CHECK(got.ffn()[2] == dg::bucket_totals{.replays = 1, .pad_rows = 32 - 11});
  CHECK(got.attention()[0] == dg::bucket_totals{.replays = 4, .pad_rows = 0});
  CHECK(got.attention()[2] == dg::bucket_totals{.replays = 4, .pad_rows = 32 - 11});
  CHECK(got.in_graph().modes[static_cast<std::size_t>(dg::mode_kind::all_gather)] == 2);
  CHECK(got.in_graph().reasons[static_cast<std::size_t>(dg::reason::graph_default)] == 2);
  CHECK(got.in_graph().wire_bytes == 2 * (32 + 8) * row_bytes);
  CHECK(got.no_bucket() == 1);
}

TEST_CASE("refusals are told apart from misses, and an ok status is neither") {
  step_metrics got;
  got.add(dg::status{});
  CHECK(got == step_metrics{});
  got.add(dg::status{.code = errc::no_bucket});
  got.add(dg::status{.code = errc::count_out_of_range});
  got.add(dg::result<dg::step_plan>{dg::status{.code = errc::rank_cannot_run}});
  CHECK(got.no_bucket() == 1);
  CHECK(got.refused() == 2);
  CHECK(got.all().steps == 0);
}

TEST_CASE("replays of sizes that the metrics do not know are counted apart") {
  const auto rules = rules_of<dg::exact_graph>();
  step_metrics got{list_of({2, 4, 9, 20}), list_of({6, 38})};
  got.add(dg::make_plan(rules, agreed({1, 2, 5, 8}, true))); // own 2 2 8 8, sum 20
  CHECK(got.foreign_replays() == 3);
  CHECK(got.attention()[0].replays == 2);
  CHECK(got.in_graph().steps == 1);
  step_metrics none;
  none.add(dg::make_plan(rules, agreed({1, 2, 5, 8}, true)));
  CHECK(none.foreign_replays() == 5);
  CHECK(none.ffn().empty());
}

TEST_CASE("with one count known a rank counts its own attention, and no rows") {
  struct exchanged : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::lookup::own,
                                dg::ladder::from_config> {};
  const auto rules = rules_of<exchanged>();
  dg::step_record own;
  own.tokens = 5;
  own.votes = dg::step_record::graph_vote;
  step_metrics got{rules};
  got.add(dg::make_plan(rules, own));
  CHECK(got.in_graph().counts_unknown == 1);
  CHECK(got.in_graph().ffn_rows == 0);
  CHECK(got.attention()[2] == dg::bucket_totals{.replays = 1, .pad_rows = 3});
  CHECK(got.foreign_replays() == 0);
}

TEST_CASE("merging two is adding the steps of both to one; a difference takes them away again") {
  const auto rules = rules_of<going_eager>();
  test_support::for_random_cases(
      [&](random_source& random) {
        random_source again = random;
        step_metrics together = random_metrics(random, rules, 20);
        const step_metrics first = together;
        const step_metrics second = random_metrics(random, rules, 20);
        // The same 40 steps into one.
        step_metrics all{rules};
        for (int i = 0; i < 40; ++i)
          all.add(dg::make_plan(rules, agreed(random_step(again), again.chance(70))));
        REQUIRE(together.merge(second).ok());
        REQUIRE(together == all);
        const auto since = all.since(first);
        REQUIRE(since.ok());
        REQUIRE(*since == second);
        REQUIRE(*all.since(all) == step_metrics{rules});
        REQUIRE(*all.since(step_metrics{rules}) == all);
        if (first.all().steps > 0) REQUIRE(first.since(all).code() == errc::count_out_of_range);
      },
      test_support::case_count(200));
}

TEST_CASE("metrics of other ladders do not mix, and nothing is added") {
  step_metrics a{list_of({2, 4}), list_of({6, 38})};
  const step_metrics before = a;
  const auto check = [&](const step_metrics& other, subject about, std::int64_t mine,
                         std::int64_t theirs) {
    for (const dg::status& bad : {a.merge(other), a.since(other).status()}) {
      CHECK(bad.code == errc::bad_buckets);
      CHECK(bad.about == about);
      CHECK(bad.value == mine);
      CHECK(bad.limit == theirs);
    }
    CHECK(a == before);
  };
  check({list_of({2, 5}), list_of({6, 38})}, subject::ladder, 4, 5);
  check({list_of({2}), list_of({6, 38})}, subject::ladder, 4, 0);
  check({list_of({2, 4}), list_of({6, 38, 40})}, subject::sum_ladder, 0, 40);
  check({}, subject::ladder, 2, 0);
}
