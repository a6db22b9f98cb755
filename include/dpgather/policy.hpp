#pragma once

/// @file
/// `policy<...>`: one option per category, in any order, defaults for the rest; and `resolved`,
/// what a policy says for one situation.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>
#include <dpgather/ladder.hpp>
#include <dpgather/layout.hpp>
#include <dpgather/mode.hpp>
#include <dpgather/options.hpp>
#include <dpgather/padding.hpp>
#include <dpgather/phase.hpp>
#include <dpgather/rule.hpp>
#include <dpgather/tail.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace dpgather::inline v0 {

namespace detail {

template <class Category, class Default, class... Options>
struct find_option {
  using type = Default;
};
template <class Category, class Default, class First, class... Rest>
struct find_option<Category, Default, First, Rest...>
    : std::conditional_t<std::same_as<typename First::category, Category>,
                         std::type_identity<First>, find_option<Category, Default, Rest...>> {};

template <class Category, class Default, class... Options>
using option_or = typename find_option<Category, Default, Options...>::type;

template <class Option, class... Options>
inline constexpr bool appears_once =
    (std::size_t{0} + ... +
     std::size_t{std::same_as<typename Option::category, typename Options::category>}) == 1;

template <class... Options>
inline constexpr bool distinct_categories = (appears_once<Options, Options...> && ...);

template <class Option>
inline constexpr bool varies_by_situation =
    !option_of<Option, category::ladder> && !option_of<Option, category::on_miss> &&
    !option_of<Option, category::comm> && !option_of<Option, category::counts>;

template <class Category, class... Options>
struct override_list {
  using category = Category;
  static_assert(distinct_categories<Options...>,
                "dpgather: eager<...> and in_graph<...> take at most one option of each category");
  static_assert(
      (varies_by_situation<Options> && ...),
      "dpgather: ladder, on_miss, comm and counts hold for a whole policy; move them out of "
      "eager<...> and in_graph<...>");
  template <class Wanted, class Default>
  using get = option_or<Wanted, Default, Options...>;
};

} // namespace detail

/// Options that hold when a step is launched call by call.
template <policy_option... Options>
struct eager : detail::override_list<category::eager, Options...> {};

/// Options that hold when a step is replayed from a graph. (PR #8278's own axis.)
template <policy_option... Options>
struct in_graph : detail::override_list<category::in_graph, Options...> {};

/// The variant of the library that an engine instantiates.
///
/// Derive a struct from it for a name, and replace a member alias there to change one option:
/// `struct mine : pr8278 { using ladder_type = ladder::sglang<160>; };`. Cross-checks between
/// options live in `validate`, so that they see such replacements.
template <policy_option... Options>
struct policy {
  static_assert(detail::distinct_categories<Options...>,
                "dpgather: policy<...> takes at most one option of each category");

  using mode_type = detail::option_or<category::mode, mode::exact, Options...>;
  using padding_type = detail::option_or<category::padding, padding::none, Options...>;
  using align_type = detail::option_or<category::align, padding::align<1>, Options...>;
  using layout_type = detail::option_or<category::layout, layout::by_padding, Options...>;
  using tail_type = detail::option_or<category::tail, tail::zero, Options...>;
  using ladder_type = detail::option_or<category::ladder, ladder::none, Options...>;
  using lookup_type = detail::option_or<category::lookup, lookup::max, Options...>;
  using on_miss_type = detail::option_or<category::on_miss, on_miss::error, Options...>;
  using counts_type = detail::option_or<category::counts, counts::agreed, Options...>;
  using combine_type = detail::option_or<category::combine, combine::reduce_scatter, Options...>;
  using comm_type = detail::option_or<category::comm, comm::host, Options...>;
  using checks_type = detail::option_or<category::checks, checks::standard, Options...>;
  using launch_type = detail::option_or<category::launch, launch::automatic, Options...>;
  using row_op_type = detail::option_or<category::row_op, row_op::identity, Options...>;
  using eager_type = detail::option_or<category::eager, eager<>, Options...>;
  using in_graph_type = detail::option_or<category::in_graph, in_graph<>, Options...>;
};

/// `policy<...>` or anything derived from one whose replaced aliases are of the right category.
template <class P>
concept policy_like = option_of<typename P::mode_type, category::mode> &&
    option_of<typename P::padding_type, category::padding> &&
    option_of<typename P::align_type, category::align> &&
    option_of<typename P::layout_type, category::layout> &&
    option_of<typename P::tail_type, category::tail> &&
    option_of<typename P::ladder_type, category::ladder> &&
    option_of<typename P::lookup_type, category::lookup> &&
    option_of<typename P::on_miss_type, category::on_miss> &&
    option_of<typename P::counts_type, category::counts> &&
    option_of<typename P::combine_type, category::combine> &&
    option_of<typename P::comm_type, category::comm> &&
    option_of<typename P::checks_type, category::checks> &&
    option_of<typename P::launch_type, category::launch> &&
    option_of<typename P::row_op_type, category::row_op> &&
    option_of<typename P::eager_type, category::eager> &&
    option_of<typename P::in_graph_type, category::in_graph>;

/// The same policy on another communicator; serves a `--backend` switch.
template <policy_like P, option_of<category::comm> Tag>
struct rebind_comm : P {
  using comm_type = Tag;
};

/// The options that hold in one situation: overrides first, the policy's own otherwise.
template <policy_like P, situation Situation>
struct resolved {
  using overrides = std::conditional_t<Situation == situation::eager, typename P::eager_type,
                                       typename P::in_graph_type>;
  static constexpr situation where = Situation;
  using mode = typename overrides::template get<category::mode, typename P::mode_type>;
  using padding = typename overrides::template get<category::padding, typename P::padding_type>;
  using align = typename overrides::template get<category::align, typename P::align_type>;
  using layout = typename overrides::template get<category::layout, typename P::layout_type>;
  using tail = typename overrides::template get<category::tail, typename P::tail_type>;
  using ladder = typename P::ladder_type;
  using lookup = typename overrides::template get<category::lookup, typename P::lookup_type>;
  using on_miss = typename P::on_miss_type;
  using counts = typename P::counts_type;
  using combine = typename overrides::template get<category::combine, typename P::combine_type>;
  using comm = typename P::comm_type;
  using checks = typename overrides::template get<category::checks, typename P::checks_type>;
  using launch = typename overrides::template get<category::launch, typename P::launch_type>;
  using row_op = typename overrides::template get<category::row_op, typename P::row_op_type>;
  /// The mode is the situation's own, not the policy's.
  static constexpr bool overrides_mode =
      !std::same_as<typename overrides::template get<category::mode, void>, void>;
};

/// True where steps of the policy may run in graphs at all.
template <policy_like P>
inline constexpr bool has_graphs = P::ladder_type::source != ladder_source::none;

/// A layout option for one padding, `by_padding` taken apart.
template <class Layout, padding_kind Padding>
[[nodiscard]] constexpr layout_kind layout_for() noexcept {
  if constexpr (std::same_as<Layout, layout::slots>) {
    return layout_kind::slots;
  } else if constexpr (std::same_as<Layout, layout::packed>) {
    return layout_kind::packed;
  } else {
    return Padding == padding_kind::max_len ? layout_kind::slots : layout_kind::packed;
  }
}

} // namespace dpgather::inline v0
