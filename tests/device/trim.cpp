#include <dpgather/device/trim.hpp>

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

static_assert(std::is_trivially_copyable_v<trim_tensor>);

unit_counts random_counts(random_source& random) {
  unit_counts out;
  out.capacity = random.between(0, 10);
  out.padded = random.chance(30) ? out.capacity : random.between(0, out.capacity);
  out.real = random.chance(25) ? out.padded : random.between(0, out.padded);
  return out;
}

std::size_t extent_of(const trim_tensor& t) {
  if (t.outer <= 0 || t.units.capacity <= 0) return 0;
  return static_cast<std::size_t>(t.outer - 1) * t.outer_stride +
         static_cast<std::size_t>(t.units.capacity - 1) * t.unit_stride + t.unit_bytes;
}

std::size_t kept_bytes(const trim_tensor& t) {
  return static_cast<std::size_t>(t.outer) * static_cast<std::size_t>(t.units.real) * t.unit_bytes;
}

/// A tensor with its places in the arena of sources and in that of destinations.
struct placed {
  trim_tensor tensor{};
  std::size_t from = 0, to = 0;
};

std::vector<placed> random_tensors(random_source& random, std::size_t& sources,
                                   std::size_t& destinations) {
  std::vector<placed> out(random.between<std::size_t>(1, 4));
  sources = destinations = random.between<std::size_t>(0, 9);
  for (placed& p : out) {
    const std::size_t element = random.pick<std::size_t>({1, 2, 4, 8});
    trim_tensor& t = p.tensor;
    t.units = random_counts(random);
    t.unit_bytes = element * random.between<std::size_t>(1, 7);
    t.unit_stride =
        t.unit_bytes + (random.chance(60) ? 0 : element * random.between<std::size_t>(1, 4));
    switch (random.between(0, 2)) {
    case 0: // slices behind each other
      t.outer = random.between(0, 3);
      t.outer_stride = static_cast<std::size_t>(t.units.capacity) * t.unit_stride +
                       element * random.between<std::size_t>(0, 2);
      break;
    case 1: // slices inside each other
      t.outer = random.between(2, 3);
      t.outer_stride = t.unit_bytes + element * random.between<std::size_t>(0, 1);
      t.unit_stride = static_cast<std::size_t>(t.outer) * t.outer_stride;
      break;
    default:
      t.outer_stride = random(); // one slice: the stride is not read
    }
    // Aligned alike, each for itself, or not at all.
    const std::size_t alignment = random.pick<std::size_t>({1, 2, 4, 8});
    p.from = (sources + alignment - 1) / alignment * alignment;
    p.to =
        random.chance(70) ? (destinations + alignment - 1) / alignment * alignment : destinations;
    t.destination_bytes = kept_bytes(t) + random.between<std::size_t>(0, 2);
    sources = p.from + extent_of(t) + random.between<std::size_t>(0, 9);
    destinations = p.to + t.destination_bytes + random.between<std::size_t>(0, 9);
  }
  return out;
}

std::vector<trim_tensor> at(const std::vector<placed>& tensors, const bytes& source,
                            bytes& destination) {
  std::vector<trim_tensor> out;
  for (const placed& p : tensors) {
    out.push_back(p.tensor);
    out.back().source = source.data() + p.from;
    out.back().destination = destination.data() + p.to;
  }
  return out;
}

/// The reference: one byte at a time.
bytes trimmed_by_hand(const std::vector<placed>& tensors, const bytes& source, bytes destination) {
  for (const placed& p : tensors) {
    const trim_tensor& t = p.tensor;
    std::size_t next = p.to;
    for (std::int32_t slice = 0; slice < t.outer; ++slice) {
      for (std::int32_t unit = 0; unit < t.units.real; ++unit) {
        for (std::size_t b = 0; b < t.unit_bytes; ++b) {
          destination[next++] = source[p.from + static_cast<std::size_t>(slice) * t.outer_stride +
                                       static_cast<std::size_t>(unit) * t.unit_stride + b];
        }
      }
    }
  }
  return destination;
}

constexpr std::int64_t int64_max = std::numeric_limits<std::int64_t>::max();

} // namespace

TEST_CASE("trim: random lists equal the scalar reference, sources and canaries unchanged") {
  std::uint64_t changed = 0;
  test_support::for_random_cases([&](random_source& random) {
    std::size_t from = 0, to = 0;
    const std::vector<placed> tensors = random_tensors(random, from, to);
    const bytes source = random_bytes(random, from);
    const bytes before = random_bytes(random, to);
    const bytes expected = trimmed_by_hand(tensors, source, before);

    bytes destination = before;
    const bytes read = source;
    const status s = trim(at(tensors, read, destination));
    REQUIRE_MESSAGE(s.ok(), s.message().c_str());
    REQUIRE(destination == expected);
    REQUIRE(read == source);

    destination = before;
    const std::vector<trim_tensor> list = at(tensors, source, destination);
    const std::uint64_t workers = random.between<std::uint64_t>(1, 37);
    for (const std::uint64_t worker : random.order(workers)) {
      for (const trim_tensor& tensor : list) trim_share(tensor, worker, workers);
    }
    REQUIRE(destination == expected);
    changed += destination != before;
  });
  CHECK((changed > 0 || test_support::case_count() < 100));
}

TEST_CASE("trim: every byte is written by exactly one worker") {
  test_support::for_random_cases(
      [](random_source& random) {
        std::size_t from = 0, to = 0;
        const std::vector<placed> tensors = random_tensors(random, from, to);
        const bytes source(from, std::byte{1});
        const bytes before(to, std::byte{0});
        const bytes expected = trimmed_by_hand(tensors, source, before);
        std::vector<int> writers(to, 0);
        const std::uint64_t workers = random.between<std::uint64_t>(1, 19);
        for (std::uint64_t worker = 0; worker < workers; ++worker) {
          bytes destination = before;
          for (const trim_tensor& t : at(tensors, source, destination)) {
            trim_share(t, worker, workers);
          }
          for (std::size_t i = 0; i < to; ++i) writers[i] += destination[i] == std::byte{1};
        }
        for (std::size_t i = 0; i < to; ++i) {
          REQUIRE(writers[i] == (expected[i] == std::byte{1} ? 1 : 0));
        }
      },
      test_support::case_count() / 10);
}

TEST_CASE("trim: loads and stores are aligned, and 16 bytes wide where alignment allows") {
  // A processor that forgives hides a misaligned word, a GPU does not: so the width is looked at.
  std::array<int, 17> seen{};
  test_support::for_random_cases([&](random_source& random) {
    std::size_t from = 0, to = 0;
    const std::vector<placed> tensors = random_tensors(random, from, to);
    const bytes source(from);
    bytes destination(to);
    for (const trim_tensor& t : at(tensors, source, destination)) {
      const auto real = static_cast<std::size_t>(t.units.real);
      if (real == 0 || t.outer == 0) continue;
      const bool dense = t.unit_stride == t.unit_bytes;
      const std::size_t run = dense ? real * t.unit_bytes : t.unit_bytes;
      std::uintptr_t all = 16 | run | reinterpret_cast<std::uintptr_t>(t.destination);
      for (std::size_t slice = 0; slice < static_cast<std::size_t>(t.outer); ++slice) {
        for (std::size_t unit = 0; unit < (dense ? 1 : real); ++unit) {
          all |= reinterpret_cast<std::uintptr_t>(t.source) + slice * t.outer_stride +
                 unit * t.unit_stride;
        }
      }
      std::uint64_t widest = 16;
      while (all % widest != 0) widest /= 2;
      const detail::byte_runs units = detail::source_runs(t);
      const std::uint64_t width = detail::lowest_bit(
          units.word_bytes() |
          detail::dense_like(units, reinterpret_cast<std::uintptr_t>(t.destination)).word_bytes());
      REQUIRE(width == widest);
      seen[width]++;
    }
  });
  for (const std::size_t width : {1u, 2u, 4u, 8u, 16u}) {
    CHECK((seen[width] > 0 || test_support::case_count() < 100));
  }
}

TEST_CASE("trim: NaN payloads and -0.0 arrive as they are, NaN in tails does not") {
  const float nan = std::bit_cast<float>(0x7f812345u); // signalling
  std::array<float, 10> source{nan, -0.0f, 3, 4, nan, nan, nan, nan, nan, nan};
  std::array<float, 6> kept{7, 7, 7, 7, 7, 7};
  REQUIRE(
      trim(std::array{trim_rows(source.data(), 2, kept, {.real = 2, .padded = 4, .capacity = 5})})
          .ok());
  CHECK(std::memcmp(kept.data(), source.data(), 4 * sizeof(float)) == 0);
  CHECK(kept[4] == 7);
  CHECK(kept[5] == 7);
}

TEST_CASE("trim: tails are not read") {
  const std::size_t page = sealed_pages::page();
  const sealed_pages source(4 * page); // [2, 2] units of one page: the second of each is the tail
  source.open(0, page);
  source.open(2 * page, 3 * page);
  source.data()[0] = std::byte{1};
  source.data()[2 * page] = std::byte{2};
  bytes kept(2 * page);
  const trim_tensor t{.source = source.data(),
                      .destination = kept.data(),
                      .destination_bytes = kept.size(),
                      .units = {.real = 1, .padded = 2, .capacity = 2},
                      .unit_bytes = page,
                      .unit_stride = page,
                      .outer = 2,
                      .outer_stride = 2 * page};
  REQUIRE(trim({&t, 1}).ok());
  CHECK(kept[0] == std::byte{1});
  CHECK(kept[page] == std::byte{2});
}

TEST_CASE("trim: in place where nothing moves, and no byte is touched") {
  const sealed_pages pages(2 * sealed_pages::page());
  auto* const x = reinterpret_cast<std::int32_t*>(pages.data());
  const auto room = std::span{x, 64};
  const unit_counts units{.real = 5, .padded = 8, .capacity = 8};
  CHECK(trim(std::array{trim_vector(x, room, units)}).ok());
  CHECK(trim(std::array{trim_rows(x, 3, room, units)}).ok());
  // All units are real: [outer, capacity] is dense already.
  CHECK(trim(std::array{trim_columns(x, 3, room, {.real = 8, .padded = 8, .capacity = 8})}).ok());
  // A single unit has no stride, a single slice no outer stride.
  trim_tensor one = trim_vector(x, room, {.real = 1, .padded = 2, .capacity = 2});
  one.unit_stride = 12;
  CHECK(trim({&one, 1}).ok());
  // No units at all, wherever they would go.
  CHECK(trim(std::array{trim_columns(x, 3, room, {.real = 0, .padded = 2, .capacity = 8})}).ok());
  CHECK(trim(std::array{trim_columns(x, 0, room, units)}).ok());
}

TEST_CASE("trim: offsets beyond 2^31 and 2^32 bytes") {
  for (const std::size_t slice : {std::size_t{1} << 31, (std::size_t{1} << 32) + 8}) {
    const sealed_pages source(slice + sealed_pages::page());
    source.open(0, 16);
    source.open(slice, slice + 16);
    source.data()[8] = std::byte{1};
    source.data()[slice] = std::byte{2};
    std::array<std::byte, 32> kept{};
    const trim_tensor t{.source = source.data(),
                        .destination = kept.data(),
                        .destination_bytes = kept.size(),
                        .units = {.real = 2, .padded = 100'000'000, .capacity = 100'000'000},
                        .unit_bytes = 8,
                        .unit_stride = 8,
                        .outer = 2,
                        .outer_stride = slice};
    REQUIRE(trim({&t, 1}).ok());
    CHECK(kept[8] == std::byte{1});
    CHECK(kept[16] == std::byte{2});
  }
}

TEST_CASE("trim: builders") {
  const unit_counts tokens{.real = 2, .padded = 3, .capacity = 4};
  const std::array<std::int64_t, 4> ids{1, 2, 3, 4};
  const std::array<double, 12> hidden{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::array<std::int32_t, 12> positions{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  std::vector<std::int64_t> kept_ids(3, 0);
  std::array<double, 7> kept_hidden{};
  std::array<std::int32_t, 7> kept_positions{};
  REQUIRE(trim(std::array{trim_vector(ids.data(), kept_ids, tokens),
                          trim_rows(hidden.data(), 3, kept_hidden, tokens),
                          trim_columns(positions.data(), 3, kept_positions, tokens)})
              .ok());
  CHECK(kept_ids == std::vector<std::int64_t>{1, 2, 0});
  CHECK(kept_hidden == std::array<double, 7>{1, 2, 3, 4, 5, 6, 0});
  CHECK(kept_positions == std::array{1, 2, 5, 6, 9, 10, 0});
}

TEST_CASE("trim: nothing to do is legal, null included") {
  CHECK(trim({}).ok());
  const trim_tensor none = trim_vector<float>(nullptr, {}, {.real = 0, .padded = 4, .capacity = 4});
  CHECK(trim({&none, 1}).ok());
  trim_share(none, 0, 1);
}

namespace {

/// Three tensors, the middle one broken: refused by name, nothing written, and the good list works.
void check_refused(errc code, void (*breaks)(trim_tensor&), std::int64_t value,
                   std::int64_t limit) {
  alignas(8) std::array<std::int32_t, 64> source{};
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::int32_t>(i) + 1;
  alignas(8) std::array<std::int32_t, 48> kept{};
  const unit_counts units{.real = 2, .padded = 6, .capacity = 8};
  std::array list{trim_vector(source.data(), std::span{kept.data(), 2}, units),
                  trim_columns(source.data() + 8, 2, std::span{kept.data() + 16, 4}, units),
                  trim_vector(source.data() + 32, std::span{kept.data() + 32, 2}, units)};
  const auto good = list;
  breaks(list[1]);
  CHECK(validate(list).code == code);
  const auto before = source;
  const auto untouched = kept;
  const status s = trim(list);
  CHECK(s.code == code);
  CHECK(s.about == subject::tensor);
  CHECK(s.peer == 1);
  CHECK(s.rank == -1);
  CHECK(s.value == value);
  CHECK(s.limit == limit);
  CHECK(std::string_view{s.where} == "trim");
  CHECK_MESSAGE(kept == untouched, "nothing is written");
  CHECK(source == before);
  REQUIRE(trim(good).ok());
  CHECK(kept[0] == 1);
  CHECK(kept[1] == 2);
  CHECK(kept[16] == 9);
  CHECK(kept[18] == 17);
  CHECK(kept[33] == 34);
  CHECK(kept[20] == 0);
}

} // namespace

TEST_CASE("trim refuses: count_out_of_range") {
  check_refused(
      errc::count_out_of_range, [](trim_tensor& t) { t.outer = -2; }, -2, 0);
  check_refused(
      errc::count_out_of_range, [](trim_tensor& t) { t.units.real = -1; }, -1, 6);
  check_refused(
      errc::count_out_of_range, [](trim_tensor& t) { t.units.real = 7; }, 7, 6);
  check_refused(
      errc::count_out_of_range, [](trim_tensor& t) { t.unit_bytes = 0; }, 0, 1);
}
TEST_CASE("trim refuses: capacity_exceeded, of source and of destination") {
  check_refused(
      errc::capacity_exceeded, [](trim_tensor& t) { t.units.padded = 9; }, 9, 8);
  check_refused(
      errc::capacity_exceeded, [](trim_tensor& t) { t.destination_bytes = 15; }, 16, 15);
}
TEST_CASE("trim refuses: null_pointer, of source and of destination") {
  check_refused(
      errc::null_pointer, [](trim_tensor& t) { t.source = nullptr; }, 2, 0);
  check_refused(
      errc::null_pointer, [](trim_tensor& t) { t.destination = nullptr; }, 16, 0);
}
TEST_CASE("trim refuses: misaligned, units that overlap") {
  check_refused(
      errc::misaligned, [](trim_tensor& t) { t.unit_stride = 3; }, 3, 4);
}
TEST_CASE("trim refuses: size_overflow") {
  check_refused(
      errc::size_overflow, [](trim_tensor& t) { t.unit_stride = std::size_t{1} << 61; }, 8,
      int64_max);
  check_refused(
      errc::size_overflow,
      [](trim_tensor& t) { t.outer = 3, t.outer_stride = std::size_t{1} << 62; }, 8, int64_max);
  check_refused(
      errc::size_overflow,
      [](trim_tensor& t) { t.destination = reinterpret_cast<void*>(~std::uintptr_t{0} - 8); }, 16,
      8);
}
TEST_CASE("trim refuses: aliasing of slices") {
  check_refused(
      errc::aliasing, [](trim_tensor& t) { t.outer_stride = 28; }, 28, 32);
}
TEST_CASE("trim refuses: aliasing of its own source and destination") {
  // In place, but the second slice would move.
  check_refused(
      errc::aliasing, [](trim_tensor& t) { t.destination = const_cast<void*>(t.source); }, 1, 3);
  // Shifted by one element, to either side.
  check_refused(
      errc::aliasing,
      [](trim_tensor& t) {
        t.destination = static_cast<std::byte*>(const_cast<void*>(t.source)) + 4;
      },
      1, 3);
  // In place and strided: unit 1 would move.
  check_refused(
      errc::aliasing,
      [](trim_tensor& t) {
        t.destination = const_cast<void*>(t.source), t.outer = 1, t.unit_stride = 8,
        t.units.capacity = 7;
      },
      1, 3);
}
TEST_CASE("trim refuses: aliasing with another tensor's source or destination") {
  check_refused( // the last source follows 24 elements behind
      errc::aliasing,
      [](trim_tensor& t) {
        t.destination = static_cast<std::byte*>(const_cast<void*>(t.source)) + 96;
      },
      2, 3);
  // Destinations: the middle one's last 8 bytes are the last one's first.
  alignas(8) std::array<std::int32_t, 16> source{};
  std::array<std::int32_t, 8> kept{};
  const unit_counts units{.real = 4, .padded = 4, .capacity = 4};
  const std::array list{trim_vector(source.data(), std::span{kept.data(), 4}, units),
                        trim_vector(source.data() + 4, std::span{kept.data() + 3, 4}, units)};
  const status s = trim(list);
  CHECK(s.code == errc::aliasing);
  CHECK(s.peer == 0);
  CHECK(s.value == 1);
  // Legal: one source, two destinations; and a destination in the tail of its source.
  CHECK(trim(std::array{trim_vector(source.data(), std::span{kept.data(), 4}, units),
                        trim_vector(source.data(), std::span{kept.data() + 4, 4}, units)})
            .ok());
  source[0] = 5;
  CHECK(trim(std::array{trim_vector(source.data(), std::span{source.data() + 2, 2},
                                    {.real = 2, .padded = 8, .capacity = 16})})
            .ok());
  CHECK(source[2] == 5);
}

TEST_CASE("trim: the aliasing rule equals a byte map on random pairs") {
  std::uint64_t refused = 0, allowed = 0, stayed = 0;
  test_support::for_random_cases([&](random_source& random) {
    constexpr std::size_t size = 80;
    std::array<std::byte, size> memory{};
    std::array<trim_tensor, 2> list{};
    std::array<std::array<int, size>, 2> read{}, written{};
    for (std::size_t i = 0; i < 2; ++i) {
      trim_tensor& t = list[i];
      do {
        t.units = random_counts(random);
        t.unit_bytes = random.between<std::size_t>(1, 5);
        t.unit_stride = t.unit_bytes + random.pick<std::size_t>({0, 0, 1, 5});
        t.outer = random.between(1, 3);
        t.outer_stride = static_cast<std::size_t>(t.units.capacity) * t.unit_stride;
      } while (extent_of(t) > size);
      t.destination_bytes = kept_bytes(t);
      const std::size_t from = random.between<std::size_t>(0, size - extent_of(t));
      const std::size_t to =
          random.chance(30) ? from : random.between<std::size_t>(0, size - kept_bytes(t));
      t.source = memory.data() + from;
      t.destination = memory.data() + to;
      bool stays = true; // every byte is where it goes
      std::size_t next = to;
      std::array<int, size> here{};
      for (std::int32_t slice = 0; slice < t.outer; ++slice) {
        for (std::int32_t unit = 0; unit < t.units.real; ++unit) {
          for (std::size_t b = 0; b < t.unit_bytes; ++b, ++next) {
            const std::size_t place = from + static_cast<std::size_t>(slice) * t.outer_stride +
                                      static_cast<std::size_t>(unit) * t.unit_stride + b;
            read[i][place] = 1;
            here[next] = 1;
            stays = stays && place == next;
          }
        }
      }
      if (!stays) written[i] = here;
      stayed += stays && kept_bytes(t) > 0;
    }
    bool shared = false;
    for (std::size_t b = 0; b < size; ++b) {
      for (std::size_t i = 0; i < 2; ++i) {
        shared = shared || (written[i][b] && (read[0][b] || read[1][b] || written[1 - i][b]));
      }
    }
    REQUIRE(validate(list).code == (shared ? errc::aliasing : errc::ok));
    (shared ? refused : allowed)++;
  });
  MESSAGE("refused ", refused, ", allowed ", allowed, ", in place ", stayed);
  CHECK(((refused > 0 && allowed > 0 && stayed > 0) || test_support::case_count() < 100));
}
