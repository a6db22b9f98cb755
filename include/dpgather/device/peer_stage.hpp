#pragma once

/// @file
/// A combine's addends on their way from the engine's memory into the arena, where peers read them.

#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_call.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Copies the real rows of a global tensor into the input that the next combine chooses: not the
/// one that the last call read, which peers may still be at. One launch before the combine's own.
struct stage_input {
  detail::row_places<const std::byte> from{};
  peer_lane lane{};
  placement places{};
  std::int32_t dp_size = 1;
  std::int64_t most_rows = 0; ///< from the shape

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return from.words(most_rows); }

  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    const peer_state& state = lane.state();
    const std::int32_t which =
        choose_input(-1, lane.layout.input_count, state.input_used[0], state.epoch[0] + 1);
    const detail::row_places<std::byte> to{lane.mine(lane.layout.inputs[which]), from.row_bytes,
                                           from.row_bytes};
    for (std::int32_t d = 0; d < dp_size; ++d)
      detail::move_rows(from, places.offset(d), to, places.offset(d), places.rows(d), worker);
  }
};

} // namespace dpgather::inline v0
