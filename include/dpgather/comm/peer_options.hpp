#pragma once

/// @file
/// What a peer channel is sized and shaped by, beside the configuration.

#include <dpgather/config.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// Settings of a peer channel; equal on all ranks.
struct peer_options {
  /// Row bytes of the tensors that a gather may bring along with the hidden rows: scales, expert
  /// ids, expert weights; at most 7.
  std::span<const std::size_t> more_row_bytes{};
  std::int32_t inputs = 2; ///< combine inputs; one is enough where no combine follows a combine
  /// See `peer_limits::most_line_bytes`. Above it stores and loads won by measurement (two H100,
  /// NVLink4: lines up to 256 rows of 14,336 bytes).
  std::size_t most_line_bytes = std::size_t{4} << 20;
};

/// The limits that a policy and a configuration come to. Errors: those of `planner::make`,
/// `bad_config` for too many tensors.
template <policy_like Policy>
[[nodiscard]] result<peer_limits> peer_limits_of(const gather_config& config,
                                                 const peer_options& options = {}) noexcept {
  const result<planner<Policy>> rules = planner<Policy>::make(config);
  if (!rules) return rules.status();
  if (options.more_row_bytes.size() >= static_cast<std::size_t>(max_peer_tensors))
    return status{.code = errc::bad_config,
                  .about = subject::tensor,
                  .value = static_cast<std::int64_t>(options.more_row_bytes.size()),
                  .limit = max_peer_tensors - 1,
                  .where = "peer_limits_of"};
  peer_limits out;
  out.ranks = config.topology.world_size();
  out.tp_size = config.topology.tp_size;
  out.rank_rows = config.max_rows_per_rank;
  out.view_rows = rules->max_global_rows();
  out.row_bytes[0] = config.row_bytes;
  for (const std::size_t bytes : options.more_row_bytes) out.row_bytes[out.tensors++] = bytes;
  out.inputs = options.inputs;
  out.most_line_bytes = options.most_line_bytes;
  return out;
}

/// Bytes of the arena that every rank needs, known before anything is allocated. Errors: those of
/// `peer_limits_of` and `peer_layout::of`.
template <policy_like Policy>
[[nodiscard]] result<std::size_t> peer_arena_bytes(const gather_config& config,
                                                   const peer_options& options = {}) noexcept {
  const result<peer_limits> limits = peer_limits_of<Policy>(config, options);
  if (!limits) return limits.status();
  const result<peer_layout> layout = peer_layout::of(*limits);
  if (!layout) return layout.status();
  return static_cast<std::size_t>(layout->bytes);
}

/// What a rank takes a call to be, in the 32 bits of a header: mode and bucket in the clear, so
/// that a mismatch can name both sides (buckets up to 8191); the rest as a digest of 15 bits.
struct peer_shape {
  [[nodiscard]] static constexpr std::uint32_t of(bool combines, const step_plan& plan,
                                                  std::uint64_t digest) noexcept {
    const auto bucket = static_cast<std::uint32_t>(std::clamp(plan.shared_bucket, 0, 0x1fff));
    return (combines ? 1u : 0u) | (static_cast<std::uint32_t>(plan.mode) & 3u) << 1 |
           (plan.layout == layout_kind::slots ? 8u : 0u) |
           static_cast<std::uint32_t>(digest & 0x7fff) << 4 | bucket << 19;
  }
  [[nodiscard]] static constexpr bool combines(std::uint32_t shape) noexcept {
    return (shape & 1u) != 0;
  }
  [[nodiscard]] static constexpr mode_kind mode(std::uint32_t shape) noexcept {
    return static_cast<mode_kind>((shape >> 1) & 3u);
  }
  [[nodiscard]] static constexpr std::uint32_t digest(std::uint32_t shape) noexcept {
    return (shape >> 4) & 0x7fffu;
  }
  [[nodiscard]] static constexpr std::int32_t bucket(std::uint32_t shape) noexcept {
    return static_cast<std::int32_t>(shape >> 19);
  }
};

} // namespace dpgather::inline v0
