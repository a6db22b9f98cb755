// Virtual ranks dealt over two GPUs: the same stories over NVLink.
#include <support/peer_stage.cuh>

#include <doctest/doctest.h>

TEST_CASE("ranks on two GPUs give every byte") {
  test_support::connect_gpus(2);
  test_support::gpu_stories(test_support::case_count(1'000), 2);
}
