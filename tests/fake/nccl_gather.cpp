// All modes over NCCL, end to end, on the fake: every byte against the scalar reference, device
// memory's canaries, inputs, live counts.
#include "support/fake_cuda/executor.hpp"

#include "support/nccl_engine.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

std::vector<dg::topology> worlds() {
  std::vector<dg::topology> out;
  for (const std::int32_t a : {1, 2, 4}) {
    for (const std::int32_t w : {1, 2, 3, 5, 8}) {
      if (w * a <= 16) out.push_back({.dp_size = w, .tp_size = a});
    }
  }
  return out;
}

template <auto Wanted>
void run(std::uint64_t percent) {
  fake_cuda::reset(16);
  ts::run_nccl_cases(ts::nccl_variants_of_cells<Wanted>(), worlds(),
                     std::max<std::uint64_t>(ts::case_count(2'000) * percent / 100, 1));
  CHECK(fake_cuda::mismatches().empty());
  for (const std::string& text : fake_cuda::problems()) FAIL_CHECK(text);
  CHECK(fake_cuda::live() == fake_cuda::live_counts{});
}

} // namespace

TEST_CASE("NCCL cells outside graphs give every byte") {
  run<[](const ts::cell& c) { return c.situation == dg::situation::eager; }>(100);
}

TEST_CASE("NCCL cells of graph shapes give every byte") {
  run<[](const ts::cell& c) { return c.situation == dg::situation::in_graph; }>(100);
}
