#pragma once

/// @file
/// Ladders fitted to what an engine has seen: of all ladders with at most N sizes, the one with the
/// fewest pad rows over a histogram of counts.
///
/// For an engine's start, not for its step path: fitting allocates.

#include <dpgather/bucket_list.hpp>
#include <dpgather/config.hpp>
#include <dpgather/counts.hpp>
#include <dpgather/ladder.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dpgather::inline v0 {

/// What a fitted ladder must obey. Units: requests.
struct ladder_fit_options {
  std::int32_t sizes = 0;       ///< most sizes, 1 to `bucket_list::max_stated`
  std::int64_t multiple = 1;    ///< of which every size is one: `planner<P>::size_multiple(config)`
  std::int32_t cap = INT32_MAX; ///< no size is above it
  std::int32_t cover = 0;       ///< the largest size holds it, seen or not; 0: the largest count
};

/// Rows that one padded request costs in the global tensor: `width` tokens, and under `lookup::max`
/// those on all ranks. The best ladder does not depend on it, what it saves does.
[[nodiscard]] constexpr std::int64_t rows_per_pad(lookup_kind by, std::int32_t ranks,
                                                  std::int32_t width = 1) noexcept {
  return std::int64_t{width} * (by == lookup_kind::max ? ranks : 1);
}

/// What a ladder comes to on a histogram.
struct ladder_score {
  std::int64_t hits = 0;       ///< counts that found a size
  std::int64_t misses = 0;     ///< counts above the largest size; in no other figure
  std::int64_t pad_rows = 0;   ///< rows between the counts and their sizes
  std::int32_t sizes_used = 0; ///< sizes that some count found

  friend constexpr bool operator==(const ladder_score&, const ladder_score&) = default;
};

namespace detail {

/// Sum of a histogram and its largest count that came up.
struct histogram_extent {
  std::int64_t total = 0;
  std::size_t largest = 0;
};

[[nodiscard]] constexpr status refuse_fit(errc code, subject about, std::int64_t value,
                                          std::int64_t limit, const char* where) noexcept {
  return {.code = code, .about = about, .value = value, .limit = limit, .where = where};
}

/// Errors: `count_out_of_range{value = times}`, `size_overflow`.
[[nodiscard]] constexpr result<histogram_extent> extent_of(std::span<const std::int64_t> times,
                                                           const char* where) noexcept {
  result<histogram_extent> out;
  for (std::size_t count = 0; count < times.size(); ++count) {
    if (times[count] < 0)
      return refuse_fit(errc::count_out_of_range, subject::counts, times[count], 0, where);
    if (times[count] == 0) continue;
    if (times[count] > INT64_MAX - out->total)
      return refuse_fit(errc::size_overflow, subject::counts, times[count], INT64_MAX - out->total,
                        where);
    out->total += times[count];
    out->largest = count;
  }
  return out;
}

/// The dynamic programme. One object per fit.
///
/// An optimal ladder has sizes among the counts that came up, rounded up to the multiple: any other
/// size can sink to the next of those below it. Let `pads(i, j)` be what counts above candidate i
/// cost at candidate j; the best ladder of k sizes that ends at j is the cheapest best ladder of
/// k - 1 sizes that ends at some i < j, plus `pads(i, j)`. That i never falls while j grows, as
/// pads obey the quadrangle inequality (Yao, "Efficient dynamic programming using quadrangle
/// inequalities", STOC 1980), so halving finds the i of all j in n log n.
class ladder_fitter {
public:
  /// `largest`: of the counts that came up. `times` sums up to what fits, times any size.
  ladder_fitter(std::span<const std::int64_t> times, std::size_t largest, std::int64_t multiple,
                std::int64_t cover) {
    std::int64_t seen = 0, requests = 0;
    const auto add = [&](std::int64_t count) {
      // A rank or a step without requests runs at the smallest size, whatever that is.
      const std::int64_t size = round_up(std::max<std::int64_t>(count, 1), multiple);
      if (size > ends_.back().size) ends_.emplace_back();
      ends_.back() = {size, seen, requests};
    };
    for (std::size_t count = 0; count <= largest; ++count) {
      if (times[count] == 0) continue;
      seen += times[count];
      requests += times[count] * static_cast<std::int64_t>(count);
      add(static_cast<std::int64_t>(count));
    }
    if (cover > static_cast<std::int64_t>(largest)) add(cover);
  }

  [[nodiscard]] bucket_list best(std::size_t most) {
    const std::size_t last = ends_.size() - 1;
    const std::size_t sizes = std::min(most, last);
    from_.assign((sizes + 1) * ends_.size(), 0);
    cost_.assign(ends_.size(), 0);
    for (std::size_t j = 1; j <= last; ++j) cost_[j] = pads(0, j);
    std::vector<std::int64_t> next(ends_.size());
    for (std::size_t k = 2; k <= sizes; ++k) {
      // What the sizes still to come leave room for.
      solve(k, next, k, last - (sizes - k), k - 1, last - 1);
      std::swap(cost_, next);
    }
    std::vector<std::int32_t> chosen;
    for (std::size_t k = sizes, j = last; k > 0; j = from_[k * ends_.size() + j], --k)
      chosen.push_back(static_cast<std::int32_t>(ends_[j].size));
    bucket_list out;
    for (auto size = chosen.rbegin(); size != chosen.rend(); ++size) out.append(*size);
    return out;
  }

private:
  /// A candidate, with what came up to its size and below.
  struct end {
    std::int64_t size = 0;
    std::int64_t counts = 0;
    std::int64_t requests = 0;
  };

  [[nodiscard]] std::int64_t pads(std::size_t i, std::size_t j) const noexcept {
    return ends_[j].size * (ends_[j].counts - ends_[i].counts) -
           (ends_[j].requests - ends_[i].requests);
  }

  /// Costs of k sizes for ends `first` to `last`, whose last but one lies in `low` to `high`.
  void solve(std::size_t k, std::vector<std::int64_t>& next, std::size_t first, std::size_t last,
             std::size_t low, std::size_t high) noexcept {
    if (first > last) return;
    const std::size_t middle = first + (last - first) / 2;
    std::size_t best = low;
    std::int64_t least = INT64_MAX;
    for (std::size_t i = low; i <= std::min(high, middle - 1); ++i) {
      const std::int64_t cost = cost_[i] + pads(i, middle);
      if (cost < least) { // of equals the smallest size, so that every rank finds the same
        least = cost;
        best = i;
      }
    }
    next[middle] = least;
    from_[k * ends_.size() + middle] = static_cast<std::uint32_t>(best);
    solve(k, next, first, middle - 1, low, best);
    solve(k, next, middle + 1, last, best, high);
  }

  std::vector<end> ends_{end{}};    ///< ascending, from a size 0 below all
  std::vector<std::int64_t> cost_;  ///< of the best ladder of k sizes that ends there
  std::vector<std::uint32_t> from_; ///< its last size but one, by k and end
};

} // namespace detail

/// What `sizes` cost on a histogram. `times[c]`: how often c requests were looked up; by the
/// maximum or the sum once a step, by a rank's own count W times. `rows`: of a padded request, see
/// `rows_per_pad`.
/// Errors: `count_out_of_range` (a negative number of times, or `rows` below one),
/// `size_overflow` (rows that do not fit 63 bits).
[[nodiscard]] constexpr result<ladder_score> score_ladder(std::span<const std::int64_t> times,
                                                          const bucket_list& sizes,
                                                          std::int64_t rows = 1) noexcept {
  constexpr const char* where = "score_ladder";
  if (rows < 1) return detail::refuse_fit(errc::count_out_of_range, subject::width, rows, 1, where);
  const result<detail::histogram_extent> extent = detail::extent_of(times, where);
  if (!extent) return extent.status();
  const std::int64_t most = INT64_MAX / rows / std::max(sizes.largest(), 1);
  if (extent->total > most)
    return detail::refuse_fit(errc::size_overflow, subject::counts, extent->total, most, where);
  result<ladder_score> out;
  std::int32_t used = 0;
  for (std::size_t count = 0; count < times.size(); ++count) {
    if (times[count] == 0) continue;
    const std::int32_t size = sizes.smallest_at_least(static_cast<std::int64_t>(count));
    if (size == 0) {
      out->misses += times[count];
      continue;
    }
    out->hits += times[count];
    out->pad_rows += times[count] * (size - static_cast<std::int64_t>(count)) * rows;
    out->sizes_used += size != used;
    used = size;
  }
  return out;
}

/// The ladder with the fewest pad rows on a histogram, among those with at most `options.sizes`
/// sizes, whose largest holds every count that came up and `options.cover`. It has fewer sizes
/// where fewer are as good. Of equals it has the smallest sizes, from the largest on downwards: the
/// same on all ranks that fit the same histogram. Lookup by maximum, own count or sum differ only
/// in what the histogram counts: `times[c]`, as for `score_ladder`.
///
/// The answer goes where stated sizes go: `gather_config::ladder`, a histogram of sums into
/// `gather_config::sum_ladder` (with a `cover` of W times the largest size per rank,
/// no sum misses). A count just above all that were seen runs at the `cover`; append another
/// ladder instead for sizes in between.
///
/// Time: H + N n log n for n distinct counts of at most H; memory: 4 N n bytes. 2,048 counts and
/// 64 sizes: about 6 ms. Throws `std::bad_alloc` only.
/// Errors: `bad_buckets` (sizes below one or above `bucket_list::max_stated`), `bad_config{ladder,
/// multiple}` outside [1, 2^31), `bad_config{max_requests, cover}` below zero, `bad_config{counts}`
/// for a histogram in which nothing came up, `count_out_of_range` (a negative number of times),
/// `no_bucket{requests, largest}` (a count or the cover has no size within the cap),
/// `size_overflow` (times by sizes do not fit 63 bits).
[[nodiscard]] inline result<bucket_list> fit_ladder(std::span<const std::int64_t> times,
                                                    const ladder_fit_options& options) {
  const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit) {
    return detail::refuse_fit(code, about, value, limit, "fit_ladder");
  };
  if (options.sizes < 1 || options.sizes > bucket_list::max_stated)
    return refuse(errc::bad_buckets, subject::ladder, options.sizes, bucket_list::max_stated);
  if (options.multiple < 1 || options.multiple > INT32_MAX)
    return refuse(errc::bad_config, subject::ladder, options.multiple, 1);
  if (options.cover < 0) return refuse(errc::bad_config, subject::max_requests, options.cover, 0);
  const result<detail::histogram_extent> extent = detail::extent_of(times, "fit_ladder");
  if (!extent) return extent.status();
  if (extent->total == 0) return refuse(errc::bad_config, subject::counts, 0, 1);

  const std::int64_t most = std::max(options.cap, 0) / options.multiple * options.multiple;
  const std::size_t to_hold = std::max({extent->largest, static_cast<std::size_t>(options.cover),
                                        std::size_t{1}}); // a step without requests, too
  if (to_hold > static_cast<std::size_t>(most))
    return refuse(errc::no_bucket, subject::requests, static_cast<std::int64_t>(to_hold), most);
  const std::int64_t largest = round_up(static_cast<std::int64_t>(to_hold), options.multiple);
  if (extent->total > INT64_MAX / largest)
    return refuse(errc::size_overflow, subject::counts, extent->total, INT64_MAX / largest);
  return detail::ladder_fitter{times, extent->largest, options.multiple, options.cover}.best(
      static_cast<std::size_t>(options.sizes));
}

} // namespace dpgather::inline v0
