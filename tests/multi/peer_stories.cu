// The stories over NVLink: a rank for each GPU, and several ranks on each.
#include <support/peer_stage.cuh>

#include <doctest/doctest.h>

TEST_CASE("ranks on two GPUs give every byte") {
  test_support::connect_gpus(2);
  test_support::gpu_stories(test_support::case_count(1'000), 2, 2);
}

TEST_CASE("virtual ranks dealt over two GPUs give every byte") {
  test_support::connect_gpus(2);
  test_support::gpu_stories(test_support::case_count(1'000), 2, 8);
}
