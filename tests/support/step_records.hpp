#pragma once

/// @file
/// What a rank reports of a step in tests.

#include <dpgather/step_record.hpp>

#include <cstdint>

namespace test_support {

/// Decode of `tokens` requests, or an idle rank, for a captured graph. `Dp`: a `DpGather`.
template <class Dp>
[[nodiscard]] dpgather::step_record graph_record(const Dp& dp, std::int32_t world_rank,
                                                 std::int32_t tokens, std::uint64_t step = 1) {
  dpgather::step_record out = dp.record(step);
  out.world_rank = world_rank;
  out.tokens = out.requests = tokens;
  out.phase = tokens == 0 ? dpgather::phase::idle : dpgather::phase::decode;
  out.votes = dpgather::step_record::graph_vote;
  return out;
}

} // namespace test_support
