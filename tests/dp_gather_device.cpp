// Counts that the engine writes where kernels read them, end to end.
#include <dpgather/dp_gather.hpp>

#include "support/gather_cases.hpp"

#include <doctest/doctest.h>

namespace ts = test_support;

TEST_CASE("counts in device memory give every byte") {
  ts::run_gather_cases(ts::variants_of_cells<[](const ts::cell& c) {
                         return c.counts == dpgather::counts_kind::device;
                       }>(),
                       10);
}
