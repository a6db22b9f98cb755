#pragma once

/// @file
/// What an engine can export about its steps: their sums in graphs and outside, replays and pads of
/// every captured size, misses. Values; nothing here prints.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/step_totals.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// Counters of one captured size.
struct bucket_totals {
  std::int64_t replays = 0;
  std::int64_t pad_rows = 0; ///< rows in those replays that were not real

  friend constexpr bool operator==(const bucket_totals&, const bucket_totals&) = default;
};

/// Counters of one `DpGather`, fed with its plans. A trivially copyable value of about 40 KiB:
/// copying it is a snapshot. No member allocates. Ownership: none; one thread adds, and whoever
/// exports takes copies in that thread or under the engine's lock.
///
/// With `counts::agreed` all ranks have equal metrics, attention counted for all of them. With the
/// other counts a rank counts its own attention only, and no rows (`step_totals::counts_unknown`).
class step_metrics {
public:
  /// For steps outside graphs.
  constexpr step_metrics() noexcept = default;
  /// `attention`: sizes of a rank's own bucket, `ffn`: of the bucket that all ranks share. The same
  /// list twice under `lookup::max`. Units: requests.
  constexpr step_metrics(const bucket_list& attention, const bucket_list& ffn) noexcept
      : attention_sizes_{attention}, ffn_sizes_{ffn} {}
  template <policy_like P>
  constexpr explicit step_metrics(const planner<P>& rules) noexcept
      : step_metrics{rules.ladder(), rules.captured_sizes()} {}

  constexpr void add(const step_plan& plan) noexcept {
    (plan.in_graph() ? in_graph_ : eager_).add(plan);
    agreed_eager_ += plan.bucket_missed;
    if (!plan.in_graph()) return;
    for (std::int32_t r = 0; r < plan.dp_size; ++r) {
      if (plan.own_bucket(r) > 0)
        replayed(attention_sizes_, attention_, plan.own_bucket(r), plan.padded[r] - plan.real[r]);
    }
    if (plan.shared_bucket > 0) replayed(ffn_sizes_, ffn_, plan.shared_bucket, plan.pad_rows());
  }
  /// A step without a plan, and why.
  constexpr void add(const status& refused) noexcept {
    (refused.code == errc::no_bucket ? no_bucket_ : refused_) += !refused.ok();
  }
  /// What `make_plan` answered.
  constexpr void add(const result<step_plan>& made) noexcept {
    if (made) {
      add(*made);
    } else {
      add(made.status());
    }
  }

  [[nodiscard]] constexpr const step_totals& eager() const noexcept { return eager_; }
  [[nodiscard]] constexpr const step_totals& in_graph() const noexcept { return in_graph_; }
  [[nodiscard]] constexpr step_totals all() const noexcept {
    step_totals out = eager_;
    return out += in_graph_;
  }
  /// Steps that wanted a graph, found no size and were refused (`on_miss::error`).
  [[nodiscard]] constexpr std::int64_t no_bucket() const noexcept { return no_bucket_; }
  /// Steps that wanted a graph, found no size and went eager together; they are in `eager`.
  [[nodiscard]] constexpr std::int64_t agreed_eager() const noexcept { return agreed_eager_; }
  /// Steps refused for any other reason.
  [[nodiscard]] constexpr std::int64_t refused() const noexcept { return refused_; }
  /// Replays of sizes that are in neither list: this was made for other ladders.
  [[nodiscard]] constexpr std::int64_t foreign_replays() const noexcept { return foreign_; }

  [[nodiscard]] constexpr const bucket_list& attention_sizes() const noexcept {
    return attention_sizes_;
  }
  [[nodiscard]] constexpr const bucket_list& ffn_sizes() const noexcept { return ffn_sizes_; }
  /// Of each of `attention_sizes()`: replays on all ranks, and rows of those ranks.
  [[nodiscard]] constexpr std::span<const bucket_totals> attention() const noexcept {
    return {attention_.data(), static_cast<std::size_t>(attention_sizes_.size())};
  }
  /// Of each of `ffn_sizes()`: steps, and rows of their global tensors.
  [[nodiscard]] constexpr std::span<const bucket_totals> ffn() const noexcept {
    return {ffn_.data(), static_cast<std::size_t>(ffn_sizes_.size())};
  }

  /// Adds what another period or another user of the same ladders came to.
  /// Errors: `bad_buckets{ladder or sum_ladder, size, other size}` names the first size that
  /// differs, 0 behind the end; nothing was added.
  constexpr status merge(const step_metrics& other) noexcept {
    if (status bad = same_sizes(other, "step_metrics::merge"); !bad) return bad;
    for_each_counter(other, [](std::int64_t& mine, std::int64_t theirs) { mine += theirs; });
    return {};
  }
  /// What was added since `earlier`, a copy of this taken before.
  /// Errors: `bad_buckets`, as above; `count_out_of_range{counts, value, earlier value}` when a
  /// counter was larger then.
  [[nodiscard]] constexpr result<step_metrics> since(const step_metrics& earlier) const noexcept {
    constexpr const char* where = "step_metrics::since";
    if (status bad = same_sizes(earlier, where); !bad) return bad;
    result<step_metrics> out{*this};
    status bad;
    out->for_each_counter(earlier, [&](std::int64_t& mine, std::int64_t theirs) {
      if (mine < theirs)
        bad = status{.code = errc::count_out_of_range,
                     .about = subject::counts,
                     .value = mine,
                     .limit = theirs,
                     .where = where};
      mine -= theirs;
    });
    if (!bad) return bad;
    return out;
  }

  friend constexpr bool operator==(const step_metrics&, const step_metrics&) = default;

private:
  using buckets = std::array<bucket_totals, static_cast<std::size_t>(bucket_list::capacity)>;

  constexpr void replayed(const bucket_list& sizes, buckets& counters, std::int32_t bucket,
                          std::int64_t pads) noexcept {
    const std::span<const std::int32_t> all = sizes.span();
    const auto found = std::lower_bound(all.begin(), all.end(), bucket);
    if (found == all.end() || *found != bucket) {
      ++foreign_;
      return;
    }
    bucket_totals& counter = counters[static_cast<std::size_t>(found - all.begin())];
    ++counter.replays;
    counter.pad_rows += pads;
  }

  [[nodiscard]] constexpr status same_sizes(const step_metrics& other,
                                            const char* where) const noexcept {
    const auto differ = [&](subject about, const bucket_list& mine, const bucket_list& theirs) {
      std::int32_t i = 0;
      while (i < mine.size() && i < theirs.size() && mine[i] == theirs[i]) ++i;
      return status{.code = errc::bad_buckets,
                    .about = about,
                    .value = i < mine.size() ? mine[i] : 0,
                    .limit = i < theirs.size() ? theirs[i] : 0,
                    .where = where};
    };
    if (!(attention_sizes_ == other.attention_sizes_))
      return differ(subject::ladder, attention_sizes_, other.attention_sizes_);
    if (!(ffn_sizes_ == other.ffn_sizes_))
      return differ(subject::sum_ladder, ffn_sizes_, other.ffn_sizes_);
    return {};
  }

  template <class Visitor>
  constexpr void for_each_counter(const step_metrics& other, const Visitor& visit) noexcept {
    eager_.for_each_counter(other.eager_, visit);
    in_graph_.for_each_counter(other.in_graph_, visit);
    visit(no_bucket_, other.no_bucket_);
    visit(agreed_eager_, other.agreed_eager_);
    visit(refused_, other.refused_);
    visit(foreign_, other.foreign_);
    const auto each_bucket = [&](buckets& mine, const buckets& theirs) {
      for (std::size_t i = 0; i < mine.size(); ++i) {
        visit(mine[i].replays, theirs[i].replays);
        visit(mine[i].pad_rows, theirs[i].pad_rows);
      }
    };
    each_bucket(attention_, other.attention_);
    each_bucket(ffn_, other.ffn_);
  }

  bucket_list attention_sizes_{};
  bucket_list ffn_sizes_{};
  step_totals eager_{};
  step_totals in_graph_{};
  std::int64_t no_bucket_ = 0;
  std::int64_t agreed_eager_ = 0;
  std::int64_t refused_ = 0;
  std::int64_t foreign_ = 0;
  buckets attention_{};
  buckets ffn_{};
};

} // namespace dpgather::inline v0
