#pragma once

/// @file
/// What the plan of a step must be, worked out from the specification with plain loops.

#include "policy_cells.hpp"

#include <dpgather/agreement.hpp>
#include <dpgather/bucket_list.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/gather_config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace test_support {

enum class rule_option : std::uint8_t { strict, tie_to_max, prefill_to_sum };

/// The options of a policy that decide about shapes in one situation, as values. `choose` means
/// all-gather with `max_len` or all-reduce with `sum_len`.
struct shape_options {
  cell_mode mode = cell_mode::exact;
  dg::padding_kind padding = dg::padding_kind::none;
  bool slots = false;
  dg::lookup_kind lookup = dg::lookup_kind::max;
  dg::combine_kind combine = dg::combine_kind::reduce_scatter;
  rule_option rule = rule_option::strict;
  std::int32_t align = 1;
};

struct policy_options {
  shape_options eager;
  shape_options graph;
  bool has_graphs = false;
  bool miss_goes_eager = false;
  dg::counts_kind counts = dg::counts_kind::agreed;
};

/// What the ranks of one step hold, per data-parallel rank.
struct step_counts {
  dg::row_kind kind = dg::row_kind::hidden;
  std::vector<std::int32_t> tokens, logits, draft;
  std::int32_t width = 1; ///< tokens per request
  bool all_vote_graph = false;
  bool any_prefill = false; ///< the first rank that has tokens processes prompts

  [[nodiscard]] const std::vector<std::int32_t>& rows() const {
    return kind == dg::row_kind::logits ? logits : kind == dg::row_kind::draft ? draft : tokens;
  }
};

/// The plan that must come out; or the errors of which one must.
struct expected_plan {
  std::vector<dg::errc> refused;  ///< empty: the step is planned
  std::int32_t refused_rank = -1; ///< the rank named, where only one can be

  dg::mode_kind mode = dg::mode_kind::exact;
  dg::combine_kind combine = dg::combine_kind::reduce_scatter;
  bool slots = false;
  bool in_graph = false;
  bool missed = false;
  std::int64_t global_rows = 0;
  std::int64_t stride = 0;
  std::int64_t total = 0;
  std::vector<std::int32_t> padded;
  std::vector<std::int64_t> offset;

  [[nodiscard]] std::int64_t gather_wire_rows() const {
    return mode == dg::mode_kind::all_gather   ? global_rows
           : mode == dg::mode_kind::all_reduce ? 2 * global_rows
                                               : total;
  }
  [[nodiscard]] std::int64_t combine_wire_rows() const {
    if (mode == dg::mode_kind::all_gather) return global_rows;
    const bool twice =
        mode == dg::mode_kind::all_reduce && combine == dg::combine_kind::all_reduce_then_scatter;
    return twice ? 2 * global_rows : total;
  }
};

namespace detail {

inline std::int32_t up(std::int32_t value, std::int32_t multiple) {
  while (value % multiple != 0) ++value;
  return value;
}

/// The first size that holds `requests`, 0 if none does.
inline std::int32_t bucket_for(const dg::bucket_list& ladder, std::int64_t requests) {
  for (const std::int32_t size : ladder.span()) {
    if (size >= requests) return size;
  }
  return 0;
}

class oracle {
public:
  oracle(const policy_options& policy, const dg::gather_config& config,
         const dg::bucket_list& sum_ladder, const step_counts& step)
      : policy_{policy}, config_{config}, sum_ladder_{sum_ladder}, step_{step}, n_{step.rows()},
        ranks_{static_cast<std::size_t>(config.topology.dp_size)} {
    // Prompts have no width: where nobody is outside prefill, rows are requests.
    const bool only_prompts = step.any_prefill && ranks_ == 1 && step.tokens[0] > 0;
    width_ = only_prompts && policy.counts == dg::counts_kind::agreed ? 1 : step.width;
    rows_per_request_ = step.kind == dg::row_kind::draft ? config.draft_width : width_;
  }

  /// All counts known.
  expected_plan agreed() {
    if (out_of_range(n_) || out_of_range(step_.tokens)) return out_;
    count();
    if (policy_.has_graphs && step_.all_vote_graph) {
      out_.in_graph = true;
      graph();
      const bool only_missed = out_.refused == std::vector<dg::errc>{dg::errc::no_bucket};
      if (!only_missed || !policy_.miss_goes_eager) return checked(policy_.graph);
      out_ = {};
      count();
      out_.missed = true;
    }
    eager();
    return checked(policy_.eager);
  }

  /// Each rank knows its own count: the sizes are capacities.
  expected_plan unknown() {
    if (out_of_range(n_) || out_of_range(step_.tokens)) return out_;
    count();
    out_.in_graph = policy_.has_graphs && step_.all_vote_graph;
    const shape_options& options = out_.in_graph ? policy_.graph : policy_.eager;
    if (out_.in_graph) own_buckets();
    for (std::size_t r = 0; !out_.in_graph && r < ranks_; ++r)
      out_.padded[r] = aligned(n_[r], options);
    out_.mode = dg::mode_kind::exact;
    place(options, static_cast<std::int32_t>(capacity()));
    out_.global_rows = capacity() * static_cast<std::int64_t>(ranks_);
    return checked(options);
  }

private:
  std::int64_t capacity() const {
    const auto one = [&](const shape_options& o) {
      return up(config_.max_rows_per_rank, std::lcm(config_.topology.tp_size, o.align));
    };
    return std::max(one(policy_.eager), policy_.has_graphs ? one(policy_.graph) : 0);
  }
  std::int32_t aligned(std::int32_t rows, const shape_options& options) const {
    if (step_.kind != dg::row_kind::hidden) return rows;
    return up(rows, std::lcm(config_.topology.tp_size, options.align));
  }

  bool out_of_range(const std::vector<std::int32_t>& counts) {
    for (std::size_t r = 0; r < ranks_; ++r) {
      if (counts[r] >= 0 && counts[r] <= config_.max_rows_per_rank) continue;
      out_.refused = {dg::errc::count_out_of_range};
      out_.refused_rank = static_cast<std::int32_t>(r);
      return true;
    }
    return false;
  }
  void refuse(dg::errc code) {
    if (std::find(out_.refused.begin(), out_.refused.end(), code) == out_.refused.end())
      out_.refused.push_back(code);
  }
  void count() {
    out_.padded.assign(ranks_, 0);
    out_.total = std::accumulate(n_.begin(), n_.end(), std::int64_t{0});
  }

  void own_buckets() {
    for (std::size_t r = 0; r < ranks_; ++r) {
      if (step_.tokens[r] % width_ != 0) {
        refuse(dg::errc::count_not_divisible);
        continue;
      }
      const std::int32_t bucket = bucket_for(config_.ladder, step_.tokens[r] / width_);
      if (bucket == 0) refuse(dg::errc::no_bucket);
      out_.padded[r] = bucket * rows_per_request_;
    }
  }
  std::int64_t requests_in_all() {
    std::int64_t sum = 0;
    for (const std::int32_t t : step_.tokens) {
      if (t % width_ != 0) refuse(dg::errc::count_not_divisible);
      sum += t / width_;
    }
    return sum;
  }

  void graph() {
    const shape_options& options = policy_.graph;
    const dg::lookup_kind by = options.lookup;
    if (by == dg::lookup_kind::own || by == dg::lookup_kind::own_and_sum) own_buckets();
    std::int64_t shared = 0;
    if (by == dg::lookup_kind::max) {
      requests_in_all();
      const std::int32_t longest = *std::max_element(step_.tokens.begin(), step_.tokens.end());
      shared = bucket_for(config_.ladder, longest / width_);
      if (shared == 0) refuse(dg::errc::no_bucket);
      out_.padded.assign(ranks_, static_cast<std::int32_t>(shared) * rows_per_request_);
    } else if (by != dg::lookup_kind::own) {
      shared = bucket_for(sum_ladder_, requests_in_all());
      if (shared == 0) refuse(dg::errc::no_bucket);
    }
    if (by == dg::lookup_kind::sum) {
      for (std::size_t r = 0; r < ranks_; ++r) out_.padded[r] = aligned(n_[r], options);
    }
    finish(options, options.mode, options.padding, shared * rows_per_request_);
    const double rows = static_cast<double>(out_.global_rows);
    if (config_.waste_limit > 0 && out_.total > 0 &&
        rows > config_.waste_limit * static_cast<double>(out_.total))
      refuse(dg::errc::no_bucket);
  }

  void eager() {
    const shape_options& options = policy_.eager;
    std::int64_t sum = 0;
    std::int64_t longest = 0;
    for (std::size_t r = 0; r < ranks_; ++r) {
      out_.padded[r] = aligned(n_[r], options);
      sum += out_.padded[r];
      longest = std::max<std::int64_t>(longest, out_.padded[r]);
    }
    cell_mode mode = options.mode;
    dg::padding_kind padding = options.padding;
    if (mode == cell_mode::choose) {
      const std::int64_t to_max = longest * static_cast<std::int64_t>(ranks_);
      bool max = 2 * sum > to_max || (options.rule != rule_option::strict && 2 * sum == to_max);
      // Nobody who holds nothing processes prompts.
      const bool busy = std::any_of(step_.tokens.begin(), step_.tokens.end(),
                                    [](std::int32_t t) { return t > 0; });
      if (options.rule == rule_option::prefill_to_sum && step_.any_prefill && busy) max = false;
      mode = max ? cell_mode::all_gather : cell_mode::all_reduce;
      padding = max ? dg::padding_kind::max_len : dg::padding_kind::sum_len;
    }
    finish(options, mode, padding, sum);
  }

  void finish(const shape_options& options, cell_mode mode, dg::padding_kind padding,
              std::int64_t sum_len_rows) {
    out_.mode = mode == cell_mode::all_gather   ? dg::mode_kind::all_gather
                : mode == cell_mode::all_reduce ? dg::mode_kind::all_reduce
                                                : dg::mode_kind::exact;
    if (mode == cell_mode::all_reduce) out_.combine = options.combine;
    shape_options placed = options;
    if (options.mode == cell_mode::choose) placed.slots = mode == cell_mode::all_gather;
    if (padding == dg::padding_kind::max_len) {
      std::int32_t rows = *std::max_element(out_.padded.begin(), out_.padded.end());
      if (mode == cell_mode::all_gather) rows = up(rows, config_.topology.tp_size);
      out_.padded.assign(ranks_, rows);
      place(placed, rows);
      out_.global_rows = static_cast<std::int64_t>(rows) * static_cast<std::int64_t>(ranks_);
    } else {
      place(placed, 0);
      out_.global_rows = padding == dg::padding_kind::none ? out_.total : sum_len_rows;
    }
  }

  void place(const shape_options& options, std::int32_t slot_rows) {
    out_.slots = options.slots;
    out_.stride = options.slots ? slot_rows : 0;
    out_.offset.clear();
    std::int64_t next = 0;
    for (std::size_t r = 0; r < ranks_; ++r) {
      out_.offset.push_back(options.slots ? static_cast<std::int64_t>(r) * slot_rows : next);
      next += n_[r];
    }
  }

  expected_plan checked(const shape_options& options) {
    if (!out_.refused.empty()) return out_;
    const bool at_capacity = out_.in_graph && options.padding == dg::padding_kind::none;
    const std::int64_t rows =
        at_capacity ? capacity() * static_cast<std::int64_t>(ranks_) : out_.global_rows;
    if (config_.max_global_rows > 0 && rows > config_.max_global_rows)
      refuse(dg::errc::capacity_exceeded);
    for (std::size_t r = 0; r < ranks_; ++r) {
      if (n_[r] > out_.padded[r]) refuse(dg::errc::capacity_exceeded);
    }
    if (out_.total > out_.global_rows) refuse(dg::errc::capacity_exceeded);
    return out_;
  }

  const policy_options& policy_;
  const dg::gather_config& config_;
  const dg::bucket_list& sum_ladder_;
  const step_counts& step_;
  const std::vector<std::int32_t>& n_;
  std::size_t ranks_;
  std::int32_t width_ = 1;
  std::int32_t rows_per_request_ = 1;
  expected_plan out_;
};

} // namespace detail

/// `sum_ladder`: the sizes for the sum over ranks, which the library derives from those per rank.
inline expected_plan plan_that_must_come(const policy_options& policy,
                                         const dg::gather_config& config,
                                         const dg::bucket_list& sum_ladder,
                                         const step_counts& step) {
  detail::oracle work{policy, config, sum_ladder, step};
  return policy.counts == dg::counts_kind::agreed ? work.agreed() : work.unknown();
}

} // namespace test_support
