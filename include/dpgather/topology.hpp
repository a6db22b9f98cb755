#pragma once

/// @file
/// Who is who: W data-parallel ranks of A attention-TP ranks each.

#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/status.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Place of one process or thread in the world. World rank `= dp_rank * tp_size + tp_rank`.
struct topology {
  std::int32_t dp_size = 1; ///< W
  std::int32_t tp_size = 1; ///< A, attention-TP ranks inside one data-parallel rank
  std::int32_t dp_rank = 0;
  std::int32_t tp_rank = 0;

  [[nodiscard]] constexpr std::int32_t world_size() const noexcept { return dp_size * tp_size; }
  [[nodiscard]] constexpr std::int32_t world_rank() const noexcept {
    return dp_rank * tp_size + tp_rank;
  }

  /// The topology as world rank `rank` sees it.
  [[nodiscard]] constexpr topology at(std::int32_t rank) const noexcept {
    return {dp_size, tp_size, rank / tp_size, rank % tp_size};
  }

  /// Errors: `bad_group` for a size below one or a rank outside, `too_many_ranks` above
  /// `max_ranks` data-parallel ranks or attention-TP ranks.
  [[nodiscard]] constexpr status validate() const noexcept {
    const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit) {
      return status{.code = code,
                    .about = about,
                    .value = value,
                    .limit = limit,
                    .where = "topology::validate"};
    };
    if (dp_size < 1) return refuse(errc::bad_group, subject::dp_size, dp_size, 1);
    if (tp_size < 1) return refuse(errc::bad_group, subject::tp_size, tp_size, 1);
    if (dp_size > max_ranks)
      return refuse(errc::too_many_ranks, subject::dp_size, dp_size, max_ranks);
    if (tp_size > max_ranks)
      return refuse(errc::too_many_ranks, subject::tp_size, tp_size, max_ranks);
    if (dp_rank < 0 || dp_rank >= dp_size)
      return refuse(errc::bad_group, subject::rank, dp_rank, dp_size - 1);
    if (tp_rank < 0 || tp_rank >= tp_size)
      return refuse(errc::bad_group, subject::rank, tp_rank, tp_size - 1);
    return {};
  }

  friend constexpr bool operator==(const topology&, const topology&) = default;
};

} // namespace dpgather::inline v0
