#include <dpgather/plan.hpp>

#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include "support/random_cases.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
using dg::agreement;
using dg::bucket_list;
using dg::errc;
using dg::gather_config;
using dg::layout_kind;
using dg::make_plan;
using dg::mode_kind;
using dg::padding_kind;
using dg::planner;
using dg::policy;
using dg::reason;
using dg::result;
using dg::row_kind;
using dg::situation;
using dg::step_plan;
using dg::step_record;
using dg::subject;
using test_support::random_source;

namespace {

__extension__ using wide = __int128;
using rows = std::vector<std::int32_t>;

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();

template <class P>
struct going_eager : P {
  using on_miss_type = dg::on_miss::agreed_eager;
};
struct by_sum : dg::exact_graph {
  using lookup_type = dg::lookup::sum;
};

/// What one data-parallel rank does in a step.
struct work {
  rows tokens, logits, draft;
  std::int32_t width = 1;
  bool vote = true;
  bool prefill = false;
};

work tokens_only(const rows& tokens, bool vote, std::int32_t width = 1) {
  return {tokens, tokens, rows(tokens.size(), 0), width, vote, false};
}

std::vector<step_record> records_of(const work& w, std::int32_t tp) {
  std::vector<step_record> out;
  for (std::size_t d = 0; d < w.tokens.size(); ++d) {
    step_record r;
    r.tokens = w.tokens[d];
    r.logits_tokens = w.logits[d];
    r.draft_tokens = w.draft[d];
    r.requests = w.tokens[d] / w.width;
    r.width = w.width;
    r.votes = w.vote ? step_record::graph_vote : std::uint8_t{0};
    r.phase = w.tokens[d] == 0 ? dg::phase::idle : dg::phase::decode;
    r.step = 77;
    for (std::int32_t t = 0; t < tp; ++t) {
      r.world_rank = static_cast<std::int32_t>(out.size());
      out.push_back(r);
    }
  }
  if (w.prefill) {
    for (std::int32_t t = 0; t < tp; ++t) {
      out[static_cast<std::size_t>(t)].phase = dg::phase::extend;
    }
  }
  return out;
}

agreement agreed(const work& w, const gather_config& config) {
  const auto merged = dg::merge(records_of(w, config.topology.tp_size), config.topology);
  REQUIRE(merged.ok());
  return *merged;
}

gather_config config_of(std::int32_t dp, std::int32_t tp, std::int32_t max_rows,
                        const rows& ladder = {}) {
  gather_config config{
      .topology = {dp, tp, 0, 0}, .row_bytes = 7168 * 2, .max_rows_per_rank = max_rows};
  if (!ladder.empty()) config.ladder = *bucket_list::make(ladder);
  return config;
}

template <class P>
planner<P> planner_of(const gather_config& config) {
  const auto made = planner<P>::make(config);
  CAPTURE(std::string{made.status().message().view()});
  REQUIRE(made.ok());
  return *made;
}

template <class P>
result<step_plan> plan_of(const gather_config& config, const work& w,
                          row_kind kind = row_kind::hidden) {
  return make_plan(planner_of<P>(config), agreed(w, config), kind);
}

const rows regular_ladder = {4, 8, 16, 24, 32, 40, 48, 56, 64};

} // namespace

// --- the reference: the specification of modes and their choice, one number at a time
// -------------

namespace {

/// What the specification says of a ready-made policy.
struct meaning {
  enum class outside { by_volume, by_volume_or_tie, max, sum, exact } eager;
  enum class inside { none, max, sum, exact_sum } graph;
  bool named_for_graphs;  ///< the mode is stated for graphs apart
  bool sums_to_everybody; ///< combine under all-reduce: everybody receives every sum
};

template <class P>
constexpr meaning meaning_of{};
template <>
constexpr meaning meaning_of<dg::pr8278>{meaning::outside::by_volume, meaning::inside::max, true,
                                         true};
template <>
constexpr meaning meaning_of<dg::sglang_now>{meaning::outside::by_volume_or_tie,
                                             meaning::inside::max, true, true};
template <>
constexpr meaning meaning_of<dg::max_always>{meaning::outside::max, meaning::inside::max, false,
                                             false};
template <>
constexpr meaning meaning_of<dg::sum_always>{meaning::outside::sum, meaning::inside::sum, false,
                                             true};
template <>
constexpr meaning meaning_of<dg::exact_eager>{meaning::outside::exact, meaning::inside::none, false,
                                              false};
template <>
constexpr meaning meaning_of<dg::exact_graph>{meaning::outside::exact, meaning::inside::exact_sum,
                                              false, false};
template <class P>
constexpr meaning meaning_of<going_eager<P>> = meaning_of<P>;

/// What a plan must say.
struct expected {
  bool refused = false;
  bool may_go_eager = false; ///< or the eager plan, if refused
  std::vector<errc> codes;   ///< any of them, if refused
  bool graph = false;
  bool missed = false;
  mode_kind mode{};
  padding_kind padding{};
  reason why{};
  std::vector<std::int64_t> padded, offset, own_bucket;
  std::int64_t bucket = 0, stride = 0;
  wide global = 0, real = 0, gather = 0, combine = 0;
};

struct setting {
  std::int32_t tp = 1;
  std::int32_t width = 1;
  std::int32_t draft_width = 1;
  rows ladder, sums;
  bool go_eager = false;
  row_kind kind = row_kind::hidden;
};

std::int64_t bucket_for(const rows& ladder, wide count) {
  for (const std::int32_t size : ladder) {
    if (size >= count) return size;
  }
  return 0;
}

std::int64_t up_to(std::int64_t n, std::int64_t multiple) {
  while (n % multiple != 0) ++n;
  return n;
}

/// Fills in what follows from mode and padded rows. An all-gather slot consists of one equal slice
/// per attention-TP rank, also where rows are not aligned otherwise.
void lay_out(expected& e, const meaning& m, const setting& s, const rows& n, bool equal) {
  if (equal) {
    std::int64_t longest = *std::max_element(e.padded.begin(), e.padded.end());
    if (e.mode == mode_kind::all_gather) longest = up_to(longest, s.tp);
    std::fill(e.padded.begin(), e.padded.end(), longest);
    e.stride = longest;
  }
  std::int64_t at = 0;
  for (std::size_t r = 0; r < n.size(); ++r) {
    e.offset.push_back(equal ? static_cast<std::int64_t>(r) * e.stride : at);
    at += n[r];
    e.real += n[r];
  }
  if (equal) e.global = wide{e.stride} * static_cast<wide>(n.size());
  switch (e.mode) {
  case mode_kind::all_gather:
    e.gather = e.combine = e.global;
    break;
  case mode_kind::all_reduce:
    e.gather = 2 * e.global;
    e.combine = m.sums_to_everybody ? 2 * e.global : e.real;
    break;
  case mode_kind::exact:
    e.gather = e.combine = e.real;
    break;
  }
}

expected plan_eager(const meaning& m, const setting& s, const work& w, const rows& n) {
  expected e;
  wide sum = 0;
  wide max = 0;
  for (const std::int32_t count : n) {
    e.padded.push_back(s.kind == row_kind::hidden ? up_to(count, s.tp) : count);
    sum += e.padded.back();
    max = std::max(max, wide{e.padded.back()});
  }
  const wide moved_by_max = max * static_cast<wide>(n.size());
  const wide moved_by_sum = 2 * sum;
  const reason volumes = moved_by_sum > moved_by_max   ? reason::max_moves_less
                         : moved_by_sum < moved_by_max ? reason::sum_moves_less
                                                       : reason::volumes_equal;
  bool equal = false;
  switch (m.eager) {
  case meaning::outside::by_volume:
    equal = moved_by_sum > moved_by_max;
    e.why = volumes;
    break;
  case meaning::outside::by_volume_or_tie:
    equal = !w.prefill && moved_by_sum >= moved_by_max;
    e.why = w.prefill ? reason::prefill : volumes;
    break;
  case meaning::outside::max:
    equal = true;
    e.why = reason::fixed;
    break;
  case meaning::outside::sum:
  case meaning::outside::exact:
    e.why = reason::fixed;
    break;
  }
  if (m.eager == meaning::outside::exact) {
    e.mode = mode_kind::exact;
    e.padding = padding_kind::none;
    for (const std::int32_t count : n) e.global += count;
  } else {
    e.mode = equal ? mode_kind::all_gather : mode_kind::all_reduce;
    e.padding = equal ? padding_kind::max_len : padding_kind::sum_len;
    e.global = sum;
  }
  e.own_bucket.assign(n.size(), 0);
  lay_out(e, m, s, n, equal);
  return e;
}

expected refused(std::vector<errc> codes) {
  expected e;
  e.refused = true;
  e.codes = std::move(codes);
  return e;
}

expected plan_in_graph(const meaning& m, const setting& s, const work& w, const rows& n) {
  const std::int64_t per_request = s.kind == row_kind::draft ? s.draft_width : s.width;
  std::vector<std::int64_t> requests;
  bool whole = true;
  for (const std::int32_t count : w.tokens) {
    whole = whole && count % s.width == 0;
    requests.push_back(count / s.width);
  }
  wide sum = 0;
  for (const std::int64_t q : requests) sum += q;
  const std::int64_t longest = *std::max_element(requests.begin(), requests.end());

  expected e;
  e.graph = true;
  e.why = m.named_for_graphs ? reason::graph_default : reason::fixed;
  bool fits = true;
  if (m.graph == meaning::inside::max) {
    e.mode = mode_kind::all_gather;
    e.padding = padding_kind::max_len;
    e.bucket = bucket_for(s.ladder, longest);
    fits = e.bucket != 0;
    e.own_bucket.assign(n.size(), e.bucket);
  } else {
    e.mode = m.graph == meaning::inside::sum ? mode_kind::all_reduce : mode_kind::exact;
    e.padding = padding_kind::sum_len;
    e.bucket = bucket_for(s.sums, sum);
    fits = e.bucket != 0;
    for (const std::int64_t q : requests) {
      e.own_bucket.push_back(bucket_for(s.ladder, q));
      fits = fits && e.own_bucket.back() != 0;
    }
    e.global = wide{e.bucket} * per_request;
  }
  if (!whole) {
    // Two things are wrong if no size fits either; which one is seen first is not stated.
    e = refused(fits ? std::vector{errc::count_not_divisible}
                     : std::vector{errc::count_not_divisible, errc::no_bucket});
    e.may_go_eager = !fits && s.go_eager;
    return e;
  }
  if (!fits && !s.go_eager) return refused({errc::no_bucket});
  if (!fits) {
    e = plan_eager(m, s, w, n);
    e.missed = true;
    return e;
  }
  for (const std::int64_t bucket : e.own_bucket) e.padded.push_back(bucket * per_request);
  lay_out(e, m, s, n, m.graph == meaning::inside::max);
  for (std::size_t r = 0; r < n.size(); ++r) {
    if (n[r] > e.padded[r]) return refused({errc::capacity_exceeded});
  }
  if (e.real > e.global) return refused({errc::capacity_exceeded});
  return e;
}

const rows& rows_of(const work& w, row_kind kind) {
  return kind == row_kind::hidden ? w.tokens : kind == row_kind::logits ? w.logits : w.draft;
}

expected reference(const meaning& m, const setting& s, const work& w) {
  const rows& n = rows_of(w, s.kind);
  return w.vote && m.graph != meaning::inside::none ? plan_in_graph(m, s, w, n)
                                                    : plan_eager(m, s, w, n);
}

/// The name of the first thing in which a plan is not what the specification says, or empty.
std::string difference(const result<step_plan>& got, const expected& want, const rows& n,
                       const setting& s) {
  if (want.refused || !got.ok()) {
    if (want.may_go_eager && got.ok() && got->bucket_missed) return "";
    const bool as_wanted =
        want.refused && std::count(want.codes.begin(), want.codes.end(), got.code()) != 0;
    return as_wanted ? "" : std::string{"status: "} + got.status().message().c_str();
  }
  const step_plan& p = *got;
  if (p.in_graph() != want.graph) return "situation";
  if (p.bucket_missed != want.missed) return "bucket_missed";
  if (p.mode != want.mode) return "mode";
  if (p.padding != want.padding) return "padding";
  if (p.layout != (want.stride != 0 || want.padding == padding_kind::max_len ? layout_kind::slots
                                                                             : layout_kind::packed))
    return "layout";
  if (p.why != want.why) return "reason";
  if (p.shared_bucket != want.bucket) return "shared_bucket";
  if (p.global_rows != want.global) return "global_rows";
  if (p.stride != want.stride) return "stride";
  if (p.total_rows != want.real) return "total_rows";
  if (p.gather_wire_rows != want.gather) return "gather_wire_rows";
  if (p.combine_wire_rows != want.combine) return "combine_wire_rows";
  if (p.pad_rows() != want.global - want.real) return "pad_rows";
  if (p.global_bytes() != static_cast<std::size_t>(want.global) * 7168 * 2) return "global_bytes";
  const double waste = want.real == 0 ? 0
                                      : static_cast<double>(want.global - want.real) /
                                            static_cast<double>(want.real);
  if (std::abs(p.waste() - waste) > 1e-9) return "waste";
  if (p.kind != s.kind || (s.width != 0 && p.width != s.width) || p.tp_size != s.tp ||
      p.dp_size != static_cast<std::int32_t>(n.size()) || p.step != 77 || !p.counts_known)
    return "what is planned";
  if (p.real.size() != p.dp_size || p.padded.size() != p.dp_size) return "size";
  for (std::int32_t r = 0; r < p.dp_size; ++r) {
    const auto at = static_cast<std::size_t>(r);
    if (p.real[r] != n[at]) return "real";
    if (p.padded[r] != want.padded[at]) return "padded of rank " + std::to_string(r);
    if (p.offset(r) != want.offset[at]) return "offset of rank " + std::to_string(r);
    // The own bucket is in requests, whatever rows are planned.
    if (p.own_bucket(r) != want.own_bucket[at]) return "own_bucket of rank " + std::to_string(r);
  }
  return "";
}

// --- random worlds ------------------------------------------------------------------------------

struct world {
  gather_config config;
  setting known;
  std::int32_t pool = 0; ///< most requests of a rank
};

world random_world(random_source& random) {
  world out;
  setting& s = out.known;
  s.tp = random.pick({1, 1, 2, 4});
  s.width = random.pick({1, 1, 2, 3, 4, 5, 6, 7, 8});
  s.draft_width = random.between(1, s.width);
  const std::int32_t dp = random.pick({1, 2, 3, 4, 5, 7, 8, 8, 13, 16, 32, 64});
  rows ladder;
  std::int32_t size = 0;
  const std::int32_t step = random.pick({1, 1, 2, 8});
  for (std::int32_t i = random.between(1, 20); i > 0; --i) {
    ladder.push_back(size += s.tp * random.between(1, step));
  }
  out.pool = size + random.pick({0, 0, 0, 3});
  out.config = config_of(dp, s.tp, out.pool * s.width, ladder);
  out.config.max_requests_per_rank = out.pool;
  out.config.draft_width = s.draft_width;
  s.ladder = ladder;
  if (random.chance(30)) { // stated sums, with gaps and an end of their own
    for (std::int64_t sum = 0; sum <= std::int64_t{size} * dp && s.sums.size() < 50;) {
      if (sum > 0) s.sums.push_back(static_cast<std::int32_t>(sum));
      sum += std::int64_t{s.tp} * random.between(1, random.pick({1, 4, size}));
    }
  }
  if (s.sums.empty()) {
    const bucket_list sums = dg::sum_ladder(out.config.ladder, dp);
    s.sums.assign(sums.span().begin(), sums.span().end());
  } else {
    out.config.sum_ladder = *bucket_list::make(s.sums);
  }
  return out;
}

/// Counts up to `limit` in the shapes that decide differently: ties, zeros, one long rank, ...
rows random_counts(random_source& random, std::size_t ranks, std::int32_t limit) {
  rows out(ranks, 0);
  const auto any = [&] { return random.between(0, limit); };
  switch (random.between(0, 8)) {
  case 0: // uniform
    for (auto& n : out) n = any();
    break;
  case 1: // all equal
    out.assign(ranks, any());
    break;
  case 2: // one rank has all
    out[random.between<std::size_t>(0, ranks - 1)] = any();
    break;
  case 3: // a tie where W is even: half of the ranks full, half idle
    for (std::size_t r = 0; r < ranks / 2; ++r) out[r] = limit;
    break;
  case 4: { // near a tie: 2 * sum about max * W
    std::int64_t left =
        std::int64_t{limit} * static_cast<std::int64_t>(ranks) / 2 - limit + random.between(-1, 1);
    out[0] = limit;
    for (std::size_t r = 1; r < ranks && left > 0; ++r) {
      out[r] = static_cast<std::int32_t>(std::min<std::int64_t>(left, any()));
      left -= out[r];
    }
    if (left > 0 && left <= limit) out.back() = static_cast<std::int32_t>(left);
    break;
  }
  case 5: // many idle ranks
    for (auto& n : out) n = random.chance(70) ? 0 : any();
    break;
  case 6: // a prompt beside decoding ranks
    for (auto& n : out) n = random.between(0, std::min(limit, 4));
    out.front() = limit;
    break;
  case 7: // at the limit, and one below
    for (auto& n : out) n = limit - random.between(0, 1);
    break;
  default: // nobody has anything
    break;
  }
  return out;
}

work random_work(random_source& random, const world& in, bool whole_requests) {
  work w;
  const auto ranks = static_cast<std::size_t>(in.config.topology.dp_size);
  w.width = in.known.width;
  w.prefill = random.chance(20);
  if (whole_requests) {
    const rows requests = random_counts(random, ranks, in.pool);
    for (const std::int32_t q : requests) {
      w.tokens.push_back(q * w.width);
      w.logits.push_back(q * random.between(0, w.width));
      w.draft.push_back(q * in.known.draft_width);
    }
  } else {
    w.tokens = random_counts(random, ranks, in.config.max_rows_per_rank);
    w.logits = random_counts(random, ranks, in.config.max_rows_per_rank);
    w.draft = random_counts(random, ranks, in.config.max_rows_per_rank);
  }
  return w;
}

template <class P>
void check_policy(const world& in, const std::vector<work>& steps, row_kind kind) {
  const planner<P> rules = planner_of<P>(in.config);
  setting s = in.known;
  s.kind = kind;
  s.go_eager = P::on_miss_type::go_eager;
  for (work w : steps) {
    for (const bool vote : {false, true}) {
      w.vote = vote;
      setting now = s;
      // Without tokens, and for prompts, there is no width to agree on: 0 is any. Eager plans have
      // no use for it.
      const bool idle = std::count(w.tokens.begin(), w.tokens.end(), 0) ==
                        static_cast<std::ptrdiff_t>(w.tokens.size());
      const bool no_width = w.prefill || (idle && w.width != 1);
      if (no_width && vote) continue;
      if (no_width) now.width = 0;
      const result<step_plan> got = make_plan(rules, agreed(w, in.config), kind);
      const std::string wrong =
          difference(got, reference(meaning_of<P>, now, w), rows_of(w, kind), now);
      if (!wrong.empty()) {
        std::string counts;
        for (const std::int32_t n : rows_of(w, kind)) counts += ' ' + std::to_string(n);
        FAIL("differs in ", wrong, std::string{vote ? ", in a graph" : ", eager"}, ", kind ",
             std::string{name_of(kind)}, ", A ", s.tp, ", width ", s.width, ", rows", counts);
      }
    }
  }
}

} // namespace

TEST_CASE("100,000 random count vectors are decided as the specification decides them") {
  constexpr std::uint64_t steps_per_world = 50;
  test_support::for_random_cases(
      [](random_source& random) {
        const world in = random_world(random);
        std::vector<work> steps;
        for (std::uint64_t i = 0; i < steps_per_world; ++i) {
          steps.push_back(random_work(random, in, random.chance(60)));
        }
        const auto kind = random.pick({row_kind::hidden, row_kind::hidden, row_kind::hidden,
                                       row_kind::logits, row_kind::draft});
        check_policy<dg::pr8278>(in, steps, kind);
        check_policy<dg::sglang_now>(in, steps, kind);
        check_policy<dg::max_always>(in, steps, kind);
        check_policy<dg::sum_always>(in, steps, kind);
        check_policy<dg::exact_eager>(in, steps, kind);
        check_policy<dg::exact_graph>(in, steps, kind);
        if (random.chance(20)) {
          check_policy<going_eager<dg::pr8278>>(in, steps, kind);
          check_policy<going_eager<dg::exact_graph>>(in, steps, kind);
        }
      },
      std::max<std::uint64_t>(1, test_support::case_count(100'000) / steps_per_world));
}

// --- decisions by hand --------------------------------------------------------------------------

namespace {

template <class P>
step_plan planned(const gather_config& config, const work& w, row_kind kind = row_kind::hidden) {
  const result<step_plan> plan = plan_of<P>(config, w, kind);
  CAPTURE(std::string{plan.status().message().view()});
  REQUIRE(plan.ok());
  return *plan;
}

step_plan pr8278_eager(const rows& n, std::int32_t tp = 1) {
  return planned<dg::pr8278>(
      config_of(static_cast<std::int32_t>(n.size()), tp, 4096, regular_ladder),
      tokens_only(n, false));
}

} // namespace

TEST_CASE("the pull request without a graph: all-gather iff 2 * sum > max * W") {
  const step_plan balanced = pr8278_eager({10, 9, 8, 10});
  CHECK(balanced.mode == mode_kind::all_gather);
  CHECK(balanced.why == reason::max_moves_less);
  CHECK(balanced.global_rows == 40);
  CHECK(balanced.stride == 10);
  CHECK(balanced.offset(3) == 30);
  CHECK(balanced.gather_wire_rows == 40);
  CHECK(balanced.pad_rows() == 3);
  CHECK(balanced.waste() == doctest::Approx(3.0 / 37));

  const step_plan skewed = pr8278_eager({2048, 3, 0, 5});
  CHECK(skewed.mode == mode_kind::all_reduce);
  CHECK(skewed.why == reason::sum_moves_less);
  CHECK(skewed.global_rows == 2056);
  CHECK(skewed.layout == layout_kind::packed);
  CHECK(skewed.offset(1) == 2048);
  CHECK(skewed.offset(2) == 2051);
  CHECK(skewed.offset(3) == 2051);
  CHECK(skewed.gather_wire_rows == 2 * 2056);
  CHECK(skewed.waste() == 0);

  const step_plan tie = pr8278_eager({8, 8, 0, 0});
  CHECK(tie.mode == mode_kind::all_reduce);
  CHECK(tie.why == reason::volumes_equal);

  // Eagerly the two volumes bound each other: never more than two rows moved per real row.
  for (const rows& n : {rows{1, 0, 0, 0, 0, 0, 0, 0}, rows{7, 7, 7, 6}, rows{9, 1}, rows{3}}) {
    const step_plan p = pr8278_eager(n);
    CHECK(p.gather_wire_rows <= 2 * p.total_rows);
  }
}

TEST_CASE("the volumes compared are those of rows rounded up to the attention-TP size") {
  // Real rows say sum (2 * 6 < 5 * 3), padded rows (8, 4, 4) say max (2 * 16 > 8 * 3).
  const step_plan p = pr8278_eager({5, 1, 1}, 4);
  CHECK(p.mode == mode_kind::all_gather);
  CHECK(p.padded[0] == 8);
  CHECK(p.padded[1] == 8);
  CHECK(p.real[1] == 1);
  CHECK(p.total_rows == 7);
  CHECK(pr8278_eager({5, 1, 1}, 1).mode == mode_kind::all_reduce);
}

TEST_CASE("later code: a tie is an all-gather, prefill means sum") {
  const gather_config config = config_of(4, 1, 4096, regular_ladder);
  work w = tokens_only({8, 8, 0, 0}, false);
  CHECK(planned<dg::sglang_now>(config, w).mode == mode_kind::all_gather);
  CHECK(planned<dg::sglang_now>(config, w).why == reason::volumes_equal);
  w.prefill = true;
  CHECK(planned<dg::sglang_now>(config, w).mode == mode_kind::all_reduce);
  CHECK(planned<dg::sglang_now>(config, w).why == reason::prefill);
  w.tokens = {8, 8, 8, 8};
  CHECK(planned<dg::sglang_now>(config, w).mode == mode_kind::all_reduce);
  CHECK(planned<dg::pr8278>(config, w).mode == mode_kind::all_gather);
}

TEST_CASE("in a graph the classic rule pads to the bucket of the maximum, whatever the volumes") {
  const gather_config config = config_of(4, 1, 64, regular_ladder);
  const step_plan p = planned<dg::pr8278>(config, tokens_only({9, 1, 0, 0}, true));
  CHECK(p.in_graph());
  CHECK(p.mode == mode_kind::all_gather);
  CHECK(p.why == reason::graph_default);
  CHECK(p.shared_bucket == 16);
  CHECK(p.global_rows == 64);
  CHECK(p.waste() == doctest::Approx(5.4));
  for (std::int32_t r = 0; r < 4; ++r) CHECK(p.own_bucket(r) == 16);
}

TEST_CASE("decoupled buckets: attention at each rank's own, the FFN at that of the sum") {
  const gather_config config = config_of(4, 1, 64, regular_ladder);
  const step_plan p = planned<dg::exact_graph>(config, tokens_only({9, 1, 0, 30}, true));
  CHECK(p.in_graph());
  CHECK(p.mode == mode_kind::exact);
  CHECK(p.shared_bucket == 40);
  CHECK(p.global_rows == 40);
  CHECK(p.gather_wire_rows == 40);
  CHECK(p.own_bucket(0) == 16);
  CHECK(p.own_bucket(1) == 4);
  CHECK(p.own_bucket(2) == 4);
  CHECK(p.own_bucket(3) == 32);
  CHECK(p.offset(3) == 10);
}

TEST_CASE("a graph is planned when every rank voted for it, and the policy has one") {
  const gather_config config = config_of(3, 1, 64, regular_ladder);
  auto records = records_of(tokens_only({4, 4, 4}, true), 1);
  const auto plan = [&] {
    return *make_plan(planner_of<dg::pr8278>(config), *dg::merge(records, config.topology));
  };
  CHECK(plan().in_graph());
  records[1].votes = step_record::overlap_vote;
  CHECK_FALSE(plan().in_graph());
  CHECK_FALSE(plan().bucket_missed);
  CHECK_FALSE(planned<dg::exact_eager>(config, tokens_only({4, 4, 4}, true)).in_graph());
  // The votes decide, not the phases.
  work prefill = tokens_only({4, 4, 4}, true);
  prefill.prefill = true;
  CHECK(planned<dg::sglang_now>(config, prefill).in_graph());
}

TEST_CASE("lookup in requests, rows = bucket * tokens per request, for widths 1 to 8") {
  for (std::int32_t width = 1; width <= 8; ++width) {
    const gather_config config = config_of(2, 1, 64 * width, regular_ladder);
    const work w = tokens_only({9 * width, 3 * width}, true, width);
    const step_plan max = planned<dg::pr8278>(config, w);
    CAPTURE(width);
    CHECK(max.width == width);
    CHECK(max.shared_bucket == 16);
    CHECK(max.padded[1] == 16 * width);
    CHECK(max.global_rows == 2 * 16 * width);
    const step_plan exact = planned<dg::exact_graph>(config, w);
    CHECK(exact.shared_bucket == 16); // of 12 requests
    CHECK(exact.global_rows == 16 * width);
    CHECK(exact.padded[0] == 16 * width);
    CHECK(exact.padded[1] == 4 * width);
    CHECK(exact.own_bucket(1) == 4);
  }
}

TEST_CASE("draft rows have a width of their own inside graphs") {
  gather_config config = config_of(2, 1, 64 * 4, regular_ladder);
  config.draft_width = 3;
  work w = tokens_only({9 * 4, 3 * 4}, true, 4);
  w.draft = {9 * 3, 3 * 3};
  const step_plan p = planned<dg::exact_graph>(config, w, row_kind::draft);
  CHECK(p.padded[0] == 16 * 3);
  CHECK(p.padded[1] == 4 * 3);
  CHECK(p.total_rows == 36);
  CHECK(p.global_rows == 16 * 3);
  CHECK(p.own_bucket(0) == 16);
  CHECK(p.own_bucket(1) == 4);
  CHECK(planned<dg::pr8278>(config, w, row_kind::draft).own_bucket(1) == 16);
}

TEST_CASE("logits rows are not aligned to the attention-TP size") {
  const gather_config config = config_of(2, 4, 64, regular_ladder);
  work w = tokens_only({8, 8}, false);
  w.logits = {7, 2};
  const step_plan exact = planned<dg::exact_eager>(config, w, row_kind::logits);
  CHECK(exact.padded[0] == 7);
  CHECK(exact.padded[1] == 2);
  CHECK(exact.global_rows == 9);
  const step_plan sum = planned<dg::sum_always>(config, w, row_kind::logits);
  CHECK(sum.padded[0] == 7);
  CHECK(sum.global_rows == 9);
  CHECK(sum.offset(1) == 7);
  // The rule sees 7 and 2 (18 > 14), not 8 and 4.
  CHECK(planned<dg::pr8278>(config, w, row_kind::logits).mode == mode_kind::all_gather);
  w.logits = {4, 0}; // 8 == 8, a tie; aligned 4 and 0 as well
  CHECK(planned<dg::pr8278>(config, w, row_kind::logits).mode == mode_kind::all_reduce);
  w.logits = {5, 1}; // 12 > 10; 8 and 4 would say 24 > 16
  w.logits = {3, 0}; // 6 == 6
  CHECK(planned<dg::pr8278>(config, w, row_kind::logits).why == reason::volumes_equal);
  const work hidden = tokens_only({7, 2}, false);
  CHECK(planned<dg::exact_eager>(config, hidden).padded[0] == 8);
  CHECK(planned<dg::exact_eager>(config, hidden).global_rows == 9);
}

TEST_CASE("zero rows on any ranks, or on all, are a step like any other") {
  const gather_config config = config_of(4, 2, 64, regular_ladder);
  for (const bool graph : {false, true}) {
    CAPTURE(graph);
    for (const rows& n : {rows{0, 0, 0, 0}, rows{0, 6, 0, 0}, rows{6, 0, 0, 2}}) {
      const work w = tokens_only(n, graph);
      CHECK(plan_of<dg::pr8278>(config, w).ok());
      CHECK(plan_of<dg::sglang_now>(config, w).ok());
      CHECK(plan_of<dg::max_always>(config, w).ok());
      CHECK(plan_of<dg::sum_always>(config, w).ok());
      CHECK(plan_of<dg::exact_eager>(config, w).ok());
      CHECK(plan_of<dg::exact_graph>(config, w).ok());
    }
    const step_plan nothing = planned<dg::exact_graph>(config, tokens_only({0, 0, 0, 0}, graph));
    CHECK(nothing.total_rows == 0);
    CHECK(nothing.waste() == 0);
    CHECK(nothing.gather_wire_rows == 0);
    CHECK(nothing.global_rows == (graph ? 4 : 0));
  }
}

// --- refused input ------------------------------------------------------------------------------

namespace {

void check_refused(const result<step_plan>& plan, errc code, subject about, std::int32_t rank,
                   std::int64_t value, std::int64_t limit) {
  CAPTURE(std::string{plan.status().message().view()});
  CHECK(plan.code() == code);
  CHECK(plan.status().about == about);
  CHECK(plan.status().rank == rank);
  CHECK(plan.status().value == value);
  CHECK(plan.status().limit == limit);
}

} // namespace

TEST_CASE("a count above the capacity is named with rank, value and limit") {
  const gather_config config = config_of(3, 1, 64, regular_ladder);
  work w = tokens_only({64, 64, 65}, false);
  check_refused(plan_of<dg::pr8278>(config, w), errc::count_out_of_range, subject::tokens, 2, 65,
                64);
  check_refused(plan_of<dg::exact_eager>(config, w), errc::count_out_of_range, subject::tokens, 2,
                65, 64);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({64, 64, 64}, false)).ok());
  // Logits and draft rows have the same capacity; tokens are looked at for them as well.
  w = tokens_only({1, 1, 1}, false);
  w.logits[1] = 70;
  w.draft[0] = 71;
  CHECK(plan_of<dg::exact_eager>(config, w, row_kind::logits).code() == errc::count_out_of_range);
  CHECK(plan_of<dg::exact_eager>(config, w, row_kind::logits).status().rank == 1);
  CHECK(plan_of<dg::exact_eager>(config, w, row_kind::draft).status().value == 71);
  CHECK(plan_of<dg::exact_eager>(config, w).ok());
}

TEST_CASE("an agreement of another world is a bad group") {
  const gather_config config = config_of(4, 2, 64, regular_ladder);
  const agreement other = agreed(tokens_only({1, 1, 1, 1}, false), config_of(4, 1, 64));
  CHECK(make_plan(planner_of<dg::exact_eager>(config), other).code() == errc::bad_group);
  const agreement fewer = agreed(tokens_only({1, 1}, false), config_of(2, 2, 64));
  CHECK(make_plan(planner_of<dg::exact_eager>(config), fewer).code() == errc::bad_group);
  // As many records, but other ranks.
  const agreement turned = agreed(tokens_only({1, 1}, false), config_of(2, 4, 64));
  CHECK(make_plan(planner_of<dg::exact_eager>(config), turned).code() == errc::bad_group);
}

TEST_CASE("rows that are no whole requests are named, in a graph only") {
  const gather_config config = config_of(3, 1, 256, regular_ladder);
  const work w = tokens_only({8, 6, 4}, true, 4);
  check_refused(plan_of<dg::pr8278>(config, w), errc::count_not_divisible, subject::tokens, 1, 6,
                4);
  check_refused(plan_of<dg::exact_graph>(config, w), errc::count_not_divisible, subject::tokens, 1,
                6, 4);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({8, 6, 4}, false, 4)).ok());
}

TEST_CASE("no bucket: an error that names rank, requests and the largest size") {
  gather_config config = config_of(3, 1, 256, rows{4, 8, 16});
  check_refused(plan_of<dg::pr8278>(config, tokens_only({3, 17, 16}, true)), errc::no_bucket,
                subject::requests, 1, 17, 16);
  check_refused(plan_of<dg::exact_graph>(config, tokens_only({3, 16, 40}, true)), errc::no_bucket,
                subject::requests, 2, 40, 16);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({16, 16, 16}, true)).ok());
  CHECK(plan_of<dg::exact_graph>(config, tokens_only({16, 16, 16}, true)).ok());
  // Never a silent fall to eager.
  CHECK_FALSE(plan_of<dg::pr8278>(config, tokens_only({3, 17, 16}, true)).ok());
}

TEST_CASE("no bucket: all ranks go eager together if the policy says so, and the plan tells") {
  const gather_config config = config_of(3, 1, 256, rows{4, 8, 16});
  const work missing = tokens_only({3, 17, 16}, true);
  const step_plan p = planned<going_eager<dg::pr8278>>(config, missing);
  CHECK_FALSE(p.in_graph());
  CHECK(p.bucket_missed);
  CHECK(p.shared_bucket == 0);
  CHECK(p.own_bucket(0) == 0);
  CHECK(p.padded[0] == 17);

  // Apart from saying so it is the plan of an eager step.
  step_plan eager = planned<going_eager<dg::pr8278>>(config, tokens_only({3, 17, 16}, false));
  CHECK_FALSE(eager.bucket_missed);
  eager.bucket_missed = true;
  CHECK(eager == p);

  const step_plan exact = planned<going_eager<dg::exact_graph>>(config, missing);
  CHECK(exact.bucket_missed);
  CHECK(exact.global_rows == 36);
  CHECK(exact.padding == padding_kind::none);

  const step_plan hit = planned<going_eager<dg::pr8278>>(config, tokens_only({3, 16, 16}, true));
  CHECK(hit.in_graph());
  CHECK_FALSE(hit.bucket_missed);
}

TEST_CASE("a waste limit refuses buckets that pad too much, graphs only") {
  gather_config config = config_of(4, 1, 64, regular_ladder);
  config.waste_limit = 2;
  // 4 * 64 rows for 67: more than twice.
  const work skewed = tokens_only({64, 1, 1, 1}, true);
  CHECK(plan_of<dg::pr8278>(config, skewed).code() == errc::no_bucket);
  CHECK(plan_of<dg::pr8278>(config, skewed).status().about == subject::waste_limit);
  CHECK(plan_of<dg::pr8278>(config, skewed).status().value == 256);
  CHECK(planned<going_eager<dg::pr8278>>(config, skewed).bucket_missed);
  CHECK_FALSE(planned<going_eager<dg::pr8278>>(config, skewed).in_graph());
  // Exactly twice is allowed, one real row fewer is not.
  CHECK(plan_of<dg::pr8278>(config, tokens_only({64, 64, 0, 0}, true)).ok());
  CHECK_FALSE(plan_of<dg::pr8278>(config, tokens_only({64, 63, 0, 0}, true)).ok());
  // No rows at all cannot be judged by rows per row.
  CHECK(plan_of<dg::pr8278>(config, tokens_only({0, 0, 0, 0}, true)).ok());
  CHECK(plan_of<dg::exact_graph>(config, skewed).ok());
  CHECK(plan_of<dg::max_always>(config, tokens_only({64, 1, 1, 1}, false)).ok());
  config.waste_limit = 0;
  CHECK(plan_of<dg::pr8278>(config, skewed).ok());
}

TEST_CASE("a global buffer that is too small: mode, rows needed, rows there") {
  gather_config config = config_of(4, 1, 64, regular_ladder);
  config.max_global_rows = 100;
  const work w = tokens_only({26, 26, 26, 26}, false);
  const auto plan = plan_of<dg::pr8278>(config, w);
  check_refused(plan, errc::capacity_exceeded, subject::max_global_rows, -1, 104, 100);
  CHECK(std::string{plan.status().message().view()}.find("all_gather") != std::string::npos);
  CHECK(plan_of<dg::exact_eager>(config, w).code() == errc::capacity_exceeded);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({25, 25, 25, 25}, false)).ok());
  // The same rows, packed, may fit where slots do not.
  const work uneven = tokens_only({40, 20, 20, 10}, false);
  CHECK(plan_of<dg::max_always>(config, uneven).code() == errc::capacity_exceeded);
  CHECK(plan_of<dg::exact_eager>(config, uneven).ok());
  CHECK(planned<dg::exact_graph>(config, tokens_only({40, 20, 20, 8}, true)).global_rows == 96);
}

TEST_CASE("a bucket that is wider than a rank's capacity is refused") {
  const gather_config config = config_of(2, 1, 100, regular_ladder);
  // 25 requests of 4 tokens fit 100 rows, their bucket of 32 needs 128.
  const auto plan = plan_of<dg::pr8278>(config, tokens_only({100, 4}, true, 4));
  CHECK(plan.code() == errc::capacity_exceeded);
  CHECK(plan.status().value == 128);
  CHECK(plan.status().limit == 100);
  CHECK(plan_of<dg::exact_graph>(config, tokens_only({100, 4}, true, 4)).code() ==
        errc::capacity_exceeded);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({96, 4}, true, 4)).code() != errc::no_bucket);
  CHECK(plan_of<dg::pr8278>(config, tokens_only({64, 4}, true, 4)).ok());
}

TEST_CASE("logits that do not fit the bucket of their tokens are refused") {
  const gather_config config = config_of(2, 1, 64, regular_ladder);
  work w = tokens_only({4, 4}, true);
  w.logits = {4, 5};
  CHECK(plan_of<dg::pr8278>(config, w, row_kind::logits).code() == errc::capacity_exceeded);
  CHECK(plan_of<dg::pr8278>(config, w, row_kind::logits).status().rank == 1);
  CHECK(plan_of<dg::exact_graph>(config, w, row_kind::logits).code() == errc::capacity_exceeded);
  w.logits = {4, 4};
  CHECK(plan_of<dg::pr8278>(config, w, row_kind::logits).ok());
}

// --- 64 bits ------------------------------------------------------------------------------------

TEST_CASE("bytes pass 2^31 at 149,797 rows of 7168 bf16, rows pass 2^31 with enough ranks") {
  const step_plan one =
      planned<dg::exact_eager>(config_of(1, 1, 149'797), tokens_only({149'797}, false));
  CHECK(one.global_bytes() == std::size_t{2'147'489'792});

  const gather_config large = config_of(256, 1, most, rows{most});
  const work full = tokens_only(rows(256, most), false);
  const wide all = wide{most} * 256;
  const step_plan sum = planned<dg::sum_always>(large, full);
  CHECK(sum.global_rows == static_cast<std::int64_t>(all));
  CHECK(sum.gather_wire_rows == static_cast<std::int64_t>(2 * all));
  CHECK(sum.offset(255) == std::int64_t{most} * 255);
  CHECK(sum.global_bytes() == static_cast<std::size_t>(all * 7168 * 2));
  const step_plan max = planned<dg::max_always>(large, full);
  CHECK(max.global_rows == static_cast<std::int64_t>(all));
  CHECK(max.offset(255) == std::int64_t{most} * 255);
  CHECK(planned<dg::exact_eager>(large, full).gather_wire_rows == static_cast<std::int64_t>(all));
}

// --- the same plan everywhere -------------------------------------------------------------------

TEST_CASE("the plan is bit-equal on every rank, also when the others' records lie elsewhere") {
  test_support::for_random_cases(
      [](random_source& random) {
        const world in = random_world(random);
        work w = random_work(random, in, random.chance(80));
        w.vote = random.chance(50);
        const auto records = records_of(w, in.known.tp);
        const auto check = [&]<class P>(std::type_identity<P>) {
          result<step_plan> first;
          for (std::int32_t r = 0; r < in.config.topology.world_size(); ++r) {
            gather_config mine = in.config;
            mine.topology = in.config.topology.at(r);
            const std::vector<step_record> received = records;
            const auto plan = make_plan(planner_of<P>(mine), *dg::merge(received, mine.topology));
            if (r == 0) first = plan;
            REQUIRE(plan.code() == first.code());
            REQUIRE(plan.status().message().view() == first.status().message().view());
            if (plan.ok()) REQUIRE(*plan == *first);
          }
        };
        check(std::type_identity<dg::pr8278>{});
        check(std::type_identity<dg::exact_graph>{});
      },
      std::max<std::uint64_t>(1, test_support::case_count(100'000) / 500));
}

namespace {

/// The shape that all ranks share, in a graph without a shared bucket at capacity. Own buckets and
/// counts are no part of it.
using shape = std::tuple<mode_kind, padding_kind, layout_kind, situation, dg::counts_kind,
                         dg::combine_kind, row_kind, dg::element, std::int32_t, std::int32_t,
                         std::int32_t, std::int32_t, std::size_t, std::int64_t, std::int64_t>;

shape shape_of(const step_plan& p, std::int64_t capacity) {
  const bool frozen = p.in_graph() && p.padding == padding_kind::none;
  return {p.mode,    p.padding,       p.layout,    p.situation, p.counts,
          p.combine, p.kind,          p.element,   p.dp_size,   p.tp_size,
          p.width,   p.shared_bucket, p.row_bytes, p.stride,    frozen ? capacity : p.global_rows};
}

struct own_only
    : policy<dg::mode::exact, dg::padding::none, dg::lookup::own, dg::ladder::from_config> {};

} // namespace

TEST_CASE("digests are equal exactly when shapes are, over random plans of all policies") {
  std::map<shape, std::uint64_t> digest_of;
  std::map<std::uint64_t, shape> shape_with;
  std::map<std::uint64_t, std::vector<std::int32_t>> counts_with;
  std::size_t repeated = 0;
  test_support::for_random_cases(
      [&](random_source& random) {
        world in = random_world(random);
        in.config.element = random.pick({dg::element::bf16, dg::element::f32});
        in.config.row_bytes = random.pick<std::size_t>({512, 1024});
        const auto kind = random.pick({row_kind::hidden, row_kind::logits, row_kind::draft});
        const auto check = [&]<class P>(std::type_identity<P>) {
          const planner<P> rules = planner_of<P>(in.config);
          for (int i = 0; i < 8; ++i) {
            work w = random_work(random, in, true);
            w.vote = random.chance(60);
            const auto plan = make_plan(rules, agreed(w, in.config), kind);
            if (!plan.ok()) continue;
            const shape s = shape_of(*plan, rules.max_padded_rows() * in.config.topology.dp_size);
            const auto known = digest_of.find(s);
            repeated += known != digest_of.end();
            if (known == digest_of.end()) {
              REQUIRE(shape_with.emplace(plan->digest, s).second);
              digest_of.emplace(s, plan->digest);
            } else {
              REQUIRE(known->second == plan->digest);
            }
            const auto& [digest, counts] =
                *counts_with.emplace(plan->counts_digest, rows_of(w, kind)).first;
            REQUIRE(digest == plan->counts_digest);
            REQUIRE(counts == rows_of(w, kind));
          }
        };
        check(std::type_identity<dg::pr8278>{});
        check(std::type_identity<dg::sum_always>{});
        check(std::type_identity<dg::exact_eager>{});
        check(std::type_identity<dg::exact_graph>{});
        check(std::type_identity<own_only>{});
      },
      std::max<std::uint64_t>(1, test_support::case_count(100'000) / 200));
  // The other direction is only tested by plans of one shape and different counts.
  CHECK(repeated > 0);
}

TEST_CASE("the own bucket is not in the digest, the sum's bucket is") {
  const gather_config config = config_of(3, 1, 64, regular_ladder);
  const step_plan a = planned<dg::exact_graph>(config, tokens_only({30, 1, 1}, true));
  const step_plan b = planned<dg::exact_graph>(config, tokens_only({10, 10, 9}, true));
  const step_plan c = planned<dg::exact_graph>(config, tokens_only({10, 10, 20}, true));
  CHECK(a.own_bucket(0) != b.own_bucket(0));
  CHECK(a.digest == b.digest);
  CHECK(a.counts_digest != b.counts_digest);
  CHECK(a.digest != c.digest);
  const step_plan again = planned<dg::exact_graph>(config, tokens_only({30, 1, 1}, true));
  CHECK(again.counts_digest == a.counts_digest);

  // Two buckets of as many rows are two graphs.
  gather_config draft = config_of(2, 1, 64, rows{4, 6});
  draft.draft_width = 3;
  work w = tokens_only({2, 2}, true);
  const step_plan four = planned<dg::sum_always>(draft, w, row_kind::draft);
  draft.draft_width = 2;
  w.tokens = {3, 3};
  const step_plan six = planned<dg::sum_always>(draft, w, row_kind::draft);
  CHECK(four.shared_bucket == 4);
  CHECK(six.shared_bucket == 6);
  CHECK(four.global_rows == six.global_rows);
  CHECK(four.digest != six.digest);

  // A graph without a shared bucket has one shape for all counts.
  const step_plan d = planned<own_only>(config, tokens_only({30, 1, 1}, true));
  const step_plan e = planned<own_only>(config, tokens_only({0, 64, 5}, true));
  CHECK(d.shared_bucket == 0);
  CHECK(d.own_bucket(0) == 32);
  CHECK(e.own_bucket(1) == 64);
  CHECK(d.digest == e.digest);
}

TEST_CASE("counts are in the counts digest with their rank") {
  const gather_config config = config_of(2, 1, 64);
  const step_plan a = planned<dg::exact_eager>(config, tokens_only({1, 2}, false));
  const step_plan b = planned<dg::exact_eager>(config, tokens_only({2, 1}, false));
  CHECK(a.counts_digest != b.counts_digest);
  CHECK(a.digest == b.digest);
}

// --- buffers ------------------------------------------------------------------------------------

TEST_CASE("no plan asks for more rows than were known before the first step") {
  test_support::for_random_cases(
      [](random_source& random) {
        world in = random_world(random);
        // Capacities that have nothing to do with the ladder.
        in.config.max_rows_per_rank = random.between(1, 600);
        if (random.chance(50)) in.config.max_requests_per_rank = 0;
        if (random.chance(20)) in.config.max_global_rows = random.between(1, 2000);
        in.config.draft_width = random.between(1, 8);
        const auto kind = random.pick({row_kind::hidden, row_kind::logits, row_kind::draft});
        const auto check = [&]<class P>(std::type_identity<P>) {
          const auto rules = planner<P>::make(in.config);
          if (!rules.ok()) return;
          for (int i = 0; i < 4; ++i) {
            work w = random_work(random, in, random.chance(70));
            w.vote = random.chance(70);
            const auto plan = make_plan(*rules, agreed(w, in.config), kind);
            if (!plan.ok()) continue;
            REQUIRE(plan->global_rows <= rules->max_global_rows());
            REQUIRE(plan->global_bytes() <= rules->max_global_bytes());
            for (std::int32_t r = 0; r < plan->dp_size; ++r) {
              if (plan->padded[r] > rules->max_padded_rows()) FAIL("padded rows of rank ", r);
              if (plan->offset(r) + plan->real[r] > plan->global_rows) FAIL("place of rank ", r);
            }
          }
        };
        check(std::type_identity<dg::pr8278>{});
        check(std::type_identity<dg::sum_always>{});
        check(std::type_identity<dg::exact_graph>{});
        check(std::type_identity<by_sum>{});
      },
      std::max<std::uint64_t>(1, test_support::case_count(100'000) / 50));
}

TEST_CASE("every stated sum can be captured, and is the bucket of the sums up to it") {
  gather_config config = config_of(4, 2, 64, regular_ladder);
  config.sum_ladder = *bucket_list::make(rows{2, 14, 50, 256});
  const planner<dg::exact_graph> rules = planner_of<dg::exact_graph>(config);
  for (const std::int32_t size : rules.captured_sizes().span()) {
    CAPTURE(size);
    const auto captured = dg::make_capture_plan(rules, size);
    CAPTURE(std::string{captured.status().message().view()});
    REQUIRE(captured.ok());
    CHECK(captured->shared_bucket == size);
    CHECK(captured->global_rows == size);
  }
  const auto shared = [&](const rows& tokens) {
    return planned<dg::exact_graph>(config, tokens_only(tokens, true)).shared_bucket;
  };
  CHECK(shared({0, 0, 0, 0}) == 2);
  CHECK(shared({1, 1, 0, 0}) == 2);
  CHECK(shared({1, 1, 1, 0}) == 14);
  CHECK(shared({14, 0, 0, 1}) == 50);
  CHECK(shared({64, 64, 64, 64}) == 256);
  config.sum_ladder = *bucket_list::make(rows{2, 14, 50});
  const auto missed = plan_of<dg::exact_graph>(config, tokens_only({50, 0, 0, 1}, true));
  CHECK(missed.code() == errc::no_bucket);
  CHECK(missed.status().value == 51);
  CHECK(missed.status().limit == 50);
}

TEST_CASE("looking up the sum only launches attention on its own rows") {
  const gather_config config = config_of(3, 2, 64, regular_ladder);
  const step_plan p = planned<by_sum>(config, tokens_only({5, 0, 20}, true));
  CHECK(p.in_graph());
  CHECK(p.shared_bucket == 32);
  CHECK(p.global_rows == 32);
  CHECK(p.padded[0] == 6);
  CHECK(p.padded[1] == 0);
  CHECK(p.padded[2] == 20);
  CHECK(p.own_bucket(2) == 0);
}

// --- counts that the host does not know ---------------------------------------------------------

namespace {

struct exchanged_packed
    : policy<dg::mode::exact, dg::counts::exchanged, dg::lookup::own, dg::ladder::from_config> {};
struct exchanged_slots : policy<dg::mode::exact, dg::padding::max_len, dg::counts::exchanged,
                                dg::lookup::own, dg::ladder::from_config> {};
struct device_packed
    : policy<dg::mode::exact, dg::counts::device, dg::lookup::own, dg::ladder::from_config> {};

step_record own_record(std::int32_t tokens, bool vote, std::int32_t width = 1) {
  step_record r;
  r.tokens = r.logits_tokens = tokens;
  r.requests = tokens / width;
  r.width = width;
  r.votes = vote ? step_record::graph_vote : std::uint8_t{0};
  r.phase = tokens == 0 ? dg::phase::idle : dg::phase::decode;
  return r;
}

template <class P>
result<step_plan> plan_of_rank(gather_config config, std::int32_t rank, step_record own) {
  config.topology = config.topology.at(rank);
  own.world_rank = rank;
  return make_plan(planner_of<P>(config), own);
}

} // namespace

TEST_CASE_TEMPLATE("one count is known: sizes follow from capacities, not from the count", P,
                   exchanged_packed, exchanged_slots, device_packed) {
  const gather_config config = config_of(4, 2, 63, rows{4, 8, 16, 32, 62});
  for (const bool graph : {false, true}) {
    CAPTURE(graph);
    const auto plan = plan_of_rank<P>(config, 5, own_record(10, graph));
    REQUIRE(plan.ok());
    CHECK_FALSE(plan->counts_known);
    CHECK(plan->mode == mode_kind::exact);
    CHECK(plan->in_graph() == graph);
    CHECK(plan->global_rows == 4 * 64);
    CHECK(plan->stride == (plan->layout == layout_kind::slots ? 64 : 0));
    CHECK(plan->real[2] == 10);
    CHECK(plan->real.sum() == 10);
    CHECK(plan->padded[2] == (graph ? 16 : 10));
    CHECK(plan->own_bucket(2) == (graph ? 16 : 0));
    CHECK(plan->shared_bucket == 0);
    CHECK(plan->counts_digest == 0);
    CHECK(plan->gather_wire_rows == 0);
    CHECK(plan->combine_wire_rows == 0);
  }
}

TEST_CASE_TEMPLATE("one count is known: all ranks have one digest, whatever they hold", P,
                   exchanged_packed, exchanged_slots, device_packed) {
  test_support::for_random_cases(
      [](random_source& random) {
        const std::int32_t width = random.pick({1, 1, 2, 4});
        const gather_config config = config_of(random.between(1, 8), 2, 64 * width, regular_ladder);
        const bool graph = random.chance(50);
        std::uint64_t digest = 0;
        for (std::int32_t r = 0; r < config.topology.world_size(); ++r) {
          const std::int32_t requests = random.chance(30) ? 0 : random.between(0, 64);
          const auto plan = plan_of_rank<P>(config, r, own_record(requests * width, graph, width));
          REQUIRE(plan.ok());
          if (r == 0) digest = plan->digest;
          INFO("width ", width, ", rank ", r, " has ", requests, " requests");
          REQUIRE(plan->digest == digest);
        }
      },
      test_support::case_count(2'000));
}

TEST_CASE("one count is known: it is checked like any other") {
  const gather_config config = config_of(4, 1, 100, rows{4, 8, 16});
  check_refused(plan_of_rank<exchanged_packed>(config, 2, own_record(101, false)),
                errc::count_out_of_range, subject::tokens, 2, 101, 100);
  check_refused(plan_of_rank<exchanged_packed>(config, 2, own_record(-1, false)),
                errc::count_out_of_range, subject::tokens, 2, -1, 100);
  check_refused(plan_of_rank<exchanged_packed>(config, 1, own_record(17, true)), errc::no_bucket,
                subject::requests, 1, 17, 16);
  check_refused(plan_of_rank<exchanged_packed>(config, 3, own_record(6, true, 4)),
                errc::count_not_divisible, subject::tokens, 3, 6, 4);
  gather_config small = config;
  small.max_global_rows = 399;
  CHECK(plan_of_rank<exchanged_packed>(small, 0, own_record(1, true)).code() ==
        errc::capacity_exceeded);
}

namespace {

/// True if calling `F` is a constant expression, that is: without undefined behaviour.
template <auto F>
concept defined = requires {
  typename std::bool_constant<(F(), true)>;
};

constexpr errc code_for_width(std::int32_t width) {
  gather_config config{.topology = {2, 1, 0, 0}, .row_bytes = 2, .max_rows_per_rank = 64};
  config.ladder.append(16);
  step_record own;
  own.tokens = 4;
  own.width = width;
  own.votes = step_record::graph_vote;
  return make_plan<exchanged_packed>(config, own).code();
}

} // namespace

TEST_CASE("one count is known: a width that no request has is refused, not divided by") {
  constexpr auto two = [] { return code_for_width(2); };
  constexpr auto zero = [] { return code_for_width(0); };
  constexpr auto minus_one = [] { return code_for_width(-1); };
  static_assert(two() == errc::ok);
  CHECK(defined<two>);
  CHECK(defined<zero>);
  if constexpr (defined<zero>) CHECK(code_for_width(0) == errc::count_out_of_range);
  CHECK(defined<minus_one>);
  CHECK(code_for_width(-1) == errc::count_out_of_range);
}

// --- by the compiler ----------------------------------------------------------------------------

namespace {

constexpr step_plan plan_at_compile_time = [] {
  std::array<step_record, 4> records{};
  constexpr std::int32_t tokens[] = {9, 1, 0, 30};
  for (std::size_t r = 0; r < 4; ++r) {
    records[r].world_rank = static_cast<std::int32_t>(r);
    records[r].tokens = records[r].requests = tokens[r];
    records[r].votes = step_record::graph_vote;
  }
  gather_config config{.topology = {4, 1, 2, 0}, .row_bytes = 7168 * 2, .max_rows_per_rank = 64};
  config.ladder.append_range(8, 64, 8, 64);
  return *make_plan<dg::exact_graph>(config, *dg::merge(records, config.topology));
}();
static_assert(plan_at_compile_time.in_graph());
static_assert(plan_at_compile_time.shared_bucket == 40);
static_assert(plan_at_compile_time.own_bucket(0) == 16);
static_assert(plan_at_compile_time.offset(3) == 10);
static_assert(std::is_trivially_copyable_v<step_plan>);

} // namespace

TEST_CASE("a plan is the same value at compile time and at run time") {
  gather_config config = config_of(4, 1, 64, rows{8, 16, 24, 32, 40, 48, 56, 64});
  work w = tokens_only({9, 1, 0, 30}, true);
  w.logits = rows(4, 0);
  step_plan p = planned<dg::exact_graph>(config, w);
  p.step = 0;
  CHECK(p == plan_at_compile_time);
}

// --- costs --------------------------------------------------------------------------------------

namespace {

std::atomic<std::size_t> allocations{0};

template <class F>
std::size_t allocations_in(F f) {
  const std::size_t before = allocations.load();
  f();
  return allocations.load() - before;
}

} // namespace

// Not inlined: g++ would see `free` beside a `new` that it does not know.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1);
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc{};
}
[[gnu::noinline]] void* operator new[](std::size_t size) { return ::operator new(size); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

TEST_CASE("merging and planning allocate nothing") {
  CHECK(allocations_in([] { ::operator delete(::operator new(8)); }) == 1);
  const gather_config config = config_of(64, 2, 256, regular_ladder);
  for (const bool graph : {false, true}) {
    rows n(64);
    for (std::size_t r = 0; r < n.size(); ++r) n[r] = static_cast<std::int32_t>(r);
    const auto records = records_of(tokens_only(n, graph), 2);
    const auto check = [&]<class P>(std::type_identity<P>) {
      bool ok = false;
      const std::size_t made = allocations_in([&] {
        const auto rules = planner<P>::make(config);
        const auto merged = dg::merge(records, config.topology);
        ok = rules.ok() && merged.ok() && make_plan(*rules, *merged).ok() &&
             make_plan(*rules, *merged, row_kind::logits).ok();
      });
      CHECK(ok);
      CHECK(made == 0);
    };
    check(std::type_identity<dg::pr8278>{});
    check(std::type_identity<dg::sglang_now>{});
    check(std::type_identity<dg::max_always>{});
    check(std::type_identity<dg::sum_always>{});
    check(std::type_identity<dg::exact_eager>{});
    check(std::type_identity<dg::exact_graph>{});
  }
  // A refused step allocates nothing either.
  const auto too_many = records_of(tokens_only(rows(64, 300), true), 2);
  const auto rules = planner_of<dg::pr8278>(config);
  CHECK(allocations_in([&] {
          const auto merged = dg::merge(too_many, config.topology);
          const auto plan = make_plan(rules, *merged);
          (void)plan.status().message();
        }) == 0);
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DPGATHER_TEST_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DPGATHER_TEST_SANITIZED
#endif

#if defined(NDEBUG) && defined(__OPTIMIZE__) && !defined(DPGATHER_TEST_SANITIZED)
namespace {

/// Nanoseconds of one plan: the best of 20 batches, so that other load on the machine does not
/// count.
template <class P>
double nanoseconds_per_plan(std::int32_t ranks, bool graph) {
  const gather_config config = config_of(ranks, 1, 64, regular_ladder);
  std::vector<agreement> steps;
  for (std::int32_t i = 0; i < 16; ++i) {
    rows n(static_cast<std::size_t>(ranks));
    for (std::size_t r = 0; r < n.size(); ++r) {
      n[r] = static_cast<std::int32_t>((r * 7 + static_cast<std::size_t>(i) * 13) % 65);
    }
    steps.push_back(agreed(tokens_only(n, graph), config));
  }
  const planner<P> rules = planner_of<P>(config);
  double best = std::numeric_limits<double>::infinity();
  for (int batch = 0; batch < 20; ++batch) {
    constexpr int calls = 500;
    std::uint64_t used = 0;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < calls; ++i) {
      used += make_plan(rules, steps[i % steps.size()])->digest;
    }
    const auto end = std::chrono::steady_clock::now();
    const volatile std::uint64_t sink = used;
    (void)sink;
    best = std::min(best, std::chrono::duration<double, std::nano>(end - start).count() / calls);
  }
  return best;
}

} // namespace

TEST_CASE_TEMPLATE("a plan costs under 0.5 us for 8 ranks and under 3 us for 64", P, dg::pr8278,
                   dg::sglang_now, dg::max_always, dg::sum_always, dg::exact_eager,
                   dg::exact_graph) {
  for (const bool graph : {false, true}) {
    const double eight = nanoseconds_per_plan<P>(8, graph);
    const double sixty_four = nanoseconds_per_plan<P>(64, graph);
    MESSAGE(std::string{graph ? "in a graph" : "eager"}, ": ", eight, " ns, ", sixty_four, " ns");
    CHECK(eight < 500);
    CHECK(sixty_four < 3000);
  }
}
#endif

TEST_CASE("the shape of one plan with the counts of another") {
  dg::gather_config config;
  config.topology.dp_size = 2;
  config.row_bytes = 16;
  config.max_rows_per_rank = 8;
  for (const std::int32_t size : {2, 4, 8}) config.ladder.append(size);
  const auto rules = dg::planner<dg::exact_graph>::make(config);
  REQUIRE(rules.ok());
  const auto shape = dg::make_capture_plan(*rules, 16);
  dg::agreement agreed;
  agreed.dp_size = 2;
  agreed.step = 41;
  agreed.can_run_graph = true;
  agreed.tokens = agreed.logits_tokens = agreed.draft_tokens = dg::real_rows::zeros(2);
  agreed.requests = dg::request_counts::zeros(2);
  agreed.tokens.set(0, 3);
  const auto step = dg::make_plan(*rules, agreed);
  REQUIRE(shape.ok());
  REQUIRE(step.ok());
  const dg::step_plan both = shape->with_counts_of(*step);
  CHECK(both.digest == shape->digest);
  CHECK(both.digest != step->digest);
  CHECK(both.shared_bucket == 16);
  CHECK(both.global_rows == 16);
  CHECK(both.step == 41);
  CHECK(both.real[0] == 3);
  CHECK(both.real[1] == 0);
  CHECK(both.padded[0] == 4);
  CHECK(both.padded[1] == 2);
  CHECK(both.offset(1) == 3);
  CHECK(both.total_rows == 3);
  CHECK(both.counts_digest == step->counts_digest);
  // Of the same shape it is the step's own plan.
  CHECK(dg::make_capture_plan(*rules, step->shared_bucket)->with_counts_of(*step) == *step);
  CHECK(both.agreed_digest == step->digest); // what ranks compare of the step
  CHECK(both.gather_wire_rows == 3);
}
