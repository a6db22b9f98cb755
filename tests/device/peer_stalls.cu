// Random stories of virtual ranks in which, at each named point, some block of some rank stands
// still for 200 us in every call: whatever gets ahead of whom, every byte is right. Epochs pass
// 2^31, 2^32 and 2^64 on the way.
#include <support/peer_stage.cuh>
#include <support/peer_stall.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace test_support;
using rules = stalled<dg::peer_rules>;

template <class Sum>
void stalled_story(random_source& random, std::uint64_t key, unsigned long long* hits) {
  story_options with;
  do {
    with = draw_options(random, 8, sizeof(typename Sum::storage));
  } while (with.dp_size * with.tp_size < 2);
  with.blocks = random.between(1, 8);
  limit_blocks<Sum, rules>(with, 1);
  const std::uint64_t start = random.pick<std::uint64_t>(
      {(std::uint64_t{1} << 31) - 3, (std::uint64_t{1} << 32) - 3, ~std::uint64_t{0} - 2});
  gpu_stage stage{with, random, start, 1};
  const std::vector<story_call> calls = draw_story<Sum>(random, with, 12, key);
  rules slow{};
  slow.hits = hits;
  std::string who;
  for (std::size_t p = 0; p < peer_points; ++p) {
    stall& here = slow.held[p];
    here = {random.between(0, with.dp_size * with.tp_size - 1),
            random.chance(30) ? -1 : random.between(0, with.blocks - 1), 200'000};
    who += std::string{p == 0 ? "" : ", "} + peer_point_names[p] + " rank " +
           std::to_string(here.rank) + " block " + std::to_string(here.block);
  }
  CAPTURE(start);
  CAPTURE(with.dp_size);
  CAPTURE(with.tp_size);
  CAPTURE(with.blocks);
  CAPTURE(with.most_line_bytes);
  INFO("held up: " << who);
  REQUIRE(stage.tell<Sum>(with, calls, slow) == 0);
}

} // namespace

TEST_CASE("every byte is right, whoever is held up where") {
  const device_bytes hits{peer_points * sizeof(unsigned long long), 0};
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        ++key;
        if (random.chance(50)) {
          stalled_story<dg::detail::bf16_sum>(random, key, hits.as<unsigned long long>());
        } else {
          stalled_story<dg::detail::f32_sum>(random, key, hits.as<unsigned long long>());
        }
      },
      case_count(200));
  unsigned long long count[peer_points];
  cuda_must(cudaMemcpy(count, hits.get(), sizeof count, cudaMemcpyDeviceToHost), "hits");
  for (std::size_t p = 0; p < peer_points; ++p) {
    MESSAGE("blocks held up, ", peer_point_names[p], ": ", count[p]);
    CHECK(count[p] != 0);
  }
}
