// Exact moves of agreed counts inside graphs, end to end.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("exact moves in a graph give every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.mode == ts::cell_mode::exact &&
                                c.counts == dpgather::counts_kind::agreed &&
                                c.situation == dpgather::situation::in_graph;
                       }>(),
                       14);
}
