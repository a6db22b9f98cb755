// Captured steps over NCCL, on GPUs.
#include <dpgather/device/executor.cuh>

#include "support/graph_suite.hpp"

namespace test_support {

int splits_per_bucket() { return static_cast<int>(case_count(200)); }
std::vector<dg::topology> graph_worlds() {
  return {{.dp_size = 2}, {.dp_size = 1, .tp_size = 2}, {.dp_size = 1}};
}

} // namespace test_support
