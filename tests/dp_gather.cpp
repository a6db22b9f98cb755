// The classic modes outside graphs, end to end: all that may pad to the maximum. The other cells
// are in tests/dp_gather_*.cpp.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("eager all-gather, all-reduce to the maximum, and choices give every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.situation == dpgather::situation::eager &&
                                c.mode != ts::cell_mode::exact &&
                                (c.mode != ts::cell_mode::all_reduce ||
                                 c.padding == dpgather::padding_kind::max_len);
                       }>(),
                       15);
}
