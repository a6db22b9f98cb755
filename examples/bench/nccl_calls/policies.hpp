#pragma once

/// @file
/// The policies whose calls are compared with NCCL's, and what they are configured for.

#include <dpgather/dpgather.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// Slots of the longest rank's size, tails as they come: the raw collective.
struct padded_leave : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::lookup::max,
                                 dg::ladder::from_config, dg::tail::leave, dg::comm::nccl> {};
/// The same with clean tails: one more kernel.
struct padded_zero : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::lookup::max,
                                dg::ladder::from_config, dg::tail::zero, dg::comm::nccl> {};
/// All-reduce at the bucket of the sum.
struct summed : dg::rebind_comm<dg::sum_always, dg::comm::nccl> {};
/// Only real rows; no graphs.
struct exact : dg::rebind_comm<dg::exact_eager, dg::comm::nccl> {};

struct nccl_calls_shape {
  std::int32_t ranks = 2;
  std::int32_t hidden = 7168;
  std::vector<std::int32_t> rows; ///< per rank, each a case

  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(hidden) * 2; }
  [[nodiscard]] std::int32_t most_rows() const { return *std::ranges::max_element(rows); }
  [[nodiscard]] std::size_t most_global_bytes() const {
    return static_cast<std::size_t>(ranks) * static_cast<std::size_t>(most_rows()) * row_bytes();
  }

  /// One configuration for all policies. The ladder has every case, and every case's sum, so that
  /// no bucket is larger than what it holds.
  [[nodiscard]] dg::result<dg::gather_config> config(std::int32_t rank) const {
    std::vector<std::int32_t> sizes;
    for (const std::int32_t n : rows) sizes.insert(sizes.end(), {n, n * ranks});
    std::ranges::sort(sizes);
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    const dg::result<dg::bucket_list> ladder = dg::bucket_list::make(sizes);
    if (!ladder) return ladder.status();
    dg::gather_config out;
    out.topology = {ranks, 1, rank, 0};
    out.element = dg::element::bf16;
    out.row_bytes = row_bytes();
    out.max_rows_per_rank = most_rows();
    out.max_requests_per_rank = most_rows() * ranks;
    out.ladder = *ladder;
    return out;
  }
};

/// The plan of a step in which rank r decodes `rows[r]` rows; every rank makes the same one.
template <class Policy>
[[nodiscard]] dg::result<dg::step_plan> plan_of(const dg::DpGather<Policy>& dp,
                                                std::span<const std::int32_t> rows, bool in_graph) {
  std::vector<dg::step_record> records;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    dg::step_record one = dp.record(1);
    one.world_rank = static_cast<std::int32_t>(r);
    one.phase = rows[r] > 0 ? dg::phase::decode : dg::phase::idle;
    one.votes = in_graph ? dg::step_record::graph_vote : std::uint8_t{0};
    one.tokens = one.logits_tokens = one.requests = rows[r];
    records.push_back(one);
  }
  return dp.plan(std::span<const dg::step_record>{records});
}

} // namespace bench
