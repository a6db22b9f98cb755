#pragma once

/// @file
/// What one rank announces for one step.

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/phase.hpp>

#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// Fixed-size announcement of one rank, exchanged once a step, unconditionally: also at W = 1, also
/// by idle ranks, also after a local failure. 64 bytes without padding, to be sent as they are
/// between processes of one architecture. Source: SGLang's MLP synchronisation, with the fields its
/// threads ask for (sglang #37561, #25404; vllm #25906, #28774).
struct step_record {
  static constexpr std::uint32_t expected_magic = 0x64706772u; // "dpgr"
  static constexpr std::uint16_t expected_version = 1;

  std::uint32_t magic = expected_magic;
  std::uint16_t version = expected_version;
  dpgather::v0::phase phase = dpgather::v0::phase::idle;
  std::uint8_t votes = 0; ///< `graph_vote | overlap_vote`; a vote passes if all ranks cast it
  std::uint64_t step = 0; ///< number of the step, equal on all ranks
  std::uint64_t config_hash = 0; ///< `planner::config_hash()`
  std::uint64_t last_plan = 0;   ///< digest of the plan this rank executed last; 0 before the first
  std::int32_t world_rank = 0;
  std::int32_t tokens = 0;        ///< real rows; speculative tokens counted, pads not
  std::int32_t logits_tokens = 0; ///< rows for which logits are wanted
  std::int32_t draft_tokens = 0;  ///< rows of the draft model
  std::int32_t requests = 0;
  std::int32_t width = 1;      ///< tokens per request, also of an idle rank; ignored in prefill
  std::int32_t prefix = 0;     ///< longest cached prefix among this rank's requests, in tokens
  std::int32_t cannot_run = 0; ///< an `errc` when this rank cannot run the step, else 0

  static constexpr std::uint8_t graph_vote = 1;   ///< this rank can replay a graph
  static constexpr std::uint8_t overlap_vote = 2; ///< this rank can overlap two batches

  friend constexpr bool operator==(const step_record&, const step_record&) = default;
};

static_assert(sizeof(step_record) == 64 && std::is_trivially_copyable_v<step_record> &&
              std::has_unique_object_representations_v<step_record>);

} // namespace dpgather::inline v0
