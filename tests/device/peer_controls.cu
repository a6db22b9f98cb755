// Negative controls on the GPU: each rule of the peer protocol is broken in turn, and a story of
// virtual ranks goes wrong that goes well with all rules kept. Flags that are not released have a
// test of their own, device/peer_flags.cu.
#include <support/peer_control_story.hpp>
#include <support/peer_stage.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

namespace {

using namespace test_support;
using sum = dg::detail::bf16_sum;
using kept = dg::peer_rules;

/// A broken rule may leave a rank waiting: a stall's 1 ms is far from it.
constexpr std::uint64_t long_budget = 30'000'000'000, short_budget = 100'000'000;

template <class Rules>
[[nodiscard]] story_outcome tell(const control_story& story, std::uint64_t budget_ns) {
  random_source random{1};
  gpu_stage stage{story.with, random, 40, 1};
  stage.set_budget(budget_ns);
  stage.run<sum>(story.with, story.calls, story.rules<Rules>());
  return stage.outcome();
}

/// With all rules kept a story goes well, every time.
void goes_well(const control_story& story, const std::string& name) {
  for (int i = 0; i < 3; ++i) {
    const story_outcome out = tell<kept>(story, long_budget);
    INFO(name << ": " << out.text());
    REQUIRE(out.ok());
  }
}
/// With one rule broken it goes wrong. The stalls see to it in the first attempt; the others are
/// for tools, under which a call may take as long as a stall.
template <class Rules, class Wrong>
void goes_wrong(const control_story& story, const std::string& name, Wrong is_wrong) {
  std::string seen;
  for (int attempt = 1; attempt <= 10; ++attempt) {
    const story_outcome out = tell<Rules>(story, short_budget);
    if (is_wrong(out)) {
      MESSAGE(name, ": wrong in attempt ", attempt, ": ", out.text());
      return;
    }
    seen += "\n  " + out.text();
  }
  FAIL(name << ": not wrong as expected:" << seen);
}
constexpr auto times_out = [](const story_outcome& out) { return out.all(dg::errc::timeout); };
constexpr auto wrong_bytes = [](const story_outcome& out) {
  return out.wrong() != 0 && out.all(dg::errc::ok);
};

} // namespace

TEST_CASE("one slot: a peer that is a call ahead overwrites what has not been looked at") {
  goes_well(slots_of_lines(), "two slots, lines");
  goes_wrong<one_slot>(slots_of_lines(), "one slot, lines", times_out);
  goes_well(slots_of_headers(), "two slots, headers");
  goes_wrong<one_slot>(slots_of_headers(), "one slot, headers", times_out);
}

TEST_CASE("no handshake: rows land in a view that the last call's reader has not left") {
  goes_well(gather_after_gather(), "handshake");
  goes_wrong<no_handshake>(gather_after_gather(), "no handshake", wrong_bytes);
}

TEST_CASE("one input: a combine's input is rewritten while a peer still reads it") {
  goes_well(combine_after_combine(-1), "two inputs in turn");
  goes_wrong<same_input>(combine_after_combine(0), "one input", wrong_bytes);
  // With the rule the second of these calls is refused, on every rank.
  const story_outcome refused = tell<kept>(combine_after_combine(0), long_budget);
  INFO("one input refused: " << refused.text());
  REQUIRE(refused.all(dg::errc::aliasing));
}

TEST_CASE("no tails: rows that nobody brings keep what was there") {
  for (const bool combines : {false, true}) {
    const std::string what = combines ? " of a combine" : " of a gather";
    goes_well(with_a_tail(combines), "tails" + what);
    goes_wrong<no_tails>(with_a_tail(combines), "no tails" + what, wrong_bytes);
  }
}

TEST_CASE("idle blocks uncounted: a block that sat calls out is in another call than its peers") {
  goes_well(old_lines(), "idle blocks counted, old lines");
  goes_wrong<forgets_idle_blocks>(old_lines(), "idle blocks uncounted, old lines", wrong_bytes);
  goes_well(lines_of_other_blocks(), "idle blocks counted, lines of other blocks");
  goes_wrong<forgets_idle_blocks>(lines_of_other_blocks(),
                                  "idle blocks uncounted, lines of other blocks", times_out);
}
