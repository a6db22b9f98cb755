// The classic modes outside graphs, end to end; tests/dp_gather_*.cpp have the other cells.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("eager all-gather, all-reduce and the choice between them give every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.situation == dpgather::situation::eager &&
                                c.mode != ts::cell_mode::exact;
                       }>(),
                       25);
}
