#pragma once

/// @file
/// A batch that is padded for a step and, whatever happens in between, is itself again afterwards.
///
/// ```cpp
/// dpgather::batch<cudaStream_t> batch{declaration, workspace};         // once, at the start
/// // each step:
/// auto padded = batch.pad(dpgather::batch_step::decode({.real = n, .padded = bucket}), stream);
/// if (!padded) return padded.status();
/// forward(...);                                                        // may throw or return
/// return padded->finish();
/// ```

#include <dpgather/batch_fill.hpp>
#include <dpgather/batch_results.hpp>
#include <dpgather/batch_step.hpp>
#include <dpgather/batch_tensors.hpp>
#include <dpgather/batch_trim.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/leak_scan.hpp>
#include <dpgather/device/saved_tail.hpp>
#include <dpgather/padded_batch.hpp>
#include <dpgather/status.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dpgather::inline v0 {

/// The tensors of a batch and what they looked like before they were padded.
///
/// Ownership: borrows tensors, row counts, sum and workspace; owns lists and the saved bytes of
/// host copies, allocated when it is made. Threads: one at a time. Streams: the engine orders steps
/// of one batch, whose workspace is one.
///
/// Capture: what a graph replays is the padding and the restoring of memory, with counts that are
/// read at replay (`live`). The host's part (row counts, host copies, the sum, cut results) happens
/// once, while the graph is captured, and is undone then: so counts of the host are refused under
/// capture, and live counts where there are host copies or a sum. Results are left alone under live
/// counts. Usually the whole batch is padded outside, before the graph's launch.
template <class Stream>
class batch {
public:
  static constexpr std::size_t workspace_alignment = 16;

  /// `workspace`: at least `batch_workspace_bytes(declared)` bytes of the stream's memory, apart
  /// from the tensors. A declaration that is refused makes every `pad` answer why; see `check`.
  batch(const batch_declaration& declared, std::span<std::byte> workspace)
      : tensors_(declared.tensors.begin(), declared.tensors.end()),
        results_(declared.results.begin(), declared.results.end()), all_{declared}, workspace_{
                                                                                        workspace} {
    all_.tensors = tensors_;
    all_.results = results_;
    broken_ = check_declaration();
    broken_.rank = all_.rank;
    if (!broken_.ok()) return;
    const auto levels = static_cast<std::size_t>(all_.depth);
    level_bytes_ = detail::level_header + detail::level_bytes(all_, false);
    host_level_bytes_ = detail::level_bytes(all_, true);
    host_saved_.resize(levels * host_level_bytes_ + 16);
    rows_before_.resize(levels * tensors_.size());
    frames_.resize(levels);
    std::size_t on_stream = detail::level_header;
    std::size_t on_host = 0;
    for (const batch_entry& e : tensors_) {
      std::size_t& next = e.on_host ? on_host : on_stream;
      places_.push_back(next);
      if (detail::saving_of(e) != batch_saving::nothing)
        next += saved_bytes(detail::most_padding_of(e, all_));
      if (detail::is_absent(e)) continue;
      const batch_tail tail = detail::tail_of(e, {}, all_.engine);
      if (e.tensor == batch_tensor::sequence_lengths) length_fill_ = tail.value;
      if (e.tensor == batch_tensor::speculative_hidden) hidden_unit_ = tail.unit;
    }
  }
  batch(const batch&) = delete;
  batch& operator=(const batch&) = delete;

  /// Ok; or why this object cannot work; or `poisoned` by a destructor's restoring that failed: its
  /// step left tensors half restored.
  [[nodiscard]] status check() const noexcept {
    return !broken_.ok() ? broken_ : half_restored_.ok() ? status{} : half_restored_.as_poisoned();
  }
  /// After a half-restored step: the engine has rebuilt its tensors.
  void clear() noexcept { half_restored_ = {}; }

  /// Guards that are active.
  [[nodiscard]] std::int32_t open() const noexcept { return open_; }

  /// Pads every tensor that is there, in one launch, which saves what it overwrites; then host
  /// copies, the sum and the row counts. Inside another guard the tensors are what that one made of
  /// them; row counts may then be its padded ones or the real ones.
  /// Stream: ordered. Capture: with live counts only, see the class.
  /// Errors: nothing was written; `peer` is the tensor's index.
  /// - `count_out_of_range`, `capacity_exceeded`: as for `pad(std::span<const pad_tensor>)`;
  ///   `capacity_exceeded` about `subject::call` for more guards than `depth`;
  /// - `count_changed{value = rows, limit = real}`: a row count of the engine says otherwise;
  /// - `not_capturable`: counts of the host under capture;
  /// - `bad_config`: live counts beside host copies or the sum, or a phase without its speculation;
  /// - those of `padded_sequence_sum`, of `check`, `native_error`.
  [[nodiscard]] result<padded_batch<Stream>> pad(const batch_step& step, Stream stream) noexcept {
    const result<bool> capturing = executor<Stream>::is_capturing(stream);
    status bad = check();
    if (bad.ok() && open_ == all_.depth)
      bad = {.code = errc::capacity_exceeded,
             .about = subject::call,
             .value = open_ + 1,
             .limit = all_.depth,
             .value_name = "guards",
             .where = where};
    if (bad.ok()) bad = capturing.status();
    frame next{.step = step, .stream = stream};
    if (bad.ok()) {
      next.captured = *capturing;
      bad = check_step(next);
    }
    if (bad.ok()) {
      frames_[static_cast<std::size_t>(open_)] = next;
      bad = save_and_pad(listed(open_, false).span(), stream);
    }
    if (!bad.ok()) {
      if (bad.rank < 0) bad.rank = all_.rank;
      return bad;
    }
    (void)save_and_pad(listed(open_, true).span(), host_stream{}); // checked: cannot fail
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (has_rows(tensors_[i])) rows_before(open_, i) = *tensors_[i].rows;
    }
    for (const batch_entry& e : tensors_) { // two tensors may share a count
      if (has_rows(e)) *e.rows = padding(e, step).units.padded;
    }
    frame& now = frames_[static_cast<std::size_t>(open_)];
    if (all_.sequence_sum != nullptr) *all_.sequence_sum = next.sum_padded;
    now.number = ++steps_;
    return padded_batch<Stream>{this, open_++, now.number};
  }

  /// The first leak so far: `tail_leak` with this rank, the result's index (`peer`), its row and
  /// the number of the `pad` (`call`, from 1), or ok. Results of the steps that `finish` has ended.
  /// Precondition: the stream has passed.
  [[nodiscard]] status leak() const noexcept {
    if (all_.leak == nullptr) return {};
    const std::uint64_t key = std::atomic_ref{all_.leak->first}.load(std::memory_order_acquire);
    if (key == leak_record::none) return {};
    const std::uint32_t i = leak_record::tensor_of(key);
    return {.code = errc::tail_leak,
            .about = subject::tensor,
            .rank = all_.rank,
            .peer = static_cast<std::int32_t>(i),
            .value = leak_record::row_of(key),
            .value_name = i < results_.size() ? name_of(results_[i].tensor) : nullptr,
            .call = leak_record::step_of(key),
            .where = "batch::leak"};
  }

private:
  friend class padded_batch<Stream>;
  static constexpr const char* where = "batch::pad";

  /// One guard's state.
  struct frame {
    batch_step step{};
    Stream stream{};
    bool captured = false;
    std::int64_t sum_before = 0; ///< what the engine had
    std::int64_t sum_real = 0;   ///< of the real requests
    std::int64_t sum_padded = 0;
    std::uint64_t number = 0; ///< of the `pad`; 0: not active
  };
  struct saved_list {
    std::array<saved_tensor, most_saved_tensors> tensors;
    std::size_t count = 0;
    [[nodiscard]] std::span<const saved_tensor> span() const noexcept {
      return {tensors.data(), count};
    }
  };

  [[nodiscard]] static bool has_rows(const batch_entry& e) noexcept {
    return e.rows != nullptr && !detail::is_absent(e);
  }
  [[nodiscard]] pad_tensor padding(const batch_entry& e, const batch_step& step) const noexcept {
    return detail::padding_of(e, step, all_);
  }
  [[nodiscard]] std::int64_t& rows_before(std::int32_t level, std::size_t i) noexcept {
    return rows_before_[static_cast<std::size_t>(level) * tensors_.size() + i];
  }
  [[nodiscard]] const frame& at(std::int32_t level) const noexcept {
    return frames_[static_cast<std::size_t>(level)];
  }
  [[nodiscard]] bool holds(std::int32_t level, std::uint64_t number) const noexcept {
    return level < open_ && at(level).number == number;
  }
  [[nodiscard]] bool is_live(std::int32_t level) const noexcept { return is_live(at(level).step); }
  [[nodiscard]] static bool is_live(const batch_step& s) noexcept {
    return s.requests.live != nullptr || s.tokens.live != nullptr || s.draft_tokens.live != nullptr;
  }
  /// The sum of the sequence lengths is that of this step's tokens: no pad row stays (see
  /// `trim_rule_of`).
  [[nodiscard]] batch_facts facts(const batch_step& s) const noexcept {
    return {.step = s.step,
            .spec = s.spec,
            .form = s.form,
            .requests = s.requests.real,
            .tokens_per_request = s.tokens_per_request,
            .saved_hidden_rows = s.units(hidden_unit_).real,
            .sequence_length_sum = s.tokens.real};
  }
  [[nodiscard]] batch_facts facts(std::int32_t level) const noexcept {
    return facts(at(level).step);
  }

  [[nodiscard]] status check_declaration() const noexcept {
    const result<std::size_t> needed = batch_workspace_bytes(all_);
    if (!needed) return needed.status();
    const auto refuse = [](errc code, std::size_t value, std::size_t limit, const char* name) {
      return status{.code = code,
                    .about = subject::workspace,
                    .value = static_cast<std::int64_t>(value),
                    .limit = static_cast<std::int64_t>(limit),
                    .value_name = name,
                    .where = "batch"};
    };
    if (workspace_.size() < *needed)
      return refuse(errc::capacity_exceeded, *needed, workspace_.size(), "bytes");
    const std::size_t skew =
        reinterpret_cast<std::uintptr_t>(workspace_.data()) % workspace_alignment;
    if (skew != 0) return refuse(errc::misaligned, skew, workspace_alignment, "bytes");
    status bad = executor<Stream>::check_memory(workspace_.data());
    const detail::byte_runs saved = detail::one_run(workspace_.data(), workspace_.size());
    for (std::size_t i = 0; i < tensors_.size() && bad.ok(); ++i) {
      const pad_tensor t = detail::most_padding_of(tensors_[i], all_);
      if (detail::overlap(detail::units_from(t, 0), saved))
        return refuse(errc::aliasing, i, tensors_.size(), "with tensor");
      if (tensors_[i].on_host) continue;
      bad = executor<Stream>::check_memory(t.data);
      if (!bad.ok()) bad.about = subject::tensor, bad.peer = static_cast<std::int32_t>(i);
    }
    for (std::size_t i = 0; i < results_.size() && bad.ok(); ++i) {
      bad = executor<Stream>::check_memory(results_[i].data);
      if (!bad.ok()) bad.about = subject::tensor, bad.peer = static_cast<std::int32_t>(i);
    }
    return bad;
  }

  /// Everything that can be wrong with a step, before anything is written.
  [[nodiscard]] status check_step(frame& next) noexcept {
    const batch_step& step = next.step;
    const auto refuse = [](errc code, std::size_t i, std::int64_t value, std::int64_t limit,
                           const char* name) {
      return detail::refuse_tensor(code, i, static_cast<std::uint64_t>(value),
                                   static_cast<std::uint64_t>(limit), name, where);
    };
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const batch_entry& e = tensors_[i];
      if (detail::is_absent(e)) continue;
      const pad_tensor t = padding(e, step);
      if (status bad = detail::check_units(t.data, t.units.padded, t.units, t.unit_bytes,
                                           t.unit_stride, t.outer, t.outer_stride, i, where);
          !bad)
        return bad;
      const bool live = t.units.live != nullptr;
      if (live && e.on_host) return refuse(errc::bad_config, i, 0, 0, "live count of a host copy");
      if (!live && next.captured)
        return refuse(errc::not_capturable, i, t.units.real, 0, "the host's count");
      if (live || e.rows == nullptr || *e.rows == t.units.real) continue;
      if (open_ > 0 && *e.rows == padding(e, at(open_ - 1).step).units.padded) continue;
      return refuse(errc::count_changed, i, *e.rows, t.units.real, "rows");
    }
    if (is_live(step)) {
      if (all_.sequence_sum == nullptr) return {};
      return {.code = errc::bad_config,
              .about = subject::tokens,
              .value_name = "sum beside live counts",
              .where = where};
    }
    if (const auto rule = trim_rule_of(batch_output::logits, facts(step)); !rule)
      return rule.status();
    return all_.sequence_sum == nullptr ? status{} : check_sum(next);
  }

  /// The sums before and after. Inside another guard the engine's sum has that one's pads.
  [[nodiscard]] status check_sum(frame& next) const noexcept {
    const unit_counts& requests = next.step.requests;
    next.sum_before = next.sum_real = *all_.sequence_sum;
    if (open_ > 0) {
      const frame& outer = at(open_ - 1);
      if (requests.real == outer.step.requests.real) {
        next.sum_real = outer.sum_real;
      } else if (requests.real != outer.step.requests.padded) {
        return {.code = errc::count_changed,
                .about = subject::requests,
                .value = requests.real,
                .limit = outer.step.requests.real,
                .value_name = "of the sum",
                .where = where};
      }
    }
    batch_choices engine = all_.engine;
    engine.sequence_length_fill = length_fill_.value_or(engine.sequence_length_fill);
    const auto sum = padded_sequence_sum(next.sum_real, requests.real, requests.padded, engine);
    if (!sum) return sum.status();
    next.sum_padded = *sum;
    return {};
  }

  /// The tensors of a guard with their places in its part of the workspace.
  [[nodiscard]] saved_list listed(std::int32_t level, bool on_host) noexcept {
    saved_list out;
    const auto l = static_cast<std::size_t>(level);
    const auto start = reinterpret_cast<std::uintptr_t>(host_saved_.data());
    std::byte* const base = on_host ? host_saved_.data() + (16 - start % 16) + l * host_level_bytes_
                                    : workspace_.data() + l * level_bytes_;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const batch_entry& e = tensors_[i];
      if (e.on_host != on_host || detail::is_absent(e)) continue;
      const batch_saving saving = detail::saving_of(e);
      saved_tensor& next = out.tensors[out.count++];
      next.tensor = padding(e, at(level).step);
      next.saved = saving == batch_saving::nothing ? nullptr : base + places_[i];
      next.counted = on_host ? nullptr : reinterpret_cast<std::int32_t*>(base) + i;
      next.whole = saving == batch_saving::whole;
    }
    return out;
  }

  /// Ends all guards from the innermost to `level`.
  [[nodiscard]] status finish(std::int32_t level) noexcept {
    status outcome;
    const auto tell = [&](status s) {
      if (s.ok()) return;
      if (s.rank < 0) s.rank = all_.rank;
      if (outcome.ok()) outcome = s;
    };
    for (std::int32_t l = open_ - 1; l >= level; --l) {
      if (const status bad = same_capture(at(l)); !bad.ok()) {
        tell(bad);
        return outcome;
      }
    }
    while (open_ > level) {
      const frame now = at(open_ - 1);
      if (all_.poison && !is_live(now.step))
        tell(scan_results(results_, facts(now.step), all_.leak, now.number, now.stream));
      if (const status bad = restore(listed(open_ - 1, false).span(), now.stream); !bad.ok()) {
        tell(bad);
        return outcome;
      }
      restore_host_part();
      if (!is_live(now.step)) tell(cut_results(results_, facts(now.step)));
    }
    return outcome;
  }

  /// The same for a destructor: goes on whatever fails.
  void abandon(std::int32_t level) noexcept {
    while (open_ > level) {
      const frame now = at(open_ - 1);
      status back = same_capture(now);
      if (back.ok()) back = restore(listed(open_ - 1, false).span(), now.stream);
      if (back.rank < 0) back.rank = all_.rank;
      // A graph that could not be finished has not run: no memory has changed.
      const bool never_ran = now.captured && back.about != subject::call;
      if (half_restored_.ok() && !never_ran) half_restored_ = back;
      restore_host_part();
      if (!is_live(now.step)) (void)cut_results(results_, facts(now.step));
    }
  }

  /// A restoring that a capture swallows, or that is left out of one, restores nothing.
  [[nodiscard]] static status same_capture(const frame& of) noexcept {
    const result<bool> capturing = executor<Stream>::is_capturing(of.stream);
    if (!capturing) return capturing.status();
    if (*capturing == of.captured) return {};
    return {.code = errc::not_capturable,
            .about = subject::call,
            .value = *capturing,
            .limit = of.captured,
            .value_name = "capturing",
            .where = "padded_batch"};
  }

  /// Host copies, row counts and sum of the innermost guard, which is over then.
  void restore_host_part() noexcept {
    const std::int32_t level = open_ - 1;
    (void)restore(listed(level, true).span(), host_stream{});
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (has_rows(tensors_[i])) *tensors_[i].rows = rows_before(level, i);
    }
    if (all_.sequence_sum != nullptr) *all_.sequence_sum = at(level).sum_before;
    frames_[static_cast<std::size_t>(level)].number = 0;
    --open_;
  }

  std::vector<batch_entry> tensors_;
  std::vector<batch_result> results_;
  batch_declaration all_;
  std::span<std::byte> workspace_;
  std::size_t level_bytes_ = 0, host_level_bytes_ = 0;
  std::vector<std::size_t> places_; ///< of each tensor's saved bytes in a level
  std::vector<std::byte> host_saved_;
  std::vector<std::int64_t> rows_before_;
  std::vector<frame> frames_;
  std::optional<std::int64_t> length_fill_{};
  batch_unit hidden_unit_ = batch_unit::token;
  std::int32_t open_ = 0;
  std::uint64_t steps_ = 0;
  status broken_{};
  status half_restored_{};
};

} // namespace dpgather::inline v0
