// Captured steps over NCCL, on the fake.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"
#include "support/graph_suite.hpp"

namespace test_support {

int splits_per_bucket() { return 6; }
std::vector<dg::topology> graph_worlds() {
  fake_cuda::reset(8);
  return {
      {.dp_size = 1}, {.dp_size = 3}, {.dp_size = 2, .tp_size = 2}, {.dp_size = 2, .tp_size = 4}};
}

} // namespace test_support
