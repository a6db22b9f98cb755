#pragma once

/// @file
/// A validated configuration with everything that does not change from step to step worked out
/// once.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/hash.hpp>
#include <dpgather/policy.hpp>
#include <dpgather/status.hpp>
#include <dpgather/validate.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>

namespace dpgather::inline v0 {

namespace detail {

/// A number for each option that changes what goes over the wire, so that ranks that were compiled
/// with different policies find out before the first step.
template <class P, situation Situation>
constexpr void add_policy(digest_builder& digest) noexcept {
  using options = resolved<P, Situation>;
  const auto add = [&](auto kind) { digest.add(static_cast<std::uint64_t>(kind)); };
  const auto add_mode = [&]<class Mode, class Padding>() {
    add(Mode::kind);
    add(Padding::kind);
    add(layout_for<typename options::layout, Padding::kind>());
  };
  using mode = typename options::mode;
  if constexpr (is_choice<mode>) {
    // The rule itself has no number; what it decides is in the digest of every plan.
    using to_max = typename mode::pad_to_max;
    using to_sum = typename mode::pad_to_sum;
    add_mode.template operator()<typename to_max::mode, typename to_max::padding>();
    add_mode.template operator()<typename to_sum::mode, typename to_sum::padding>();
  } else {
    add_mode.template operator()<mode, typename options::padding>();
  }
  add(options::align::rows);
  add(options::lookup::kind);
  add(options::combine::kind);
  add(options::on_miss::go_eager);
}

} // namespace detail

/// Configuration and ladders of a policy, checked once; `make_plan` reads it in every step.
///
/// A value of about 16 KiB without pointers; equal on all ranks but for the topology's rank
/// numbers.
template <policy_like P>
class planner {
public:
  static_assert(validate<P>());

  /// A planner for nothing; `make` gives one that plans.
  constexpr planner() noexcept = default;

  /// Checks the configuration, builds and filters the ladders.
  /// Errors: those of `gather_config::validate`; `bad_buckets{value = index}` for a listed or
  /// configured ladder that is empty, above the request pool or not a multiple of the attention-TP
  /// size (times 2 under two-batch overlap) and of `padding::align`; generated ladders drop such
  /// sizes, and fail only when nothing is left. The same for `gather_config::sum_ladder`, named
  /// `sum_ladder`, whose sizes end at W times the largest size per rank.
  [[nodiscard]] static constexpr result<planner> make(const gather_config& config) noexcept {
    if (status bad = config.validate(); !bad) return bad;
    result<planner> made{planner{config}};
    if (status bad = made->check_rows(); !bad) return bad;
    if constexpr (has_graphs<P>) {
      if (status bad = made->build_ladders(); !bad) return bad;
    }
    made->config_hash_ = made->hash();
    return made;
  }

  [[nodiscard]] constexpr const gather_config& config() const noexcept { return config_; }
  /// Sizes for one rank, in requests; empty without graphs.
  [[nodiscard]] constexpr const bucket_list& ladder() const noexcept { return per_rank_; }
  /// Sizes for the sum over ranks, in requests; derived, or `gather_config::sum_ladder`.
  [[nodiscard]] constexpr const bucket_list& shared_ladder() const noexcept { return of_sum_; }
  /// Whether the bucket that all ranks share in a graph is that of the sum, not of the maximum.
  static constexpr bool shares_sum =
      resolved<P, situation::in_graph>::lookup::kind == lookup_kind::sum ||
      resolved<P, situation::in_graph>::lookup::kind == lookup_kind::own_and_sum;
  /// The values of `step_plan::shared_bucket`: the sizes to capture.
  [[nodiscard]] constexpr const bucket_list& captured_sizes() const noexcept {
    return shares_sum ? of_sum_ : per_rank_;
  }
  /// Equal on ranks that may work together; goes into every step record.
  [[nodiscard]] constexpr std::uint64_t config_hash() const noexcept { return config_hash_; }

  /// What every captured size is a multiple of, sums included: then its rows split over
  /// attention-TP ranks (under two-batch overlap, twice) and are aligned, whatever the width.
  [[nodiscard]] static constexpr std::int64_t
  size_multiple(const gather_config& config) noexcept requires has_graphs<P> {
    return std::lcm(std::int64_t{config.topology.tp_size} * (config.two_batch_overlap ? 2 : 1),
                    resolved<P, situation::in_graph>::align::rows);
  }
  /// Most requests of one rank, which no size per rank exceeds.
  [[nodiscard]] static constexpr std::int32_t pool(const gather_config& config) noexcept {
    return config.max_requests_per_rank == 0 ? config.max_rows_per_rank
                                             : config.max_requests_per_rank;
  }

  /// What hidden rows of a rank are rounded up to: the attention-TP size and `padding::align`.
  template <situation Situation>
  [[nodiscard]] constexpr std::int64_t row_multiple() const noexcept {
    return std::lcm(std::int64_t{config_.topology.tp_size}, resolved<P, Situation>::align::rows);
  }
  /// Most padded rows of one rank, in either situation.
  [[nodiscard]] constexpr std::int64_t max_padded_rows() const noexcept {
    return std::max(round_up(config_.max_rows_per_rank, row_multiple<situation::eager>()),
                    round_up(config_.max_rows_per_rank, row_multiple<situation::in_graph>()));
  }
  /// Rows of the largest global tensor that any plan may ask for: what a buffer that is never to
  /// grow must hold. Known before the first step and the first capture.
  [[nodiscard]] constexpr std::int64_t max_global_rows() const noexcept {
    const std::int64_t rows = max_padded_rows() * config_.topology.dp_size;
    return config_.max_global_rows == 0 ? rows : std::min(rows, config_.max_global_rows);
  }
  [[nodiscard]] constexpr std::size_t max_global_bytes() const noexcept {
    return static_cast<std::size_t>(max_global_rows()) * config_.row_bytes;
  }

private:
  constexpr explicit planner(const gather_config& config) noexcept : config_{config} {}

  [[nodiscard]] constexpr status check_rows() const noexcept {
    // Padded rows are counted in 32 bits, and the all-reduce moves the global tensor twice.
    const std::int64_t rows = max_padded_rows();
    const std::int64_t most = INT64_MAX / static_cast<std::int64_t>(config_.row_bytes);
    if (rows <= INT32_MAX && 2 * rows * config_.topology.dp_size <= most) return {};
    return status{.code = errc::size_overflow,
                  .about = subject::max_rows,
                  .value = rows,
                  .limit = std::min<std::int64_t>(INT32_MAX, most / 2 / config_.topology.dp_size),
                  .where = "planner::make"};
  }

  [[nodiscard]] constexpr status build_ladders() noexcept {
    constexpr ladder_source source = P::ladder_type::source;
    const std::int64_t multiple = size_multiple(config_);
    const bucket_list wanted =
        source == ladder_source::config ? config_.ladder : P::ladder_type::sizes();
    per_rank_ = filtered(wanted, multiple, pool(config_));
    if (source != ladder_source::generated) {
      if (status bad = check_sizes(wanted, subject::ladder, pool(config_)); !bad) return bad;
    }
    if (per_rank_.empty()) return refuse_size(subject::ladder, 0, 1);
    if (source == ladder_source::config && !config_.sum_ladder.empty()) {
      // A sum above the end has a rank that misses; capturing it, too, deals it to the ranks.
      const std::int64_t end = std::int64_t{per_rank_.largest()} * config_.topology.dp_size;
      of_sum_ = config_.sum_ladder;
      return check_sizes(of_sum_, subject::sum_ladder, end);
    }
    of_sum_ = sum_ladder(per_rank_, config_.topology.dp_size);
    return {};
  }

  /// Of sizes that a user stated: none is dropped.
  [[nodiscard]] constexpr status check_sizes(const bucket_list& sizes, subject about,
                                             std::int64_t most) const noexcept {
    const std::int64_t multiple = size_multiple(config_);
    for (std::int32_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] > most) return refuse_size(about, i, most);
      if (sizes[i] % multiple != 0) return refuse_size(about, i, multiple);
    }
    return {};
  }
  [[nodiscard]] static constexpr status refuse_size(subject about, std::int32_t index,
                                                    std::int64_t limit) noexcept {
    return {.code = errc::bad_buckets,
            .about = about,
            .value = index,
            .limit = limit,
            .where = "planner::make"};
  }

  [[nodiscard]] constexpr std::uint64_t hash() const noexcept {
    digest_builder digest;
    digest.add_signed(config_.topology.dp_size).add_signed(config_.topology.tp_size);
    digest.add(static_cast<std::uint64_t>(config_.element)).add(config_.row_bytes);
    digest.add_signed(config_.max_rows_per_rank).add_signed(config_.max_requests_per_rank);
    digest.add_signed(config_.draft_width).add_signed(config_.max_global_rows);
    digest.add(config_.two_batch_overlap);
    digest.add(std::bit_cast<std::uint64_t>(config_.waste_limit));
    digest.add(static_cast<std::uint64_t>(P::counts_type::kind));
    digest.add(static_cast<std::uint64_t>(P::comm_type::kind));
    detail::add_policy<P, situation::eager>(digest);
    if constexpr (has_graphs<P>) detail::add_policy<P, situation::in_graph>(digest);
    for (const bucket_list* sizes : {&per_rank_, &of_sum_}) {
      digest.add_signed(sizes->size());
      for (const std::int32_t size : sizes->span()) digest.add_signed(size);
    }
    return digest.value();
  }

  gather_config config_{};
  bucket_list per_rank_{};
  bucket_list of_sum_{};
  std::uint64_t config_hash_ = 0;
};

} // namespace dpgather::inline v0
