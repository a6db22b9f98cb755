// The ready-made policies over NCCL on GPUs: random splits end to end, and against raw NCCL.
#include <dpgather/device/executor.cuh>

#include "support/must.cuh"
#include "support/nccl_engine.hpp"
#include "support/ready_made.hpp"

#include <dpgather/comm/run_ranks.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

TEST_CASE("2,000 random splits of each ready-made policy, bit for bit") {
  for (const ts::gather_variant& variant :
       ts::ready_made_variants<ts::nccl_engine_of, dg::nccl_communicator>()) {
    CAPTURE(variant.name);
    std::vector<ts::gather_variant> one{variant};
    ts::run_nccl_cases(one, {{.dp_size = 2}}, ts::case_count(2'000));
  }
}

namespace {

/// The raw collective: padded rows as they are.
struct raw_like : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::tail::leave,
                             dg::ladder::from_config, dg::lookup::max, dg::comm::nccl> {};

constexpr std::int64_t rows = 64;
constexpr std::size_t row_bytes = 2 * 512;

std::vector<cudaGraphNodeType> captured(cudaStream_t stream, auto body) {
  ts::cuda_must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  body();
  cudaGraph_t graph = nullptr;
  ts::cuda_must(cudaStreamEndCapture(stream, &graph), "end");
  std::size_t count = 0;
  ts::cuda_must(cudaGraphGetNodes(graph, nullptr, &count), "count");
  std::vector<cudaGraphNode_t> nodes(count);
  ts::cuda_must(cudaGraphGetNodes(graph, nodes.data(), &count), "nodes");
  std::vector<cudaGraphNodeType> types;
  for (cudaGraphNode_t node : nodes)
    ts::cuda_must(cudaGraphNodeGetType(node, &types.emplace_back()), "type");
  ts::cuda_must(cudaGraphDestroy(graph), "destroy");
  std::ranges::sort(types);
  return types;
}

} // namespace

TEST_CASE("all-gather and reduce-scatter are NCCL's: the same graph nodes, the same bytes") {
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = 2}, clock};
  dg::run_ranks(world, [](dg::host_communicator comm) {
    ts::nccl_rank here{comm};
    const cudaStream_t stream = here.stream();
    dg::gather_config config;
    config.topology = comm.topology();
    config.row_bytes = row_bytes;
    config.max_rows_per_rank = rows;
    config.ladder.append(rows);
    std::vector<std::byte> image(*dg::DpGather<raw_like>::workspace_bytes(config));
    ts::device_twin workspace, local, global, raw_global, out, raw_out;
    dg::DpGather<raw_like> dp{dg::nccl_communicator{here.world()},
                              config,
                              {workspace.load(image.data(), image.size()), image.size()}};
    ts::must(dp.check());
    const auto plan = dp.capture_plan(rows);
    ts::must(plan.status());

    // bf16 whole numbers, distinct per rank and place; two of them sum exactly.
    std::vector<std::byte> mine(rows * row_bytes), all(2 * mine.size(), std::byte{0xee});
    for (std::size_t at = 0; at < mine.size(); at += 2)
      ts::store_element(mine.data() + at, dg::element::bf16,
                        ts::mixed(at, static_cast<std::uint64_t>(comm.rank())) % 128);
    std::byte* const from = local.load(mine.data(), mine.size());
    std::byte* const to = global.load(all.data(), all.size());
    std::byte* const raw_to = raw_global.load(all.data(), all.size());
    std::byte* const sums = out.load(mine.data(), mine.size());
    std::byte* const raw_sums = raw_out.load(mine.data(), mine.size());
    const ncclComm_t nccl = dg::nccl_communicator{here.world()}.native_handle();

    const auto gather = [&] {
      ts::must(
          dp.gather(dg::const_token_rows<dg::replicated>{from, rows, dg::element::bf16, row_bytes},
                    {to, 2 * rows, dg::element::bf16, row_bytes}, *plan, stream)
              .status());
    };
    const auto raw_gather = [&] {
      REQUIRE(ncclAllGather(from, raw_to, mine.size(), ncclUint8, nccl, stream) == ncclSuccess);
    };
    const auto combine = [&] {
      ts::must(dp.combine(
          dg::const_token_rows<dg::partial>{raw_to, 2 * rows, dg::element::bf16, row_bytes},
          {sums, rows, dg::element::bf16, row_bytes}, *plan, stream));
    };
    const auto raw_combine = [&] {
      REQUIRE(ncclReduceScatter(raw_to, raw_sums, mine.size() / 2, ncclBfloat16, ncclSum, nccl,
                                stream) == ncclSuccess);
    };
    const bool same_gather = captured(stream, gather) == captured(stream, raw_gather);
    const bool same_combine = captured(stream, combine) == captured(stream, raw_combine);
    CHECK(same_gather);
    CHECK(same_combine);
    gather();
    raw_gather();
    combine();
    raw_combine();
    ts::must(here.wait());
    CHECK(std::memcmp(global.fetch(), raw_global.fetch(), all.size()) == 0);
    CHECK(std::memcmp(out.fetch(), raw_out.fetch(), mine.size()) == 0);
    CHECK(std::memcmp(global.fetch() + static_cast<std::size_t>(comm.rank()) * mine.size(),
                      mine.data(), mine.size()) == 0);
  });
}
