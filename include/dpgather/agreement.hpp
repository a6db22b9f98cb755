#pragma once

/// @file
/// The pure merge of all ranks' step records.

#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_record.hpp>
#include <dpgather/topology.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// Which of a step's row counts a plan is about.
enum class row_kind : std::uint8_t { hidden, logits, draft };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(row_kind k) noexcept {
  return k == row_kind::hidden ? "hidden" : k == row_kind::logits ? "logits" : "draft";
}

/// What all ranks know after the exchange; equal on every rank that merged the same records.
struct agreement {
  std::int32_t dp_size = 1;
  std::int32_t tp_size = 1;
  std::uint64_t step = 0;
  std::int32_t width = 1;          ///< tokens per request outside prefill
  std::int32_t longest_prefix = 0; ///< max over ranks
  bool can_run_graph = false;      ///< and over ranks
  bool can_overlap = false;        ///< and over ranks
  bool extend_in_batch = false;    ///< or over ranks: somebody processes prompts
  bool any_idle = false;           ///< somebody holds no row
  real_rows tokens;
  real_rows logits_tokens;
  real_rows draft_tokens;
  request_counts requests;

  [[nodiscard]] constexpr const real_rows& rows(row_kind kind) const noexcept {
    switch (kind) {
    case row_kind::logits:
      return logits_tokens;
    case row_kind::draft:
      return draft_tokens;
    case row_kind::hidden:
      break;
    }
    return tokens;
  }

  friend constexpr bool operator==(const agreement&, const agreement&) = default;
};

namespace detail {

[[nodiscard]] constexpr status refuse_record(errc code, subject about, std::int32_t rank,
                                             std::int64_t value, std::int64_t limit,
                                             std::int32_t other = -1) noexcept {
  return {.code = code,
          .about = about,
          .rank = rank,
          .peer = other,
          .value = value,
          .limit = limit,
          .where = "merge"};
}

/// Whether the record at place `rank` is one, and of that rank.
[[nodiscard]] constexpr status check_form(const step_record& record, std::int32_t rank) noexcept {
  const auto bad = [&](subject about, std::int64_t value, std::int64_t limit) {
    return refuse_record(errc::bad_record, about, rank, value, limit);
  };
  constexpr auto last_phase = static_cast<std::int64_t>(phase::draft_extend);
  constexpr auto last_errc = static_cast<std::int64_t>(errc::poisoned);
  if (record.magic != step_record::expected_magic)
    return bad(subject::record, record.magic, step_record::expected_magic);
  if (record.version != step_record::expected_version)
    return bad(subject::record, record.version, step_record::expected_version);
  if (record.phase > phase::draft_extend)
    return bad(subject::phase, static_cast<std::int64_t>(record.phase), last_phase);
  if (record.cannot_run < 0 || record.cannot_run > last_errc)
    return bad(subject::record, record.cannot_run, last_errc);
  if (record.world_rank != rank)
    return refuse_record(errc::bad_group, subject::rank, rank, record.world_rank, rank);
  return {};
}

/// Answers the first way in which `record` does not fit the record of world rank 0 (`reference`),
/// or the record of the first attention-TP peer (`peer`); ok if it fits.
[[nodiscard]] constexpr status check_content(const step_record& record, std::int32_t rank,
                                             const step_record& reference, const step_record& peer,
                                             std::int32_t peer_rank) noexcept {
  const auto differs = [&](subject about, auto mine, auto theirs, std::int32_t other) {
    return refuse_record(errc::config_mismatch, about, rank, static_cast<std::int64_t>(mine),
                         static_cast<std::int64_t>(theirs), other);
  };
  if (record.config_hash != reference.config_hash)
    return differs(subject::config, record.config_hash, reference.config_hash, 0);
  if (record.step != reference.step) return differs(subject::step, record.step, reference.step, 0);
  if (record.last_plan != reference.last_plan) {
    status out = differs(subject::last_plan, record.last_plan, reference.last_plan, 0);
    out.code = errc::plan_mismatch;
    return out;
  }

  const auto negative = [&](subject about, std::int32_t value) {
    return refuse_record(errc::count_out_of_range, about, rank, value, INT32_MAX);
  };
  if (record.tokens < 0) return negative(subject::tokens, record.tokens);
  if (record.logits_tokens < 0) return negative(subject::logits_tokens, record.logits_tokens);
  if (record.draft_tokens < 0) return negative(subject::draft_tokens, record.draft_tokens);
  if (record.requests < 0) return negative(subject::requests, record.requests);
  if (record.prefix < 0) return negative(subject::prefix, record.prefix);
  if (record.tokens > 0 && record.width < 1) return negative(subject::width, record.width);

  // The A attention-TP ranks of one data-parallel rank hold the same requests.
  const auto peer_differs = [&](subject about, auto mine, auto theirs) {
    return differs(about, mine, theirs, peer_rank);
  };
  if (record.tokens != peer.tokens)
    return peer_differs(subject::tokens, record.tokens, peer.tokens);
  if (record.logits_tokens != peer.logits_tokens)
    return peer_differs(subject::logits_tokens, record.logits_tokens, peer.logits_tokens);
  if (record.draft_tokens != peer.draft_tokens)
    return peer_differs(subject::draft_tokens, record.draft_tokens, peer.draft_tokens);
  if (record.requests != peer.requests)
    return peer_differs(subject::requests, record.requests, peer.requests);
  if (record.phase != peer.phase) {
    status out = peer_differs(subject::phase, record.phase, peer.phase);
    out.value_name = name_of(record.phase);
    out.limit_name = name_of(peer.phase);
    return out;
  }
  return {};
}

} // namespace detail

/// Merges the records of all `W * A` ranks, in world-rank order, into what all of them know.
///
/// Pure: the same records give the same answer, error included, on every rank.
/// Counts are kept per rank; graph and overlap votes are and-ed; extend-in-batch is or-ed; the
/// prefix is the maximum. A rank without tokens takes part with zeros.
///
/// Errors: `bad_group` (number of records is not the world; a record sits at another rank's place),
/// `bad_record`, `config_mismatch{field, rank, mine, theirs}` (also when attention-TP peers hold
/// different counts, or ranks with tokens outside prefill different widths), `plan_mismatch` (a
/// rank executed another plan in the step before), `count_out_of_range`, `rank_cannot_run{rank,
/// cause}`.
[[nodiscard]] constexpr result<agreement> merge(std::span<const step_record> records,
                                                const topology& topo) noexcept {
  if (status bad = topo.validate(); !bad) return bad;
  if (records.size() != static_cast<std::size_t>(topo.world_size())) {
    return status{.code = errc::bad_group,
                  .about = subject::world,
                  .value = static_cast<std::int64_t>(records.size()),
                  .limit = topo.world_size(),
                  .where = "merge"};
  }
  const auto at = [&](std::int32_t rank) -> const step_record& {
    return records[static_cast<std::size_t>(rank)];
  };
  // All forms first, then who cannot run, then the comparisons: a rank that failed may have no
  // counts, and may have missed the plan before.
  for (std::int32_t rank = 0; rank < topo.world_size(); ++rank) {
    if (status bad = detail::check_form(at(rank), rank); !bad) return bad;
  }
  for (std::int32_t rank = 0; rank < topo.world_size(); ++rank) {
    if (at(rank).cannot_run == 0) continue;
    const auto cause = static_cast<errc>(at(rank).cannot_run);
    status out = detail::refuse_record(errc::rank_cannot_run, subject::step, rank,
                                       static_cast<std::int64_t>(at(rank).step), 0);
    out.cause = cause;
    out.value_name = name_of(cause);
    return out;
  }
  for (std::int32_t rank = 0; rank < topo.world_size(); ++rank) {
    const std::int32_t first_peer = rank / topo.tp_size * topo.tp_size;
    if (status bad = detail::check_content(at(rank), rank, at(0), at(first_peer), first_peer); !bad)
      return bad;
  }

  result<agreement> merged;
  agreement& out = *merged;
  out.dp_size = topo.dp_size;
  out.tp_size = topo.tp_size;
  out.step = records[0].step;
  out.can_run_graph = true;
  out.can_overlap = true;
  out.tokens = out.logits_tokens = out.draft_tokens = real_rows::zeros(topo.dp_size);
  out.requests = request_counts::zeros(topo.dp_size);
  std::int32_t width_from = -1; // the first rank that has tokens
  for (std::int32_t rank = 0; rank < topo.world_size(); ++rank) {
    const step_record& record = at(rank);
    out.can_run_graph = out.can_run_graph && (record.votes & step_record::graph_vote) != 0;
    out.can_overlap = out.can_overlap && (record.votes & step_record::overlap_vote) != 0;
    out.extend_in_batch = out.extend_in_batch || is_prefill(record.phase);
    out.any_idle = out.any_idle || record.tokens == 0;
    out.longest_prefix = std::max(out.longest_prefix, record.prefix);
    if (record.tokens > 0 && !is_prefill(record.phase)) {
      if (width_from < 0) {
        width_from = rank;
        out.width = record.width;
      } else if (record.width != out.width) {
        return detail::refuse_record(errc::config_mismatch, subject::width, rank, record.width,
                                     out.width, width_from);
      }
    } else if (width_from < 0 && !is_prefill(record.phase)) {
      out.width = std::max(out.width, record.width); // what idle ranks would run with
    }
    const std::int32_t dp_rank = rank / topo.tp_size;
    out.tokens.set(dp_rank, record.tokens);
    out.logits_tokens.set(dp_rank, record.logits_tokens);
    out.draft_tokens.set(dp_rank, record.draft_tokens);
    out.requests.set(dp_rank, record.requests);
  }
  return merged;
}

} // namespace dpgather::inline v0
