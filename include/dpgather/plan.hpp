#pragma once

/// @file
/// `make_plan`: from what all ranks agreed on to what every rank does.

#include <dpgather/agreement.hpp>
#include <dpgather/config.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/hash.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>

#include <algorithm>
#include <cstdint>

namespace dpgather::inline v0 {

namespace detail {

/// Works a plan out in the order in which its parts depend on each other. One object per call.
template <class P>
class plan_maker {
public:
  constexpr plan_maker(const planner<P>& rules, row_kind kind, step_plan& out) noexcept
      : rules_{rules}, config_{rules.config()}, plan_{out} {
    plan_.dp_size = config_.topology.dp_size;
    plan_.tp_size = config_.topology.tp_size;
    plan_.element = config_.element;
    plan_.row_bytes = config_.row_bytes;
    plan_.kind = kind;
    plan_.counts = P::counts_type::kind;
    plan_.real = real_rows::zeros(plan_.dp_size);
    plan_.padded = padded_rows::zeros(plan_.dp_size);
  }

  /// All counts known.
  [[nodiscard]] constexpr status from(const agreement& agreed) noexcept {
    if (agreed.dp_size != plan_.dp_size || agreed.tp_size != plan_.tp_size)
      return refuse(errc::bad_group, subject::world, agreed.dp_size * agreed.tp_size,
                    plan_.dp_size * plan_.tp_size);
    plan_.step = agreed.step;
    set_width(agreed.width);
    if (status bad = set_counts(agreed.rows(plan_.kind)); !bad) return bad;
    if (plan_.kind != row_kind::hidden) {
      if (status bad = check_counts(agreed.tokens); !bad) return bad;
    }
    if (has_graphs<P> && agreed.can_run_graph) {
      if constexpr (has_graphs<P>) {
        plan_.situation = situation::in_graph;
        bool missed = false;
        if (status bad = in_graph(agreed, missed); !bad) return bad;
        if (!missed) return finish<situation::in_graph>();
        plan_.bucket_missed = true;
        plan_.shared_bucket = 0;
        plan_.attention_in_bucket = false;
      }
    }
    plan_.situation = situation::eager;
    eager(agreed);
    return finish<situation::eager>();
  }

  /// Only this rank's count known: sizes follow from capacities.
  [[nodiscard]] constexpr status from(const step_record& own) noexcept {
    const std::int32_t me = config_.topology.dp_rank;
    const std::int32_t rows = plan_.kind == row_kind::logits  ? own.logits_tokens
                              : plan_.kind == row_kind::draft ? own.draft_tokens
                                                              : own.tokens;
    plan_.step = own.step;
    if (own.cannot_run != 0)
      return refuse(errc::rank_cannot_run, subject::step, static_cast<std::int64_t>(own.step), 0,
                    me);
    if (own.width < 1) return refuse(errc::count_out_of_range, subject::width, own.width, 1, me);
    set_width(own.width);
    plan_.counts_known = false;
    if (status bad = check_count(me, rows, subject::tokens); !bad) return bad;
    if (status bad = check_count(me, own.tokens, subject::tokens); !bad) return bad;
    plan_.real.set(me, rows);
    plan_.total_rows = rows;
    if constexpr (has_graphs<P>) {
      if ((own.votes & step_record::graph_vote) != 0) {
        plan_.situation = situation::in_graph;
        set_capacities<situation::in_graph>();
        std::int64_t requests = 0;
        if (status bad = requests_of(me, own.tokens, requests); !bad) return bad;
        const std::int32_t bucket = rules_.ladder().smallest_at_least(requests);
        if (bucket == 0) return no_bucket(me, requests, rules_.ladder().largest());
        plan_.attention_in_bucket = true;
        if (status bad = pad_to_bucket(me, bucket); !bad) return bad;
        return finish<situation::in_graph>();
      }
    }
    set_capacities<situation::eager>();
    plan_.padded.set(me, aligned<situation::eager>(rows));
    return finish<situation::eager>();
  }

private:
  [[nodiscard]] static constexpr status refuse(errc code, subject about, std::int64_t value,
                                               std::int64_t limit,
                                               std::int32_t rank = -1) noexcept {
    return {.code = code,
            .about = about,
            .rank = rank,
            .value = value,
            .limit = limit,
            .where = "make_plan"};
  }
  [[nodiscard]] static constexpr status no_bucket(std::int32_t rank, std::int64_t requests,
                                                  std::int64_t largest) noexcept {
    return refuse(errc::no_bucket, subject::requests, requests, largest, rank);
  }

  [[nodiscard]] constexpr status check_count(std::int32_t rank, std::int32_t rows,
                                             subject about) const noexcept {
    if (rows >= 0 && rows <= config_.max_rows_per_rank) return {};
    return refuse(errc::count_out_of_range, about, rows, config_.max_rows_per_rank, rank);
  }
  [[nodiscard]] constexpr status check_counts(const real_rows& rows) const noexcept {
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      if (status bad = check_count(r, rows[r], subject::tokens); !bad) return bad;
    }
    return {};
  }
  [[nodiscard]] constexpr status set_counts(const real_rows& rows) noexcept {
    if (status bad = check_counts(rows); !bad) return bad;
    plan_.real = rows;
    digest_builder digest;
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      const auto at = static_cast<std::size_t>(r);
      plan_.packed_offset[at + 1] = plan_.packed_offset[at] + rows[r];
      digest.add_signed(rows[r]);
    }
    plan_.counts_digest = digest.value();
    plan_.total_rows = plan_.packed_offset[static_cast<std::size_t>(plan_.dp_size)];
    return {};
  }

  /// Hidden rows are rounded up to whole attention-TP slices; logits and draft rows are not.
  template <situation Situation>
  [[nodiscard]] constexpr std::int32_t aligned(std::int32_t rows) const noexcept {
    if (plan_.kind != row_kind::hidden) return rows;
    return static_cast<std::int32_t>(round_up(rows, rules_.template row_multiple<Situation>()));
  }

  // --- graphs ---------------------------------------------------------------------------------

  [[nodiscard]] constexpr status requests_of(std::int32_t rank, std::int32_t tokens,
                                             std::int64_t& requests) const noexcept {
    if (tokens % plan_.width != 0)
      return refuse(errc::count_not_divisible, subject::tokens, tokens, plan_.width, rank);
    requests = tokens / plan_.width;
    return {};
  }

  constexpr void set_width(std::int32_t width) noexcept {
    plan_.width = width;
    plan_.rows_per_request = plan_.kind == row_kind::draft ? config_.draft_width : width;
  }

  [[nodiscard]] constexpr status pad_to_bucket(std::int32_t rank, std::int32_t bucket) noexcept {
    const std::int64_t rows = std::int64_t{bucket} * plan_.rows_per_request;
    if (rows > rules_.max_padded_rows())
      return refuse(errc::capacity_exceeded, subject::max_rows, rows, rules_.max_padded_rows(),
                    rank);
    plan_.padded.set(rank, static_cast<std::int32_t>(rows));
    return {};
  }

  /// Picks the bucket or buckets and the rows that follow. `missed`: no size fits, or the waste
  /// limit refuses the one that does, and the policy lets all ranks go eager.
  [[nodiscard]] constexpr status in_graph(const agreement& agreed, bool& missed) noexcept {
    using options = resolved<P, situation::in_graph>;
    constexpr lookup_kind by = options::lookup::kind;
    const bucket_list& per_rank = rules_.ladder();
    std::int64_t largest = 0;
    std::int64_t sum = 0;
    std::int32_t largest_rank = 0;
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      std::int64_t requests = 0;
      if (status bad = requests_of(r, agreed.tokens[r], requests); !bad) return bad;
      if (requests > largest) largest_rank = r;
      largest = std::max(largest, requests);
      sum += requests;
    }
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      const std::int64_t requests = agreed.tokens[r] / plan_.width;
      if (by == lookup_kind::own || by == lookup_kind::own_and_sum) {
        const std::int32_t bucket = per_rank.smallest_at_least(requests);
        if (bucket == 0) return miss(no_bucket(r, requests, per_rank.largest()), missed);
        plan_.attention_in_bucket = true;
        if (status bad = pad_to_bucket(r, bucket); !bad) return bad;
      } else if (by == lookup_kind::sum) {
        plan_.padded.set(r, aligned<situation::in_graph>(plan_.real[r]));
      }
    }
    if constexpr (by == lookup_kind::max) {
      const std::int32_t bucket = per_rank.smallest_at_least(largest);
      if (bucket == 0) return miss(no_bucket(largest_rank, largest, per_rank.largest()), missed);
      plan_.shared_bucket = bucket;
      plan_.attention_in_bucket = true;
      for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
        if (status bad = pad_to_bucket(r, bucket); !bad) return bad;
      }
    } else if constexpr (by != lookup_kind::own) {
      const std::int32_t bucket = rules_.shared_ladder().smallest_at_least(sum);
      if (bucket == 0) return miss(no_bucket(-1, sum, rules_.shared_ladder().largest()), missed);
      plan_.shared_bucket = bucket;
    }
    set_mode<typename options::mode, typename options::padding, situation::in_graph>(
        options::overrides_mode ? reason::graph_default : reason::fixed);
    if (config_.waste_limit > 0 && plan_.total_rows > 0 &&
        static_cast<double>(plan_.global_rows) >
            config_.waste_limit * static_cast<double>(plan_.total_rows)) {
      return miss(refuse(errc::no_bucket, subject::waste_limit, plan_.global_rows,
                         static_cast<std::int64_t>(config_.waste_limit *
                                                   static_cast<double>(plan_.total_rows))),
                  missed);
    }
    return {};
  }

  [[nodiscard]] static constexpr status miss(const status& why, bool& missed) noexcept {
    if constexpr (P::on_miss_type::go_eager) {
      missed = true;
      return {};
    } else {
      return why;
    }
  }

  // --- eager ----------------------------------------------------------------------------------

  constexpr void eager(const agreement& agreed) noexcept {
    using mode = typename resolved<P, situation::eager>::mode;
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      plan_.padded.set(r, aligned<situation::eager>(plan_.real[r]));
    }
    if constexpr (is_choice<mode>) {
      const choice chosen = mode::rule::decide({.max_rows = plan_.padded.max(),
                                                .sum_rows = plan_.padded.sum(),
                                                .ranks = plan_.dp_size,
                                                .any_prefill = agreed.extend_in_batch,
                                                .any_idle = agreed.any_idle});
      using to_max = typename mode::pad_to_max;
      using to_sum = typename mode::pad_to_sum;
      if (chosen.which == alternative::pad_to_max) {
        set_mode<typename to_max::mode, typename to_max::padding, situation::eager>(chosen.why);
      } else {
        set_mode<typename to_sum::mode, typename to_sum::padding, situation::eager>(chosen.why);
      }
    } else {
      set_mode<mode, typename resolved<P, situation::eager>::padding, situation::eager>(
          reason::fixed);
    }
  }

  /// Sizes when only this rank's count is known: the most that could come.
  template <situation Situation>
  constexpr void set_capacities() noexcept {
    using options = resolved<P, Situation>;
    const auto capacity = static_cast<std::int32_t>(rules_.max_padded_rows());
    set_kinds<typename options::mode, typename options::padding, Situation>(
        options::overrides_mode && Situation == situation::in_graph ? reason::graph_default
                                                                    : reason::fixed);
    plan_.stride = plan_.layout == layout_kind::slots ? capacity : 0;
    plan_.global_rows = std::int64_t{capacity} * plan_.dp_size;
  }

  // --- both -----------------------------------------------------------------------------------

  template <class Mode, class Padding, situation Situation>
  constexpr void set_kinds(reason why) noexcept {
    using options = resolved<P, Situation>;
    plan_.mode = Mode::kind;
    plan_.padding = Padding::kind;
    plan_.layout = layout_for<typename options::layout, Padding::kind>();
    if constexpr (Mode::kind == mode_kind::all_reduce) plan_.combine = options::combine::kind;
    plan_.why = why;
  }

  /// Mode, padding and layout, and the global rows that follow from counts and bucket.
  template <class Mode, class Padding, situation Situation>
  constexpr void set_mode(reason why) noexcept {
    set_kinds<Mode, Padding, Situation>(why);
    if constexpr (Padding::kind == padding_kind::max_len) {
      std::int32_t rows = plan_.padded.max();
      // Each attention-TP peer contributes an equal slice of the slot, logits included.
      if (Mode::kind == mode_kind::all_gather)
        rows = static_cast<std::int32_t>(round_up(rows, plan_.tp_size));
      for (std::int32_t r = 0; r < plan_.dp_size; ++r) plan_.padded.set(r, rows);
      plan_.stride = plan_.layout == layout_kind::slots ? rows : 0;
      plan_.global_rows = std::int64_t{rows} * plan_.dp_size;
    } else {
      plan_.stride = 0;
      if constexpr (Padding::kind == padding_kind::none) {
        plan_.global_rows = plan_.total_rows;
      } else if constexpr (Situation == situation::in_graph) {
        plan_.global_rows = std::int64_t{plan_.shared_bucket} * plan_.rows_per_request;
      } else {
        plan_.global_rows = plan_.padded.sum();
      }
    }
  }

  template <situation Situation>
  [[nodiscard]] constexpr status finish() noexcept {
    // A graph without a shared bucket freezes capacities; everything else its global rows.
    const bool frozen_at_capacity =
        plan_.in_graph() && plan_.padding == padding_kind::none && plan_.counts_known;
    const std::int64_t shape_rows =
        frozen_at_capacity ? rules_.max_padded_rows() * plan_.dp_size : plan_.global_rows;
    if (shape_rows > rules_.max_global_rows()) {
      status out = refuse(errc::capacity_exceeded, subject::max_global_rows, shape_rows,
                          rules_.max_global_rows());
      out.value_name = name_of(plan_.mode);
      return out;
    }
    // Only logits and draft rows can fail this: their bucket was looked up by tokens.
    for (std::int32_t r = 0; r < plan_.dp_size; ++r) {
      if (plan_.real[r] > plan_.padded[r])
        return refuse(errc::capacity_exceeded, subject::bucket, plan_.real[r], plan_.padded[r], r);
    }
    if (plan_.total_rows > plan_.global_rows)
      return refuse(errc::capacity_exceeded, subject::bucket, plan_.total_rows, plan_.global_rows);
    if (plan_.counts_known) set_wire_rows();
    digest_builder digest;
    const auto add = [&](auto value) { digest.add(static_cast<std::uint64_t>(value)); };
    add(static_cast<std::uint64_t>(plan_.mode) | static_cast<std::uint64_t>(plan_.padding) << 8 |
        static_cast<std::uint64_t>(plan_.layout) << 16 |
        static_cast<std::uint64_t>(plan_.situation) << 24 |
        static_cast<std::uint64_t>(plan_.counts) << 32 |
        static_cast<std::uint64_t>(plan_.combine) << 40 |
        static_cast<std::uint64_t>(plan_.kind) << 48 |
        static_cast<std::uint64_t>(plan_.element) << 56);
    add(static_cast<std::uint64_t>(static_cast<std::uint32_t>(plan_.dp_size)) << 32 |
        static_cast<std::uint32_t>(plan_.tp_size));
    // With unknown counts the width shapes this rank's attention only.
    const std::int32_t width = plan_.counts_known ? plan_.width : 0;
    add(static_cast<std::uint64_t>(static_cast<std::uint32_t>(width)) << 32 |
        static_cast<std::uint32_t>(plan_.shared_bucket));
    add(plan_.row_bytes);
    add(shape_rows);
    add(plan_.stride);
    plan_.digest = plan_.agreed_digest = digest.value();
    return {};
  }

  constexpr void set_wire_rows() noexcept {
    const std::int64_t real = plan_.total_rows;
    switch (plan_.mode) {
    case mode_kind::all_gather:
      plan_.gather_wire_rows = plan_.combine_wire_rows = plan_.global_rows;
      break;
    case mode_kind::all_reduce:
      plan_.gather_wire_rows = 2 * plan_.global_rows;
      plan_.combine_wire_rows =
          plan_.combine == combine_kind::reduce_scatter ? real : 2 * plan_.global_rows;
      break;
    case mode_kind::exact:
      plan_.gather_wire_rows = plan_.combine_wire_rows = real;
      break;
    }
  }

  const planner<P>& rules_;
  const gather_config& config_;
  step_plan& plan_;
};

} // namespace detail

/// The plan of one step, from the records of all ranks.
///
/// Pure and allocation-free: the same planner and agreement give a bit-equal plan on every rank.
/// A graph is planned iff the policy has a ladder and every rank cast its graph vote; buckets are
/// looked up in requests (tokens / width), rows are bucket times width.
///
/// Errors: `bad_group` (agreement of another world), `count_out_of_range{rank, value, limit}`,
/// `count_not_divisible{rank, tokens, width}`, `no_bucket{rank, requests, largest}` (also when the
/// waste limit refuses the bucket) unless the policy goes eager together, `capacity_exceeded`.
/// Source: SGLang PR #8278 for the choice between modes.
template <policy_like P>
[[nodiscard]] constexpr result<step_plan> make_plan(const planner<P>& rules,
                                                    const agreement& agreed,
                                                    row_kind kind = row_kind::hidden) noexcept {
  static_assert(P::counts_type::kind == counts_kind::agreed,
                "dpgather: counts::device and counts::exchanged plan from this rank's record only; "
                "pass the step_record, or use counts::agreed");
  result<step_plan> plan;
  if (status bad = detail::plan_maker<P>{rules, kind, *plan}.from(agreed); !bad) return bad;
  return plan;
}

/// The plan of one step when the host knows this rank's count only (`counts::device`,
/// `counts::exchanged`). A case of its own: there is no list of length one.
/// Errors: as above, for this rank.
template <policy_like P>
[[nodiscard]] constexpr result<step_plan> make_plan(const planner<P>& rules, const step_record& own,
                                                    row_kind kind = row_kind::hidden) noexcept {
  static_assert(P::counts_type::kind != counts_kind::agreed,
                "dpgather: counts::agreed plans from the merged records of all ranks; pass the "
                "agreement, or use counts::exchanged");
  result<step_plan> plan;
  if (status bad = detail::plan_maker<P>{rules, kind, *plan}.from(own); !bad) return bad;
  return plan;
}

/// The plan to capture for one of `planner::captured_sizes()`: of a step whose `shared_bucket` is
/// `bucket` requests. Counts in it mean nothing to a captured graph; its shape is that of every
/// step with that shared bucket. Looked up by the maximum, every rank has `bucket` requests; by the
/// sum, the ranks have them together. Local tensors of captured calls must hold the rows of
/// every replay; see `DpGather`. `width`: tokens per request. Errors: those of `make_plan`.
template <policy_like P>
[[nodiscard]] constexpr result<step_plan>
make_capture_plan(const planner<P>& rules, std::int32_t bucket, std::int32_t width = 1,
                  row_kind kind = row_kind::hidden) noexcept {
  static_assert(
      P::counts_type::kind == counts_kind::agreed,
      "dpgather: without agreed counts every plan has the shape of the capacities; capture "
      "with the plan of any step");
  const gather_config& config = rules.config();
  const std::int32_t ranks = config.topology.dp_size;
  agreement full;
  full.dp_size = ranks;
  full.tp_size = config.topology.tp_size;
  full.width = width;
  full.can_run_graph = true;
  full.tokens = full.logits_tokens = full.draft_tokens = real_rows::zeros(ranks);
  full.requests = request_counts::zeros(ranks);
  for (std::int32_t r = 0; r < ranks; ++r) {
    const std::int32_t requests =
        planner<P>::shares_sum ? bucket / ranks + (r < bucket % ranks ? 1 : 0) : bucket;
    full.tokens.set(r, requests * width);
    full.logits_tokens.set(r, requests * width);
    full.draft_tokens.set(r, requests * config.draft_width);
    full.requests.set(r, requests);
  }
  return make_plan(rules, full, kind);
}

/// Both steps in one, for a single plan; in a loop make the planner once.
template <policy_like P, class Known>
[[nodiscard]] constexpr result<step_plan> make_plan(const gather_config& config, const Known& known,
                                                    row_kind kind = row_kind::hidden) noexcept {
  const result<planner<P>> rules = planner<P>::make(config);
  if (!rules) return rules.status();
  return make_plan(*rules, known, kind);
}

} // namespace dpgather::inline v0
