#include <dpgather/policies.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/validate.hpp>

#include <doctest/doctest.h>

#include <concepts>
#include <cstddef>
#include <type_traits>

// Policies are types: nearly everything here is asserted by the compiler.

namespace dg = dpgather;
using dg::first_violation;
using dg::policy;
using dg::resolved;
using dg::situation;
using dg::violation;

namespace {

template <class A, class B>
inline constexpr bool same_options = std::same_as<typename A::mode_type, typename B::mode_type>&&
    std::same_as<typename A::padding_type, typename B::padding_type>&& std::same_as<
        typename A::align_type, typename B::align_type>&& std::same_as<typename A::layout_type,
                                                                       typename B::layout_type>&&
        std::same_as<typename A::tail_type, typename B::tail_type>&&
            std::same_as<typename A::ladder_type, typename B::ladder_type>&& std::same_as<
                typename A::lookup_type, typename B::lookup_type>&&
                std::same_as<typename A::on_miss_type, typename B::on_miss_type>&& std::same_as<
                    typename A::counts_type, typename B::counts_type>&&
                    std::same_as<typename A::combine_type, typename B::combine_type>&& std::same_as<
                        typename A::comm_type, typename B::comm_type>&&
                        std::same_as<typename A::checks_type, typename B::checks_type>&&
                            std::same_as<typename A::launch_type, typename B::launch_type>&&
                                std::same_as<typename A::row_op_type, typename B::row_op_type>&&
                                    std::same_as<typename A::eager_type, typename B::eager_type>&&
                                        std::same_as<typename A::in_graph_type,
                                                     typename B::in_graph_type>;

template <class P>
using outside = resolved<P, situation::eager>;
template <class P>
using inside = resolved<P, situation::in_graph>;

/// Some functor of an engine.
struct scale {
  static void apply(const std::byte*, std::byte*, std::size_t) noexcept {}
};
struct may_throw {
  static void apply(const std::byte*, std::byte*, std::size_t) {}
};

} // namespace

// --- defaults -----------------------------------------------------------------------------------

static_assert(
    same_options<policy<>,
                 policy<dg::mode::exact, dg::padding::none, dg::padding::align<1>,
                        dg::layout::by_padding, dg::tail::zero, dg::ladder::none, dg::lookup::max,
                        dg::on_miss::error, dg::counts::agreed, dg::combine::reduce_scatter,
                        dg::comm::host, dg::checks::standard, dg::launch::automatic,
                        dg::row_op::identity, dg::eager<>, dg::in_graph<>>>);
static_assert(std::same_as<policy<>::mode_type, dg::mode::exact>);
static_assert(std::same_as<policy<>::padding_type, dg::padding::none>);
static_assert(std::same_as<policy<>::align_type, dg::padding::align<1>>);
static_assert(std::same_as<policy<>::layout_type, dg::layout::by_padding>);
static_assert(std::same_as<policy<>::tail_type, dg::tail::zero>);
static_assert(std::same_as<policy<>::ladder_type, dg::ladder::none>);
static_assert(std::same_as<policy<>::lookup_type, dg::lookup::max>);
static_assert(std::same_as<policy<>::on_miss_type, dg::on_miss::error>);
static_assert(std::same_as<policy<>::counts_type, dg::counts::agreed>);
static_assert(std::same_as<policy<>::combine_type, dg::combine::reduce_scatter>);
static_assert(std::same_as<policy<>::comm_type, dg::comm::host>);
static_assert(std::same_as<policy<>::checks_type, dg::checks::standard>);
static_assert(std::same_as<policy<>::row_op_type, dg::row_op::identity>);
static_assert(first_violation<policy<>>() == violation::none);
static_assert(!dg::has_graphs<policy<>>);

// --- any order ----------------------------------------------------------------------------------

namespace {

using in_order =
    policy<dg::mode::all_reduce, dg::padding::sum_len, dg::padding::align<8>, dg::layout::packed,
           dg::tail::poison, dg::ladder::sglang<160>, dg::lookup::sum, dg::on_miss::agreed_eager,
           dg::counts::agreed, dg::combine::all_reduce_then_scatter, dg::comm::nccl,
           dg::checks::checked, dg::launch::shape<8, true>, dg::row_op::apply_to_rows<scale>,
           dg::eager<dg::tail::leave>, dg::in_graph<dg::tail::zero>>;
using backwards =
    policy<dg::in_graph<dg::tail::zero>, dg::eager<dg::tail::leave>,
           dg::row_op::apply_to_rows<scale>, dg::launch::shape<8, true>, dg::checks::checked,
           dg::comm::nccl, dg::combine::all_reduce_then_scatter, dg::counts::agreed,
           dg::on_miss::agreed_eager, dg::lookup::sum, dg::ladder::sglang<160>, dg::tail::poison,
           dg::layout::packed, dg::padding::align<8>, dg::padding::sum_len, dg::mode::all_reduce>;
using shuffled =
    policy<dg::counts::agreed, dg::padding::align<8>, dg::in_graph<dg::tail::zero>, dg::comm::nccl,
           dg::mode::all_reduce, dg::launch::shape<8, true>, dg::tail::poison,
           dg::on_miss::agreed_eager, dg::row_op::apply_to_rows<scale>, dg::padding::sum_len,
           dg::checks::checked, dg::lookup::sum, dg::eager<dg::tail::leave>, dg::layout::packed,
           dg::combine::all_reduce_then_scatter, dg::ladder::sglang<160>>;

} // namespace

static_assert(same_options<in_order, backwards>);
static_assert(same_options<in_order, shuffled>);
static_assert(!same_options<in_order, policy<>>);
static_assert(std::same_as<in_order::mode_type, dg::mode::all_reduce>);
static_assert(std::same_as<in_order::align_type, dg::padding::align<8>>);
static_assert(std::same_as<in_order::launch_type, dg::launch::shape<8, true>>);
static_assert(std::same_as<in_order::in_graph_type, dg::in_graph<dg::tail::zero>>);
static_assert(first_violation<in_order>() == violation::none);
static_assert(dg::has_graphs<in_order>);

static_assert(dg::policy_like<policy<>> && dg::policy_like<in_order>);
static_assert(!dg::policy_like<int> && !dg::policy_like<dg::mode::exact>);
static_assert(dg::row_functor<scale> && !dg::row_functor<may_throw> && !dg::row_functor<int>);
static_assert(dg::policy_option<dg::tail::zero> && !dg::policy_option<int>);
static_assert(dg::option_of<dg::tail::zero, dg::category::tail>);
static_assert(!dg::option_of<dg::tail::zero, dg::category::mode>);

// --- overrides in a derived struct --------------------------------------------------------------

namespace {

struct mine : dg::pr8278 {
  using ladder_type = dg::ladder::sglang<160>;
  using tail_type = dg::tail::poison;
};
struct broken : dg::max_always {
  using padding_type = dg::padding::sum_len;
};
struct mended : broken {
  using padding_type = dg::padding::max_len;
};
struct no_policy : policy<> {
  using mode_type = dg::padding::none;
};

} // namespace

static_assert(dg::policy_like<mine>);
static_assert(std::same_as<outside<mine>::ladder, dg::ladder::sglang<160>>);
static_assert(std::same_as<outside<mine>::tail, dg::tail::poison>);
static_assert(std::same_as<inside<mine>::tail, dg::tail::poison>);
static_assert(std::same_as<outside<mine>::mode, dg::pr8278::mode_type>);
static_assert(first_violation<mine>() == violation::none);
static_assert(first_violation<broken>() == violation::all_gather_needs_max_len);
static_assert(first_violation<mended>() == violation::none);
static_assert(dg::valid_policy<mended> && !dg::valid_policy<broken> && !dg::valid_policy<int>);
static_assert(!dg::policy_like<no_policy>);

// --- one situation's own options ----------------------------------------------------------------

namespace {

struct split
    : policy<dg::mode::exact, dg::padding::max_len, dg::layout::slots, dg::tail::zero,
             dg::padding::align<2>, dg::checks::standard, dg::ladder::sglang<64>,
             dg::eager<dg::padding::none, dg::layout::packed, dg::tail::leave, dg::checks::checked>,
             dg::in_graph<dg::mode::all_gather, dg::padding::align<4>, dg::launch::shape<2>>> {};

} // namespace

static_assert(std::same_as<outside<split>::mode, dg::mode::exact>);
static_assert(std::same_as<inside<split>::mode, dg::mode::all_gather>);
static_assert(std::same_as<outside<split>::padding, dg::padding::none>);
static_assert(std::same_as<inside<split>::padding, dg::padding::max_len>);
static_assert(std::same_as<outside<split>::align, dg::padding::align<2>>);
static_assert(std::same_as<inside<split>::align, dg::padding::align<4>>);
static_assert(std::same_as<outside<split>::layout, dg::layout::packed>);
static_assert(std::same_as<inside<split>::layout, dg::layout::slots>);
static_assert(std::same_as<outside<split>::tail, dg::tail::leave>);
static_assert(std::same_as<inside<split>::tail, dg::tail::zero>);
static_assert(std::same_as<outside<split>::checks, dg::checks::checked>);
static_assert(std::same_as<inside<split>::checks, dg::checks::standard>);
static_assert(std::same_as<outside<split>::launch, dg::launch::automatic>);
static_assert(std::same_as<inside<split>::launch, dg::launch::shape<2>>);
static_assert(!outside<split>::overrides_mode && inside<split>::overrides_mode);
static_assert(first_violation<split>() == violation::none);

// --- another communicator -----------------------------------------------------------------------

template <class P, class Tag>
inline constexpr bool rebinds = [] {
  using rebound = dg::rebind_comm<P, Tag>;
  struct back : dg::rebind_comm<rebound, typename P::comm_type> {};
  return std::same_as<typename rebound::comm_type, Tag> && dg::policy_like<rebound> &&
         std::same_as<typename outside<rebound>::comm, Tag> && same_options<back, P>;
}();
static_assert(rebinds<dg::pr8278, dg::comm::nccl> && rebinds<dg::pr8278, dg::comm::peer>);
static_assert(rebinds<in_order, dg::comm::host> && rebinds<mine, dg::comm::nccl>);

// --- layouts ------------------------------------------------------------------------------------

static_assert(dg::layout_for<dg::layout::by_padding, dg::padding_kind::max_len>() ==
              dg::layout_kind::slots);
static_assert(dg::layout_for<dg::layout::by_padding, dg::padding_kind::sum_len>() ==
              dg::layout_kind::packed);
static_assert(dg::layout_for<dg::layout::by_padding, dg::padding_kind::none>() ==
              dg::layout_kind::packed);
static_assert(dg::layout_for<dg::layout::packed, dg::padding_kind::max_len>() ==
              dg::layout_kind::packed);
static_assert(dg::layout_for<dg::layout::slots, dg::padding_kind::none>() ==
              dg::layout_kind::slots);

// --- the ready-made policies --------------------------------------------------------------------

namespace {

template <class P, class ToMax, class ToSum, class Rule>
inline constexpr bool chooses = [] {
  using mode = typename outside<P>::mode;
  return std::same_as<typename mode::rule, Rule> &&
         std::same_as<typename mode::pad_to_max, ToMax> &&
         std::same_as<typename mode::pad_to_sum, ToSum>;
}();
template <class P, class Mode, class Padding>
inline constexpr bool in_graphs = std::same_as<typename inside<P>::mode, Mode>&&
    std::same_as<typename inside<P>::padding, Padding>;
template <class P, class Mode, class Padding>
inline constexpr bool eagerly = std::same_as<typename outside<P>::mode, Mode>&&
    std::same_as<typename outside<P>::padding, Padding>;
template <class P, class... Tags>
inline constexpr bool
    legal_on = ((first_violation<dg::rebind_comm<P, Tags>>() == violation::none) && ...);

using gather_to_max = dg::mode::with<dg::mode::all_gather, dg::padding::max_len>;
using reduce_to_sum = dg::mode::with<dg::mode::all_reduce, dg::padding::sum_len>;

} // namespace

// The pull request: a strict comparison of volumes; in graphs always all-gather and max, at the
// bucket of the max.
static_assert(chooses<dg::pr8278, gather_to_max, reduce_to_sum, dg::rule::strict_volume>);
static_assert(in_graphs<dg::pr8278, dg::mode::all_gather, dg::padding::max_len>);
static_assert(std::same_as<dg::pr8278::lookup_type, dg::lookup::max>);

// Today: a tie goes to the all-gather, prefill means sum.
static_assert(chooses<dg::sglang_now, gather_to_max, reduce_to_sum,
                      dg::rule::sum_in_prefill<dg::rule::volume_or_tie>>);
static_assert(in_graphs<dg::sglang_now, dg::mode::all_gather, dg::padding::max_len>);
static_assert(std::same_as<dg::sglang_now::lookup_type, dg::lookup::max>);

static_assert(eagerly<dg::max_always, dg::mode::all_gather, dg::padding::max_len>);
static_assert(in_graphs<dg::max_always, dg::mode::all_gather, dg::padding::max_len>);
static_assert(eagerly<dg::sum_always, dg::mode::all_reduce, dg::padding::sum_len>);
static_assert(in_graphs<dg::sum_always, dg::mode::all_reduce, dg::padding::sum_len>);
static_assert(eagerly<dg::exact_eager, dg::mode::exact, dg::padding::none>);
static_assert(!dg::has_graphs<dg::exact_eager>);
static_assert(eagerly<dg::exact_graph, dg::mode::exact, dg::padding::none>);
static_assert(in_graphs<dg::exact_graph, dg::mode::exact, dg::padding::sum_len>);
static_assert(std::same_as<dg::exact_graph::lookup_type, dg::lookup::own_and_sum>);

static_assert(legal_on<dg::pr8278, dg::comm::host, dg::comm::nccl, dg::comm::peer>);
static_assert(legal_on<dg::sglang_now, dg::comm::host, dg::comm::nccl, dg::comm::peer>);
static_assert(legal_on<dg::max_always, dg::comm::host, dg::comm::nccl, dg::comm::peer>);
static_assert(legal_on<dg::sum_always, dg::comm::host, dg::comm::nccl, dg::comm::peer>);
static_assert(legal_on<dg::exact_eager, dg::comm::host, dg::comm::nccl, dg::comm::peer>);
static_assert(legal_on<dg::exact_graph, dg::comm::host, dg::comm::peer>);
static_assert(first_violation<dg::rebind_comm<dg::exact_graph, dg::comm::nccl>>() ==
              violation::nccl_exact_in_graph);

static_assert(dg::is_choice<dg::pr8278::mode_type> && !dg::is_choice<dg::mode::exact>);
static_assert(std::is_empty_v<dg::pr8278> && std::is_empty_v<in_order>);

TEST_CASE("a policy is a type without state") {
  CHECK(std::is_empty_v<dg::exact_graph>);
  CHECK(std::is_trivially_copyable_v<dg::exact_graph>);
}
