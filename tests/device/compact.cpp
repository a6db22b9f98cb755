#include <dpgather/device/compact.hpp>

#include <support/memory.hpp>
#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::bytes;
using test_support::random_bytes;
using test_support::random_source;
using test_support::sealed_pages;

static_assert(std::is_trivially_copyable_v<compact_rows>);

/// Slots of `ranks` ranks and the packed rows they go to.
struct slots_case {
  std::int32_t ranks = 0, slot_rows = 0;
  std::int64_t destination_rows = 0;
  std::size_t row_bytes = 0;
  std::vector<std::int32_t> counts{};
  std::vector<std::int64_t> offsets{};

  compact_rows rows(const std::byte* source, std::byte* destination) const {
    return {.source = source,
            .destination = destination,
            .counts = counts.data(),
            .offsets = offsets.data(),
            .ranks = ranks,
            .slot_rows = slot_rows,
            .row_bytes = row_bytes,
            .destination_rows = destination_rows};
  }
  std::size_t source_bytes() const {
    return static_cast<std::size_t>(ranks) * static_cast<std::size_t>(slot_rows) * row_bytes;
  }
  std::size_t destination_bytes() const {
    return static_cast<std::size_t>(destination_rows) * row_bytes;
  }
};

slots_case random_slots(random_source& random) {
  slots_case out;
  out.ranks = random.between(0, 8);
  out.slot_rows = random.between(0, 5);
  out.row_bytes = random.between<std::size_t>(1, 3) * random.pick<std::size_t>({1, 2, 4, 8});
  std::int32_t next = 0;
  for (std::int32_t r = 0; r < out.ranks; ++r) {
    if (random.chance(15)) next += random.between(1, 3); // a hole
    out.counts.push_back(random.chance(30) ? 0 : random.between(0, out.slot_rows));
    out.offsets.push_back(next);
    next += out.counts.back();
  }
  if (random.chance(50)) out.offsets.push_back(next); // the list may have its total behind it
  out.destination_rows = next + (random.chance(50) ? 0 : random.between(0, 4));
  return out;
}

/// The reference: row by row into the packed rows.
bytes compacted_by_hand(const slots_case& c, const bytes& source, bytes destination) {
  for (std::size_t r = 0; r < static_cast<std::size_t>(c.ranks); ++r) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(c.counts[r]); ++i) {
      for (std::size_t b = 0; b < c.row_bytes; ++b) {
        destination[(static_cast<std::size_t>(c.offsets[r]) + i) * c.row_bytes + b] =
            source[(r * static_cast<std::size_t>(c.slot_rows) + i) * c.row_bytes + b];
      }
    }
  }
  return destination;
}

constexpr std::int64_t int64_max = std::numeric_limits<std::int64_t>::max();

} // namespace

TEST_CASE("compact: random slots equal the scalar reference, tails and canaries unchanged") {
  std::uint64_t moved = 0;
  test_support::for_random_cases([&](random_source& random) {
    const slots_case c = random_slots(random);
    const std::size_t shift = random.between<std::size_t>(0, 8);
    const bytes source = random_bytes(random, shift + c.source_bytes());
    const bytes before = random_bytes(random, shift + c.destination_bytes() + 9);
    bytes expected =
        compacted_by_hand(c, {source.begin() + static_cast<std::ptrdiff_t>(shift), source.end()},
                          {before.begin() + static_cast<std::ptrdiff_t>(shift), before.end()});
    expected.insert(expected.begin(), before.begin(),
                    before.begin() + static_cast<std::ptrdiff_t>(shift));

    bytes destination = before;
    const bytes read = source;
    const status s = compact(c.rows(read.data() + shift, destination.data() + shift));
    REQUIRE_MESSAGE(s.ok(), s.message().c_str());
    REQUIRE(destination == expected);
    REQUIRE(read == source);

    destination = before;
    const compact_rows rows = c.rows(source.data() + shift, destination.data() + shift);
    const std::uint64_t workers = random.between<std::uint64_t>(1, 37);
    for (const std::uint64_t worker : random.order(workers)) compact_share(rows, worker, workers);
    REQUIRE(destination == expected);
    moved += destination != before;
  });
  CHECK((moved > 0 || test_support::case_count() < 100));
}

TEST_CASE("compact: words are aligned, and 16 bytes wide where alignment allows") {
  alignas(16) std::array<std::byte, 32> memory{};
  for (std::size_t from = 0; from < 16; ++from) {
    for (std::size_t to = 0; to < 16; ++to) {
      for (std::size_t row = 1; row <= 48; ++row) {
        const compact_rows rows{
            .source = memory.data() + from, .destination = memory.data() + to, .row_bytes = row};
        std::uint64_t widest = 16;
        while (from % widest != 0 || to % widest != 0 || row % widest != 0) widest /= 2;
        CHECK(detail::word_bytes(rows) == widest);
      }
    }
  }
}

TEST_CASE("compact: every byte is written by exactly one worker, and all have as much to do") {
  test_support::for_random_cases(
      [](random_source& random) {
        const slots_case c = random_slots(random);
        const bytes source(c.source_bytes(), std::byte{1});
        const bytes before(c.destination_bytes(), std::byte{0});
        const bytes expected = compacted_by_hand(c, source, before);
        std::vector<int> writers(before.size(), 0);
        std::ptrdiff_t least = std::ssize(before), most = 0;
        const std::uint64_t workers = random.between<std::uint64_t>(1, 19);
        for (std::uint64_t worker = 0; worker < workers; ++worker) {
          bytes destination = before;
          compact_share(c.rows(source.data(), destination.data()), worker, workers);
          std::ptrdiff_t done = 0;
          for (std::size_t i = 0; i < before.size(); ++i) {
            writers[i] += destination[i] == std::byte{1};
            done += destination[i] == std::byte{1};
          }
          least = std::min(least, done);
          most = std::max(most, done);
        }
        REQUIRE(most - least <= 16); // one word, however the rows lie in the slots
        for (std::size_t i = 0; i < before.size(); ++i) {
          REQUIRE(writers[i] == (expected[i] == std::byte{1} ? 1 : 0));
        }
      },
      test_support::case_count() / 10);
}

TEST_CASE("compact: NaN payloads and -0.0 arrive, NaN in the slots' tails does not") {
  const float nan = std::bit_cast<float>(0x7f812345u);
  const std::array<float, 6> slots{nan, nan, -0.0f, nan, nan, nan}; // [3, 2] rows of one float
  const std::array<std::int32_t, 3> counts{1, 1, 0};
  const std::array<std::int64_t, 3> offsets{0, 1, 2};
  std::array<float, 3> packed{7, 7, 7};
  const compact_rows rows{.source = slots.data(),
                          .destination = packed.data(),
                          .counts = counts.data(),
                          .offsets = offsets.data(),
                          .ranks = 3,
                          .slot_rows = 2,
                          .row_bytes = sizeof(float),
                          .destination_rows = 3};
  REQUIRE(compact(rows).ok());
  CHECK(std::bit_cast<std::uint32_t>(packed[0]) == 0x7f812345u);
  CHECK(std::bit_cast<std::uint32_t>(packed[1]) == 0x80000000u);
  CHECK(packed[2] == 7);
}

TEST_CASE("compact: counts that nobody checked cannot reach outside") {
  test_support::for_random_cases([](random_source& random) {
    slots_case c = random_slots(random);
    for (std::int32_t& n : c.counts) {
      if (random.chance(40)) n = static_cast<std::int32_t>(random());
    }
    for (std::int64_t& offset : c.offsets) {
      if (random.chance(40)) offset = static_cast<std::int32_t>(random());
    }
    // Exactly the declared bytes on the heap: the address sanitizer sees one more.
    const bytes source(c.source_bytes(), std::byte{1});
    bytes arena(8 + c.destination_bytes() + 64, std::byte{0});
    compact_share(c.rows(source.data(), arena.data() + 8), 0, 1);
    for (std::size_t i = 0; i < arena.size(); ++i) {
      if (i < 8 || i >= 8 + c.destination_bytes()) REQUIRE(arena[i] == std::byte{0});
    }
  });
}

TEST_CASE("compact: in place where no row moves, and no byte is touched") {
  const sealed_pages pages(sealed_pages::page());
  slots_case c{.ranks = 3, .slot_rows = 4, .destination_rows = 12, .row_bytes = 16};
  c.counts = {4, 4, 2};
  c.offsets = {0, 4, 8};
  CHECK(compact(c.rows(pages.data(), pages.data())).ok());
  c.counts = {0, 3, 1}; // holes where the tails are
  CHECK(compact(c.rows(pages.data(), pages.data())).ok());
}

TEST_CASE("compact: offsets beyond 2^32 bytes") {
  constexpr std::size_t row = 7168 * 2;
  const sealed_pages source(std::size_t{300'001} * row);
  const std::size_t place = std::size_t{300'000} * row;
  CHECK(place > std::size_t{1} << 32);
  source.open(place, place + row);
  source.data()[place] = std::byte{5};
  const std::array<std::int32_t, 2> counts{0, 1};
  const std::array<std::int64_t, 2> offsets{0, 0};
  bytes packed(row);
  REQUIRE(compact({.source = source.data(),
                   .destination = packed.data(),
                   .counts = counts.data(),
                   .offsets = offsets.data(),
                   .ranks = 2,
                   .slot_rows = 300'000,
                   .row_bytes = row,
                   .destination_rows = 1})
              .ok());
  CHECK(packed[0] == std::byte{5});
}

TEST_CASE("compact: nothing to do is legal, null included") {
  CHECK(compact({}).ok());
  const std::array<std::int32_t, 2> zeros{};
  const std::array<std::int64_t, 2> starts{};
  const compact_rows idle{
      .counts = zeros.data(), .offsets = starts.data(), .ranks = 2, .slot_rows = 4, .row_bytes = 8};
  CHECK(compact(idle).ok());
}

namespace {

/// Two ranks with 1 and 2 rows of 4, one broken thing.
void check_compact_refused(errc code, subject about,
                           void (*breaks)(compact_rows&, std::array<std::int32_t, 2>& counts,
                                          std::array<std::int64_t, 2>& offsets),
                           std::int64_t value, std::int64_t limit, std::int32_t rank = -1) {
  std::array<std::int32_t, 20> source{1, 2, 3, 4, 5, 6, 7, 8};
  std::array<std::int32_t, 4> packed{};
  std::array<std::int32_t, 2> counts{1, 2};
  std::array<std::int64_t, 2> offsets{0, 1};
  compact_rows rows{.source = source.data(),
                    .destination = packed.data(),
                    .counts = counts.data(),
                    .offsets = offsets.data(),
                    .ranks = 2,
                    .slot_rows = 4,
                    .row_bytes = 4,
                    .destination_rows = 3};
  const compact_rows good = rows;
  const auto before = source;
  const auto untouched = packed;
  breaks(rows, counts, offsets);
  CHECK(validate(rows).code == code);
  const status s = compact(rows);
  CHECK(s.code == code);
  CHECK(s.about == about);
  CHECK(s.value == value);
  CHECK(s.limit == limit);
  CHECK(s.rank == rank);
  CHECK(std::string_view{s.where} == "compact");
  CHECK_MESSAGE(packed == untouched, "nothing is written");
  CHECK(source == before);
  counts = {1, 2};
  offsets = {0, 1};
  REQUIRE(compact(good).ok());
  CHECK(packed == std::array{1, 5, 6, 0});
}

using two = std::array<std::int32_t, 2>;
using two_wide = std::array<std::int64_t, 2>;

} // namespace

TEST_CASE("compact refuses: count_out_of_range") {
  constexpr auto code = errc::count_out_of_range;
  check_compact_refused(
      code, subject::counts, [](auto&, two& n, two_wide&) { n[1] = 5; }, 5, 4, 1);
  check_compact_refused(
      code, subject::counts, [](auto&, two& n, two_wide&) { n[0] = -1; }, -1, 4, 0);
  check_compact_refused(
      code, subject::counts, [](auto&, two&, two_wide& o) { o[0] = -1; }, -1, 0, 0);
  check_compact_refused(
      code, subject::dp_size, [](compact_rows& c, two&, two_wide&) { c.ranks = -1; }, -1, 0);
  check_compact_refused(
      code, subject::tensor, [](compact_rows& c, two&, two_wide&) { c.slot_rows = -4; }, -4, 0);
  check_compact_refused(
      code, subject::tensor, [](compact_rows& c, two&, two_wide&) { c.destination_rows = -3; }, -3,
      0);
  check_compact_refused(
      code, subject::row_bytes, [](compact_rows& c, two&, two_wide&) { c.row_bytes = 0; }, 0, 0);
}
TEST_CASE("compact refuses: too_many_ranks") {
  check_compact_refused(
      errc::too_many_ranks, subject::counts,
      [](compact_rows& c, two&, two_wide&) { c.ranks = max_ranks + 1; }, max_ranks + 1, max_ranks);
}
TEST_CASE("compact refuses: capacity_exceeded") {
  check_compact_refused(
      errc::capacity_exceeded, subject::tensor, [](auto&, two& n, two_wide&) { n[1] = 3; }, 4, 3,
      1);
  check_compact_refused(
      errc::capacity_exceeded, subject::tensor, [](auto&, two&, two_wide& o) { o[1] = 2147483647; },
      2147483649, 3, 1);
}
TEST_CASE("compact refuses: aliasing") {
  // Rank 1 starts inside rank 0's row.
  check_compact_refused(
      errc::aliasing, subject::counts, [](auto&, two&, two_wide& o) { o[1] = 0; }, 0, 1, 1);
  // In place, and rank 1 moves; rows written overlap rows read.
  check_compact_refused(
      errc::aliasing, subject::tensor,
      [](compact_rows& c, two&, two_wide&) { c.destination = const_cast<void*>(c.source); }, 0, 3);
  check_compact_refused(
      errc::aliasing, subject::tensor,
      [](compact_rows& c, two&, two_wide&) {
        c.destination = static_cast<std::byte*>(const_cast<void*>(c.source)) + 20;
      },
      0, 3);
}
TEST_CASE("compact refuses: null_pointer") {
  constexpr auto code = errc::null_pointer;
  check_compact_refused(
      code, subject::tensor, [](compact_rows& c, two&, two_wide&) { c.source = nullptr; }, 3, 0);
  check_compact_refused(
      code, subject::tensor, [](compact_rows& c, two&, two_wide&) { c.destination = nullptr; }, 3,
      0);
  check_compact_refused(
      code, subject::counts, [](compact_rows& c, two&, two_wide&) { c.counts = nullptr; }, 2, 0);
  check_compact_refused(
      code, subject::counts, [](compact_rows& c, two&, two_wide&) { c.offsets = nullptr; }, 2, 0);
}
TEST_CASE("compact refuses: size_overflow") {
  check_compact_refused(
      errc::size_overflow, subject::row_bytes,
      [](compact_rows& c, two&, two_wide&) { c.row_bytes = std::size_t{1} << 60; }, 8, int64_max);
  check_compact_refused(
      errc::size_overflow, subject::row_bytes,
      [](compact_rows& c, two&, two_wide&) {
        c.destination_rows = 2147483647, c.row_bytes = std::size_t{1} << 33;
      },
      2147483647, int64_max);
}
TEST_CASE("compact: byte counts beyond 2^31 are counted, not wrapped") {
  // Addresses only: 8 slots of 40,000 rows of 14,336 bytes are 4.6e9 bytes.
  auto* const base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40);
  constexpr std::size_t row = 7168 * 2;
  slots_case c{.ranks = 8, .slot_rows = 40'000, .destination_rows = 320'000, .row_bytes = row};
  for (std::int32_t r = 0; r < 8; ++r) {
    c.counts.push_back(40'000);
    c.offsets.push_back(std::int64_t{40'000} * r);
  }
  const std::size_t all = std::size_t{320'000} * row;
  CHECK(all > std::size_t{1} << 32);
  CHECK(validate(c.rows(base, base + all)).ok());
  CHECK(validate(c.rows(base, base)).ok());
  for (const std::size_t apart : {std::size_t{1} << 31, std::size_t{1} << 32, all - 1}) {
    CHECK(validate(c.rows(base, base + apart)).code == errc::aliasing);
    CHECK(validate(c.rows(base + apart, base)).code == errc::aliasing);
  }
}
