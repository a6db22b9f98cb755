#pragma once

/// @file
/// A communicator's lane for one user: what the calls of one `DpGather` share.

#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/live_counts.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/protocol/call_record.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/topology.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dpgather::inline v0 {

/// Communicators, workspace, counts and lists of one channel. Sized at construction;
/// address-stable, because kernels read the counts. Ownership: borrows communicator and workspace.
template <communicator Communicator>
struct channel {
  using stream_type = typename Communicator::stream_type;
  using run_on = executor<stream_type>;

  /// Bytes at the front of the workspace that hold the counts for kernels; 0 where kernels read the
  /// host's memory.
  static constexpr std::size_t live_bytes =
      run_on::has_own_memory ? (sizeof(count_set) + 255) / 256 * 256 : 0;

  channel(Communicator world, const topology& where, std::span<std::byte> work)
      : comm{world}, attention_tp{world.subgroup(subgroup_kind::attention_tp)}, topo{where},
        workspace{work.subspan(std::min(work.size(), live_bytes))},
        calls(static_cast<std::size_t>(world.size())),
        pieces(static_cast<std::size_t>(world.size())),
        live{run_on::has_own_memory ? reinterpret_cast<count_set*>(work.data()) : &counts} {}
  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;

  /// The counts of a plan, for the host; `refresh` brings them to the kernels.
  void set_counts(const step_plan& plan) noexcept {
    for (std::int32_t d = 0; d < plan.dp_size; ++d) set(d, plan.real[d], plan.padded[d]);
    counts.sum_up(plan.dp_size);
  }
  void set(std::int32_t d, std::int32_t real, std::int32_t padded) noexcept {
    stale = stale || counts.rows[d] != real || counts.padded[d] != padded;
    counts.rows[d] = real;
    counts.padded[d] = padded;
  }
  /// Brings the host's counts to where kernels read them, if they are others than those there.
  [[nodiscard]] status refresh(stream_type stream) noexcept {
    if constexpr (run_on::has_own_memory) {
      if (!stale) return {};
      if (status bad = run_on::run(write_counts::of(counts, topo.dp_size, live), 1, stream); !bad)
        return bad;
      stale = false;
    }
    return {};
  }

  /// Shares of all world ranks in the global tensor, in units of `unit` per row.
  [[nodiscard]] std::span<const piece> world_pieces(const placement& places,
                                                    std::size_t unit) noexcept {
    for (std::int32_t d = 0; d < topo.dp_size; ++d) {
      for (std::int32_t t = 0; t < topo.tp_size; ++t) {
        const row_range share = places.share(d, t);
        pieces[static_cast<std::size_t>(d * topo.tp_size + t)] =
            scaled({places.offset(d) + share.first, share.count}, unit);
      }
    }
    return pieces;
  }
  /// Shares of the attention-TP peers in this rank's rows, likewise.
  [[nodiscard]] std::span<const piece> attention_pieces(const placement& places,
                                                        std::size_t unit) noexcept {
    for (std::int32_t t = 0; t < topo.tp_size; ++t) {
      pieces[static_cast<std::size_t>(t)] = scaled(places.share(topo.dp_rank, t), unit);
    }
    return {pieces.data(), static_cast<std::size_t>(topo.tp_size)};
  }
  /// The places of a call, as kernels see them.
  [[nodiscard]] placement live_places(const step_plan& plan) const noexcept {
    return {plan, *live};
  }
  /// Rows without gaps in the workspace.
  [[nodiscard]] token_rows<replicated> staged(std::int64_t rows,
                                              const token_rows<replicated>& like) const noexcept {
    return {workspace.data(), rows, like.element(), like.row_bytes()};
  }

  Communicator comm;
  Communicator attention_tp; ///< the A ranks of this data-parallel rank
  topology topo;
  std::span<std::byte> workspace;
  count_set counts{};
  std::vector<call_record> calls;      ///< of all ranks, of the current call
  std::vector<piece> pieces;           ///< of all ranks, of the current collective
  count_set* live;                     ///< where kernels read the counts
  bool stale = run_on::has_own_memory; ///< `live` is not what `counts` says
  std::uint64_t call_index = 0;
  std::atomic<bool> busy{false};

private:
  [[nodiscard]] static piece scaled(row_range rows, std::size_t unit) noexcept {
    const auto factor = static_cast<std::int64_t>(unit);
    return {rows.first * factor, rows.count * factor};
  }
};

} // namespace dpgather::inline v0
