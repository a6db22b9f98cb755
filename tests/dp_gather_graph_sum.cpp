// All-reduce inside graphs at the bucket of the sum, end to end.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("all-reduce at the bucket of the sum gives every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.situation == dpgather::situation::in_graph &&
                                c.mode != ts::cell_mode::exact &&
                                c.padding == dpgather::padding_kind::sum_len;
                       }>(),
                       10);
}
