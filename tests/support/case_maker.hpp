#pragma once

/// @file
/// Random sessions and steps for the end-to-end tests; every rank draws the same ones.

#include "plan_oracle.hpp"
#include "random_cases.hpp"

#include <dpgather/gather_config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace test_support {

/// One step of a session, the same on every rank.
struct gather_step {
  step_counts counts;
  dg::element type = dg::element::u8;
  std::size_t row_bytes = 0;
  bool owes_sum = false;      ///< the gather's input is partial
  bool agrees_anyway = true;  ///< records are exchanged even if counts need not be agreed
  bool near_capacity = false; ///< a rank is at its capacity, or one beside it
  std::uint64_t key = 0;      ///< of all payloads
};

inline constexpr std::size_t largest_row_bytes = 64;

class case_maker {
public:
  case_maker(const policy_options& policy, dg::topology shape, random_source random)
      : random_{random} {
    config.topology = shape;
    config.row_bytes = 8 * random_.between<std::size_t>(1, largest_row_bytes / 8);
    config.element = random_.pick({dg::element::u8, dg::element::bf16, dg::element::f64});
    if (policy.has_graphs) {
      draw_ladder(policy);
    } else {
      config.max_rows_per_rank = random_.between(1, 40);
    }
    // An engine's buffer that does not hold every step.
    const std::int64_t most = std::int64_t{config.max_rows_per_rank} * shape.dp_size;
    if (random_.chance(10)) config.max_global_rows = random_.between(most / 2 + 1, most + 4);
    if (random_.chance(10)) config.waste_limit = random_.pick({1.0, 1.5, 2.0, 4.0});
  }

  gather_step next(bool flips_bits) {
    gather_step out;
    out.key = random_();
    draw_counts(out);
    out.type = random_.pick({dg::element::u8, dg::element::i32, dg::element::i64, dg::element::f16,
                             dg::element::bf16, dg::element::f32, dg::element::f64});
    const std::size_t unit = dg::size_of(out.type);
    out.row_bytes = unit * random_.between<std::size_t>(1, config.row_bytes / unit);
    out.owes_sum = random_.chance(45);
    if (config.topology.tp_size > 1) {
      const bool flipped_floats = flips_bits && dg::is_floating(out.type);
      if (!dg::is_summable(out.type) || flipped_floats) out.owes_sum = false;
    }
    out.agrees_anyway = random_.chance(50);
    return out;
  }

  dg::gather_config config;

private:
  void draw_ladder(const policy_options& policy) {
    const std::int32_t unit = std::lcm(config.topology.tp_size, policy.graph.align);
    width_ = random_.pick({1, 1, 2, 3});
    const std::int32_t sizes = random_.between(1, std::max(1, 40 / (unit * width_)));
    const std::int32_t pool = sizes * unit;
    config.max_requests_per_rank = pool;
    config.draft_width = random_.between(1, width_);
    // Sometimes more rows than the largest bucket holds: such steps miss.
    config.max_rows_per_rank = pool * width_ + (random_.chance(25) ? width_ : 0);
    for (std::int32_t s = 1; s <= sizes; ++s) {
      if (random_.chance(40) || (s == sizes && random_.chance(85))) config.ladder.append(s * unit);
    }
    if (config.ladder.empty()) config.ladder.append(pool);
  }

  void draw_counts(gather_step& out) {
    step_counts& counts = out.counts;
    const auto ranks = static_cast<std::size_t>(config.topology.dp_size);
    counts.width = width_;
    counts.all_vote_graph = random_.chance(85);
    counts.any_prefill = random_.chance(30);
    counts.kind = random_.chance(65)   ? dg::row_kind::hidden
                  : random_.chance(60) ? dg::row_kind::logits
                                       : dg::row_kind::draft;
    const std::int32_t cap = config.max_rows_per_rank;
    const std::int32_t most = cap / width_;
    const std::int32_t style = random_.between(0, 99);
    std::vector<std::int32_t> requests(ranks);
    const std::int32_t level = random_.between(0, most);
    for (std::int32_t& r : requests) {
      r = style < 35 ? level : style < 60 ? random_.between(0, most) : random_.between(0, most / 3);
      if (style >= 35 && style < 50 && random_.chance(45)) r = 0;
    }
    if (random_.chance(20)) requests[random_.between<std::size_t>(0, ranks - 1)] = 0;
    if (style >= 95) requests.assign(ranks, 0);
    for (const std::int32_t r : requests) {
      counts.tokens.push_back(r * width_);
      counts.logits.push_back(random_.chance(50) ? r : random_.between(0, r * width_));
      counts.draft.push_back(r * random_.between(0, config.draft_width));
    }
    if (style >= 5 && style < 33) {
      out.near_capacity = true;
      const std::size_t victim = random_.between<std::size_t>(0, ranks - 1);
      const std::int32_t beside = random_.between(-1, 1);
      // One request less, so that most graphs can run it.
      const bool whole_requests = beside < 0 && random_.chance(80);
      counts.tokens[victim] = cap + (whole_requests ? -width_ : beside);
      if (counts.kind == dg::row_kind::logits) counts.logits[victim] = counts.tokens[victim];
    }
    if (style >= 92 && style < 95) {
      // Any token counts, divisible or not.
      for (std::int32_t& t : counts.tokens) t = random_.between(0, cap);
    }
  }

  random_source random_;
  std::int32_t width_ = 1;
};

} // namespace test_support
