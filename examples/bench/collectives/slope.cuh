#pragma once

/// @file
/// Bandwidth: what more rows take, start and end of a call left out.

#include "../support/table.hpp"
#include "../support/target.hpp"
#include "collective_options.hpp"
#include "collective_report.cuh"
#include "goals.hpp"
#include "peer_methods.cuh"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace bench {

/// The case of equal counts with that many rows, or null.
[[nodiscard]] inline const case_result*
equal_case(const collective_report& from, const std::string& operation, std::int32_t rows) {
  const auto at = std::ranges::find_if(from.cases(), [&](const case_result& one) {
    return one.operation == operation && one.what.shares == distribution::equal &&
           one.what.rows == rows;
  });
  return at == from.cases().end() ? nullptr : &*at;
}

/// For each method of an operation the bytes per second between two cases that were measured, and
/// what share they are of the best bandwidth of stores. Nothing where a case is missing.
inline void report_slopes(collective_report& to, const std::string& operation, slope_ends between) {
  const case_result* const low = equal_case(to, operation, between.low);
  const case_result* const high = equal_case(to, operation, between.high);
  if (low == nullptr || high == nullptr) return;
  to.begin("bandwidth, " + operation + ", from " + std::to_string(between.low) + " to " +
           std::to_string(between.high) + " rows on every rank");
  const measurement stores{{1, 1, 1}, 0, to.floor().store_rate};
  std::printf("  best stores to peers, all ranks at once: %.1f GB/s\n", stores.moved * 1e-3);
  table out{{"per rank", "more us", "GB/s", "/ stores"}};
  json_writer& json = to.list("slopes");
  const auto slope_of = [&](const method_result& at_high, const method_result& at_low) {
    measurement more;
    more.us.median = at_high.measured.us.median - at_low.measured.us.median;
    more.moved = high->bytes - low->bytes;
    return more;
  };
  const auto share_of = [&](const measurement& one) {
    return quotient(one.moved_rate(), stores.moved_rate());
  };
  for (const method_result& each : high->all) {
    const method_result* const few = low->find(each.name);
    if (few == nullptr) continue;
    const measurement slope = slope_of(each, *few);
    out.add({each.name, fixed(slope.us.median, 2), fixed(slope.moved_rate() * 1e-3, 1),
             fixed(share_of(slope), 3)});
    json.open_object().field("operation", operation).field("method", each.name);
    json.field("from_rows", between.low).field("to_rows", between.high);
    json.field("more_us", slope.us.median).field("gb_per_s", slope.moved_rate() * 1e-3);
    json.field("to_stores", share_of(slope)).close_object();
  }
  out.print(stdout);
  const auto judge = [&](const std::string& name, double least) {
    const method_result* const many = high->find(name);
    const method_result* const few = low->find(name);
    if (many == nullptr || few == nullptr) return;
    const measurement slope = slope_of(*many, *few);
    to.goals().add(name, fixed(share_of(slope), 3) + " of stores", target::moved_share(least),
                   slope, stores);
  };
  judge(peer_methods::name, least_of_bandwidth);
  judge(peer_methods::name_with(16), least_of_bandwidth_in_16_blocks);
  std::fflush(stdout);
}

} // namespace bench
