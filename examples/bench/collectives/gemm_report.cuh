#pragma once

/// @file
/// What came of collectives beside a GEMM.

#include "../support/table.hpp"
#include "../support/target.hpp"
#include "beside_gemm.cuh"
#include "collective_report.cuh"

#include <cstdio>
#include <string>
#include <vector>

namespace bench {

inline void report_gemm(collective_report& to, const std::string& title, const gemm_shape& shape,
                        const std::vector<beside_result>& all) {
  to.begin(title);
  table out{{"us per call, per GEMM", "alone", "beside", "slower", "min", "max", "GEMM alone",
             "beside", "slower", "TFLOP/s", ""}};
  json_writer& json = to.list("gemm");
  for (const beside_result& each : all) {
    const double call_ratio = quotient(each.beside.median, each.alone.median);
    const double gemm_ratio = quotient(each.gemm_beside.median, each.gemm_alone.median);
    out.add({each.name, fixed(each.alone.median, 2), fixed(each.beside.median, 2),
             fixed(call_ratio, 2) + " x", fixed(each.beside.low, 2), fixed(each.beside.high, 2),
             fixed(each.gemm_alone.median, 2), fixed(each.gemm_beside.median, 2),
             fixed(gemm_ratio, 3) + " x",
             fixed(shape.operations() / each.gemm_beside.median * 1e-6, 0),
             each.covered ? "" : "collectives ended first"});
    json.open_object().field("case", title).field("method", each.name);
    json.field("m", shape.m).field("n", shape.n).field("k", shape.k);
    json.field("alone_us", each.alone.median).field("beside_us", each.beside.median);
    json.field("slower", call_ratio).field("gemm_alone_us", each.gemm_alone.median);
    json.field("gemm_beside_us", each.gemm_beside.median).field("gemm_slower", gemm_ratio);
    json.field("covered", each.covered).close_object();
  }
  out.print(stdout);
  std::fflush(stdout);
}

} // namespace bench
