#include <dpgather/device/saved_tail.hpp>

#include <support/memory.hpp>
#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::bytes;
using test_support::random_bytes;
using test_support::random_source;

static_assert(std::is_trivially_copyable_v<saved_tensor>);
static_assert(sizeof(detail::tensor_list<detail::tail_to_save, most_saved_tensors>) <= 4096,
              "kernel parameters hold 4 KiB");
static_assert(round_up_16(0) == 0 && round_up_16(1) == 16 && round_up_16(32) == 32);

/// A tensor in an arena, and a place for what it held in another.
struct placed {
  saved_tensor at{};
  std::size_t offset = 0;
  std::int32_t live = 0;
};

placed random_tensor(random_source& random, std::size_t offset) {
  placed p;
  p.offset = offset;
  pad_tensor& t = p.at.tensor;
  const std::size_t element = random.pick<std::size_t>({1, 2, 4, 8});
  t.units.capacity = random.between(0, 9);
  t.units.padded = random.between(0, t.units.capacity);
  t.units.real = random.between(0, t.units.padded);
  t.unit_bytes = element * random.between<std::size_t>(1, 5);
  t.unit_stride = t.unit_bytes + element * random.between<std::size_t>(0, 2);
  t.outer = random.between(1, 3);
  t.outer_stride = 9 * t.unit_stride + element * random.between<std::size_t>(0, 2);
  if (random.chance(25)) { // slices inside each other
    t.outer_stride = t.unit_bytes;
    t.unit_stride = static_cast<std::size_t>(t.outer) * t.outer_stride;
  }
  fill_pattern fill;
  fill.size = static_cast<std::uint8_t>(element);
  for (std::size_t i = 0; i < 8; ++i) {
    fill.bytes[i] =
        i < element ? static_cast<std::byte>(random.between(0, 255)) : fill.bytes[i % element];
  }
  fill.leave = random.chance(10);
  t.fill = fill;
  p.at.whole = random.chance(40);
  p.live = random.between(-2, 12);
  return p;
}

/// Bytes of units [first, last), as offsets in the arena.
template <class Visit>
void each_byte(const placed& p, std::int32_t first, std::int32_t last, Visit visit) {
  const pad_tensor& t = p.at.tensor;
  for (std::int32_t s = 0; s < t.outer; ++s) {
    for (std::int32_t u = first; u < last; ++u) {
      for (std::size_t b = 0; b < t.unit_bytes; ++b)
        visit(p.offset + static_cast<std::size_t>(s) * t.outer_stride +
                  static_cast<std::size_t>(u) * t.unit_stride + b,
              b);
    }
  }
}

constexpr std::size_t arena_bytes = 2048;

} // namespace

TEST_CASE("any tensor, any workers in any order: filled like padding, put back byte for byte") {
  alignas(16) static std::byte memory[arena_bytes];
  alignas(16) static std::byte room[arena_bytes + 32];
  test_support::for_random_cases([](random_source& random) {
    placed p = random_tensor(random, 16 + 8 * random.between<std::size_t>(0, 3));
    pad_tensor& t = p.at.tensor;
    const bool live = random.chance(30);
    std::int32_t counted = -5;
    if (live) {
      t.units.live = &p.live;
      p.at.counted = &counted;
    }
    const std::int32_t real = !live                     ? t.units.real
                              : p.live < 0              ? 0
                              : p.live > t.units.padded ? t.units.padded
                                                        : p.live;
    t.data = memory + p.offset;
    REQUIRE(validate({&t, 1}).ok());
    const std::size_t need = saved_bytes(t);
    REQUIRE(need + 32 <= sizeof room);
    p.at.saved = random.chance(15) ? nullptr : room + 16;

    const bytes before = random_bytes(random, sizeof memory);
    const bytes around = random_bytes(random, sizeof room);
    std::memcpy(memory, before.data(), sizeof memory);
    std::memcpy(room, around.data(), sizeof room);
    bytes expected = before;
    if (!t.fill.leave) {
      each_byte(p, real, t.units.padded, [&](std::size_t at, std::size_t b) {
        expected[at] = static_cast<std::byte>(t.fill.bits >> (8 * (b % t.fill.size)) & 0xff);
      });
    }
    const std::uint64_t workers = random.between<std::uint64_t>(1, 19);
    for (const std::uint64_t w : random.order(workers)) save_share(p.at, w, workers);
    REQUIRE(std::memcmp(memory, expected.data(), sizeof memory) == 0);
    REQUIRE(counted == (live && p.at.saved != nullptr ? real : -5));

    // The forward writes what it may, and the next step's count arrives.
    const std::int32_t first = p.at.saved == nullptr ? t.units.padded : p.at.whole ? 0 : real;
    each_byte(p, first, t.units.padded, [&](std::size_t at, std::size_t) {
      memory[at] = static_cast<std::byte>(random.between(0, 255));
    });
    p.live = random.between(-2, 12);
    const std::uint64_t others = random.between<std::uint64_t>(1, 19);
    for (const std::uint64_t w : random.order(others)) restore_share(p.at, w, others);
    const bytes& right = p.at.saved == nullptr ? expected : before;
    REQUIRE(std::memcmp(memory, right.data(), sizeof memory) == 0);
    // Nothing was saved beside the room.
    REQUIRE(std::memcmp(room, around.data(), 16) == 0);
    const std::size_t end = p.at.saved == nullptr ? 0 : 16 + need;
    REQUIRE(std::memcmp(room + end, around.data() + end, sizeof room - end) == 0);
  });
}

TEST_CASE(
    "lists: what has nothing to do is left out, and jobs keep as many workers busy as units") {
  std::vector<std::int32_t> values(8, 3);
  alignas(16) std::byte room[64];
  const unit_counts none{.real = 4, .padded = 4, .capacity = 8};
  const unit_counts some{.real = 1, .padded = 5, .capacity = 8};
  const detail::tail_to_save full{{.tensor = pad_vector(values.data(), none, 1), .saved = room}};
  CHECK(detail::words_of(full) == 0);
  const detail::tail_to_save whole{
      {.tensor = pad_vector(values.data(), none, 1), .saved = room, .whole = true}};
  CHECK(detail::words_of(whole) == 1);
  const detail::tail_to_restore scratch{{.tensor = pad_vector(values.data(), some, 1)}};
  CHECK(detail::words_of(scratch) == 0);
  const saved_tensor list[] = {full, {.tensor = pad_vector(values.data(), some, 1), .saved = room}};
  CHECK(save_and_pad(list, host_stream{}).ok());
  CHECK(values == std::vector<std::int32_t>{3, 1, 1, 1, 1, 3, 3, 3});
  CHECK(restore(list, host_stream{}).ok());
  CHECK(values == std::vector<std::int32_t>(8, 3));
}
