// The peer protocol as CPU threads: under ThreadSanitizer every byte that two ranks share must be
// ordered by the protocol alone.
#include <dpgather/device/host_block.hpp>

#include <support/peer_host_stage.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;

template <class Sum>
void random_story(random_source& random, std::uint64_t key) {
  story_options with = draw_options(random, 6, sizeof(typename Sum::storage));
  const std::uint64_t starts[] = {0, 5, (std::uint64_t{1} << 31) - 3, (std::uint64_t{1} << 32) - 3,
                                  ~std::uint64_t{0} - 2};
  host_stage stage{with, random, random.pick(starts)};
  const std::vector<story_call> calls = draw_story<Sum>(random, with, 12, key);
  CAPTURE(with.dp_size);
  CAPTURE(with.tp_size);
  CAPTURE(with.most_line_bytes);
  REQUIRE(tell_on_host<Sum>(stage, with, calls) == 0);
}

} // namespace

TEST_CASE("every sequence of calls gives every byte, without a barrier between ranks") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        ++key;
        if (random.chance(50)) {
          random_story<dg::detail::bf16_sum>(random, key);
        } else {
          random_story<dg::detail::f32_sum>(random, key);
        }
      },
      case_count(20'000) / 100);
}
