#pragma once

/// @file
/// The ways to have graphs for two sizes at once, as tag types: which graphs each of them needs,
/// what is in one, and which are launched for a step.

#include <dpgather/config.hpp>
#include <dpgather/graph_sizes.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <compare>
#include <concepts>
#include <cstdint>

namespace dpgather::inline v0 {

/// What a step consists of: `layers` times a local and a shared part, and perhaps a last local one.
struct step_outline {
  std::int32_t layers = 0;
  bool finishes = false;

  friend constexpr bool operator==(const step_outline&, const step_outline&) = default;
};

/// What a graph is for. Sizes that are not in it are 0.
struct graph_key {
  std::int32_t own = 0;
  std::int32_t shared = 0;
  std::int32_t piece = 0; ///< the layer, where a graph is a part of one; `layers`: the last part

  friend constexpr bool operator==(const graph_key&, const graph_key&) = default;
  friend constexpr auto operator<=>(const graph_key&, const graph_key&) = default;
};

namespace detail {

/// All layers in one graph; `shared(layer)` records that part.
template <class Recorder, class Shared>
[[nodiscard]] status record_whole_step(const graph_key& key, const step_outline& step, Recorder& to,
                                       Shared shared) {
  for (std::int32_t layer = 0; layer < step.layers; ++layer) {
    if (status bad = to.local(layer, key.own); !bad) return bad;
    if (status bad = shared(layer); !bad) return bad;
  }
  return step.finishes ? to.finish(key.own) : status{};
}

/// Of ways with graphs for two sizes that the host knows, in all pairs that can occur.
struct sizes_on_host {
  static constexpr bool asks_host = true;
  static constexpr bool switches = false;
  [[nodiscard]] static constexpr bool fits(const graph_sizes& sizes,
                                           const graph_ladders& of) noexcept {
    return of.hold(sizes);
  }
  template <class Visit>
  static constexpr void for_each_sizes(const graph_ladders& of, Visit visit) {
    of.for_each_feasible(visit);
  }
  [[nodiscard]] static constexpr std::int32_t shared_size(const graph_sizes& sizes,
                                                          const graph_ladders&) noexcept {
    return sizes.shared;
  }
};

/// Of ways with one graph for a step of two sizes.
struct step_in_one_graph : sizes_on_host {
  template <class Visit>
  static constexpr void for_each_key(const graph_sizes& sizes, const step_outline&, Visit visit) {
    visit(graph_key{.own = sizes.own, .shared = sizes.shared});
  }
  template <class Recorder>
  [[nodiscard]] static status record(const graph_key& key, const step_outline& step,
                                     const graph_ladders&, Recorder& to) {
    return record_whole_step(key, step, to,
                             [&](std::int32_t layer) { return to.shared(layer, key.shared); });
  }
};

/// Of ways with a graph for each own size, whatever the sum: the host need not know it.
struct graph_per_own_size {
  static constexpr bool asks_host = false;
  [[nodiscard]] static constexpr bool fits(const graph_sizes& sizes,
                                           const graph_ladders& of) noexcept {
    return sizes.shared != 0 ? of.hold(sizes)
                             : graph_ladders::holds(of.own, sizes.own) && of.cover_every_sum();
  }
  [[nodiscard]] static constexpr std::int64_t graphs(const graph_ladders& of,
                                                     const step_outline&) noexcept {
    return of.own.size();
  }
  template <class Visit>
  static constexpr void for_each_sizes(const graph_ladders& of, Visit visit) {
    for (std::int32_t i = of.own.size() - 1; i >= 0; --i)
      visit(graph_sizes{.own = of.own[i], .shared = of.shared.largest()});
  }
  template <class Visit>
  static constexpr void for_each_key(const graph_sizes& sizes, const step_outline&, Visit visit) {
    visit(graph_key{.own = sizes.own});
  }
};

} // namespace detail

/// The ways. Which one a rank takes is its own matter: ranks replay different graphs, and may even
/// take different ways, as long as calls of the library have the same shape on all of them. Those
/// in shared parts have the shape of the sum's bucket, except under `device_rows`, which all ranks
/// take or none.
///
/// A way is no option of `policy<>`: a policy says what goes over the wire, which ranks must agree
/// on and compare; a way is about one rank's graphs, and needs CUDA.
///
/// Members: `name`; `asks_host`: whether the host must know the sum's bucket; `switches`: whether
/// it records SWITCH nodes; `fits(sizes, ladders)`: whether it has graphs for such sizes;
/// `graphs(ladders, step)`: how many for all sizes that can occur; `for_each_sizes(ladders,
/// visit)`: those, largest first; `for_each_key(sizes, step, visit)`: the graphs of one step, in
/// launch order; `record(key, step, ladders, to)`: what is in one, to a recorder with `local`,
/// `shared`, `switched` and `finish`; `shared_size(sizes, ladders)`: at which size shared parts
/// run.
namespace graph_way {

/// One size for both parts, as engines have it today: to compare with, and for `lookup::max`.
struct coupled : detail::step_in_one_graph {
  static constexpr const char* name = "coupled";
  [[nodiscard]] static constexpr bool fits(const graph_sizes& sizes,
                                           const graph_ladders& of) noexcept {
    return sizes.own == sizes.shared && graph_ladders::holds(of.shared, sizes.shared);
  }
  [[nodiscard]] static constexpr std::int64_t graphs(const graph_ladders& of,
                                                     const step_outline&) noexcept {
    return of.shared.size();
  }
  template <class Visit>
  static constexpr void for_each_sizes(const graph_ladders& of, Visit visit) {
    for (std::int32_t i = of.shared.size() - 1; i >= 0; --i)
      visit(graph_sizes{.own = of.shared[i], .shared = of.shared[i]});
  }
};

/// A graph for each pair of sizes: nothing is added to a step, graphs are a product. Meant to be
/// captured on demand, under a budget, with a coarse ladder of sums (`fit_ladder`).
struct pairs : detail::step_in_one_graph {
  static constexpr const char* name = "pairs";
  [[nodiscard]] static constexpr std::int64_t graphs(const graph_ladders& of,
                                                     const step_outline&) noexcept {
    std::int64_t count = 0;
    of.for_each_feasible([&](const graph_sizes&) { ++count; });
    return count;
  }
};

/// A graph for each part of each layer: own sizes plus shared sizes, launched in turn. Two launches
/// a layer.
struct piecewise : detail::sizes_on_host {
  static constexpr const char* name = "piecewise";
  [[nodiscard]] static constexpr std::int64_t graphs(const graph_ladders& of,
                                                     const step_outline& step) noexcept {
    // Sizes that occur: a sum may be above all ranks' largest, an own size above the largest sum.
    const auto sums = std::ranges::count_if(of.shared.span(), [&](std::int32_t shared) {
      return std::ranges::any_of(of.own.span(), [&](std::int32_t own) {
        return of.feasible({.own = own, .shared = shared});
      });
    });
    const auto owns = std::ranges::count_if(of.own.span(), [&](std::int32_t own) {
      return std::ranges::any_of(of.shared.span(), [&](std::int32_t shared) {
        return of.feasible({.own = own, .shared = shared});
      });
    });
    return std::int64_t{step.layers} * sums +
           std::int64_t{step.layers + (step.finishes ? 1 : 0)} * owns;
  }
  template <class Visit>
  static constexpr void for_each_key(const graph_sizes& sizes, const step_outline& step,
                                     Visit visit) {
    for (std::int32_t layer = 0; layer < step.layers; ++layer) {
      visit(graph_key{.own = sizes.own, .piece = layer});
      visit(graph_key{.shared = sizes.shared, .piece = layer});
    }
    if (step.finishes) visit(graph_key{.own = sizes.own, .piece = step.layers});
  }
  template <class Recorder>
  [[nodiscard]] static status record(const graph_key& key, const step_outline& step,
                                     const graph_ladders&, Recorder& to) {
    if (key.own == 0) return to.shared(key.piece, key.shared);
    return key.piece == step.layers ? to.finish(key.own) : to.local(key.piece, key.own);
  }
};

/// A graph for each own size, in which a SWITCH node a layer picks the shared part by the total in
/// device memory. Works where no host knows the sum. See `capture_switch`.
struct switch_on_sum : detail::graph_per_own_size {
  static constexpr const char* name = "switch_on_sum";
  static constexpr bool switches = true;
  [[nodiscard]] static constexpr std::int32_t shared_size(const graph_sizes& sizes,
                                                          const graph_ladders&) noexcept {
    return sizes.shared;
  }
  template <class Recorder>
  [[nodiscard]] static status record(const graph_key& key, const step_outline& step,
                                     const graph_ladders&, Recorder& to) {
    return detail::record_whole_step(key, step, to,
                                     [&](std::int32_t layer) { return to.switched(layer); });
  }
};

/// A graph for each own size; shared parts are captured once in each, at the largest size, and
/// their kernels read how many rows there are from device memory.
struct device_rows : detail::graph_per_own_size {
  static constexpr const char* name = "device_rows";
  static constexpr bool switches = false;
  [[nodiscard]] static constexpr std::int32_t shared_size(const graph_sizes&,
                                                          const graph_ladders& of) noexcept {
    return of.shared.largest();
  }
  template <class Recorder>
  [[nodiscard]] static status record(const graph_key& key, const step_outline& step,
                                     const graph_ladders& of, Recorder& to) {
    return detail::record_whole_step(
        key, step, to, [&](std::int32_t layer) { return to.shared(layer, of.shared.largest()); });
  }
};

} // namespace graph_way

/// One of the ways above, or an engine's own with the same members.
template <class Way>
concept graph_way_like = requires(const graph_ladders& of, const graph_sizes& sizes,
                                  const step_outline& step) {
  { Way::name } -> std::convertible_to<const char*>;
  { Way::asks_host } -> std::convertible_to<bool>;
  { Way::switches } -> std::convertible_to<bool>;
  { Way::fits(sizes, of) } -> std::same_as<bool>;
  { Way::graphs(of, step) } -> std::same_as<std::int64_t>;
  { Way::shared_size(sizes, of) } -> std::same_as<std::int32_t>;
};

} // namespace dpgather::inline v0
