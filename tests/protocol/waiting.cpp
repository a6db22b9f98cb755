#include <dpgather/protocol/waiting.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dpgather;

/// A wait that answers what the test says and writes down what it was asked.
struct scripted_wait {
  bool failed = false, hopeless = false, expired = true;
  std::uint64_t time = 1, patience = 100;
  std::string asked{};

  bool hears_failure() {
    asked += 'f';
    return failed;
  }
  bool is_hopeless() {
    asked += 'h';
    return hopeless;
  }
  std::uint64_t now() {
    asked += 'n';
    return time;
  }
  std::uint64_t budget() {
    asked += 'b';
    return patience;
  }
  bool expires(std::uint64_t budget) {
    asked += budget == patience ? 'e' : '?';
    return expired;
  }
  void rests(std::uint64_t started) {
    asked += 'r';
    rested = started;
  }
  std::uint64_t rested = 0;
};
static_assert(wait_of_ranks<scripted_wait>);

} // namespace

TEST_CASE("look_up: a failure that is known goes first, then what is hopeless, then the clock") {
  scripted_wait wait;
  wait.failed = wait.hopeless = true;
  wait.time = 1000;
  CHECK(look_up(wait, 1) == 0);
  CHECK(wait.asked == "f");
  wait = {};
  wait.hopeless = true;
  wait.time = 1000;
  CHECK(look_up(wait, 1) == 0);
  CHECK(wait.asked == "fh");
  wait = {};
  wait.time = 1000;
  CHECK(look_up(wait, 1) == 0);
  CHECK(wait.asked == "fhnbe");
}

TEST_CASE("look_up: the first look starts the time, whatever the budget") {
  for (const std::uint64_t budget : {std::uint64_t{0}, std::uint64_t{5}, UINT64_MAX}) {
    scripted_wait wait;
    wait.time = 7;
    wait.patience = budget;
    CHECK(look_up(wait, 0) == 7);
    CHECK(wait.asked == "fhnr");
    CHECK(wait.rested == 7);
  }
}

TEST_CASE("look_up: late at the deadline, not before, and not by a clock that is behind") {
  for (const std::uint64_t started : {std::uint64_t{1}, std::uint64_t{50}, UINT64_MAX - 40}) {
    for (const std::uint64_t budget :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{30}, UINT64_MAX}) {
      for (std::int64_t passed = -40; passed <= 40; ++passed) {
        CAPTURE(started);
        CAPTURE(budget);
        CAPTURE(passed);
        if (passed < 0 && started <= static_cast<std::uint64_t>(-passed)) continue;
        scripted_wait wait;
        wait.patience = budget;
        wait.time = started + static_cast<std::uint64_t>(passed);
        const bool late = passed >= 0 && static_cast<std::uint64_t>(passed) >= budget;
        CHECK(look_up(wait, started) == (late ? 0 : started));
        CHECK(wait.rested == (late ? 0 : started));
      }
    }
  }
}

TEST_CASE("look_up: what comes at the last moment has come") {
  scripted_wait wait;
  wait.time = 1000;
  wait.expired = false;
  CHECK(look_up(wait, 1) == 1);
  CHECK(wait.asked == "fhnber");
}

TEST_CASE("look_up: a budget may change while it is waited") {
  scripted_wait wait;
  wait.time = 60;
  CHECK(look_up(wait, 1) == 1);
  wait.patience = 20;
  CHECK(look_up(wait, 1) == 0);
}

TEST_CASE("look_until: looks first, pauses between looks, asks after as many as told") {
  for (std::uint32_t come = 0; come <= 12; ++come) {
    std::string seen, expected;
    std::uint32_t looks = 0;
    const bool arrived = look_until<4>(
        [&] {
          seen += 'l';
          return looks++ == come;
        },
        [&] { seen += 'p'; },
        [&](std::uint32_t asked) {
          seen += 'a';
          CHECK(asked == looks);
          return looks == 8;
        });
    for (std::uint32_t i = 1; i <= come && i <= 8; ++i) expected += i % 4 == 0 ? "lpa" : "lp";
    if (come < 8) expected += 'l';
    CAPTURE(come);
    CHECK(arrived == (come < 8));
    CHECK(seen == expected);
  }
}

TEST_CASE("to_blame: who is missing and waits for nobody, for all sets of both") {
  for (std::int32_t ranks = 0; ranks <= 4; ++ranks) {
    for (std::uint32_t missing = 0; missing < 1U << ranks; ++missing) {
      for (std::uint32_t waiting = 0; waiting < 1U << ranks; ++waiting) {
        std::vector<std::int32_t> at_fault, excused;
        for (std::int32_t r = 0; r < ranks; ++r) {
          if ((missing >> r & 1U) == 0) continue;
          ((waiting >> r & 1U) == 0 ? at_fault : excused).push_back(r);
        }
        const std::int32_t expected = !at_fault.empty()  ? at_fault.front()
                                      : !excused.empty() ? excused.front()
                                                         : -1;
        CAPTURE(ranks);
        CAPTURE(missing);
        CAPTURE(waiting);
        CHECK(to_blame(
                  ranks, [&](std::int32_t r) { return (missing >> r & 1U) != 0; },
                  [&](std::int32_t r) { return (waiting >> r & 1U) != 0; }) == expected);
      }
    }
  }
}
