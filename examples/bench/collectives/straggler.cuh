#pragma once

/// @file
/// One rank is late: how much later is everybody?

#include "../support/device_rows.cuh"
#include "../support/method.hpp"
#include "../support/table.hpp"
#include "../support/target.hpp"
#include "collective_rank.cuh"
#include "collective_report.cuh"
#include "goals.hpp"
#include "section_kernels.cuh"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace bench {

inline constexpr std::int32_t straggler_us = 20;

/// Every method twice: a kernel on the last rank's stream in front of each call takes no time, or
/// `straggler_us`. The first two methods are that kernel alone, on all ranks. Graphs hold some
/// calls, so the late rank is late in each.
[[nodiscard]] inline group straggler_group(collective_rank& here, std::string title,
                                           const std::vector<method>& methods) {
  const auto wait = [&here](std::int32_t us) {
    launch(spin<std::uint64_t>, 1, 32, here.stream(), std::uint64_t{1000} * us);
  };
  const bool late = here.rank() == here.shape().ranks - 1;
  group out{std::move(title), {}};
  (void)out.add({.name = "kernel of 0 us", .call = [wait](int) { wait(0); }});
  (void)out.add({.name = "kernel of " + std::to_string(straggler_us) + " us",
                 .call = [wait](int) { wait(straggler_us); }});
  for (const method& each : methods) {
    std::int32_t on_time = 0;
    for (const std::int32_t us : {0, straggler_us}) {
      method one = each;
      one.name += us == 0 ? ", on time" : ", one rank late";
      one.call = [wait, late, us, call = each.call](int i) {
        if (late) wait(us);
        call(i);
      };
      if (us == 0) {
        on_time = one.baseline = static_cast<std::int32_t>(out.methods.size());
      } else {
        one.baseline = on_time;
      }
      (void)out.add(std::move(one));
    }
  }
  return out;
}

/// Results of a `straggler_group`. `judged`: the name of the method that has a goal.
inline void report_straggler(collective_report& to, const std::string& title,
                             const std::vector<method_result>& all, const std::string& judged) {
  to.begin(title);
  const double delay = all[1].measured.us.median - all[0].measured.us.median;
  std::printf("  the last rank is late by %.2f us in each call, as measured\n", delay);
  table out{{"us per call", "median", "min", "max", "slower by", "beyond the delay"}};
  json_writer& json = to.list("straggler");
  for (std::size_t m = 0; m < all.size(); ++m) {
    const summary& us = all[m].measured.us;
    const method_result& base = all[static_cast<std::size_t>(all[m].baseline)];
    const bool late = m > 1 && &base != &all[m];
    const double extra = us.median - base.measured.us.median;
    out.add({all[m].name, fixed(us.median, 2), fixed(us.low, 2), fixed(us.high, 2),
             late ? fixed(extra, 2, true) : "-", late ? fixed(extra - delay, 2, true) : "-"});
    json.open_object().field("case", title).field("method", all[m].name);
    json.field("median_us", us.median).field("min_us", us.low).field("max_us", us.high);
    if (late) json.field("slower_us", extra).field("delay_us", delay);
    json.close_object();
  }
  out.print(stdout);
  for (const method_result& each : all) {
    const method_result& base = all[static_cast<std::size_t>(each.baseline)];
    if (each.name != judged + ", one rank late") continue;
    to.goals().add(each.name, fixed(each.measured.us.median - base.measured.us.median, 2, true),
                   target::extra_us(delay + most_beyond_delay_us), each.measured, base.measured);
  }
  std::fflush(stdout);
}

} // namespace bench
