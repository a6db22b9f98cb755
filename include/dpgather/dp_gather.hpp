#pragma once

/// @file
/// `DpGather<Policy>`: plan, gather, combine and scatter of one channel.

#include <dpgather/agreement.hpp>
#include <dpgather/arena_checks.hpp>
#include <dpgather/bootstrap.hpp>
#include <dpgather/call_checks.hpp>
#include <dpgather/channel.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/config.hpp>
#include <dpgather/count_set.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/gather_rows.hpp>
#include <dpgather/hash.hpp>
#include <dpgather/moved_rows.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/plan.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/protocol/in_use.hpp>
#include <dpgather/row_calls.hpp>
#include <dpgather/status.hpp>
#include <dpgather/tensor.hpp>
#include <dpgather/validate.hpp>

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dpgather::inline v0 {

/// Gathers the rows of all data-parallel ranks before the FFN, and brings each rank its own rows
/// back, summed, after it. One object per rank and channel.
///
/// - *Collective*: `gather` and `combine` are entered by all `W * A` ranks in the same order with
///   plans of the same shape; zero rows are rows like any other.
/// - *Stream*: work is ordered on the stream given; there is no default stream.
/// - *Capture*: calls may be captured, but for those whose communicator takes row counts from the
///   host (`not_capturable`). Shapes are the plan's and frozen; counts are read at replay from
///   `live_counts()`, which `refresh_counts` renews before each replay: one kind of rows in a
///   graph. So local views must hold the rows of every replay (`capacity_exceeded`): the bucket's
///   under `padding::max_len`, else the largest bucket's, or `rules().max_padded_rows()` where a
///   rank looks up no bucket of its own. Nothing is allocated after construction.
/// - *Ownership*: borrows communicator, workspace and all views. Address-stable: neither copied nor
///   moved, since `counts()` is read by kernels.
/// - *Inputs* are never written, and their rows beyond the real ones are never read (but by
///   `tail::leave` in an all-gather, which brings them along). In place is legal in one form: the
///   local input is this rank's own place in the global output, packed rows.
/// - *Errors*: where plans are compared (`compares_plans`, `checks::checked`), refused input is
///   refused on all ranks together: the rank at fault names the fault, the others answer
///   `peer_refused`, nothing is written, the next correct call works. Elsewhere only the rank at
///   fault knows: if the others do not refuse as well, they are in a collective that it left out,
///   which its next one would meet; abort and rebuild the communicators. A divergence, timeout or
///   lost peer is sticky: every later call answers `poisoned` with the first cause. After a sticky
///   error the output is undefined, and buffers must live until every rank has left the call.
/// - *Row movers* (`comm::peer`): rows are gathered into the channel's own view and combined from
/// its
///   own inputs, at fixed addresses; other memory costs a copy each way. Plans and counts are
///   compared by the kernels, so a refusal is the rank's own and a divergence an error that
///   `peer_world::check` tells after the call; see `basic_peer_communicator`.
/// - *Streams*: calls of one object on several streams are the engine's to order.
/// - *Threads*: one at a time; a second one is answered `busy`.
template <policy_like Policy,
          communicator Communicator = typename communicator_of<typename Policy::comm_type>::type>
class DpGather {
public:
  static_assert(validate<Policy>());
  static_assert(std::same_as<typename Communicator::tag, typename Policy::comm_type>,
                "dpgather: the communicator is not the one the policy names; use rebind_comm");

  using policy_type = Policy;
  using communicator_type = Communicator;
  using stream_type = typename Communicator::stream_type;
  static constexpr std::size_t workspace_alignment =
      executor<typename Communicator::stream_type>::has_own_memory ? 256 : 16;

  /// `workspace`: at least `workspace_bytes(config)` bytes that this channel alone uses, in memory
  /// of the communicator's kind, aligned to `workspace_alignment`; may be empty where that is 0.
  /// Allocates its lists. A constructor that failed makes every call answer why; see `check()`.
  DpGather(Communicator comm, const gather_config& config, std::span<std::byte> workspace = {})
      : lane_{comm, config.topology, workspace}, records_(static_cast<std::size_t>(comm.size())) {
    const result<planner<Policy>> made = planner<Policy>::make(config);
    if (!made) {
      broken_ = made.status();
      return;
    }
    rules_ = *made;
    const auto refuse = [&](errc code, subject about, std::int64_t value, std::int64_t limit) {
      broken_ = status{.code = code,
                       .about = about,
                       .rank = comm.rank(),
                       .value = value,
                       .limit = limit,
                       .where = "DpGather"};
    };
    const auto needed = static_cast<std::int64_t>(workspace_bytes(rules_));
    const auto have = static_cast<std::int64_t>(workspace.size());
    if (comm.size() != config.topology.world_size()) {
      refuse(errc::bad_group, subject::world, comm.size(), config.topology.world_size());
    } else if (comm.rank() != config.topology.world_rank()) {
      refuse(errc::bad_group, subject::rank, comm.rank(), config.topology.world_rank());
    } else if (lane_.attention_tp.size() != config.topology.tp_size ||
               lane_.attention_tp.rank() != config.topology.tp_rank) {
      refuse(errc::bad_group, subject::tp_size, lane_.attention_tp.size(), config.topology.tp_size);
    } else if (reinterpret_cast<std::uintptr_t>(workspace.data()) % workspace_alignment != 0) {
      refuse(errc::misaligned, subject::workspace,
             static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(workspace.data()) %
                                       workspace_alignment),
             workspace_alignment);
    } else if (have < needed) {
      refuse(errc::capacity_exceeded, subject::workspace, needed, have);
    } else {
      broken_ = in_memory(workspace.data(), subject::workspace, "DpGather");
    }
    if constexpr (row_mover<Communicator>) {
      if (broken_.ok()) broken_ = lane_.comm.standing();
      if (broken_.ok())
        broken_ = detail::check_arena(lane_.comm.layout(), config, rules_.max_global_rows());
      if (broken_.ok()) broken_ = lane_.comm.prepare(config.element);
    }
  }
  DpGather(const DpGather&) = delete;
  DpGather& operator=(const DpGather&) = delete;

  /// Ok, or why this object cannot work.
  [[nodiscard]] status check() const noexcept { return broken_; }

  /// Bytes of workspace for a configuration, known before anything is allocated.
  /// Errors: those of `planner::make`.
  [[nodiscard]] static result<std::size_t> workspace_bytes(const gather_config& config) noexcept {
    const result<planner<Policy>> made = planner<Policy>::make(config);
    if (!made) return made.status();
    return workspace_bytes(*made);
  }

  [[nodiscard]] const gather_config& config() const noexcept { return rules_.config(); }
  /// Ladders, capacities, configuration hash.
  [[nodiscard]] const planner<Policy>& rules() const noexcept { return rules_; }
  /// Real rows, offsets and total of the last call, at a fixed address; this rank's rows only,
  /// where the counts are the device's and no host has seen the others'.
  [[nodiscard]] const count_set& counts() const noexcept { return lane_.counts; }
  /// The same where kernels read them, at a fixed address too: device memory, at the front of the
  /// workspace, or `counts()` itself where there is no device.
  [[nodiscard]] const count_set* live_counts() const noexcept { return lane_.live; }
  /// This rank's real rows there, for `unit_counts::live`.
  [[nodiscard]] const std::int32_t* live_rows() const noexcept {
    return lane_.live->rows + config().topology.dp_rank;
  }
  /// Where the plan's rows lie, for kernels and jobs of the engine's own (see `row_masks`).
  [[nodiscard]] placement live_places(const step_plan& plan) const noexcept {
    return lane_.live_places(plan);
  }
  /// Where the engine writes the rows of all ranks under `counts::device`, where there is no
  /// device.
  [[nodiscard]] count_set& counts() noexcept
      requires(Policy::counts_type::kind == counts_kind::device &&
               !channel<Communicator>::run_on::has_own_memory) {
    return lane_.counts;
  }
  /// Where the engine's kernels write counts before a call: the rows of all ranks under
  /// `counts::device`, this rank's under `counts::exchanged`. In memory of the device.
  [[nodiscard]] count_set* live_counts() noexcept
      requires(Policy::counts_type::kind != counts_kind::agreed) {
    return lane_.live;
  }

  // --- once a step ----------------------------------------------------------------------------

  /// A step record with everything filled in that this object knows.
  [[nodiscard]] step_record record(std::uint64_t step) const noexcept {
    step_record out;
    out.step = step;
    out.world_rank = config().topology.world_rank();
    out.config_hash = rules_.config_hash();
    out.last_plan = last_plan_;
    return out;
  }

  /// Exchanges records over `ranks` and merges them. Collective, constant-size; a rank that cannot
  /// run the step takes part with `cannot_run` set. Errors: those of the bootstrap and of `merge`.
  template <bootstrap Bootstrap>
  [[nodiscard]] result<agreement> agree(Bootstrap& ranks, const step_record& mine) noexcept {
    const in_use guard{lane_.busy};
    if (!guard) {
      return status{.code = errc::busy,
                    .about = subject::call,
                    .rank = lane_.comm.rank(),
                    .value = 1,
                    .where = "agree"};
    }
    if (!diverged_.ok()) return diverged_.as_poisoned();
    if (!broken_.ok()) {
      // The others wait for this rank: it takes part, and says that it cannot run.
      step_record unable = mine;
      unable.world_rank = ranks.rank();
      unable.cannot_run = static_cast<std::int32_t>(broken_.code);
      (void)exchange_records(ranks, unable, records_);
      return broken_;
    }
    if (status bad = exchange_records(ranks, mine, records_); !bad) return bad;
    const result<agreement> agreed = merge(records_, config().topology);
    if (is_sticky(agreed.code())) diverged_ = agreed.status();
    return agreed;
  }

  /// The plan of the step; pure. Errors: those of `make_plan`.
  [[nodiscard]] result<step_plan> plan(const agreement& agreed,
                                       row_kind kind = row_kind::hidden) const noexcept {
    if (!broken_.ok()) return broken_;
    return make_plan(rules_, agreed, kind);
  }
  /// The same from the records of all ranks. Errors: those of `merge` and `make_plan`.
  [[nodiscard]] result<step_plan> plan(std::span<const step_record> records,
                                       row_kind kind = row_kind::hidden) const noexcept {
    if (!broken_.ok()) return broken_;
    const result<agreement> agreed = merge(records, config().topology);
    if (!agreed) return agreed.status();
    return make_plan(rules_, *agreed, kind);
  }
  /// The plan from this rank's record only, for `counts::device` and `counts::exchanged`.
  [[nodiscard]] result<step_plan> plan(const step_record& own,
                                       row_kind kind = row_kind::hidden) const noexcept
      requires(Policy::counts_type::kind != counts_kind::agreed) {
    if (!broken_.ok()) return broken_;
    return make_plan(rules_, own, kind);
  }

  /// Brings the plan's counts to where kernels read them: once a step, before its first kernel that
  /// does (a replay, or padding with `unit_counts::live`). One small launch, nothing when they are
  /// there already; gather, combine and scatter outside graphs do it themselves.
  /// Under `checks::checked` collective: all ranks compare their plans, which a replay cannot.
  /// Stream: ordered, so it may follow replays that are still under way. Capture: `not_capturable`,
  /// it would freeze the counts. Errors: `busy`, `plan_mismatch`, and the communicator's.
  [[nodiscard]] status refresh_counts(const step_plan& plan, stream_type stream) noexcept {
    const detail::call_checks checks = checks_of(plan, name_of(operation::replay));
    const in_use guard{lane_.busy};
    if (!guard) return checks.refuse(errc::busy, subject::call, 1, 0);
    if (status bad = standing(); !bad) return bad;
    const result<bool> capturing = channel<Communicator>::run_on::is_capturing(stream);
    if (!capturing) return by_this_rank(capturing.status());
    if (*capturing) return checks.refuse(errc::not_capturable, subject::counts, 1, 0);
    if (plan.dp_size != config().topology.dp_size || plan.tp_size != config().topology.tp_size)
      return checks.refuse(errc::bad_group, subject::world,
                           std::int64_t{plan.dp_size} * plan.tp_size,
                           config().topology.world_size());
    if constexpr (Policy::checks_type::compare_plans && !row_mover<Communicator>) {
      ++lane_.call_index;
      const const_token_rows<replicated> none{nullptr, 0, plan.element, plan.row_bytes};
      if (status bad = lane_.comm.announce(announcement(operation::replay, none, plan, {}),
                                           lane_.calls, stream);
          !bad) {
        if (bad.code == errc::busy) --lane_.call_index; // nothing was announced
        return bad;
      }
    }
    if (!plan.counts_known && !tells_own_count) return {};
    bring_counts(plan);
    if (status bad = lane_.refresh(stream); !bad) return ended(bad, false);
    last_plan_ = plan.agreed_digest;
    return {};
  }

  /// The plan to capture for one of `rules().captured_sizes()`; see `make_capture_plan`.
  [[nodiscard]] result<step_plan> capture_plan(std::int32_t bucket, std::int32_t width = 1,
                                               row_kind kind = row_kind::hidden) const noexcept
      requires(Policy::counts_type::kind == counts_kind::agreed) {
    if (!broken_.ok()) return broken_;
    return make_capture_plan(rules_, bucket, width, kind);
  }

  // --- calls ----------------------------------------------------------------------------------

  /// Every rank's real rows, on every rank.
  ///
  /// `local`: `[>= n, row_bytes]` with `n = plan.real[dp_rank]`, `replicated` over the attention-TP
  /// peers or `partial`; `global`: `[>= plan.global_rows, row_bytes]`, rows without gaps. Rows that
  /// are not real become what the tail policy says; rows beyond `plan.global_rows` are not touched.
  /// Answers the view of `plan.global_rows` rows. Any element and row size; partial rows need an
  /// element that has a sum.
  /// Errors: `count_changed`, `capacity_exceeded`, `null_pointer`, `misaligned`, `shape_mismatch`,
  /// `aliasing`, `unsupported_type`, `wrong_memory`, `not_capturable`, `plan_mismatch`,
  /// `peer_refused`, and the communicator's.
  template <row_state State, class Byte>
  [[nodiscard]] result<token_rows<replicated>>
  gather(const token_rows<State, Byte>& local, const token_rows<replicated>& global,
         const step_plan& plan, stream_type stream) noexcept {
    return gather(local, global, plan, stream, gather_along{});
  }
  /// The same with what is brought along; see `gather_along`. Their views: `view(plan, t)`.
  template <row_state State, class Byte>
  [[nodiscard]] result<token_rows<replicated>>
  gather(const token_rows<State, Byte>& local, const token_rows<replicated>& global,
         const step_plan& plan, stream_type stream, const gather_along& along) noexcept {
    const const_token_rows<State> from{local};
    const status done = call(
        operation::gather, from, plan, stream,
        [&](const detail::call_checks& checks, bool capturing) noexcept {
          using inside = resolved<Policy, situation::in_graph>;
          using outside = resolved<Policy, situation::eager>;
          const bool whole = !row_mover<Communicator> &&
                             (plan.in_graph() ? detail::sends_as_it_is<inside>(from, plan)
                                              : detail::sends_as_it_is<outside>(from, plan));
          const std::int64_t real = plan.real[config().topology.dp_rank];
          if (status bad = checks.gather(from, global, whole ? plan.stride : real); !bad)
            return bad;
          if (status bad = holds_replays(checks, from.rows(), plan, capturing); !bad) return bad;
          if (status bad = fits_arena<State>(checks, from.row_bytes(), along, real, plan); !bad)
            return bad;
          return in_memory(from, global, "gather");
        },
        [&]<situation Situation>(bool frozen) noexcept {
          return moving<Situation>(plan, stream, frozen).gather(from, global, along);
        });
    if (!done) return done;
    return global.first(plan.global_rows);
  }

  /// The same into the channel's own view: nothing is copied after. Valid until this rank's next
  /// call on the channel starts.
  template <row_state State, class Byte>
  [[nodiscard]] result<token_rows<replicated>>
  gather(const token_rows<State, Byte>& local, const step_plan& plan, stream_type stream,
         const gather_along& along = {}) noexcept requires row_mover<Communicator> {
    return gather(local, view(plan), plan, stream, along);
  }
  /// What the channel gathers into: `[plan.global_rows, row_bytes]`; tensor `t` of those brought
  /// along, the hidden rows with 0. At a fixed address.
  [[nodiscard]] token_rows<replicated>
  view(const step_plan& plan, std::int32_t t = 0) noexcept requires row_mover<Communicator> {
    return {lane_.comm.view(t), plan.global_rows, t == 0 ? plan.element : element::u8,
            lane_.comm.layout().row_bytes[t]};
  }
  /// Where an FFN writes the addends of a combine, so that nothing is copied before it:
  /// `[plan.global_rows, row_bytes]`, at a fixed address. May be rewritten once this rank's next
  /// call has completed; a combine right after a combine takes the other one (`which`), else the
  /// call fails with `aliasing`.
  [[nodiscard]] token_rows<partial>
  combine_input(const step_plan& plan,
                std::int32_t which = 0) noexcept requires row_mover<Communicator> {
    return {lane_.comm.input(which), plan.global_rows, plan.element, plan.row_bytes};
  }

  /// This rank's rows of the sum over all ranks.
  ///
  /// `global`: `[>= plan.global_rows, row_bytes]`, this rank's addend, never written; `local`:
  /// `[>= n, row_bytes]`, of which the rows beyond n become what the tail policy says. Sums are the
  /// communicator's (`host`: fp32, rank order). Errors: as `gather`.
  template <row_state State, class Byte>
  [[nodiscard]] status combine(const token_rows<State, Byte>& global,
                               const token_rows<replicated>& local, const step_plan& plan,
                               stream_type stream) noexcept {
    static_assert(std::same_as<State, partial>,
                  "dpgather: combine sums partial rows; replicated rows would be counted once per "
                  "rank, use scatter");
    const const_token_rows<partial> from{global};
    return call(
        operation::combine, from, plan, stream,
        [&](const detail::call_checks& checks, bool capturing) noexcept {
          if (status bad = checks.back(from, local,
                                       row_mover<Communicator> ? SIZE_MAX : lane_.workspace.size());
              !bad)
            return bad;
          if (status bad = holds_replays(checks, local.rows(), plan, capturing); !bad) return bad;
          if (status bad = fits_arena<partial>(checks, from.row_bytes(), {}, 0, plan); !bad)
            return bad;
          return in_memory(local, from, "combine");
        },
        [&]<situation Situation>(bool frozen) noexcept {
          return moving<Situation>(plan, stream, frozen).combine(from, local);
        });
  }

  /// This rank's rows of a global tensor that owes nothing: a local copy, no communication.
  /// Shapes and errors: as `combine`; `count_changed` also when the last call learnt other counts.
  template <row_state State, class Byte>
  [[nodiscard]] status scatter(const token_rows<State, Byte>& global,
                               const token_rows<replicated>& local, const step_plan& plan,
                               stream_type stream) noexcept {
    static_assert(std::same_as<State, replicated>,
                  "dpgather: scatter copies rows that owe nothing; partial rows would lose the "
                  "other ranks' addends, use combine");
    const const_token_rows<replicated> from{global};
    const detail::call_checks checks = checks_of(plan, "scatter");
    const in_use guard{lane_.busy};
    if (!guard) return checks.refuse(errc::busy, subject::call, 1, 0);
    if (!broken_.ok()) return broken_;
    if (status bad = checks.back(from, local, 0); !bad) return bad;
    if (status bad = in_memory(local, from, "scatter"); !bad) return bad;
    const std::int32_t own = config().topology.dp_rank;
    if (plan.counts_known) {
      lane_.set_counts(plan);
    } else if (!row_mover<Communicator> && lane_.counts.rows[own] != plan.real[own]) {
      return checks.refuse(errc::count_changed, subject::counts, lane_.counts.rows[own],
                           plan.real[own]);
    }
    const result<bool> capturing = channel<Communicator>::run_on::is_capturing(stream);
    if (!capturing) return by_this_rank(capturing.status());
    if (status bad = holds_replays(checks, local.rows(), plan, *capturing); !bad) return bad;
    if (!*capturing && plan.counts_known) {
      if (status bad = lane_.refresh(stream); !bad) return by_this_rank(bad);
    }
    return by_this_rank(
        plan.in_graph() ? moving<situation::in_graph>(plan, stream, true).scatter(from, local)
                        : moving<situation::eager>(plan, stream, *capturing).scatter(from, local));
  }

private:
  /// Counts where kernels read them, and the most that any call of this policy stages: a whole
  /// summed global tensor where an all-reduce may not write its input, else one rank's padded rows.
  [[nodiscard]] static std::size_t workspace_bytes(const planner<Policy>& rules) noexcept {
    constexpr bool sums_everything =
        detail::may_sum_everything<Policy, situation::eager>() ||
        (has_graphs<Policy> && detail::may_sum_everything<Policy, situation::in_graph>());
    if constexpr (row_mover<Communicator>) {
      // Arenas hold the rest; a row functor writes its rows here first.
      constexpr bool as_they_are = Policy::row_op_type::is_identity;
      return channel<Communicator>::live_bytes +
             (as_they_are
                  ? 0
                  : static_cast<std::size_t>(rules.max_padded_rows()) * rules.config().row_bytes);
    }
    if (sums_everything) return channel<Communicator>::live_bytes + rules.max_global_bytes();
    return channel<Communicator>::live_bytes +
           static_cast<std::size_t>(
               round_up(rules.max_padded_rows(), rules.config().topology.tp_size)) *
               rules.config().row_bytes;
  }

  /// What every collective call does around its body: one user at a time, checks, one announcement,
  /// one verdict. A refused input is announced, so that no rank waits for the one that refused.
  template <row_state State, class Check, class Body>
  [[nodiscard]] status call(operation what, const const_token_rows<State>& from,
                            const step_plan& plan, stream_type stream, Check check,
                            Body body) noexcept {
    const detail::call_checks checks = checks_of(plan, name_of(what));
    const in_use guard{lane_.busy};
    if (!guard) return checks.refuse(errc::busy, subject::call, 1, 0);
    if (status bad = standing(); !bad) return bad;
    const result<bool> capturing = channel<Communicator>::run_on::is_capturing(stream);
    if (!capturing) return ended(capturing.status(), false);
    status refused;
    if (*capturing && Communicator::freezes_counts && sends_counts(what, plan))
      refused = checks.refuse(errc::not_capturable, subject::mode,
                              static_cast<std::int64_t>(plan.mode), 0);
    if (refused.ok()) refused = check(checks, *capturing);
    bool announced = false;
    if constexpr (!row_mover<Communicator> &&
                  (Communicator::compares_plans || Policy::checks_type::compare_plans)) {
      // A capture moves nothing and cannot wait; its replays are compared by `refresh_counts`.
      if (!*capturing) {
        ++lane_.call_index;
        const status verdict =
            lane_.comm.announce(announcement(what, from, plan, refused), lane_.calls, stream);
        if (verdict.code == errc::busy) --lane_.call_index; // nothing was announced
        if (!verdict.ok() && (refused.ok() || is_sticky(verdict.code))) return verdict;
        announced = verdict.code != errc::busy;
      }
    }
    if (!refused.ok()) return announced ? refused : ended(refused, *capturing);
    if (plan.counts_known || row_mover<Communicator>) {
      bring_counts(plan);
    } else {
      learn_counts(plan);
    }
    // A combine goes by what the gather before it has told.
    if (!*capturing && (plan.counts_known || (tells_own_count && what == operation::gather))) {
      if (status bad = lane_.refresh(stream); !bad) return ended(bad, false);
    }
    const bool frozen = plan.in_graph() || *capturing; // a replay may bring other counts
    status done = plan.in_graph() ? body.template operator()<situation::in_graph>(frozen)
                                  : body.template operator()<situation::eager>(frozen);
    if (done.ok() && !*capturing) last_plan_ = plan.agreed_digest; // a capture executes nothing
    if (done.code == errc::poisoned) { // by what happened during this call
      done.code = done.cause;
      done.cause = errc::ok;
    }
    return ended(done, *capturing, true);
  }

  [[nodiscard]] detail::call_checks checks_of(const step_plan& plan,
                                              const char* where) const noexcept {
    return {config(), channel<Communicator>::run_on::has_own_memory ? nullptr : &lane_.counts, plan,
            where};
  }

  /// A captured call serves every count that its shape has room for: so must the local view.
  [[nodiscard]] status holds_replays(const detail::call_checks& checks, std::int64_t local_rows,
                                     const step_plan& plan, bool capturing) const noexcept {
    if (!capturing || plan.dp_size != config().topology.dp_size) return {};
    std::int64_t most = plan.padded[config().topology.dp_rank];
    if (plan.padding != padding_kind::max_len) {
      // A rank that looks up its own bucket holds at most the largest one.
      constexpr lookup_kind by = resolved<Policy, situation::in_graph>::lookup::kind;
      const bool bounded = plan.in_graph() && by != lookup_kind::sum;
      most = std::min({rules_.max_padded_rows(), plan.global_rows,
                       bounded ? std::int64_t{rules_.ladder().largest()} * plan.rows_per_request
                               : plan.global_rows});
    }
    if (local_rows >= most) return {};
    return checks.refuse(errc::capacity_exceeded, subject::local, most, local_rows);
  }

  /// Whether calls can be made: of this object, and of a communicator that can say so before it is
  /// used.
  [[nodiscard]] status standing() noexcept {
    if (!broken_.ok()) return broken_;
    if (!diverged_.ok()) return diverged_.as_poisoned();
    if constexpr (requires { lane_.comm.standing(); }) {
      return lane_.comm.standing();
    } else {
      return {};
    }
  }
  /// The end of a call on this rank. A failure in the middle of it, whatever its kind, and a sticky
  /// error that the peers did not hear of end the communicator too: they are in this call, so this
  /// rank's next one would meet it. A capture moves nothing, and may be tried again.
  [[nodiscard]] status ended(const status& why, bool capturing, bool midway = false) noexcept {
    const status out = by_this_rank(why);
    if constexpr (requires { lane_.comm.fail(out); }) {
      if (!out.ok() && (midway || is_sticky(out.code)) && !capturing) lane_.comm.fail(out);
    }
    return out;
  }
  /// The runtime's errors don't know whose they are.
  [[nodiscard]] status by_this_rank(status why) const noexcept {
    if (!why.ok() && why.rank < 0) why.rank = config().topology.world_rank();
    return why;
  }

  template <row_state State>
  [[nodiscard]] call_record announcement(operation what, const const_token_rows<State>& from,
                                         const step_plan& plan,
                                         const status& refused) const noexcept {
    call_record out = call_record::of(what, plan, lane_.call_index, config().topology.dp_rank);
    out.element = from.element();
    out.row_bytes = from.row_bytes();
    out.owes_sum = std::same_as<State, partial> && (what == operation::combine || plan.tp_size > 1);
    if (Policy::counts_type::kind == counts_kind::device) {
      digest_builder written;
      for (std::int32_t d = 0; d < config().topology.dp_size; ++d)
        written.add_signed(lane_.counts.rows[d]);
      out.counts_digest = written.value();
    }
    out.refused = refused.code;
    out.refused_about = refused.about;
    out.refused_value = refused.value;
    out.refused_limit = refused.limit;
    return out;
  }

  /// Whether the collectives of a call take row counts, not shapes: a capture would freeze them.
  [[nodiscard]] static constexpr bool sends_counts(operation what, const step_plan& plan) noexcept {
    return plan.mode == mode_kind::exact ||
           (what == operation::combine && plan.mode == mode_kind::all_reduce &&
            plan.combine == combine_kind::reduce_scatter);
  }

  /// `wrong_memory`, naming the buffer, unless kernels here may use what has rows.
  [[nodiscard]] status in_memory(const void* data, subject about, const char* where) noexcept {
    status bad = channel<Communicator>::run_on::check_memory(data);
    if (bad.ok()) return bad;
    bad.about = about;
    bad.rank = config().topology.world_rank();
    bad.where = where;
    return bad;
  }
  template <row_state A, class AByte, row_state B, class BByte>
  [[nodiscard]] status in_memory(const token_rows<A, AByte>& local,
                                 const token_rows<B, BByte>& global, const char* where) noexcept {
    if (status bad = in_memory(local.rows() > 0 ? local.data() : nullptr, subject::local, where);
        !bad)
      return bad;
    return in_memory(global.rows() > 0 ? global.data() : nullptr, subject::global, where);
  }

  /// Whether kernels tell each other the counts, and this rank's comes from its plan.
  static constexpr bool tells_own_count =
      row_mover<Communicator> && Policy::counts_type::kind == counts_kind::exchanged;

  /// The plan's counts, as far as the host knows them, on their way to the kernels. Where kernels
  /// tell each other, the device may hold another count of this rank by now: it is always written.
  void bring_counts(const step_plan& plan) noexcept {
    if (plan.counts_known) {
      lane_.set_counts(plan);
    } else if constexpr (tells_own_count) {
      const std::int32_t own = config().topology.dp_rank;
      lane_.set(own, plan.real[own], plan.padded[own]);
      lane_.stale = true;
    }
  }

  /// Rows, and what is brought along, are what the arena was sized for, if there is one.
  template <row_state State>
  [[nodiscard]] status fits_arena(const detail::call_checks& checks, std::size_t row_bytes,
                                  const gather_along& along, std::int64_t real,
                                  const step_plan& plan) noexcept {
    if constexpr (row_mover<Communicator>) {
      const peer_layout& has = lane_.comm.layout();
      if (status bad = detail::check_row_bytes(has, checks, row_bytes); !bad) return bad;
      return detail::check_along(has, checks, along, real,
                                 std::same_as<State, partial> && plan.tp_size > 1);
    } else {
      if (along.tensors.empty() && along.masks == nullptr) return {};
      return checks.refuse(errc::unsupported_type, subject::tensor,
                           static_cast<std::int64_t>(along.tensors.size()), 0);
    }
  }

  /// Counts that the host did not know when it planned: brought by the announcement. Those that the
  /// engine wrote are in place already, and were compared by digest.
  void learn_counts(const step_plan& plan) noexcept {
    if (Policy::counts_type::kind == counts_kind::exchanged) {
      for (std::int32_t d = 0; d < plan.dp_size; ++d)
        lane_.set(d, lane_.calls[static_cast<std::size_t>(d * plan.tp_size)].rows, plan.padded[d]);
    }
    lane_.counts.sum_up(plan.dp_size);
  }

  template <situation Situation>
  [[nodiscard]] detail::row_calls<Policy, Situation, Communicator>
  moving(const step_plan& plan, stream_type stream, bool frozen) noexcept {
    return {lane_, plan, stream, frozen};
  }

  channel<Communicator> lane_;
  planner<Policy> rules_{};
  status broken_{};
  status diverged_{};                // found in the records, so by all ranks
  std::vector<step_record> records_; // of all ranks, of the current step
  std::uint64_t last_plan_ = 0;
};

/// The same in the library's own spelling.
template <policy_like Policy,
          communicator Communicator = typename communicator_of<typename Policy::comm_type>::type>
using dp_gather = DpGather<Policy, Communicator>;

} // namespace dpgather::inline v0
