// W virtual ranks on one GPU: every byte of random sequences of calls, no barrier between ranks.
#include <support/peer_stage.cuh>

#include <doctest/doctest.h>

TEST_CASE("virtual ranks give every byte") {
  test_support::gpu_stories(test_support::case_count(2'000), 1, 8);
}
