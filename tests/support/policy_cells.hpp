#pragma once

/// @file
/// The table of policy cells: mode x padding x layout x lookup x counts x comm x {eager, graph},
/// and which of them are legal, said in words and apart from validate.hpp.
///
/// Other tests instantiate whatever they test for every legal cell:
/// `for_each_legal_cell([]<class Policy>(const cell& what) { ... });`

#include <dpgather/policy.hpp>
#include <dpgather/validate.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

namespace test_support {

namespace dg = dpgather;

enum class cell_mode : std::uint8_t { all_gather, all_reduce, exact, choose };
enum class cell_layout : std::uint8_t { slots, packed, by_padding };

/// One choice in every category of the table. Under `choose` the padding comes with the mode that
/// is picked; the cell's own is `none` and means nothing.
struct cell {
  cell_mode mode = cell_mode::exact;
  dg::padding_kind padding = dg::padding_kind::none;
  cell_layout layout = cell_layout::by_padding;
  dg::lookup_kind lookup = dg::lookup_kind::max;
  dg::counts_kind counts = dg::counts_kind::agreed;
  dg::comm_kind comm = dg::comm_kind::host;
  dg::situation situation = dg::situation::eager;
};

// --- legality, in words -------------------------------------------------------------------------

namespace detail {

/// One fixed mode of a cell, `choose` and `by_padding` taken apart.
struct fixed_mode {
  dg::mode_kind mode;
  dg::padding_kind padding;
  bool in_slots;
  bool in_graph;
  bool host_knows_all_counts;
  dg::lookup_kind lookup;
  dg::comm_kind comm;
};

using dg::comm_kind;
using dg::lookup_kind;
using dg::mode_kind;
using dg::padding_kind;
using dg::violation;

struct rule_in_words {
  violation name;
  const char* words;
  bool (*broken)(const fixed_mode&);
};

/// What one mode asks of the other options. Of several broken rules the first in this order counts:
/// those about shape, then those about unknown counts, whose fix changes the lookup, then the rest.
inline constexpr rule_in_words rules_of_one_mode[] = {
    {violation::all_gather_needs_max_len, "an all-gather moves equally many rows per rank",
     [](const fixed_mode& m) {
       return m.mode == mode_kind::all_gather && m.padding != padding_kind::max_len;
     }},
    {violation::slots_need_max_len, "slots have one stride, so every rank has equally many rows",
     [](const fixed_mode& m) { return m.in_slots && m.padding != padding_kind::max_len; }},
    {violation::all_gather_needs_slots, "an all-gather delivers slot after slot",
     [](const fixed_mode& m) { return m.mode == mode_kind::all_gather && !m.in_slots; }},
    {violation::unknown_counts_need_exact,
     "both classic modes take their sizes from the host's counts of all ranks",
     [](const fixed_mode& m) { return !m.host_knows_all_counts && m.mode != mode_kind::exact; }},
    {violation::unknown_sum, "a host that knows one count does not know the sum",
     [](const fixed_mode& m) {
       return !m.host_knows_all_counts && m.padding == padding_kind::sum_len;
     }},
    {violation::unknown_counts_lookup,
     "a host that knows one count can look up its own bucket, not that of the maximum or the sum",
     [](const fixed_mode& m) {
       return m.in_graph && !m.host_knows_all_counts && m.lookup != lookup_kind::own;
     }},
    {violation::max_len_needs_lookup_max,
     "in a graph the maximum is the bucket of the maximum (or the capacity, if counts are unknown)",
     [](const fixed_mode& m) {
       return m.in_graph && m.host_knows_all_counts && m.padding == padding_kind::max_len &&
              m.lookup != lookup_kind::max;
     }},
    {violation::sum_len_needs_lookup_sum, "in a graph the sum is the bucket of the sum",
     [](const fixed_mode& m) {
       return m.in_graph && m.padding == padding_kind::sum_len && m.lookup != lookup_kind::sum &&
              m.lookup != lookup_kind::own_and_sum;
     }},
    {violation::no_padding_needs_exact_own,
     "a graph without a shared size moves exactly the real rows and captures attention only",
     [](const fixed_mode& m) {
       return m.in_graph && m.padding == padding_kind::none &&
              (m.mode != mode_kind::exact || m.lookup != lookup_kind::own);
     }},
    {violation::nccl_exact_in_graph, "NCCL would freeze the host's counts in the graph",
     [](const fixed_mode& m) {
       return m.in_graph && m.mode == mode_kind::exact && m.comm == comm_kind::nccl;
     }},
    {violation::nccl_combine_in_graph,
     "so would the combine of the cells, which brings each rank its own rows only",
     [](const fixed_mode& m) {
       return m.in_graph && m.mode == mode_kind::all_reduce && m.comm == comm_kind::nccl;
     }},
};

} // namespace detail

/// The rule that a cell breaks, the first where it breaks several; `violation::none` if legal.
constexpr dg::violation broken_rule(const cell& c) {
  const bool known = c.counts == dg::counts_kind::agreed;
  const bool graph = c.situation == dg::situation::in_graph;
  // A rule that compares the counts of all ranks, every step anew, needs both.
  if (c.mode == cell_mode::choose && !known) return dg::violation::rule_needs_agreed_counts;
  if (c.mode == cell_mode::choose && graph) return dg::violation::graph_freezes_one_mode;

  const auto as = [&](dg::mode_kind mode, dg::padding_kind padding) {
    const bool slots = c.layout == cell_layout::slots || (c.layout == cell_layout::by_padding &&
                                                          padding == dg::padding_kind::max_len);
    return detail::fixed_mode{mode, padding, slots, graph, known, c.lookup, c.comm};
  };
  for (const detail::rule_in_words& rule : detail::rules_of_one_mode) {
    switch (c.mode) {
    case cell_mode::all_gather:
      if (rule.broken(as(dg::mode_kind::all_gather, c.padding))) return rule.name;
      break;
    case cell_mode::all_reduce:
      if (rule.broken(as(dg::mode_kind::all_reduce, c.padding))) return rule.name;
      break;
    case cell_mode::exact:
      if (rule.broken(as(dg::mode_kind::exact, c.padding))) return rule.name;
      break;
    case cell_mode::choose:
      if (rule.broken(as(dg::mode_kind::all_gather, dg::padding_kind::max_len)) ||
          rule.broken(as(dg::mode_kind::all_reduce, dg::padding_kind::sum_len)))
        return rule.name;
      break;
    }
  }
  // NCCL's calls take counts from the host.
  if (c.comm == dg::comm_kind::nccl && !known) return dg::violation::nccl_needs_agreed_counts;
  return dg::violation::none;
}

// --- the cells ----------------------------------------------------------------------------------

/// Three modes with three paddings each, and `choose`; times the other categories.
inline constexpr std::size_t cell_count = (3 * 3 + 1) * 3 * 4 * 3 * 3 * 2;

constexpr cell cell_at(std::size_t index) {
  const auto digit = [&]<class Kind>(std::size_t base, Kind) {
    const std::size_t value = index % base;
    index /= base;
    return static_cast<Kind>(value);
  };
  cell c;
  c.situation = digit(2, c.situation);
  c.comm = digit(3, c.comm);
  c.counts = digit(3, c.counts);
  c.lookup = digit(4, c.lookup);
  c.layout = digit(3, c.layout);
  c.padding = digit(3, c.padding);
  c.mode = digit(4, c.mode);
  return c;
}

/// False for a cell that differs from another one in nothing that has an effect: the lookup without
/// graphs, `by_padding` where the layout it stands for has a cell of its own.
constexpr bool is_distinct(const cell& c) {
  const bool lookup_means_something = c.situation == dg::situation::in_graph;
  return (lookup_means_something || c.lookup == dg::lookup_kind::max) &&
         (c.layout == cell_layout::by_padding) == (c.mode == cell_mode::choose);
}

namespace detail {

template <auto Kind, class First, class... Rest>
constexpr auto pick() {
  if constexpr (static_cast<std::size_t>(Kind) == 0) {
    return std::type_identity<First>{};
  } else {
    return pick<static_cast<std::size_t>(Kind) - 1, Rest...>();
  }
}
template <auto Kind, class... Types>
using nth = typename decltype(pick<Kind, Types...>())::type;

using chosen_by_volume =
    dg::mode::choose<dg::rule::strict_volume,
                     dg::mode::with<dg::mode::all_gather, dg::padding::max_len>,
                     dg::mode::with<dg::mode::all_reduce, dg::padding::sum_len>>;

} // namespace detail

/// The policy of a cell. An eager cell has no ladder. A graph cell takes its sizes from
/// `gather_config::ladder`; its steps outside the graph move exactly the real rows, so that only
/// the graph's half of the policy is in question.
template <std::size_t Index>
struct policy_of_cell : dg::policy<> {
  static constexpr cell is = cell_at(Index);
  using mode_type = detail::nth<is.mode, dg::mode::all_gather, dg::mode::all_reduce,
                                dg::mode::exact, detail::chosen_by_volume>;
  using padding_type =
      detail::nth<is.padding, dg::padding::none, dg::padding::max_len, dg::padding::sum_len>;
  using layout_type =
      detail::nth<is.layout, dg::layout::slots, dg::layout::packed, dg::layout::by_padding>;
  using lookup_type = detail::nth<is.lookup, dg::lookup::max, dg::lookup::own, dg::lookup::sum,
                                  dg::lookup::own_and_sum>;
  using counts_type =
      detail::nth<is.counts, dg::counts::agreed, dg::counts::device, dg::counts::exchanged>;
  using comm_type = detail::nth<is.comm, dg::comm::host, dg::comm::nccl, dg::comm::peer>;
  using ladder_type = detail::nth<is.situation, dg::ladder::none, dg::ladder::from_config>;
  using eager_type = detail::nth<is.situation, dg::eager<>,
                                 dg::eager<dg::mode::exact, dg::padding::none, dg::layout::packed>>;
};

namespace detail {

template <class Wanted>
constexpr std::size_t count_cells(Wanted wanted) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < cell_count; ++i) count += wanted(cell_at(i)) ? 1 : 0;
  return count;
}

/// The cells that break a rule as their first one; with `violation::none` the legal ones.
struct cells_breaking {
  dg::violation rule;
  constexpr bool operator()(const cell& c) const { return broken_rule(c) == rule; }
};

/// The legal cells of one communicator, each once.
struct distinct_legal_cells {
  dg::comm_kind comm;
  constexpr bool operator()(const cell& c) const {
    return c.comm == comm && is_distinct(c) && broken_rule(c) == dg::violation::none;
  }
};

/// Indices of the cells that are wanted: only these are instantiated.
template <auto Wanted>
inline constexpr auto indices_of = [] {
  std::array<std::size_t, count_cells(Wanted)> out{};
  std::size_t at = 0;
  for (std::size_t i = 0; i < cell_count; ++i) {
    if (Wanted(cell_at(i))) out[at++] = i;
  }
  return out;
}();

template <auto Wanted, class Visitor>
constexpr void visit_cells(Visitor& visitor) {
  constexpr const auto& indices = indices_of<Wanted>;
  const auto visit = [&]<std::size_t Index>(std::integral_constant<std::size_t, Index>) {
    visitor.template operator()<policy_of_cell<Index>>(cell_at(Index));
    return true;
  };
  // A list and not a fold: compilers limit how deep expressions nest.
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    [[maybe_unused]] const bool done[] = {
        visit(std::integral_constant<std::size_t, indices[I]>{})..., true};
  }
  (std::make_index_sequence<indices.size()>{});
}

} // namespace detail

/// How many cells break a rule (as their first one); with `violation::none`: how many are legal.
constexpr std::size_t cells_that_break(dg::violation rule) {
  return detail::count_cells(detail::cells_breaking{rule});
}

/// Calls `visitor.template operator()<Policy>(cell)` for every cell that breaks `Rule` first.
template <dg::violation Rule, class Visitor>
constexpr void for_each_cell_that_breaks(Visitor&& visitor) {
  detail::visit_cells<detail::cells_breaking{Rule}>(visitor);
}

/// Calls `visitor.template operator()<Policy>(cell)` for every legal cell that is distinct, on one
/// communicator.
template <dg::comm_kind Comm = dg::comm_kind::host, class Visitor>
constexpr void for_each_legal_cell(Visitor&& visitor) {
  detail::visit_cells<detail::distinct_legal_cells{Comm}>(visitor);
}

/// Number of cells that `for_each_legal_cell` visits.
template <dg::comm_kind Comm = dg::comm_kind::host>
inline constexpr std::size_t
    legal_cell_count = detail::count_cells(detail::distinct_legal_cells{Comm});

/// For messages: `graph exact sum_len packed own_and_sum agreed host`.
inline std::string describe(const cell& c) {
  constexpr const char* modes[] = {"all_gather", "all_reduce", "exact", "choose"};
  constexpr const char* layouts[] = {"slots", "packed", "by_padding"};
  std::string out = c.situation == dg::situation::in_graph ? "graph" : "eager";
  for (const char* word : {modes[static_cast<std::size_t>(c.mode)], name_of(c.padding),
                           layouts[static_cast<std::size_t>(c.layout)], name_of(c.lookup),
                           name_of(c.counts), name_of(c.comm)}) {
    (out += ' ') += word;
  }
  return out;
}

} // namespace test_support
