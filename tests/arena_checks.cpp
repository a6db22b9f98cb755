#include <dpgather/arena_checks.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

using namespace dpgather;

/// Arenas of 4 ranks for 100 rows each, 300 in all: hidden rows of 64 bytes, and 16 and 8 along.
peer_layout arena() {
  peer_limits limits{.ranks = 4, .rank_rows = 100, .view_rows = 300, .tensors = 3};
  limits.row_bytes[0] = 64;
  limits.row_bytes[1] = 16;
  limits.row_bytes[2] = 8;
  const result<peer_layout> made = peer_layout::of(limits);
  REQUIRE(made.ok());
  return *made;
}

gather_config fitting() {
  gather_config out;
  out.topology = {.dp_size = 4, .dp_rank = 2};
  out.max_rows_per_rank = 100;
  out.row_bytes = 64;
  return out;
}

void check(const status& got, errc code, subject about, std::int64_t value, std::int64_t limit) {
  CHECK(got.code == code);
  CHECK(got.about == about);
  CHECK(got.value == value);
  CHECK(got.limit == limit);
  CHECK(got.rank == 2);
}

/// What one gather brings along, in memory of its own.
struct brought {
  alignas(64) std::array<std::byte, 4096> memory{};
  std::vector<const_token_rows<replicated>> tensors{
      {memory.data(), 10, element::u8, 16},
      {memory.data() + 2048, 10, element::u8, 8},
  };
  step_plan plan{};
  gather_config config = fitting();

  status check_with(std::int64_t real = 10, bool owes_sum = false,
                    const row_masks* masks = nullptr) {
    const detail::call_checks checks{config, nullptr, plan, "test"};
    return detail::check_along(arena(), checks, {tensors, masks}, real, owes_sum);
  }
};

} // namespace

TEST_CASE("check_arena: what fits to the row, and what does not by one") {
  using detail::check_arena;
  const peer_layout has = arena();
  gather_config config = fitting();
  CHECK(check_arena(has, config, 300).ok());
  check(check_arena(has, config, 301), errc::capacity_exceeded, subject::global, 301, 300);
  config.max_rows_per_rank = 101;
  check(check_arena(has, config, 300), errc::capacity_exceeded, subject::max_rows, 101, 100);
  config = fitting();
  for (const std::size_t other : {63U, 65U}) { // longer and shorter
    config.row_bytes = other;
    check(check_arena(has, config, 300), errc::capacity_exceeded, subject::row_bytes,
          static_cast<std::int64_t>(other), 64);
  }
}

TEST_CASE("check_row_bytes: the arena's, no others") {
  const gather_config config = fitting();
  const step_plan plan{};
  const detail::call_checks checks{config, nullptr, plan, "test"};
  CHECK(detail::check_row_bytes(arena(), checks, 64).ok());
  check(detail::check_row_bytes(arena(), checks, 63), errc::shape_mismatch, subject::row_bytes, 63,
        64);
}

TEST_CASE("check_along: tensors in the arena's order, all of them or fewer") {
  brought all;
  CHECK(all.check_with().ok());
  all.tensors.pop_back();
  CHECK(all.check_with().ok());
  all.tensors.clear();
  CHECK(all.check_with().ok());
}

TEST_CASE("check_along: one tensor too many") {
  brought many;
  many.tensors.push_back(many.tensors.back());
  check(many.check_with(), errc::capacity_exceeded, subject::tensor, 3, 2);
}

TEST_CASE("check_along: another row size, fewer rows than are real, no memory") {
  brought swapped;
  std::swap(swapped.tensors[0], swapped.tensors[1]);
  check(swapped.check_with(), errc::shape_mismatch, subject::tensor, 8, 16);
  brought few;
  check(few.check_with(11), errc::count_changed, subject::tensor, 10, 11);
  brought nowhere;
  nowhere.tensors[1] = {nullptr, 10, element::u8, 8};
  CHECK(nowhere.check_with().code == errc::null_pointer);
}

TEST_CASE("check_along: nothing goes with rows that owe a sum, masks neither") {
  brought all;
  check(all.check_with(10, true), errc::capacity_exceeded, subject::tensor, 2, 0);
  all.tensors.clear();
  CHECK(all.check_with(10, true).ok());
  const row_masks masks{};
  check(all.check_with(10, true, &masks), errc::capacity_exceeded, subject::tensor, 0, 0);
  CHECK(all.check_with(10, false, &masks).ok());
}
