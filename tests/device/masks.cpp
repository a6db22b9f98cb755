#include <dpgather/device/masks.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

static_assert(dg::device_job<dg::row_masks>);

TEST_CASE("masks say of every row what the counts say, and pad rows reach no expert") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        dg::step_plan plan;
        dg::count_set counts;
        plan.dp_size = random.between<std::int32_t>(1, 16);
        std::int32_t longest = 0;
        for (std::int32_t d = 0; d < plan.dp_size; ++d) {
          counts.set(d, random.chance(40) ? 0 : random.between<std::int32_t>(0, 20));
          longest = std::max(longest, counts.rows[d]);
        }
        counts.sum_up(plan.dp_size);
        const bool slots = random.chance(50);
        plan.layout = slots ? dg::layout_kind::slots : dg::layout_kind::packed;
        plan.stride = slots ? longest + random.between(0, 5) : 0;
        plan.global_rows =
            slots ? plan.stride * plan.dp_size : counts.total + random.between(0, 40);
        const auto rows = static_cast<std::size_t>(plan.global_rows);

        std::vector<dg::row_source> sources(rows, dg::row_source{77, 77});
        std::vector<std::uint32_t> bits((rows + 31) / 32 + 1, 0xdeadbeefU);
        const auto topk = random.between<std::int32_t>(1, 8);
        std::vector<std::int32_t> ids(rows * static_cast<std::size_t>(topk));
        std::vector<float> weights(ids.size(), 0.5F);
        for (auto& id : ids) id = random.between(0, 255);
        const std::vector<std::int32_t> before = ids;
        const bool skips = random.chance(50);
        const dg::row_masks job{.places = {plan, counts},
                                .pad_bits = bits.data(),
                                .sources = sources.data(),
                                .topk_ids = ids.data(),
                                .topk_weights = skips ? nullptr : weights.data(),
                                .topk = topk,
                                .pad_expert = skips ? -1 : 0};
        const auto workers = random.between<std::uint64_t>(1, 9);
        for (std::uint64_t w = 0; w < workers; ++w) job(0, {w, workers});

        // Row by row, rank by rank.
        std::vector<dg::row_source> expected(rows);
        for (std::int32_t d = 0; d < plan.dp_size; ++d) {
          for (std::int32_t i = 0; i < counts.rows[d]; ++i)
            expected[static_cast<std::size_t>((slots ? d * plan.stride : counts.offset[d]) + i)] = {
                d, i};
        }
        for (std::size_t r = 0; r < rows; ++r) {
          const bool pad = expected[r].dp_rank < 0;
          REQUIRE(sources[r].dp_rank == expected[r].dp_rank);
          REQUIRE(sources[r].row == expected[r].row);
          REQUIRE((bits[r / 32] >> (r % 32) & 1U) == (pad ? 1U : 0U));
          for (std::size_t k = r * static_cast<std::size_t>(topk);
               k < (r + 1) * static_cast<std::size_t>(topk); ++k) {
            REQUIRE(ids[k] == (pad ? (skips ? -1 : 0) : before[k]));
            REQUIRE(weights[k] == (pad && !skips ? 0.0F : 0.5F));
          }
        }
        REQUIRE(bits.back() == 0xdeadbeefU); // nothing behind the last word
      },
      ts::case_count(3'000));
}

TEST_CASE("nothing asked for, nothing written; no rows, no launch") {
  dg::step_plan plan;
  dg::count_set counts;
  CHECK(dg::write_masks(dg::row_masks{.places = {plan, counts}}, dg::host_stream{}).ok());
}
