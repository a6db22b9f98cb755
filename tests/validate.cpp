#include <dpgather/policies.hpp>
#include <dpgather/validate.hpp>

#include <doctest/doctest.h>

#include "support/policy_cells.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dg = dpgather;
using dg::first_violation;
using dg::policy;
using dg::violation;
using test_support::cell;
using test_support::cell_at;
using test_support::cell_count;

namespace {

/// The library's answer for every cell.
constexpr auto answers = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array<violation, cell_count>{first_violation<test_support::policy_of_cell<I>>()...};
}
(std::make_index_sequence<cell_count>{});

constexpr std::size_t first_difference = [] {
  std::size_t at = 0;
  while (at < cell_count && answers[at] == test_support::broken_rule(cell_at(at))) ++at;
  return at;
}();

/// Index of the last violation.
constexpr auto last_violation = violation::combine_needs_all_reduce;

} // namespace

static_assert(first_difference == cell_count, "a cell is judged differently by the specification");

TEST_CASE("every cell of the table is judged as the specification judges it") {
  for (std::size_t i = 0; i < cell_count; ++i) {
    const cell c = cell_at(i);
    CAPTURE(describe(c));
    REQUIRE(static_cast<int>(answers[i]) == static_cast<int>(test_support::broken_rule(c)));
  }
}

TEST_CASE("the cells are all combinations, each once") {
  std::set<std::string> seen;
  for (std::size_t i = 0; i < cell_count; ++i) REQUIRE(seen.insert(describe(cell_at(i))).second);
  CHECK(seen.size() == (3 * 3 + 1) * 3 * 4 * 3 * 3 * 2);
}

TEST_CASE("every rule about cells is broken by some cell, and some cells are legal") {
  std::size_t total = 0;
  for (int i = 0; i <= static_cast<int>(last_violation); ++i) {
    const auto rule = static_cast<violation>(i);
    CAPTURE(i);
    const std::size_t broken = test_support::cells_that_break(rule);
    total += broken;
    // Two rules are about categories that the table does not have; see below.
    const bool outside_of_the_table = rule == violation::unknown_counts_cannot_agree ||
                                      rule == violation::combine_needs_all_reduce;
    CHECK((broken == 0) == outside_of_the_table);
  }
  CHECK(total == cell_count);
}

namespace {

/// A visited cell and what its policy says, taken out of the templates.
struct visited {
  cell described;
  bool valid;
  bool has_graphs;
  bool same_options;
  violation going_eager;
  violation reducing_everywhere;
};

template <class P>
struct going_eager : P {
  using on_miss_type = dg::on_miss::agreed_eager;
};
template <class P>
struct reducing_everywhere : P {
  using combine_type = dg::combine::all_reduce_then_scatter;
};

template <class Policy>
constexpr bool has_options_of(const cell& c) {
  using options = dg::resolved<Policy, Policy::is.situation>;
  using mode = typename options::mode;
  const bool same = options::lookup::kind == c.lookup && options::counts::kind == c.counts &&
                    options::comm::kind == c.comm;
  if constexpr (dg::is_choice<mode>) {
    return same && c.mode == test_support::cell_mode::choose &&
           std::is_same_v<typename options::layout, dg::layout::by_padding>;
  } else {
    const bool slots = dg::layout_for<typename options::layout, options::padding::kind>() ==
                       dg::layout_kind::slots;
    return same && static_cast<int>(mode::kind) == static_cast<int>(c.mode) &&
           options::padding::kind == c.padding &&
           slots == (c.layout == test_support::cell_layout::slots);
  }
}

std::vector<visited> visit_legal_cells() {
  std::vector<visited> out;
  test_support::for_each_legal_cell([&]<class Policy>(const cell& c) {
    out.push_back({c, dg::valid_policy<Policy>, dg::has_graphs<Policy>, has_options_of<Policy>(c),
                   first_violation<going_eager<Policy>>(),
                   first_violation<reducing_everywhere<Policy>>()});
  });
  return out;
}

} // namespace

TEST_CASE("the legal cells are visited once each, with the policy that belongs to the cell") {
  std::set<std::string> seen;
  for (const visited& v : visit_legal_cells()) {
    CAPTURE(describe(v.described));
    CHECK(seen.insert(describe(v.described)).second);
    CHECK(v.valid);
    CHECK(v.same_options);
    CHECK(v.has_graphs == (v.described.situation == dg::situation::in_graph));
    CHECK(v.described.comm == dg::comm_kind::host);
  }
  CHECK(seen.size() == test_support::legal_cell_count<>);
  CHECK(seen.size() == 32);
  CHECK(test_support::legal_cell_count<dg::comm_kind::peer> == seen.size());
  // Without unknown counts, exact graphs, and graphs whose combine brings own rows only.
  CHECK(test_support::legal_cell_count<dg::comm_kind::nccl> == 11);
}

TEST_CASE("each combination that the field uses is legal, each that it fears is not") {
  using namespace dg;
  // PR #8278 and what came after it, in both situations.
  static_assert(first_violation<pr8278>() == violation::none);
  static_assert(first_violation<sglang_now>() == violation::none);
  // An exact graph is for own kernels; NCCL stays with the classic modes inside graphs.
  static_assert(first_violation<rebind_comm<exact_graph, comm::peer>>() == violation::none);
  static_assert(first_violation<rebind_comm<exact_graph, comm::nccl>>() ==
                violation::nccl_exact_in_graph);
  static_assert(first_violation<rebind_comm<sum_always, comm::nccl>>() == violation::none);
  static_assert(first_violation<
                    policy<mode::all_reduce, padding::max_len, comm::nccl, ladder::sglang<8>>>() ==
                violation::nccl_combine_in_graph);
  static_assert(first_violation<policy<mode::exact, padding::none, comm::nccl, ladder::sglang<8>,
                                       in_graph<mode::all_gather, padding::max_len>>>() ==
                violation::none);
  static_assert(first_violation<policy<mode::exact, padding::none, comm::nccl>>() ==
                violation::none);
  // The SWITCH node and device-side GEMM sizes: own buckets only, counts unknown to the host.
  static_assert(
      first_violation<
          policy<mode::exact, lookup::own, counts::exchanged, comm::peer, ladder::sglang<8>>>() ==
      violation::none);
  // A rule in a graph.
  static_assert(first_violation<policy<pr8278::mode_type, ladder::sglang<8>>>() ==
                violation::graph_freezes_one_mode);
}

// --- options that the table does not have -------------------------------------------------------

TEST_CASE("going eager together needs the counts of all ranks") {
  for (const visited& v : visit_legal_cells()) {
    CAPTURE(describe(v.described));
    const bool known = v.described.counts == dg::counts_kind::agreed;
    CHECK(v.going_eager == (known ? violation::none : violation::unknown_counts_cannot_agree));
  }
}

TEST_CASE("combining by all-reduce belongs to the all-reduce mode") {
  for (const visited& v : visit_legal_cells()) {
    CAPTURE(describe(v.described));
    const bool reduces = v.described.mode == test_support::cell_mode::all_reduce ||
                         v.described.mode == test_support::cell_mode::choose;
    CHECK(v.reducing_everywhere ==
          (reduces ? violation::none : violation::combine_needs_all_reduce));
  }
}

TEST_CASE("an option in eager<> or in_graph<> is held to the same rules") {
  using namespace dg;
  using all_gather_here = policy<mode::all_gather, padding::max_len, ladder::sglang<8>>;
  CHECK(first_violation<all_gather_here>() == violation::none);
  CHECK(first_violation<policy<all_gather_here::mode_type, all_gather_here::padding_type,
                               ladder::sglang<8>, eager<padding::none>>>() ==
        violation::all_gather_needs_max_len);
  CHECK(first_violation<policy<all_gather_here::mode_type, all_gather_here::padding_type,
                               ladder::sglang<8>, in_graph<layout::packed>>>() ==
        violation::all_gather_needs_slots);
  CHECK(first_violation<policy<mode::exact, ladder::sglang<8>, in_graph<lookup::own>>>() ==
        violation::none);
  CHECK(first_violation<
            policy<mode::exact, ladder::sglang<8>, lookup::own, in_graph<lookup::max>>>() ==
        violation::no_padding_needs_exact_own);
  // Without graphs there is nothing that in_graph<> could break.
  CHECK(first_violation<policy<mode::exact, in_graph<mode::all_gather>>>() == violation::none);

  CHECK(first_violation<policy<mode::exact, eager<combine::all_reduce_then_scatter>>>() ==
        violation::combine_needs_all_reduce);
  CHECK(first_violation<policy<mode::all_gather, padding::max_len, ladder::sglang<8>,
                               in_graph<combine::all_reduce_then_scatter>>>() ==
        violation::combine_needs_all_reduce);
}

TEST_CASE("an alternative of mode::choose is held to the same rules") {
  using namespace dg;
  using rule = rule::strict_volume;
  using to_max = mode::with<mode::all_gather, padding::max_len>;
  using to_sum = mode::with<mode::all_reduce, padding::sum_len>;
  CHECK(first_violation<policy<mode::choose<rule, to_max, to_sum>>>() == violation::none);
  CHECK(first_violation<
            policy<mode::choose<rule, mode::with<mode::all_gather, padding::sum_len>, to_sum>>>() ==
        violation::all_gather_needs_max_len);
  CHECK(first_violation<
            policy<mode::choose<rule, to_max, mode::with<mode::all_gather, padding::none>>>>() ==
        violation::all_gather_needs_max_len);
  CHECK(first_violation<policy<mode::choose<rule, to_max, to_sum>, layout::slots>>() ==
        violation::slots_need_max_len);
  CHECK(first_violation<policy<mode::choose<rule, to_max, to_sum>, layout::packed>>() ==
        violation::all_gather_needs_slots);
  CHECK(first_violation<policy<mode::choose<rule, mode::with<mode::exact, padding::max_len>,
                                            mode::with<mode::exact, padding::none>>>>() ==
        violation::none);
}

// --- the files that must not compile ------------------------------------------------------------

namespace {

struct compile_failure {
  const char* file;
  std::size_t cells;
};

std::size_t legal_host_cells(bool (*wanted)(const cell&)) {
  std::size_t count = 0;
  for (const visited& v : visit_legal_cells()) count += wanted(v.described) ? 1 : 0;
  return count;
}

} // namespace

TEST_CASE("the compile-fail files expect as many errors as the table has cells") {
  using enum violation;
  const compile_failure files[] = {
      {"all_gather_needs_max_len", test_support::cells_that_break(all_gather_needs_max_len)},
      {"slots_need_max_len", test_support::cells_that_break(slots_need_max_len)},
      {"all_gather_needs_slots", test_support::cells_that_break(all_gather_needs_slots)},
      {"graph_freezes_one_mode", test_support::cells_that_break(graph_freezes_one_mode)},
      {"max_len_needs_lookup_max", test_support::cells_that_break(max_len_needs_lookup_max)},
      {"sum_len_needs_lookup_sum", test_support::cells_that_break(sum_len_needs_lookup_sum)},
      {"no_padding_needs_exact_own", test_support::cells_that_break(no_padding_needs_exact_own)},
      {"nccl_exact_in_graph", test_support::cells_that_break(nccl_exact_in_graph)},
      {"nccl_combine_in_graph", test_support::cells_that_break(nccl_combine_in_graph)},
      {"nccl_needs_agreed_counts", test_support::cells_that_break(nccl_needs_agreed_counts)},
      {"rule_needs_agreed_counts", test_support::cells_that_break(rule_needs_agreed_counts)},
      {"unknown_counts_need_exact", test_support::cells_that_break(unknown_counts_need_exact)},
      {"unknown_sum", test_support::cells_that_break(unknown_sum)},
      {"unknown_counts_lookup", test_support::cells_that_break(unknown_counts_lookup)},
      {"unknown_counts_cannot_agree",
       legal_host_cells([](const cell& c) { return c.counts != dg::counts_kind::agreed; })},
      {"combine_needs_all_reduce", legal_host_cells([](const cell& c) {
         return c.mode != test_support::cell_mode::all_reduce &&
                c.mode != test_support::cell_mode::choose;
       })},
  };
  // One file for each rule, `none` aside.
  CHECK(std::size(files) == static_cast<std::size_t>(last_violation));

  std::string here = __FILE__;
  here.resize(here.find_last_of('/') + 1);
  for (const compile_failure& f : files) {
    const std::string path = here + "compile_fail/illegal_cells_" + f.file + ".cpp";
    CAPTURE(path);
    std::ifstream file{path};
    REQUIRE(file.is_open());
    const std::string mark = "// expect-count: ";
    std::string line;
    std::size_t found = 0;
    while (std::getline(file, line)) {
      if (line.rfind(mark, 0) != 0) continue;
      ++found;
      CHECK(std::stoul(line.substr(mark.size())) == f.cells);
      CHECK(line.find("dpgather: ") != std::string::npos);
    }
    CHECK(found == 1);
  }
}
