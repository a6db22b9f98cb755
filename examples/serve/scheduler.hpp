#pragma once

/// @file
/// Continuous batching with chunked prefill over data-parallel ranks: turns a request trace into
/// the steps that an engine would run, and says which token rows every rank holds in each.
///
/// The rules: requests are dealt round-robin in order of arrival; all ranks take a step together,
/// one every `step_seconds`; in it a rank runs one decode row for each running request and up to
/// `prefill_budget` prompt rows of its waiting requests, first come, first served.

#include "trace.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace serve {

/// What one rank does in one step.
enum class rank_phase : std::uint8_t {
  idle,   ///< no rows: the rank still takes part in the step
  decode, ///< one row per running request
  extend, ///< prompt rows only
  mixed,  ///< both
};

[[nodiscard]] constexpr const char* name_of(rank_phase p) noexcept {
  constexpr const char* names[] = {"idle", "decode", "extend", "mixed"};
  return names[static_cast<std::size_t>(p)];
}

/// Consecutive token rows of one request: all that it has in a step.
struct row_slice {
  std::int32_t request = 0;  ///< index in the trace
  std::int32_t position = 0; ///< of the first row: prompt from 0, decode from prompt_tokens
  std::int32_t rows = 0;     ///< at least 1
  bool samples = false;      ///< a token follows from the last row: it needs logits
  bool is_last = false;      ///< the request is over after the last row
};

/// One rank's share of a step. Its rows are those of its slices, one after the other: decode first.
struct rank_step {
  rank_phase phase = rank_phase::idle;
  std::int32_t tokens = 0;   ///< rows; 0 when idle
  std::int32_t requests = 0; ///< with rows in this step
  std::vector<row_slice> slices;

  /// Calls `f(std::int32_t request, std::int32_t position, bool is_last)` for each row, in order.
  template <class Function>
  void for_each_row(Function&& f) const {
    for (const row_slice& s : slices) {
      for (std::int32_t i = 0; i < s.rows; ++i) {
        f(s.request, s.position + i, s.is_last && i + 1 == s.rows);
      }
    }
  }
};

/// One step of all ranks.
struct step {
  std::int64_t tick = 0;     ///< number of the step, those without work included
  double seconds = 0;        ///< `tick * step_seconds`: time on the service's clock
  std::int32_t max_rows = 0; ///< the longest rank
  std::int64_t sum_rows = 0; ///< all ranks; at least 1
  bool prefill = false;      ///< some rank is in extend or mixed
  std::vector<rank_step> ranks;
};

/// How requests become steps.
struct schedule_options {
  std::int32_t ranks = 8;
  double speed = 1;                   ///< arrivals per recorded arrival: 4 means four times as fast
  double step_seconds = 0.030;        ///< one step of all ranks, whatever is in it
  std::int32_t prefill_budget = 2048; ///< prompt rows per rank and step; decode rows come on top
  std::int32_t max_running = 256;     ///< requests per rank; more wait
  /// Steps before this moment of the trace (its own clock, whatever the speed) are scheduled but
  /// not handed out: a warm-up, until batches are full.
  double start_seconds = 0;
  /// Hands out every `stride`-th step that has work: a sample of a stretch that many times as long.
  std::int32_t stride = 1;
  /// True: the last prompt row gives the first output token, which leaves `output_tokens - 1`
  /// decode rows, as in an engine. False: `output_tokens` decode rows.
  bool first_token_from_prefill = false;
};

/// Most rows that a rank can hold in a step.
[[nodiscard]] constexpr std::int64_t max_rows_per_rank(const schedule_options& o) noexcept {
  return std::int64_t{o.prefill_budget} + o.max_running;
}

/// Walks through a trace step by step. Deterministic. Memory: the trace, and at most `max_running`
/// requests per rank.
class scheduler {
public:
  /// Errors: `std::runtime_error` when an option or a request is out of range, or out of order.
  explicit scheduler(std::vector<request> trace, const schedule_options& options = {})
      : trace_(std::move(trace)), options_(options) {
    constexpr std::int32_t many = 1 << 24;
    const auto in = [](auto value, auto low, auto high) { return value >= low && value <= high; };
    if (!in(options_.ranks, 1, 1 << 16) || !in(options_.speed, 1e-3, 1e3) ||
        !in(options_.step_seconds, 1e-4, 10.0) || !in(options_.prefill_budget, 1, many) ||
        !in(options_.max_running, 1, many) || !in(options_.stride, 1, many) ||
        !in(options_.start_seconds, 0.0, 1e10)) {
      throw std::runtime_error("scheduler: an option is out of range");
    }
    double previous = 0;
    for (const request& r : trace_) {
      if (!in(r.arrival_seconds, previous, 1e10) || !in(r.prompt_tokens, 1, 1 << 29) ||
          !in(r.output_tokens, 0, 1 << 29)) {
        throw std::runtime_error("scheduler: a request is out of order or out of range");
      }
      previous = r.arrival_seconds;
    }
    lanes_.resize(static_cast<std::size_t>(options_.ranks));
    for (std::size_t r = 0; r < lanes_.size(); ++r) lanes_[r].head = r;
  }

  /// The next step that has work; false when the trace is over and all requests are done. `out`
  /// may be any step; its memory is reused. Steps without work are skipped, see `idle_steps`.
  [[nodiscard]] bool next(step& out) {
    for (;;) {
      const double now = static_cast<double>(tick_) * options_.step_seconds;
      const double moment = now * options_.speed; // on the trace's own clock
      while (arrived_ < trace_.size() && trace_[arrived_].arrival_seconds <= moment) ++arrived_;
      if (finished_ == arrived_) {
        if (arrived_ == trace_.size()) return false;
        skip_idle();
        continue;
      }
      out.tick = tick_++;
      out.seconds = now;
      run(out);
      if (moment < options_.start_seconds || due_++ % options_.stride != 0) {
        ++passed_steps_;
        continue;
      }
      return true;
    }
  }

  [[nodiscard]] const std::vector<request>& trace() const noexcept { return trace_; }
  /// Steps skipped so far because no rank had work.
  [[nodiscard]] std::int64_t idle_steps() const noexcept { return idle_steps_; }
  /// Steps with work so far that `start_seconds` or `stride` kept back.
  [[nodiscard]] std::int64_t passed_steps() const noexcept { return passed_steps_; }
  [[nodiscard]] std::size_t finished() const noexcept { return finished_; } ///< requests, so far

private:
  struct running {
    std::int32_t request;
    std::int32_t position;
    std::int32_t left; ///< decode rows still to come, at least 1
  };
  /// A rank's requests are r, r + ranks, ... of the trace: the queue is one index.
  struct lane {
    std::vector<running> active;
    std::size_t head = 0;       ///< first request not yet through its prefill
    std::int32_t head_rows = 0; ///< prompt rows of it that are done
  };

  /// To the last tick before the next arrival: the caller's loop takes care of rounding.
  void skip_idle() {
    const double tick_moment = options_.speed * options_.step_seconds;
    const double target = std::floor(trace_[arrived_].arrival_seconds / tick_moment);
    const std::int64_t before = tick_;
    tick_ = std::max(static_cast<std::int64_t>(target), tick_ + 1);
    idle_steps_ += tick_ - before;
  }

  void run(step& out) {
    out.ranks.resize(lanes_.size());
    out.max_rows = 0;
    out.sum_rows = 0;
    out.prefill = false;
    for (std::size_t r = 0; r < lanes_.size(); ++r) {
      rank_step& mine = out.ranks[r];
      mine.slices.clear();
      const std::size_t taken = lanes_[r].active.size();
      const std::int32_t decoded = decode(lanes_[r], mine);
      const std::int32_t extended = extend(lanes_[r], taken, mine);
      mine.tokens = decoded + extended;
      mine.requests = static_cast<std::int32_t>(mine.slices.size());
      mine.phase = extended == 0  ? (decoded == 0 ? rank_phase::idle : rank_phase::decode)
                   : decoded == 0 ? rank_phase::extend
                                  : rank_phase::mixed;
      out.prefill = out.prefill || extended > 0;
      out.sum_rows += mine.tokens;
      out.max_rows = std::max(out.max_rows, mine.tokens);
    }
  }

  /// One row for each running request; finished ones leave. Returns the rows.
  std::int32_t decode(lane& mine, rank_step& out) {
    std::size_t kept = 0;
    const std::size_t count = mine.active.size();
    for (std::size_t i = 0; i < count; ++i) {
      running now = mine.active[i];
      out.slices.push_back({now.request, now.position, 1, true, now.left == 1});
      ++now.position;
      if (--now.left > 0) mine.active[kept++] = now;
    }
    mine.active.resize(kept);
    finished_ += count - kept;
    return static_cast<std::int32_t>(count);
  }

  /// Prompt rows of waiting requests within the budget; a request through its prefill runs from
  /// the next step on. `taken`: places of requests that decoded in this step. Returns the rows.
  std::int32_t extend(lane& mine, std::size_t taken, rank_step& out) {
    std::int32_t budget = options_.prefill_budget;
    const auto places = static_cast<std::size_t>(options_.max_running);
    while (budget > 0 && mine.head < arrived_ && taken < places) {
      const request& asked = trace_[mine.head];
      const std::int32_t open = asked.prompt_tokens - mine.head_rows;
      const std::int32_t rows = std::min(open, budget);
      const bool through = rows == open;
      const std::int32_t left = asked.output_tokens - (options_.first_token_from_prefill ? 1 : 0);
      const auto id = static_cast<std::int32_t>(mine.head);
      out.slices.push_back({id, mine.head_rows, rows, through, through && left <= 0});
      budget -= rows;
      mine.head_rows += rows;
      if (!through) break;
      if (left > 0) {
        mine.active.push_back({id, asked.prompt_tokens, left});
      } else {
        ++finished_;
      }
      ++taken;
      mine.head += lanes_.size();
      mine.head_rows = 0;
    }
    return options_.prefill_budget - budget;
  }

  std::vector<request> trace_;
  schedule_options options_;
  std::vector<lane> lanes_;
  std::size_t arrived_ = 0;
  std::size_t finished_ = 0;
  std::int64_t tick_ = 0;
  std::int64_t due_ = 0; ///< steps with work since `start_seconds`
  std::int64_t idle_steps_ = 0;
  std::int64_t passed_steps_ = 0;
};

} // namespace serve
