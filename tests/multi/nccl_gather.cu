// All modes over NCCL, end to end, on GPUs: every byte against the scalar reference.
#include <dpgather/device/executor.cuh>

#include "support/nccl_engine.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

const std::vector<dg::topology> worlds{
    {.dp_size = 2}, {.dp_size = 1, .tp_size = 2}, {.dp_size = 1}};

// Types and not lambdas: nvcc takes no lambda as a template argument.
struct outside_graphs {
  constexpr bool operator()(const ts::cell& c) const { return c.situation == dg::situation::eager; }
};
struct graph_shapes {
  constexpr bool operator()(const ts::cell& c) const {
    return c.situation == dg::situation::in_graph;
  }
};

} // namespace

TEST_CASE("NCCL cells outside graphs give every byte") {
  ts::run_nccl_cases(ts::nccl_variants_of_cells<outside_graphs{}>(), worlds, ts::case_count(3'000));
}

TEST_CASE("NCCL cells of graph shapes give every byte") {
  ts::run_nccl_cases(ts::nccl_variants_of_cells<graph_shapes{}>(), worlds, ts::case_count(1'500));
}
