#pragma once

/// @file
/// Who has how many rows in the steps of one case, and how good the library has to be there.

#include "../support/target.hpp"

#include <dpgather/bucket_list.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Rows of each rank in one step.
using row_split = std::vector<std::int32_t>;

[[nodiscard]] inline std::int32_t sum_of(const row_split& rows) {
  return std::accumulate(rows.begin(), rows.end(), 0);
}
[[nodiscard]] inline std::int32_t longest_of(const row_split& rows) {
  return *std::ranges::max_element(rows);
}

/// The ways in which rows are shared out.
enum class step_shares : std::int32_t { balanced, skewed, one };

/// Steps whose rows vary and whose captured sizes do not.
struct step_case {
  step_shares shares = step_shares::balanced;
  row_split most;                ///< the first step's, and no rank ever has more
  std::vector<row_split> splits; ///< a step each

  /// "512+64".
  [[nodiscard]] std::string title() const {
    std::string out;
    for (const std::int32_t rows : most) {
      if (!out.empty()) out += '+';
      out += std::to_string(rows);
    }
    return out;
  }
  [[nodiscard]] std::int32_t rows() const { return longest_of(most); }
  /// Real rows of one of the first `steps` steps, on average.
  [[nodiscard]] double mean_rows(std::int32_t steps) const {
    double out = 0;
    for (std::int32_t i = 0; i < steps; ++i) out += sum_of(splits[static_cast<std::size_t>(i)]);
    return out / steps;
  }
  /// The demand on exact rows with sizes of their own, relative to the best of NCCL: less time when
  /// balanced, 1.3 times the tokens per second where one rank has 512 rows and more and the others
  /// an eighth. For hidden 7168 on two GPUs; other shapes have none.
  [[nodiscard]] target goal(std::int32_t hidden) const {
    if (hidden != 7168 || most.size() != 2) return {};
    if (shares == step_shares::balanced && rows() <= 256) return target::time_ratio(1.0);
    if (shares == step_shares::skewed && rows() >= 512) return target::time_ratio(1 / 1.3);
    return {};
  }
};

/// Makes cases whose steps all fall into one captured size: per rank, of the longest, of the sum.
class case_maker {
public:
  /// `jitter`: how many percent fewer rows than the most a rank may have in a step.
  case_maker(std::int32_t ranks, const dpgather::bucket_list& per_rank,
             const dpgather::bucket_list& of_sum, std::int32_t jitter, std::int32_t steps)
      : ranks_{ranks}, per_rank_{per_rank}, of_sum_{of_sum}, jitter_{jitter}, steps_{steps} {}

  /// `rows`: of the longest rank.
  [[nodiscard]] step_case make(step_shares shares, std::int32_t rows) const {
    step_case out{shares, row_split(static_cast<std::size_t>(ranks_), rows), {}};
    for (std::size_t r = 1; r < out.most.size(); ++r) {
      if (shares == step_shares::skewed) out.most[r] = std::max(1, rows / 8);
      if (shares == step_shares::one) out.most[r] = 0;
    }
    // The standard fixes this engine: the same steps on every rank and machine.
    std::mt19937_64 dice{static_cast<std::uint64_t>(rows)};
    out.splits.push_back(out.most);
    while (static_cast<std::int32_t>(out.splits.size()) < steps_) {
      row_split next = out.most;
      for (std::int32_t& each : next)
        each -= static_cast<std::int32_t>(dice() % static_cast<std::uint64_t>(spread(each) + 1));
      out.splits.push_back(is_alike(next, out.most) ? std::move(next) : out.most);
    }
    return out;
  }

private:
  [[nodiscard]] std::int32_t spread(std::int32_t rows) const { return rows * jitter_ / 100; }
  [[nodiscard]] bool is_alike(const row_split& a, const row_split& b) const {
    for (std::size_t r = 0; r < a.size(); ++r)
      if (per_rank_.smallest_at_least(a[r]) != per_rank_.smallest_at_least(b[r])) return false;
    return of_sum_.smallest_at_least(sum_of(a)) == of_sum_.smallest_at_least(sum_of(b));
  }

  std::int32_t ranks_;
  const dpgather::bucket_list& per_rank_;
  const dpgather::bucket_list& of_sum_;
  std::int32_t jitter_, steps_;
};

} // namespace bench
