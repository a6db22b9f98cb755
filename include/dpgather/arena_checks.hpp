#pragma once

/// @file
/// Whether an arena of peers, sized when its world was built, holds a configuration and a call.

#include <dpgather/call_checks.hpp>
#include <dpgather/config.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/moved_rows.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/status.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/view_checks.hpp>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0::detail {

/// Views, inputs and rows of the channel are what this configuration needs. `max_global_rows`: of
/// any plan.
[[nodiscard]] inline status check_arena(const peer_layout& has, const gather_config& config,
                                        std::int64_t max_global_rows) noexcept {
  const auto refuse = [&](subject about, std::int64_t value, std::int64_t limit) {
    return status{.code = errc::capacity_exceeded,
                  .about = about,
                  .rank = config.topology.world_rank(),
                  .value = value,
                  .limit = limit,
                  .where = "DpGather"};
  };
  if (max_global_rows > has.view_rows)
    return refuse(subject::global, max_global_rows, has.view_rows);
  if (config.max_rows_per_rank > has.rank_rows)
    return refuse(subject::max_rows, config.max_rows_per_rank, has.rank_rows);
  if (config.row_bytes != has.row_bytes[0])
    return refuse(subject::row_bytes, static_cast<std::int64_t>(config.row_bytes),
                  has.row_bytes[0]);
  return {};
}

/// Hidden rows are as long as the arena's.
[[nodiscard]] inline status check_row_bytes(const peer_layout& has, const call_checks& checks,
                                            std::size_t row_bytes) noexcept {
  if (row_bytes == has.row_bytes[0]) return {};
  return checks.refuse(errc::shape_mismatch, subject::row_bytes,
                       static_cast<std::int64_t>(row_bytes), has.row_bytes[0]);
}

/// What is brought along with `real` rows is what the arena was sized for; nothing goes with rows
/// that owe a sum (`owes_sum`).
[[nodiscard]] inline status check_along(const peer_layout& has, const call_checks& checks,
                                        const gather_along& along, std::int64_t real,
                                        bool owes_sum) noexcept {
  if (along.tensors.empty() && along.masks == nullptr) return {};
  const auto count = static_cast<std::int64_t>(along.tensors.size());
  if (owes_sum || count + 1 > has.tensors)
    return checks.refuse(errc::capacity_exceeded, subject::tensor, count,
                         owes_sum ? 0 : has.tensors - 1);
  for (std::size_t t = 0; t < along.tensors.size(); ++t) {
    const const_token_rows<replicated>& each = along.tensors[t];
    if (each.row_bytes() != has.row_bytes[t + 1])
      return checks.refuse(errc::shape_mismatch, subject::tensor,
                           static_cast<std::int64_t>(each.row_bytes()), has.row_bytes[t + 1]);
    if (each.rows() < real)
      return checks.refuse(errc::count_changed, subject::tensor, each.rows(), real);
    if (const view_fault fault = check_view(each, subject::tensor))
      return checks.refuse(fault.code, fault.about, fault.value, fault.limit);
  }
  return {};
}

} // namespace dpgather::inline v0::detail
