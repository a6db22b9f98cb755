// The classic modes inside graphs, padded to the bucket of the maximum, end to end.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("all-gather and all-reduce at the bucket of the maximum give every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.situation == dpgather::situation::in_graph &&
                                c.mode != ts::cell_mode::exact &&
                                c.padding == dpgather::padding_kind::max_len;
                       }>(),
                       12);
}
