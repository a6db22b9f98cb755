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
    for (const bool on_host : {false, true}) {
      for (std::size_t i = 0; i < tensors_.size(); ++i) {
        const batch_entry& e = tensors_[i];
        if (e.on_host != on_host || detail::is_absent(e)) continue;
        order_.push_back(i);
        on_stream_ += !on_host;
        const batch_tail tail = detail::tail_of(e, {}, all_.engine);
        if (e.tensor == batch_tensor::sequence_lengths) length_fill_ = tail.value;
        if (e.tensor == batch_tensor::speculative_hidden) hidden_unit_ = tail.unit;
      }
    }
    const auto levels = static_cast<std::size_t>(all_.depth);
    host_saved_.resize(levels * detail::level_bytes(all_, true) + 16);
    frames_.resize(levels);
    const auto start = reinterpret_cast<std::uintptr_t>(host_saved_.data());
    std::byte* on_host = host_saved_.data() + (16 - start % 16);
    std::byte* on_stream = workspace_.data();
    for (frame& level : frames_) {
      auto* const counted = reinterpret_cast<std::int32_t*>(on_stream);
      on_stream += detail::level_header;
      for (std::size_t j = 0; j < order_.size(); ++j) {
        const batch_entry& e = tensors_[order_[j]];
        const batch_saving saving = detail::saving_of(e);
        saved_tensor t{.tensor = detail::most_padding_of(e, all_),
                       .counted = counted + j,
                       .whole = saving == batch_saving::whole};
        std::byte*& next = j < on_stream_ ? on_stream : on_host;
        if (saving != batch_saving::nothing) {
          t.saved = next;
          next += saved_bytes(t.tensor);
        }
        level.tensors.push_back(t);
      }
      level.rows_before.resize(order_.size());
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
    if (bad.ok()) bad = prepare(step, stream, *capturing);
    if (bad.ok()) bad = save_and_pad(stream_part(open_), stream);
    if (!bad.ok()) {
      if (bad.rank < 0) bad.rank = all_.rank;
      return bad;
    }
    frame& now = at(open_);
    (void)save_and_pad(host_part(open_), host_stream{}); // checked: cannot fail
    for (std::size_t j = 0; j < order_.size(); ++j) {
      if (rows_of(j) != nullptr) now.rows_before[j] = *rows_of(j);
    }
    for (std::size_t j = 0; j < order_.size(); ++j) { // two tensors may share a count
      if (rows_of(j) != nullptr) *rows_of(j) = now.tensors[j].tensor.units.padded;
    }
    if (all_.sequence_sum != nullptr) *all_.sequence_sum = now.sum_padded;
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
    std::uint64_t number = 0;              ///< of the `pad`; 0: not active
    std::vector<saved_tensor> tensors;     ///< those that are there, as `order_` says
    std::vector<std::int64_t> rows_before; ///< their row counts
  };

  [[nodiscard]] std::int64_t* rows_of(std::size_t j) const noexcept {
    return tensors_[order_[j]].rows;
  }
  [[nodiscard]] frame& at(std::int32_t level) noexcept {
    return frames_[static_cast<std::size_t>(level)];
  }
  [[nodiscard]] const frame& at(std::int32_t level) const noexcept {
    return frames_[static_cast<std::size_t>(level)];
  }
  [[nodiscard]] std::span<const saved_tensor> stream_part(std::int32_t level) const noexcept {
    return std::span{at(level).tensors}.first(on_stream_);
  }
  [[nodiscard]] std::span<const saved_tensor> host_part(std::int32_t level) const noexcept {
    return std::span{at(level).tensors}.subspan(on_stream_);
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

  /// The next guard's counts and fills, and everything that can be wrong with them, before anything
  /// is written.
  [[nodiscard]] status prepare(const batch_step& step, Stream stream, bool captured) noexcept {
    frame& next = at(open_);
    next.step = step;
    next.stream = stream;
    next.captured = captured;
    for (std::size_t j = 0; j < order_.size(); ++j) {
      const batch_entry& e = tensors_[order_[j]];
      pad_tensor& t = next.tensors[j].tensor;
      const batch_tail tail = detail::tail_of(e, step, all_.engine);
      t.units = step.units(tail.unit);
      t.units.capacity = e.capacity;
      t.fill = detail::fill_of(e, tail, all_);
      if (const status bad = check_tensor(j); !bad.ok()) return bad;
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

  [[nodiscard]] status check_tensor(std::size_t j) const noexcept {
    const frame& next = at(open_);
    const pad_tensor& t = next.tensors[j].tensor;
    const auto refuse = [&](errc code, std::int64_t value, const char* name) {
      return detail::refuse_tensor(code, order_[j], static_cast<std::uint64_t>(value),
                                   static_cast<std::uint64_t>(t.units.real), name, where);
    };
    if (const status bad =
            detail::check_units(t.data, t.units.padded, t.units, t.unit_bytes, t.unit_stride,
                                t.outer, t.outer_stride, order_[j], where);
        !bad)
      return bad;
    if (t.units.live != nullptr)
      return j < on_stream_ ? status{} : refuse(errc::bad_config, 0, "live count of a host copy");
    if (next.captured) return refuse(errc::not_capturable, 0, "the host's count");
    const std::int64_t* const rows = rows_of(j);
    if (rows == nullptr || *rows == t.units.real) return {};
    if (open_ > 0 && *rows == at(open_ - 1).tensors[j].tensor.units.padded) return {};
    return refuse(errc::count_changed, *rows, "rows");
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
      const frame& now = at(open_ - 1);
      if (all_.poison && !is_live(now.step))
        tell(scan_results(results_, facts(now.step), all_.leak, now.number, now.stream));
      if (const status bad = restore(stream_part(open_ - 1), now.stream); !bad.ok()) {
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
      const frame& now = at(open_ - 1);
      status back = same_capture(now);
      if (back.ok()) back = restore(stream_part(open_ - 1), now.stream);
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
    frame& ended = at(--open_);
    (void)restore(host_part(open_), host_stream{});
    for (std::size_t j = 0; j < order_.size(); ++j) {
      if (rows_of(j) != nullptr) *rows_of(j) = ended.rows_before[j];
    }
    if (all_.sequence_sum != nullptr) *all_.sequence_sum = ended.sum_before;
    ended.number = 0;
  }

  std::vector<batch_entry> tensors_;
  std::vector<batch_result> results_;
  batch_declaration all_;
  std::span<std::byte> workspace_;
  std::vector<std::size_t> order_; ///< indices of tensors that are there: the stream's, the host's
  std::size_t on_stream_ = 0;      ///< how many are the stream's
  std::vector<std::byte> host_saved_;
  std::vector<frame> frames_;
  std::optional<std::int64_t> length_fill_{};
  batch_unit hidden_unit_ = batch_unit::token;
  std::int32_t open_ = 0;
  std::uint64_t steps_ = 0;
  status broken_{};
  status half_restored_{};
};

} // namespace dpgather::inline v0
