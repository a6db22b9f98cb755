#pragma once

/// @file
/// What a rank says when it enters a call, and the pure verdict on what all ranks said.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace dpgather::inline v0 {

/// `replay`: a captured graph is about to run.
enum class operation : std::uint8_t { gather, combine, replay };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(operation o) noexcept {
  return o == operation::gather ? "gather" : o == operation::combine ? "combine" : "replay";
}

/// One rank's announcement of one call. Everything that must be equal on all ranks before a byte
/// moves, this rank's real rows, and whether it refused its own input: a rank that refuses still
/// takes part, so that the others hear of it at once instead of waiting for it.
struct call_record {
  std::uint64_t call = 0;          ///< index of the call on this rank's channel, from 1
  std::uint64_t digest = 0;        ///< of the plan's shape
  std::uint64_t counts_digest = 0; ///< of the agreed counts; 0 when they are not known
  std::uint64_t step = 0;
  std::uint64_t row_bytes = 0; ///< of the view handed in
  std::int64_t refused_value = 0;
  std::int64_t refused_limit = 0;
  std::int32_t bucket = 0;  ///< the bucket all ranks share, in requests; 0: none
  std::int32_t rows = 0;    ///< this rank's real rows
  std::int32_t dp_rank = 0; ///< whose rows: attention-TP peers speak for the same ones
  operation what = operation::gather;
  mode_kind mode = mode_kind::exact;
  layout_kind layout = layout_kind::packed;
  dpgather::v0::element element = dpgather::v0::element::u8; ///< of the view handed in
  bool owes_sum = false;                                     ///< the view handed in is partial
  errc refused = errc::ok;
  subject refused_about = subject::none;
  std::uint8_t reserved[5] = {};

  [[nodiscard]] static constexpr call_record of(operation what, const step_plan& plan,
                                                std::uint64_t call, std::int32_t dp_rank) noexcept {
    call_record out;
    out.call = call;
    out.digest = plan.digest;
    out.counts_digest = plan.counts_digest;
    out.step = plan.step;
    out.bucket = plan.shared_bucket;
    out.rows = dp_rank < plan.dp_size ? plan.real[dp_rank] : 0;
    out.dp_rank = dp_rank;
    out.what = what;
    out.mode = plan.mode;
    out.layout = plan.layout;
    return out;
  }
};

static_assert(sizeof(call_record) == 80 && std::is_trivially_copyable_v<call_record>);

namespace detail {

/// The first thing in which `mine` differs from `theirs`, as a status that names both sides.
[[nodiscard]] constexpr status compare_calls(const call_record& mine, std::int32_t rank,
                                             const call_record& theirs,
                                             std::int32_t other) noexcept {
  const auto differs = [&](subject about, auto a, auto b, const char* a_name = nullptr,
                           const char* b_name = nullptr) {
    return status{.code = errc::plan_mismatch,
                  .about = about,
                  .rank = rank,
                  .peer = other,
                  .value = static_cast<std::int64_t>(a),
                  .limit = static_cast<std::int64_t>(b),
                  .value_name = a_name,
                  .limit_name = b_name,
                  .call = mine.call,
                  .where = name_of(mine.what)};
  };
  if (mine.what != theirs.what)
    return differs(subject::operation, mine.what, theirs.what, name_of(mine.what),
                   name_of(theirs.what));
  if (mine.step != theirs.step) return differs(subject::step, mine.step, theirs.step);
  if (mine.mode != theirs.mode || mine.bucket != theirs.bucket)
    return differs(subject::mode, mine.bucket, theirs.bucket, name_of(mine.mode),
                   name_of(theirs.mode));
  if (mine.layout != theirs.layout)
    return differs(subject::layout, mine.layout, theirs.layout, name_of(mine.layout),
                   name_of(theirs.layout));
  // A rank that refuses its views may have said anything about them.
  const bool views_hold = mine.refused == errc::ok && theirs.refused == errc::ok;
  if (views_hold && mine.element != theirs.element)
    return differs(subject::element, mine.element, theirs.element, name_of(mine.element),
                   name_of(theirs.element));
  if (views_hold && mine.row_bytes != theirs.row_bytes)
    return differs(subject::row_bytes, mine.row_bytes, theirs.row_bytes);
  if (views_hold && mine.owes_sum != theirs.owes_sum)
    return differs(subject::local, mine.owes_sum, theirs.owes_sum,
                   mine.owes_sum ? "partial" : "replicated",
                   theirs.owes_sum ? "partial" : "replicated");
  if (mine.counts_digest != theirs.counts_digest)
    return differs(subject::counts, mine.counts_digest, theirs.counts_digest);
  if (mine.digest != theirs.digest) return differs(subject::config, mine.digest, theirs.digest);
  if (mine.call != theirs.call) return differs(subject::call, mine.call, theirs.call);
  return {};
}

} // namespace detail

/// The verdict on the calls of all ranks, in world-rank order; the same on every rank.
///
/// `plan_mismatch` names the first rank that differs from rank 0 (in rows: from its attention-TP
/// peer), and both sides; it is sticky, for
/// a rank that differs is not where the others are. `peer_refused` names the first rank that
/// refused its input and why; nobody moves anything, and the next call may be right.
[[nodiscard]] constexpr status judge(std::span<const call_record> calls) noexcept {
  for (std::size_t r = 1; r < calls.size(); ++r) {
    if (status bad = detail::compare_calls(calls[r], static_cast<std::int32_t>(r), calls[0], 0);
        !bad)
      return bad;
  }
  for (std::size_t r = 1; r < calls.size(); ++r) {
    const call_record& peer = calls[r - 1];
    if (calls[r].dp_rank != peer.dp_rank || calls[r].rows == peer.rows) continue;
    return {.code = errc::plan_mismatch,
            .about = subject::tokens,
            .rank = static_cast<std::int32_t>(r),
            .peer = static_cast<std::int32_t>(r - 1),
            .value = calls[r].rows,
            .limit = peer.rows,
            .call = calls[r].call,
            .where = name_of(calls[r].what)};
  }
  for (std::size_t r = 0; r < calls.size(); ++r) {
    if (calls[r].refused == errc::ok) continue;
    return {.code = errc::peer_refused,
            .cause = calls[r].refused,
            .about = calls[r].refused_about,
            .rank = static_cast<std::int32_t>(r),
            .value = calls[r].refused_value,
            .limit = calls[r].refused_limit,
            .call = calls[r].call,
            .where = name_of(calls[r].what)};
  }
  return {};
}

} // namespace dpgather::inline v0
