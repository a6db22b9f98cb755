#pragma once

/// @file
/// Negative controls: rules of the peer protocol, broken one at a time, and for each a story that
/// goes wrong by them and well without. Stalls make the bad schedule certain: the rank that is held
/// up stands still for far longer than its peers need to run into what they must not touch.

#include "peer_broken_rules.hpp"
#include "peer_outcome.hpp"
#include "peer_stall.hpp"
#include "peer_story.hpp"

#include <dpgather/protocol/peer_block.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace test_support {

/// The world, the calls, who is held up where.
struct control_story {
  story_options with{};
  std::vector<story_call> calls{};
  stalled<dg::peer_rules> held{};

  /// With `lines` all rows travel in lines, else none.
  control_story(std::int32_t ranks, std::int32_t blocks, bool lines, std::size_t row_bytes = 240) {
    with.dp_size = ranks;
    with.rank_rows = 4;
    with.row_bytes[0] = row_bytes;
    with.blocks = blocks;
    with.most_line_bytes = lines ? 1 << 20 : 0;
  }
  /// Every rank has `rows` rows.
  story_call& add(bool combines, std::int32_t rows = 4, std::int64_t tail = 0) {
    return calls.emplace_back(packed_call(
        with, combines, std::vector<std::int32_t>(static_cast<std::size_t>(with.dp_size), rows),
        with.dp_size * std::int64_t{rows} + tail, calls.size() + 1));
  }
  void hold(dg::peer_point point, std::int32_t rank, std::int32_t block = -1) {
    held.at_point(point) = {rank, block, 1'000'000};
  }
  /// The stalls, with other rules.
  template <class Rules>
  [[nodiscard]] stalled<Rules> rules(std::int32_t rank = -1) const {
    stalled<Rules> out{};
    for (std::size_t p = 0; p < peer_points; ++p) out.held[p] = held.held[p];
    out.rank = rank;
    return out;
  }
};

/// One slot, lines: rank 1 has sent its rows and sleeps before it looks at rank 0's. Rank 0 gets
/// through and sends its next rows to the same place, under an epoch that rank 1 does not wait for.
inline control_story slots_of_lines() {
  control_story out{2, 2, true};
  for (int i = 0; i < 6; ++i) out.add(false);
  out.hold(dg::peer_point::waiting, 1);
  return out;
}
/// One slot, headers: the same, and it is the next call's header that comes too early. A combine
/// lies between two gathers, so that no handshake keeps rank 0 from going on.
inline control_story slots_of_headers() {
  control_story out{2, 2, false};
  for (int i = 0; i < 6; ++i) out.add(i % 2 != 0);
  out.hold(dg::peer_point::waiting, 1);
  return out;
}
/// No handshake: rank 1 has all rows of a gather and sleeps before it reads its view. Rank 0 goes
/// on and stores the next gather's rows there.
inline control_story gather_after_gather() {
  control_story out{2, 2, false};
  for (int i = 0; i < 6; ++i) out.add(false);
  out.hold(dg::peer_point::received, 1);
  return out;
}
/// One input: rank 1 is in a combine and sleeps before it reads rank 0's input. Rank 0 gets through
/// and writes its next addends. `input` -1: the two in turn.
inline control_story combine_after_combine(std::int32_t input) {
  control_story out{2, 2, false};
  for (int i = 0; i < 6; ++i) out.add(true).input = input;
  out.hold(dg::peer_point::waiting, 1);
  return out;
}
/// No tails: a row that nobody brings.
inline control_story with_a_tail(bool combines) {
  control_story out{2, 2, true};
  out.add(combines, 2, 1);
  return out;
}
/// Idle blocks, old rows: call 1 is block 0's alone, and rank 0 sleeps at its end. In call 2 rank
/// 1's block 1 believes to be in call 1, finds rank 0's lines of that epoch and takes them.
inline control_story old_lines() {
  control_story out{2, 2, true};
  out.add(false).blocks = 1;
  out.add(false);
  out.hold(dg::peer_point::received, 0);
  return out;
}
/// Idle blocks, rows that never come: so many addends are sent two lines at once and, of three
/// ranks, summed one at a time. A line's sender and its reader are different blocks, who disagree
/// on the epoch.
inline control_story lines_of_other_blocks() {
  control_story out{3, 2, true, 2400};
  out.add(true).blocks = 1;
  out.add(true);
  out.add(true);
  return out;
}

} // namespace test_support
