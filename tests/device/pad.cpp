#include <dpgather/device/pad.hpp>

#include <support/memory.hpp>
#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::bytes;
using test_support::random_bytes;
using test_support::random_source;
using test_support::sealed_pages;

static_assert(std::is_trivially_copyable_v<pad_tensor>);

/// A tensor and what the reference needs of it: its offset in the arena and the raw pattern.
struct placed {
  pad_tensor tensor{};
  std::size_t offset = 0;
  fill_pattern pattern{};
};

/// Any number of real, padded and available units; none, all and "at capacity" often.
unit_counts random_counts(random_source& random) {
  unit_counts out;
  out.capacity = random.between(0, 12);
  out.padded = random.chance(30) ? out.capacity : random.between(0, out.capacity);
  switch (random.between(0, 3)) {
  case 0:
    out.real = 0;
    break;
  case 1:
    out.real = out.padded;
    break;
  default:
    out.real = random.between(0, out.padded);
  }
  return out;
}

/// Bytes from the first to past the last unit that there is room for.
std::size_t extent_of(const pad_tensor& t) {
  if (t.outer <= 0 || t.units.capacity <= 0) return 0;
  return static_cast<std::size_t>(t.outer - 1) * t.outer_stride +
         static_cast<std::size_t>(t.units.capacity - 1) * t.unit_stride + t.unit_bytes;
}

std::size_t round_up_to(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// 1 to 4 tensors of every form, behind and inside each other, with canaries all around.
std::vector<placed> random_tensors(random_source& random, std::size_t& arena_size) {
  std::vector<placed> out;
  std::size_t cursor = random.between<std::size_t>(0, 17);
  const int count = random.between(1, 3);
  for (int i = 0; i < count; ++i) {
    const std::size_t element = random.pick<std::size_t>({1, 2, 4, 8});
    placed p;
    p.pattern.size =
        static_cast<std::uint8_t>(element >> random.between(0, std::countr_zero(element)));
    for (std::byte& b : p.pattern.bytes) b = static_cast<std::byte>(random.between(0, 255));
    p.pattern.leave = random.chance(10);
    pad_tensor& t = p.tensor;
    t.units = random_counts(random);
    t.unit_bytes = element * (random.chance(50) ? 1 : random.between<std::size_t>(1, 9));
    t.unit_stride = t.unit_bytes;
    if (random.chance(40)) t.unit_stride += element * random.between<std::size_t>(1, 5);
    t.fill = p.pattern;
    bool twin = false;
    switch (random.between(0, 3)) {
    case 0: // slices behind each other
      t.outer = random.between(0, 3);
      t.outer_stride = static_cast<std::size_t>(t.units.capacity) * t.unit_stride +
                       element * random.between<std::size_t>(0, 3);
      break;
    case 1: // slices inside each other: the transposed view of [T, outer]
      t.outer = random.between(2, 3);
      t.outer_stride = t.unit_bytes + element * random.between<std::size_t>(0, 2);
      t.unit_stride = static_cast<std::size_t>(t.outer) * t.outer_stride;
      break;
    case 2: // two columns of an array of structs
      t.unit_stride = 2 * t.unit_bytes + element * random.between<std::size_t>(0, 2);
      twin = true;
      break;
    default:
      t.outer_stride = random(); // one slice: the stride is not read
    }
    cursor = round_up_to(cursor, p.pattern.size);
    p.offset = cursor;
    cursor += extent_of(t);
    out.push_back(p);
    if (twin) {
      p.offset += t.unit_bytes;
      p.tensor.units.real = random.between(0, t.units.padded);
      cursor += t.unit_bytes;
      out.push_back(p);
    }
    cursor += random.between<std::size_t>(1, 17);
  }
  arena_size = cursor;
  return out;
}

std::vector<pad_tensor> at(const std::vector<placed>& tensors, bytes& arena) {
  std::vector<pad_tensor> out;
  for (const placed& p : tensors) {
    out.push_back(p.tensor);
    out.back().data = arena.data() + p.offset;
  }
  return out;
}

/// The reference: one byte at a time, from the words of the specification.
bytes padded_by_hand(const std::vector<placed>& tensors, bytes arena) {
  for (const placed& p : tensors) {
    if (p.pattern.leave) continue;
    const pad_tensor& t = p.tensor;
    for (std::int32_t slice = 0; slice < t.outer; ++slice) {
      for (std::int32_t unit = t.units.real; unit < t.units.padded; ++unit) {
        for (std::size_t b = 0; b < t.unit_bytes; ++b) {
          arena[p.offset + static_cast<std::size_t>(slice) * t.outer_stride +
                static_cast<std::size_t>(unit) * t.unit_stride + b] =
              p.pattern.bytes[b % p.pattern.size];
        }
      }
    }
  }
  return arena;
}

void pad_on_grid(const std::vector<pad_tensor>& tensors, random_source& random) {
  const std::uint64_t workers = random.between<std::uint64_t>(1, 37);
  for (const std::uint64_t worker : random.order(workers)) {
    for (const pad_tensor& tensor : tensors) pad_share(tensor, worker, workers);
  }
}

} // namespace

TEST_CASE("pad: random lists equal the scalar reference, canaries and gaps included") {
  std::uint64_t written = 0;
  test_support::for_random_cases([&](random_source& random) {
    std::size_t size = 0;
    const std::vector<placed> tensors = random_tensors(random, size);
    const bytes before = random_bytes(random, size);
    const bytes expected = padded_by_hand(tensors, before);

    bytes arena = before;
    const status s = pad(at(tensors, arena));
    REQUIRE_MESSAGE(s.ok(), s.message().c_str());
    REQUIRE(arena == expected);

    arena = before;
    pad_on_grid(at(tensors, arena), random);
    REQUIRE(arena == expected);
    written += arena != before;
  });
  CHECK((written > 0 || test_support::case_count() < 100));
}

TEST_CASE("pad: every byte of a tail belongs to exactly one worker") {
  test_support::for_random_cases(
      [](random_source& random) {
        std::size_t size = 0;
        std::vector<placed> tensors = random_tensors(random, size);
        for (placed& p : tensors) {
          p.pattern = {.leave = p.pattern.leave};
          p.tensor.fill = p.pattern;
        }
        const bytes before(size, std::byte{1});
        const bytes expected = padded_by_hand(tensors, before);
        std::vector<int> writers(size, 0);
        const std::uint64_t workers = random.between<std::uint64_t>(1, 23);
        for (std::uint64_t worker = 0; worker < workers; ++worker) {
          bytes arena = before;
          for (const pad_tensor& t : at(tensors, arena)) pad_share(t, worker, workers);
          for (std::size_t i = 0; i < size; ++i) writers[i] += arena[i] != before[i];
        }
        for (std::size_t i = 0; i < size; ++i) {
          REQUIRE(writers[i] == (expected[i] != before[i] ? 1 : 0));
        }
      },
      test_support::case_count() / 10);
}

TEST_CASE("pad: stores are aligned, and 16 bytes wide where alignment allows") {
  // A processor that forgives hides a misaligned store, a GPU does not: so the width is looked at.
  std::array<int, 17> seen{};
  test_support::for_random_cases([&](random_source& random) {
    std::size_t size = 0;
    const std::vector<placed> tensors = random_tensors(random, size);
    bytes arena(size);
    for (const pad_tensor& t : at(tensors, arena)) {
      const std::size_t tail = static_cast<std::size_t>(t.units.padded - t.units.real);
      if (tail == 0 || t.outer == 0) continue;
      std::uintptr_t all = 16; // addresses and lengths of everything that is contiguous
      const bool dense = t.unit_stride == t.unit_bytes;
      for (std::size_t slice = 0; slice < static_cast<std::size_t>(t.outer); ++slice) {
        for (std::size_t unit = 0; unit < (dense ? 1 : tail); ++unit) {
          all |= reinterpret_cast<std::uintptr_t>(t.data) + slice * t.outer_stride +
                 (static_cast<std::size_t>(t.units.real) + unit) * t.unit_stride;
        }
      }
      all |= dense ? tail * t.unit_bytes : t.unit_bytes;
      std::uint64_t widest = 16;
      while (all % widest != 0) widest /= 2;
      const std::uint64_t width = detail::units_from(t, t.units.real).word_bytes();
      REQUIRE(width == widest);
      seen[width]++;
    }
  });
  for (const std::size_t width : {1u, 2u, 4u, 8u, 16u}) {
    CHECK((seen[width] > 0 || test_support::case_count() < 100));
  }
}

TEST_CASE("pad: workers on threads give the bytes of one worker") {
  std::vector<float> alone(7 * 64, 1.0f);
  std::vector<float> together = alone;
  const unit_counts rows{.real = 5, .padded = 61, .capacity = 64};
  REQUIRE(pad(std::array{pad_rows(alone.data(), 7, rows, 2.5f)}).ok());
  const pad_tensor tensor = pad_rows(together.data(), 7, rows, 2.5f);
  std::vector<std::thread> workers;
  for (std::uint64_t w = 0; w < 4; ++w) {
    workers.emplace_back([&, w] { pad_share(tensor, w, 4); });
  }
  for (std::thread& worker : workers) worker.join();
  CHECK(alone == together);
  CHECK(alone[5 * 7] == 2.5f);
}

TEST_CASE("pad: NaN and -0.0 in real rows stay, NaN in the tail goes, by select") {
  const float nan = std::bit_cast<float>(0x7fc12345u); // a payload that arithmetic could lose
  std::array<float, 12> x{};
  x.fill(nan);
  x[1] = -0.0f;
  const std::array<float, 12> before = x;
  REQUIRE(pad(std::array{pad_rows(x.data(), 2, {.real = 2, .padded = 5, .capacity = 6})}).ok());
  CHECK(std::memcmp(x.data(), before.data(), 4 * sizeof(float)) == 0);
  for (std::size_t i = 4; i < 10; ++i) CHECK(std::bit_cast<std::uint32_t>(x[i]) == 0);
  CHECK(std::memcmp(x.data() + 10, before.data() + 10, 2 * sizeof(float)) == 0);
}

TEST_CASE("pad: real units are neither read nor written") {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const sealed_pages memory(3 * page);
  memory.open(page, 2 * page); // page 0 is real, page 2 is behind the padded units
  pad_tensor t{.data = memory.data(),
               .units = {.real = 1, .padded = 2, .capacity = 3},
               .unit_bytes = page,
               .unit_stride = page,
               .fill = value_fill(element::i64, -1)};
  REQUIRE(pad({&t, 1}).ok());
  CHECK(memory.data()[page] == std::byte{0xff});
  CHECK(memory.data()[2 * page - 1] == std::byte{0xff});
}

TEST_CASE("pad: offsets beyond 2^31 and 2^32 bytes") {
  constexpr std::size_t row = 7168 * 2; // bf16
  for (const std::int32_t real : {149'797, 149'800, 299'594, 299'600}) {
    const auto first = static_cast<std::size_t>(real) * row;
    CHECK(first > std::size_t{1} << 31);
    const sealed_pages memory(first + 4 * row);
    memory.open(first, first + 4 * row);
    pad_tensor t = pad_rows(reinterpret_cast<std::uint16_t*>(memory.data()), 7168,
                            {.real = real, .padded = real + 2, .capacity = real + 4});
    t.fill = value_fill(element::bf16, 1);
    REQUIRE(pad({&t, 1}).ok());
    for (std::size_t i = 0; i < 4 * row; i += 2) {
      std::uint16_t value = 0;
      std::memcpy(&value, memory.data() + first + i, sizeof value);
      REQUIRE(value == (i < 2 * row ? 0x3f80 : 0));
    }
  }
}

TEST_CASE("pad: builders") {
  const unit_counts tokens{.real = 2, .padded = 4, .capacity = 5};
  std::array<std::int64_t, 7> ids{9, 9, 9, 9, 9, 9, 9};
  std::array<std::int32_t, 7> slots{9, 9, 9, 9, 9, 9, 9};
  std::array<double, 16> embeddings{};
  embeddings.fill(9);
  std::array<std::int64_t, 16> positions{};
  positions.fill(9);
  std::array<std::uint8_t, 7> kept{9, 9, 9, 9, 9, 9, 9};
  const std::array list{
      pad_vector(ids.data(), tokens),
      pad_vector(slots.data(), tokens, -1),
      pad_rows(embeddings.data(), 3, tokens, value_fill(element::f64, 2)),
      pad_columns(positions.data(), 3, tokens, 1),
      pad_vector(kept.data(), tokens, no_fill()),
  };
  REQUIRE(pad(list).ok());
  CHECK(ids == std::array<std::int64_t, 7>{9, 9, 0, 0, 9, 9, 9});
  CHECK(slots == std::array{9, 9, -1, -1, 9, 9, 9});
  CHECK(embeddings == std::array<double, 16>{9, 9, 9, 9, 9, 9, 2, 2, 2, 2, 2, 2, 9, 9, 9, 9});
  CHECK(positions == std::array<std::int64_t, 16>{9, 9, 1, 1, 9, 9, 9, 1, 1, 9, 9, 9, 1, 1, 9, 9});
  CHECK(kept == std::array<std::uint8_t, 7>{9, 9, 9, 9, 9, 9, 9});
}

TEST_CASE("pad: typed fills of every size, poison included") {
  const unit_counts units{.real = 1, .padded = 2, .capacity = 3};
  std::array<std::int8_t, 3> a{1, 1, 1};
  std::array<std::int16_t, 3> b{1, 1, 1};
  std::array<float, 3> c{1, 1, 1};
  std::array<double, 3> d{1, 1, 1};
  const std::array list{pad_vector(a.data(), units, -2), pad_vector(b.data(), units, -300),
                        pad_vector(c.data(), units, 0.5f),
                        pad_vector(d.data(), units, poison_fill(element::f64))};
  REQUIRE(pad(list).ok());
  CHECK(a == std::array<std::int8_t, 3>{1, -2, 1});
  CHECK(b == std::array<std::int16_t, 3>{1, -300, 1});
  CHECK(c == std::array{1.0f, 0.5f, 1.0f});
  CHECK(std::isnan(d[1]));
  CHECK(d[0] == 1.0);
  CHECK(d[2] == 1.0);
}

TEST_CASE("pad: nothing to do is legal, null included") {
  CHECK(pad({}).ok());
  std::array list{
      pad_vector(static_cast<float*>(nullptr), {}),
      pad_vector(static_cast<float*>(nullptr), {.capacity = 8}),
      pad_columns(static_cast<float*>(nullptr), 0, {.real = 1, .padded = 2, .capacity = 3})};
  CHECK(pad(list).ok());
  for (std::uint64_t w = 0; w < 3; ++w) {
    for (const pad_tensor& t : list) pad_share(t, w, 3);
  }
}

namespace {

/// A list of three tensors, of which the middle one is broken, padded into an arena that nothing
/// may change; afterwards the unbroken list must work.
void check_refused(errc code, void (*breaks)(pad_tensor&), std::int64_t value, std::int64_t limit) {
  alignas(8) std::array<std::int32_t, 48> x{};
  x.fill(7);
  const auto before = x;
  const unit_counts units{.real = 2, .padded = 6, .capacity = 8};
  std::array list{pad_vector(x.data(), units), pad_rows(x.data() + 16, 2, units),
                  pad_vector(x.data() + 32, units)};
  const auto good = list;
  breaks(list[1]);
  CHECK(validate(list).code == code);
  const status s = pad(list);
  CHECK(s.code == code);
  CHECK(s.about == subject::tensor);
  CHECK(s.peer == 1);
  CHECK(s.rank == -1);
  CHECK(s.value == value);
  CHECK(s.limit == limit);
  CHECK(std::string_view{s.where} == "pad");
  CHECK_MESSAGE(x == before, "nothing is written");
  REQUIRE(pad(good).ok());
  CHECK(x[1] == 7);
  CHECK(x[2] == 0);
  CHECK(x[19] == 7);
  CHECK(x[20] == 0);
  CHECK(x[37] == 0);
  CHECK(x[38] == 7);
}

constexpr std::int64_t int64_max = std::numeric_limits<std::int64_t>::max();

} // namespace

TEST_CASE("pad refuses: count_out_of_range, a negative outer") {
  check_refused(
      errc::count_out_of_range, [](pad_tensor& t) { t.outer = -1; }, -1, 0);
}
TEST_CASE("pad refuses: count_out_of_range, negative real units") {
  check_refused(
      errc::count_out_of_range, [](pad_tensor& t) { t.units.real = -1; }, -1, 6);
}
TEST_CASE("pad refuses: count_out_of_range, real above padded") {
  check_refused(
      errc::count_out_of_range, [](pad_tensor& t) { t.units.real = 7; }, 7, 6);
}
TEST_CASE("pad refuses: count_out_of_range, padded negative") {
  check_refused(
      errc::count_out_of_range, [](pad_tensor& t) { t.units.padded = -3; }, 2, -3);
}
TEST_CASE("pad refuses: count_out_of_range, a unit of no bytes") {
  check_refused(
      errc::count_out_of_range, [](pad_tensor& t) { t.unit_bytes = 0; }, 0, 1);
}
TEST_CASE("pad refuses: capacity_exceeded by one") {
  check_refused(
      errc::capacity_exceeded, [](pad_tensor& t) { t.units.padded = 9; }, 9, 8);
}
TEST_CASE("pad refuses: capacity_exceeded, a negative capacity") {
  check_refused(
      errc::capacity_exceeded,
      [](pad_tensor& t) {
        t.units = {0, 0, -1};
      },
      0, -1);
}
TEST_CASE("pad refuses: null_pointer with padded units") {
  check_refused(
      errc::null_pointer, [](pad_tensor& t) { t.data = nullptr; }, 6, 0);
  // Real units and no tail: there is nothing to write, yet null cannot hold them.
  check_refused(
      errc::null_pointer, [](pad_tensor& t) { t.data = nullptr, t.units.real = 6; }, 6, 0);
}
TEST_CASE("pad refuses: bad_fill, a pattern of 0, 3, 5, 16 bytes") {
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.fill.size = 0; }, 0, 8);
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.fill = fill_pattern{.size = 0}; }, 0, 8);
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.fill = fill_pattern{.size = 3}; }, 3, 8);
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.unit_bytes = 5, t.fill.size = 5; }, 5, 5);
  check_refused(
      errc::bad_fill,
      [](pad_tensor& t) {
        t.unit_bytes = t.unit_stride = 16, t.units.capacity = 6, t.fill.size = 16;
      },
      16, 16);
}
TEST_CASE("pad refuses: bad_fill, a pattern that does not divide the unit") {
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.unit_bytes = 4, t.fill.size = 8; }, 8, 4);
  check_refused(
      errc::bad_fill, [](pad_tensor& t) { t.unit_bytes = 6, t.fill.size = 4; }, 4, 6);
}
TEST_CASE("pad refuses: misaligned, units that overlap") {
  check_refused(
      errc::misaligned, [](pad_tensor& t) { t.unit_stride = 7; }, 7, 8);
}
TEST_CASE("pad refuses: misaligned, pointer or stride off the element") {
  check_refused(
      errc::misaligned,
      [](pad_tensor& t) { t.data = static_cast<std::byte*>(t.data) + 2, t.fill.size = 4; }, 2, 4);
  check_refused(
      errc::misaligned, [](pad_tensor& t) { t.unit_stride = 9, t.fill.size = 4; }, 1, 4);
  check_refused(
      errc::misaligned, [](pad_tensor& t) { t.outer = 2, t.outer_stride = 67, t.fill.size = 2; }, 1,
      2);
}
TEST_CASE("pad refuses: size_overflow") {
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.units.capacity = 1 << 30, t.unit_stride = std::size_t{1} << 34; },
      1 << 30, int64_max);
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.outer = 3, t.outer_stride = std::size_t{1} << 62; }, 8, int64_max);
  // Products that would wrap to 0.
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.units.capacity = (1 << 30) + 1, t.unit_stride = std::size_t{1} << 34; },
      (1 << 30) + 1, int64_max);
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.outer = 5, t.outer_stride = std::size_t{1} << 62; }, 8, int64_max);
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.outer = 2, t.outer_stride = static_cast<std::size_t>(int64_max); }, 8,
      int64_max);
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) {
        t.unit_bytes = t.unit_stride = ~std::size_t{7}, t.units = {0, 1, 1};
      },
      1, int64_max);
  // A negative width becomes an unpayable unit, not a small one.
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t = pad_rows(static_cast<std::int32_t*>(t.data), -1, t.units); }, 8,
      int64_max);
  // The end of the tensor would lie behind the end of the address space.
  check_refused(
      errc::size_overflow,
      [](pad_tensor& t) { t.data = reinterpret_cast<void*>(~std::uintptr_t{15}); }, 8, int64_max);
}
TEST_CASE("pad refuses: aliasing of the slices of one tensor") {
  // 8 units of 8 bytes per slice: 64 bytes apart is the least.
  check_refused(
      errc::aliasing, [](pad_tensor& t) { t.outer = 2, t.outer_stride = 63; }, 63, 64);
  // Interleaved slices: units 24 bytes apart hold three slices, not four; and 7 bytes apart none.
  check_refused(
      errc::aliasing, [](pad_tensor& t) { t.outer = 4, t.outer_stride = 8, t.unit_stride = 24; }, 8,
      7 * 24 + 8);
  check_refused(
      errc::aliasing, [](pad_tensor& t) { t.outer = 2, t.outer_stride = 7, t.unit_stride = 24; }, 7,
      7 * 24 + 8);
}
TEST_CASE("pad refuses: aliasing of two tensors") {
  // The middle tensor's tail runs into the last tensor (index 2 of 3).
  check_refused(
      errc::aliasing,
      [](pad_tensor& t) {
        t.units = {2, 9, 9};
      },
      2, 3);
  // Tails of one tensor listed twice.
  alignas(8) std::array<std::int32_t, 8> x{};
  const pad_tensor t = pad_vector(x.data(), {.real = 2, .padded = 6, .capacity = 8}, 5);
  const status s = pad(std::array{t, t});
  CHECK(s.code == errc::aliasing);
  CHECK(s.peer == 0);
  CHECK(s.value == 1);
  CHECK(x == std::array<std::int32_t, 8>{});
  // Legal: shared real units, and a twin that is left alone.
  pad_tensor full = t, left = t;
  full.units.padded = full.units.real;
  left.units.padded = left.units.real;
  left.fill.leave = true;
  CHECK(pad(std::array{t, full, left}).ok());
  CHECK(x == std::array<std::int32_t, 8>{0, 0, 5, 5, 5, 5, 0, 0});
}

TEST_CASE("pad: the aliasing rule equals a byte map on random pairs") {
  std::uint64_t refused = 0, allowed = 0;
  test_support::for_random_cases([&](random_source& random) {
    constexpr std::size_t size = 96;
    std::array<std::byte, size> memory{};
    std::array<pad_tensor, 2> list{};
    std::array<std::array<int, size>, 2> tail{}, all{};
    for (std::size_t i = 0; i < 2; ++i) {
      pad_tensor& t = list[i];
      do {
        t.units = random_counts(random);
        t.unit_bytes = random.between<std::size_t>(1, 6);
        t.unit_stride = t.unit_bytes + random.pick<std::size_t>({0, 0, 1, 5, 6});
        t.outer = random.between(1, 3);
        t.outer_stride = static_cast<std::size_t>(t.units.capacity) * t.unit_stride;
        if (random.chance(30)) {
          t.outer_stride = t.unit_bytes;
          t.unit_stride =
              t.outer_stride * static_cast<std::size_t>(t.outer) + random.pick<std::size_t>({0, 3});
        }
      } while (extent_of(t) > size);
      t.fill.leave = random.chance(10);
      const std::size_t offset = random.between<std::size_t>(0, size - extent_of(t));
      t.data = memory.data() + offset;
      for (std::int32_t slice = 0; slice < t.outer; ++slice) {
        for (std::int32_t unit = 0; unit < t.units.padded; ++unit) {
          for (std::size_t b = 0; b < t.unit_bytes; ++b) {
            const std::size_t place = offset + static_cast<std::size_t>(slice) * t.outer_stride +
                                      static_cast<std::size_t>(unit) * t.unit_stride + b;
            all[i][place] = 1;
            tail[i][place] = unit >= t.units.real && !t.fill.leave;
          }
        }
      }
    }
    bool shared = false;
    for (std::size_t b = 0; b < size; ++b) {
      shared = shared || (tail[0][b] && all[1][b]) || (tail[1][b] && all[0][b]);
    }
    REQUIRE(validate(list).code == (shared ? errc::aliasing : errc::ok));
    (shared ? refused : allowed)++;
  });
  MESSAGE("refused ", refused, ", allowed ", allowed);
  CHECK(((refused > 0 && allowed > 0) || test_support::case_count() < 100));
}

TEST_CASE("pad: byte counts beyond 2^31 are counted, not wrapped") {
  // Addresses only: validate reads no memory.
  auto* const base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40);
  constexpr std::int32_t row = 7168 * 2;
  const unit_counts rows{.real = 0, .padded = 400'000, .capacity = 400'000};
  const auto needed = std::size_t{400'000} * row;
  CHECK(needed > std::size_t{1} << 32);
  CHECK(validate(std::array{pad_rows(base, row, rows), pad_rows(base + needed, row, rows)}).ok());
  for (const std::size_t apart : {std::size_t{1} << 31, std::size_t{1} << 32, needed - 1}) {
    const status s =
        validate(std::array{pad_rows(base, row, rows), pad_rows(base + apart, row, rows)});
    CHECK(s.code == errc::aliasing);
  }
  // Just below 2^63 bytes fit, twice that does not.
  const unit_counts many{.real = 0, .padded = 1 << 30, .capacity = 1 << 30};
  pad_tensor t = pad_vector(base, many);
  t.unit_stride = std::size_t{1} << 33;
  CHECK(validate({&t, 1}).ok());
  t.unit_stride = std::size_t{1} << 34;
  CHECK(validate({&t, 1}).code == errc::size_overflow);
}

TEST_CASE("pad: the message of a refusal is a sentence") {
  std::array<float, 4> x{};
  const pad_tensor t = pad_vector(x.data(), {.real = 1, .padded = 5, .capacity = 4});
  CHECK(pad({&t, 1}).message().view() ==
        "capacity_exceeded tensor 0 padded units: 5, limit 4 [pad]");
}
