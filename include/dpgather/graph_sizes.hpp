#pragma once

/// @file
/// Decoupled buckets: the two sizes of one rank's step, and which pairs of them can occur.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/ladder.hpp>
#include <dpgather/phase.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/step_plan.hpp>

#include <algorithm>
#include <compare>
#include <cstdint>

namespace dpgather::inline v0 {

/// The captured sizes that one rank's step runs at. Units: requests.
struct graph_sizes {
  std::int32_t own = 0;    ///< bucket of this rank's count: attention
  std::int32_t shared = 0; ///< bucket of the sum, equal on all ranks: FFN; 0: no host knows it

  /// Those of a planned step on data-parallel rank `dp_rank`. Zeros outside graphs.
  [[nodiscard]] static constexpr graph_sizes of(const step_plan& plan,
                                                std::int32_t dp_rank) noexcept {
    return {.own = plan.own_bucket(dp_rank), .shared = plan.shared_bucket};
  }

  friend constexpr bool operator==(const graph_sizes&, const graph_sizes&) = default;
  friend constexpr auto operator<=>(const graph_sizes&, const graph_sizes&) = default;
};

/// The sizes of one rank and those of the sum over `ranks`. A value of 8 KiB.
struct graph_ladders {
  bucket_list own;
  bucket_list shared;
  std::int32_t ranks = 1;

  /// A policy's. The second ladder is that of the sum, also where the host does not look it up
  /// (`counts::exchanged`); with `lookup::max` it is the first one again, for `graph_way::coupled`.
  template <policy_like P>
  [[nodiscard]] static constexpr graph_ladders of(const planner<P>& rules) noexcept {
    constexpr bool by_max = resolved<P, situation::in_graph>::lookup::kind == lookup_kind::max;
    return {.own = rules.ladder(),
            .shared = by_max ? rules.ladder() : rules.shared_ladder(),
            .ranks = rules.config().topology.dp_size};
  }

  /// Whether `size` is one of `sizes`.
  [[nodiscard]] static constexpr bool holds(const bucket_list& sizes, std::int32_t size) noexcept {
    return size > 0 && sizes.smallest_at_least(size) == size;
  }

  /// Whether both sizes are captured ones.
  [[nodiscard]] constexpr bool hold(const graph_sizes& sizes) const noexcept {
    return holds(own, sizes.own) && holds(shared, sizes.shared);
  }

  /// Whether counts exist that bring a rank to `sizes.own` and the sum to `sizes.shared`: this rank
  /// has a count that looks up the one, the others have from nothing to `ranks - 1` full ranks.
  [[nodiscard]] constexpr bool feasible(const graph_sizes& sizes) const noexcept {
    if (!hold(sizes)) return false;
    const std::int64_t others = std::int64_t{own.largest()} * (ranks - 1);
    return std::max(least(own, sizes.own), least(shared, sizes.shared)) <=
           std::min<std::int64_t>(sizes.own + others, sizes.shared);
  }

  /// Calls `visit(graph_sizes)` for every pair that can occur, largest first: 2,334 times for
  /// SGLang's sizes up to 256 on 8 ranks and the sums derived from them.
  template <class Visit>
  constexpr void for_each_feasible(Visit visit) const {
    for (std::int32_t s = shared.size() - 1; s >= 0; --s) {
      for (std::int32_t o = own.size() - 1; o >= 0; --o) {
        const graph_sizes sizes{.own = own[o], .shared = shared[s]};
        if (feasible(sizes)) visit(sizes);
      }
    }
  }

  /// Whether every sum of counts that each fit a size has a size itself, so that a device may look
  /// it up without asking. So for a derived ladder.
  [[nodiscard]] constexpr bool cover_every_sum() const noexcept {
    return shared.largest() >= std::int64_t{own.largest()} * ranks;
  }

private:
  /// The smallest count that looks up `size`.
  [[nodiscard]] static constexpr std::int64_t least(const bucket_list& sizes,
                                                    std::int32_t size) noexcept {
    const auto all = sizes.span();
    const auto at = std::lower_bound(all.begin(), all.end(), size);
    return at == all.begin() ? 0 : std::int64_t{*(at - 1)} + 1;
  }
};

} // namespace dpgather::inline v0
