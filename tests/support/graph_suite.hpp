#pragma once

/// @file
/// The graph tests that run on the fake and on GPUs alike. Defines test cases: include it once.

#include "graph_cases.hpp"

#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

namespace test_support {

struct nccl_pr8278 : dg::rebind_comm<dg::pr8278, dg::comm::nccl> {};
struct nccl_sentinel
    : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::tail::sentinel<-3>,
                 dg::ladder::from_config, dg::lookup::max, dg::comm::nccl> {};
/// An all-reduce at the bucket of the maximum: the offset in the slots comes from the shape.
struct nccl_summed
    : dg::policy<dg::mode::all_reduce, dg::padding::max_len, dg::lookup::max,
                 dg::ladder::from_config, dg::combine::all_reduce_then_scatter, dg::comm::nccl> {};
/// The same packed: the offset comes from the counts, in device memory.
struct nccl_packed
    : dg::policy<dg::mode::all_reduce, dg::padding::max_len, dg::layout::packed, dg::lookup::max,
                 dg::ladder::from_config, dg::combine::all_reduce_then_scatter,
                 dg::tail::sentinel<-3>, dg::comm::nccl> {};

/// How many splits each bucket is replayed for; the worlds that are there.
int splits_per_bucket();
std::vector<dg::topology> graph_worlds();

TEST_CASE_TEMPLATE("one graph per bucket serves every split, bit for bit", Policy, nccl_pr8278,
                   nccl_sentinel, nccl_summed, nccl_packed) {
  const bool zero = std::is_same_v<typename Policy::tail_type, dg::tail::zero>;
  for (const dg::topology& world : graph_worlds()) {
    CAPTURE(world.dp_size);
    CAPTURE(world.tp_size);
    replay_all_buckets<Policy>(world, splits_per_bucket(), zero ? 0.0F : -3.0F);
  }
}

} // namespace test_support
