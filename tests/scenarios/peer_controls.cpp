// Negative controls: each rule of the peer protocol is broken in turn, and a story goes wrong that
// goes well with all rules kept. A stall at one point for one rank makes the bad schedule likely.
#include <support/fault_world.hpp> // first: the watchdog

#include <support/expected_races.hpp>
#include <support/peer_broken_rules.hpp>
#include <support/peer_host_stage.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;
using sum = dg::detail::bf16_sum;
using namespace std::chrono_literals;

/// Holds one rank up at one point.
struct stall {
  std::int32_t rank = -1;
  std::int32_t block = -1; ///< -1: any
  peer_point at = peer_point::entered;
  std::chrono::microseconds length{0};
};

/// A set of rules whose ranks know who they are, and are held up now and then.
template <class Rules>
struct stalled : Rules {
  stall held{};
  std::int32_t rank = 0;

  template <class Block>
  void at(peer_point point, const Block& block) const noexcept {
    if (rank != held.rank || point != held.at) return;
    if (held.block >= 0 && static_cast<std::uint32_t>(held.block) != block.block()) return;
    std::this_thread::sleep_for(held.length);
  }
};

/// What came of a story.
struct outcome {
  std::uint64_t wrong = 0;    ///< bytes
  std::vector<errc> errors{}; ///< of the ranks; `ok` for none
  [[nodiscard]] bool ok() const {
    for (const errc e : errors)
      if (e != errc::ok) return false;
    return wrong == 0;
  }
  [[nodiscard]] bool all(errc code) const {
    for (const errc e : errors)
      if (e != code) return false;
    return true;
  }
};

/// A story for a control: the world, the calls, who is held up where.
struct control_story {
  story_options with{};
  std::vector<story_call> calls{};
  stall held{};

  explicit control_story(std::int32_t ranks, std::int32_t blocks = 1) {
    with.dp_size = ranks;
    with.rank_rows = 4;
    with.row_bytes[0] = 240; // two lines a row
    with.blocks = blocks;
    with.most_line_bytes = 1 << 20;
  }
  /// Every rank has `rows` rows.
  story_call& add(bool combines, std::int32_t rows = 4, std::int64_t tail = 0) {
    return calls.emplace_back(packed_call(
        with, combines, std::vector<std::int32_t>(static_cast<std::size_t>(with.dp_size), rows),
        with.dp_size * std::int64_t{rows} + tail, calls.size() + 1));
  }

  /// All rows but one each are rank `heavy`'s, so that its peers help it.
  story_call& add_skewed(bool combines, std::int32_t heavy) {
    story_call& call = add(combines);
    for (std::int32_t d = 0; d < with.dp_size; ++d) call.rows[d] = d == heavy ? 4 : 1;
    return call;
  }

  template <class Rules>
  [[nodiscard]] outcome tell(std::uint64_t budget_ns) const {
    random_source random{1};
    host_stage stage{with, random, 40};
    stage.set_budget(budget_ns);
    (void)tell_on_host<sum>(
        stage, with, calls,
        [&](std::int32_t rank) {
          stalled<Rules> rules;
          rules.held = held;
          rules.rank = rank;
          return rules;
        },
        false);
    outcome out;
    for (const std::uint64_t each : stage.wrong) out.wrong += each;
    for (const peer_control& each : stage.controls)
      out.errors.push_back(each.first.written != 0 ? static_cast<errc>(each.first.code) : errc::ok);
    return out;
  }
};

/// The watchdog of this file, fed by every story.
void step(const std::string& name) {
  static watchdog dog{std::chrono::seconds{60}};
  dog.feed(name);
}

constexpr std::uint64_t long_budget = 30'000'000'000, short_budget = 150'000'000;

/// With all rules kept a story goes well, every time.
void goes_well(const control_story& story, const std::string& name) {
  for (int i = 0; i < 3; ++i) {
    step(name);
    const outcome out = story.tell<peer_rules>(long_budget);
    INFO(name);
    REQUIRE(out.ok());
  }
}
/// With one rule broken it goes wrong within some attempts.
template <class Rules, class Wrong>
void goes_wrong(const control_story& story, const std::string& name, Wrong is_wrong) {
  const expected_races racing;
  int attempts = 0;
  bool went_wrong = false;
  while (!went_wrong && attempts < 20) {
    step(name);
    ++attempts;
    went_wrong = is_wrong(story.tell<Rules>(short_budget));
  }
  INFO(name);
  REQUIRE(went_wrong);
  MESSAGE("wrong in attempt ", attempts);
}
constexpr auto wrong_bytes = [](const outcome& out) { return out.wrong != 0; };

} // namespace

TEST_CASE("one slot: a peer that is a call ahead overwrites what has not been looked at") {
  // Rank 1 has sent its rows and sleeps before it looks at rank 0's: rank 0 gets through and sends
  // its next rows to the same place, under an epoch that rank 1 does not wait for.
  SUBCASE("lines") {
    control_story story{2};
    for (int i = 0; i < 6; ++i) story.add(false);
    story.held = {1, -1, peer_point::waiting, 1000us};
    goes_well(story, "two slots, lines");
    goes_wrong<one_slot>(story, "one slot, lines",
                         [](const outcome& out) { return out.all(errc::timeout); });
  }
  SUBCASE("flags") {
    control_story story{2};
    story.with.most_line_bytes = 0;
    // A combine between, so that no handshake keeps rank 0 from going on.
    for (int i = 0; i < 6; ++i) story.add(i % 2 != 0);
    story.held = {1, -1, peer_point::waiting, 1000us};
    goes_well(story, "two slots, flags");
    goes_wrong<one_slot>(story, "one slot, flags",
                         [](const outcome& out) { return out.all(errc::timeout); });
  }
}

TEST_CASE("relaxed flags: nothing orders the rows before the flag that speaks of them") {
  // Rows are stored into the peer's view; its reader knows of them by the flag alone.
  control_story story{2};
  story.with.most_line_bytes = 0;
  for (int i = 0; i < 4; ++i) story.add(i % 2 != 0);
  goes_well(story, "released flags");
  if constexpr (expected_races::can_be_seen) {
    const int before = expected_races::count();
    goes_wrong<relaxed_flags>(story, "relaxed flags",
                              [&](const outcome&) { return expected_races::count() > before; });
  } else {
    // Stores stay in order on x86, so the bytes are right there whatever the flag is.
    step("relaxed flags");
    (void)story.tell<relaxed_flags>(long_budget);
    MESSAGE("relaxed flags: told, but only ThreadSanitizer can see that it is wrong here");
  }
}

TEST_CASE("no handshake: rows land in a view that the last call's reader has not left") {
  // Rank 1 has all rows of a gather and sleeps before it reads its view. Rank 0 goes on and stores
  // the next gather's rows there.
  control_story story{2};
  story.with.most_line_bytes = 0;
  for (int i = 0; i < 6; ++i) story.add(false);
  story.held = {1, -1, peer_point::received, 1000us};
  goes_well(story, "handshake");
  goes_wrong<no_handshake>(story, "no handshake", wrong_bytes);
}

TEST_CASE("no handshake: rows land in a view that still takes the sums of a relayed combine") {
  // Rank 0 has not looked for its sums yet, which its peers have put into its view. They go on, and
  // bring rank 1's rows there.
  control_story story{4};
  story.with.most_line_bytes = 0;
  for (int i = 0; i < 3; ++i) {
    story.add_skewed(true, 0);
    story.add_skewed(false, 1);
  }
  story.held = {0, -1, peer_point::waiting, 1000us};
  goes_well(story, "handshake after a relayed combine");
  goes_wrong<no_handshake>(story, "no handshake after a relayed combine", wrong_bytes);
}

TEST_CASE("unseen slices: what a heavy rank or a helper has not brought yet is passed on") {
  for (const bool combines : {false, true}) {
    CAPTURE(combines);
    control_story story{4};
    story.with.most_line_bytes = 0;
    story.add_skewed(combines, 0);
    // The heavy rank comes late with its rows; or one of its helpers with its sums.
    story.held = {combines ? 2 : 0, -1, combines ? peer_point::waiting : peer_point::entered,
                  2000us};
    goes_well(story, "slices waited for");
    goes_wrong<unseen_slices>(story, "unseen slices", [](const outcome& out) {
      return out.wrong != 0 && out.all(errc::ok);
    });
  }
}

TEST_CASE("one input: a combine's input is rewritten while a peer still reads it") {
  // Rank 1 is in a combine and sleeps before it reads rank 0's input. Rank 0 gets through and
  // writes its next addends.
  control_story story{2};
  story.with.most_line_bytes = 0;
  for (int i = 0; i < 6; ++i) story.add(true);
  story.held = {1, -1, peer_point::waiting, 1000us};
  goes_well(story, "two inputs in turn");
  for (story_call& call : story.calls) call.input = 0;
  goes_wrong<same_input>(story, "one input", wrong_bytes);
  // With the rule the second of these calls is refused, on every rank. Before that, rank 0 writes
  // what it must not: the rule is the caller's, and the library only says so.
  step("one input refused");
  const expected_races racing;
  const outcome refused = story.tell<peer_rules>(long_budget);
  REQUIRE(refused.all(errc::aliasing));
}

TEST_CASE("no tails: rows that nobody brings keep what was there") {
  for (const bool combines : {false, true}) {
    CAPTURE(combines);
    control_story story{2};
    story.add(combines, 2, 1);
    goes_well(story, "tails filled");
    goes_wrong<no_tails>(story, "no tails",
                         [](const outcome& out) { return out.wrong != 0 && out.all(errc::ok); });
  }
}

TEST_CASE("idle blocks uncounted: a block that sat calls out takes old lines for new ones") {
  // Call 1 is block 0's alone. In call 2 block 1 believes to be in call 1, finds lines of that
  // epoch and takes them, while the peer's block 1 has not sent any yet.
  control_story story{2, 2};
  story.add(false).blocks = 1;
  story.add(false);
  story.held = {0, 1, peer_point::entered, 2000us};
  goes_well(story, "idle blocks counted");
  goes_wrong<forgets_idle_blocks>(story, "idle blocks uncounted", [](const outcome& out) {
    return out.wrong != 0 && out.all(errc::ok);
  });
}
