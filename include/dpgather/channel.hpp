#pragma once

/// @file
/// A communicator's lane for one user: what the calls of one `DpGather` share.

#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/protocol/call_record.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/topology.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dpgather::inline v0 {

/// Communicators, workspace, counts and lists of one channel. Sized at construction;
/// address-stable, because kernels read `counts`. Ownership: borrows communicator and workspace.
template <communicator Communicator>
struct channel {
  using stream_type = typename Communicator::stream_type;

  channel(Communicator world, const topology& where, std::span<std::byte> work)
      : comm{world},
        attention_tp{world.subgroup(subgroup_kind::attention_tp)}, topo{where}, workspace{work},
        calls(static_cast<std::size_t>(world.size())),
        pieces(static_cast<std::size_t>(world.size())) {}
  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;

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
  std::vector<call_record> calls; ///< of all ranks, of the current call
  std::vector<piece> pieces;      ///< of all ranks, of the current collective
  std::uint64_t call_index = 0;
  std::atomic<bool> busy{false};

private:
  [[nodiscard]] static piece scaled(row_range rows, std::size_t unit) noexcept {
    const auto factor = static_cast<std::int64_t>(unit);
    return {rows.first * factor, rows.count * factor};
  }
};

} // namespace dpgather::inline v0
