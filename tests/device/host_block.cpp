// The peer protocol as CPU threads: under ThreadSanitizer every byte that two ranks share must be
// ordered by the protocol alone.
#include <dpgather/device/host_block.hpp>

#include <support/peer_host_stage.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <variant>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;

template <class Sum, class RulesOf>
void random_story(random_source& random, std::uint64_t key, const story_options& with,
                  RulesOf rules_of) {
  const std::uint64_t starts[] = {0, 5, (std::uint64_t{1} << 31) - 3, (std::uint64_t{1} << 32) - 3,
                                  ~std::uint64_t{0} - 2};
  host_stage stage{with, random, random.pick(starts)};
  const std::vector<story_call> calls = draw_story<Sum>(random, with, 12, key);
  CAPTURE(with.plain);
  CAPTURE(with.dp_size);
  CAPTURE(with.tp_size);
  CAPTURE(with.most_line_bytes);
  REQUIRE(tell_on_host<Sum>(stage, with, calls, rules_of) == 0);
}

template <class Sum, class Rules = peer_rules>
void random_story(random_source& random, std::uint64_t key, const story_options& with) {
  random_story<Sum>(random, key, with, [](std::int32_t) { return Rules{}; });
}

} // namespace

TEST_CASE("every sequence of calls gives every byte, without a barrier between ranks") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        ++key;
        if (random.chance(50)) {
          random_story<dg::detail::bf16_sum>(random, key, draw_options(random, 6, 2));
        } else {
          random_story<dg::detail::f32_sum>(random, key, draw_options(random, 6, 4));
        }
      },
      case_count(20'000) / 100);
}

TEST_CASE("kernels of plain calls give the same bytes") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        using bf16 = dg::detail::bf16_sum;
        using f32 = dg::detail::f32_sum;
        random_story<bf16, plain_rules<2>>(random, ++key, draw_plain_options(random, 2));
        random_story<f32, plain_rules<4>>(random, ++key, draw_plain_options(random, 4));
        random_story<bf16, plain_rules<8>>(random, ++key, draw_plain_options(random, 8));
        random_story<bf16, exchanging_rules<2>>(random, ++key, draw_plain_options(random, 2, true));
        random_story<f32, exchanging_rules<4>>(random, ++key, draw_plain_options(random, 4, true));
      },
      case_count(2'000) / 100);
}

TEST_CASE("a rank whose rows are plain and one whose rows are not understand each other") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        const std::int32_t plain = random.between(0, 3);
        const bool exchanging = random.chance(40);
        const auto rules_of = [=](std::int32_t rank) {
          using rules = std::variant<direct_rules, plain_rules<4>, exchanging_rules<4>>;
          if (rank % 2 != plain % 2) return rules{direct_rules{}};
          return exchanging ? rules{exchanging_rules<4>{}} : rules{plain_rules<4>{}};
        };
        random_story<dg::detail::bf16_sum>(random, ++key, draw_plain_options(random, 4, exchanging),
                                           rules_of);
      },
      case_count(4'000) / 100);
}
