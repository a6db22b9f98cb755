#include <dpgather/padded_batch.hpp>

#include <dpgather/batch.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace dpgather;
using guard = padded_batch<host_stream>;

static_assert(std::is_nothrow_move_constructible_v<guard>);
static_assert(std::is_nothrow_move_assignable_v<guard>);
static_assert(!std::is_copy_constructible_v<guard> && !std::is_copy_assignable_v<guard>);
static_assert(std::is_nothrow_destructible_v<guard>);
static_assert(noexcept(std::declval<guard&>().finish()));

/// Two tensors-worth of batches, each of one tensor.
struct counted {
  std::vector<std::int32_t> ids{1, 2, 3, 4};
  std::int64_t rows = 2;
  std::vector<batch_entry> entries{
      {.data = ids.data(), .type = element::i32, .capacity = 4, .rows = &rows}};
  alignas(16) std::byte workspace[512];
  batch<host_stream> padding{{.tensors = entries}, workspace};

  guard pad() { return *padding.pad(batch_step::decode({.real = 2, .padded = 4}), host_stream{}); }
  bool is_padded() const { return rows == 4 && ids == std::vector<std::int32_t>{1, 2, 0, 0}; }
  bool is_itself() const { return rows == 2 && ids == std::vector<std::int32_t>{1, 2, 3, 4}; }
};

} // namespace

TEST_CASE("a guard of nothing does nothing") {
  guard none;
  CHECK_FALSE(none.active());
  CHECK(none.finish().ok());
  CHECK(none.rows_left(batch_output::logits, 4).code() == errc::bad_config);
  guard other{std::move(none)};
  CHECK_FALSE(other.active());
}

TEST_CASE("a guard that moves keeps its batch padded, and the last place restores it") {
  counted b;
  {
    guard first = b.pad();
    CHECK(b.is_padded());
    {
      guard second{std::move(first)};
      CHECK_FALSE(first.active());
      CHECK(second.active());
      first = std::move(second);
      CHECK_FALSE(second.active());
    }
    CHECK(first.active());
    CHECK(b.is_padded());
    guard& self = first;
    first = std::move(self);
    CHECK(first.active());
    CHECK(b.is_padded());
  }
  CHECK(b.is_itself());
}

TEST_CASE("a guard that is given another one's batch restores its own") {
  counted a, b;
  guard held = a.pad();
  held = b.pad();
  CHECK(a.is_itself());
  CHECK(b.is_padded());
  CHECK(held.finish().ok());
  CHECK(b.is_itself());
}
