#include <dpgather/device/leak_scan.hpp>

#include <dpgather/fill.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

static_assert(std::is_trivially_copyable_v<scanned_rows>);
static_assert(sizeof(detail::tensor_list<detail::rows_to_scan, most_scanned_tensors>) <= 4096,
              "kernel parameters hold 4 KiB");
static_assert(leak_record::key(1, 31, 0xffffffff) < leak_record::key(2, 0, 0));
static_assert(leak_record::step_of(leak_record::key(~std::uint64_t{0}, 3, 9)) ==
              leak_record::most_steps);
static_assert(leak_record::tensor_of(leak_record::key(8, 31, 9)) == 31);
static_assert(leak_record::row_of(leak_record::key(8, 31, 0xfffffffe)) == 0xfffffffe);
static_assert(leak_record::key(~std::uint64_t{0}, 31, 0xffffffff) < leak_record::none);

constexpr element looked_at[] = {element::i32,  element::i64, element::f16,
                                 element::bf16, element::f32, element::f64};

/// Whether bits are NaN, by what the processor says of the value; halves by their fields.
bool is_nan_or_least(element type, std::uint64_t bits) {
  switch (type) {
  case element::f32:
    return std::isnan(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  case element::f64:
    return std::isnan(std::bit_cast<double>(bits));
  case element::bf16: // the upper half of a float
    return std::isnan(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
  case element::f16:
    return (bits >> 10 & 31) == 31 && (bits & 1023) != 0;
  case element::i32:
    return static_cast<std::int32_t>(bits) == std::numeric_limits<std::int32_t>::min();
  case element::i64:
    return static_cast<std::int64_t>(bits) == std::numeric_limits<std::int64_t>::min();
  case element::u8:
    break;
  }
  return false;
}

} // namespace

TEST_CASE("poison is every NaN, and of integers the least: all halves, and the edges of the rest") {
  for (std::uint64_t bits = 0; bits < 65'536; ++bits) {
    REQUIRE(detail::is_poison(element::f16, bits) == is_nan_or_least(element::f16, bits));
    REQUIRE(detail::is_poison(element::bf16, bits) == is_nan_or_least(element::bf16, bits));
  }
  for (const element type : looked_at) {
    const auto word = fill_word{poison_fill(type)};
    const std::uint64_t mask = ~std::uint64_t{0} >> (64 - 8 * size_of(type));
    CHECK(detail::is_poison(type, word.bits & mask));
    CHECK(detail::element_bytes(type) == size_of(type));
  }
  for (const std::uint64_t near :
       {0x7f800000ull, 0x80000000ull, 0xff800000ull, 0x7ff0000000000000ull, 0x8000000000000000ull,
        0xfff0000000000000ull, 0ull}) {
    for (std::uint64_t bits = near - 3; bits != near + 4; ++bits) {
      for (const element type : {element::f64, element::i64})
        CHECK(detail::is_poison(type, bits) == is_nan_or_least(type, bits));
      const std::uint64_t low = bits & 0xffffffff;
      for (const element type : {element::f32, element::i32})
        CHECK(detail::is_poison(type, low) == is_nan_or_least(type, low));
    }
  }
}

TEST_CASE("the first poisoned row of any tensor is found, by any workers in any order") {
  std::uint64_t leaks = 0;
  alignas(16) static std::byte memory[2048];
  test_support::for_random_cases([&](random_source& random) {
    const element type = random.pick(looked_at);
    const std::size_t size = size_of(type);
    scanned_rows t;
    t.type = type;
    t.rows = random.between(0, 9);
    const auto width = random.between<std::size_t>(1, 9);
    t.row_bytes = width * size;
    t.row_stride = t.row_bytes + size * random.between<std::size_t>(0, 3);
    t.data = memory + size * random.between<std::size_t>(0, 5);
    t.key = leak_record::key(7, 3, 0);
    // Poison everywhere but in the rows, so that a byte too many is found.
    const auto poison = fill_word{poison_fill(type)};
    const std::uint64_t one = 1;
    for (std::size_t at = 0; at + 8 <= sizeof memory; at += 8)
      std::memcpy(memory + at, &poison.bits, 8);
    std::int32_t first = -1;
    for (std::int32_t row = 0; row < t.rows; ++row) {
      for (std::size_t c = 0; c < width; ++c) {
        const bool bad = random.chance(3);
        if (bad && first < 0) first = row;
        auto* const place = const_cast<std::byte*>(t.data) +
                            static_cast<std::size_t>(row) * t.row_stride + c * size;
        std::memcpy(place, bad ? &poison.bits : &one, size);
      }
    }
    leak_record found;
    t.found = &found;
    const std::uint64_t workers = random.between<std::uint64_t>(1, 23);
    for (const std::uint64_t w : random.order(workers)) scan_share(t, w, workers);
    REQUIRE(found.first == (first < 0 ? leak_record::none
                                      : leak_record::key(7, 3, static_cast<std::uint64_t>(first))));
    leaks += first >= 0;
  });
  CHECK((leaks > 0 || test_support::case_count() < 100));
}

TEST_CASE("threads that find different rows at once keep the least") {
  std::vector<float> rows(4096, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < 5; ++i) rows[static_cast<std::size_t>(i)] = 1;
  leak_record found;
  const scanned_rows t{.data = reinterpret_cast<const std::byte*>(rows.data()),
                       .rows = 4096,
                       .row_bytes = 4,
                       .row_stride = 4,
                       .type = element::f32,
                       .key = leak_record::key(1, 2, 0),
                       .found = &found};
  std::vector<std::thread> threads;
  for (std::uint64_t w = 0; w < 4; ++w) threads.emplace_back([&t, w] { scan_share(t, w, 4); });
  for (std::thread& thread : threads) thread.join();
  CHECK(found.first == leak_record::key(1, 2, 5));
}

TEST_CASE("lists: bytes, no rows and empty rows are nothing to look at") {
  std::vector<std::byte> bytes(64, std::byte{0x80});
  leak_record found;
  const auto rows = [&](element type, std::int32_t n, std::size_t width) {
    return scanned_rows{.data = bytes.data(),
                        .rows = n,
                        .row_bytes = width,
                        .row_stride = 8,
                        .type = type,
                        .key = leak_record::key(1, 0, 0),
                        .found = &found};
  };
  const scanned_rows list[] = {rows(element::u8, 8, 8), rows(element::i32, 0, 8),
                               rows(element::i32, 8, 0)};
  CHECK(scan(list, host_stream{}).ok());
  CHECK(found.first == leak_record::none);
  std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
  const scanned_rows floats[] = {rows(element::f32, 8, 8)};
  CHECK(scan(floats, host_stream{}).ok());
  CHECK(found.first == leak_record::key(1, 0, 0));
}
