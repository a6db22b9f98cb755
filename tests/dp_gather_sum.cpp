// All-reduce of the sum outside graphs, end to end.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("eager all-reduce to the sum gives every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.situation == dpgather::situation::eager &&
                                c.mode != ts::cell_mode::exact &&
                                !(c.mode != ts::cell_mode::all_reduce ||
                                  c.padding == dpgather::padding_kind::max_len);
                       }>(),
                       10);
}
