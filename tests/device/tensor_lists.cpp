#include <dpgather/device/tensor_lists.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <numeric>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

/// Counts launches and does the work.
struct counting_stream {
  int* launches = nullptr;
};

} // namespace

template <>
struct dg::executor<counting_stream> {
  static constexpr bool has_own_memory = false;
  template <dg::device_job Job>
  [[nodiscard]] static dg::status run(const Job& job, std::int32_t,
                                      counting_stream stream) noexcept {
    if (job.parts() == 0 || job.words() == 0) return {};
    ++*stream.launches;
    return dg::executor<dg::host_stream>::run(job, 0, {});
  }
};

TEST_CASE("any list is padded as tensor by tensor, in one launch up to 32 tensors with a tail") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto tensors = random.between<std::size_t>(0, 80);
        std::vector<std::vector<std::int32_t>> data(tensors), expected;
        std::vector<dg::pad_tensor> list;
        std::size_t tails = 0;
        for (auto& values : data) {
          const auto padded = random.between(0, 12);
          const auto real = random.between(0, padded);
          values.resize(12);
          std::iota(values.begin(), values.end(), random.between(1, 1000));
          expected.push_back(values);
          for (int i = real; i < padded; ++i) expected.back()[static_cast<std::size_t>(i)] = -7;
          list.push_back(
              dg::pad_vector(values.data(), {.real = real, .padded = padded, .capacity = 12}, -7));
          tails += padded > real;
        }
        int launches = 0;
        REQUIRE(dg::pad(std::span<const dg::pad_tensor>{list}, counting_stream{&launches}).ok());
        REQUIRE(data == expected);
        REQUIRE((launches <= 1 || tensors > 32));
        REQUIRE(launches == static_cast<int>((tails + 31) / 32)); // those with a tail count
        REQUIRE((launches > 0) == (tails > 0));
      },
      ts::case_count(500));
}

TEST_CASE("live counts are read when the job runs, and clamped to what the shape has") {
  std::int32_t rows = 0;
  std::vector<std::int32_t> values(8), kept(8);
  for (const std::int32_t now : {0, 3, 6, 9, 12, 15, 1000, -5}) {
    std::iota(values.begin(), values.end(), 1);
    kept.assign(8, 99);
    rows = now; // after the list was made, as in a replay
    const dg::unit_counts units{
        .padded = 4, .capacity = 8, .live = &rows, .rows_per_unit = 3}; // requests of 3 tokens
    const dg::pad_tensor pads[] = {dg::pad_vector(values.data(), units, -1)};
    const dg::trim_tensor trims[] = {dg::trim_vector(values.data(), kept, units)};
    REQUIRE(dg::trim(trims, dg::host_stream{}).ok());
    REQUIRE(dg::pad(pads, dg::host_stream{}).ok());
    const int real = now < 0 ? 0 : now / 3 > 4 ? 4 : now / 3;
    for (int i = 0; i < 8; ++i) {
      const auto at = static_cast<std::size_t>(i);
      CHECK(kept[at] == (i < real ? i + 1 : 99));
      CHECK(values[at] == (i >= real && i < 4 ? -1 : i + 1));
    }
  }
}

TEST_CASE("live counts: what may be written is checked, not what is written now") {
  std::int32_t rows = 4;
  std::vector<std::int32_t> values(8);
  const dg::unit_counts live{.padded = 4, .capacity = 8, .live = &rows};
  const dg::unit_counts other{.real = 2, .padded = 2, .capacity = 2};
  // No tail now, but at another count the first would write what the second holds.
  const dg::pad_tensor list[] = {dg::pad_vector(values.data(), live, -1),
                                 dg::pad_vector(values.data() + 2, other, -1)};
  CHECK(dg::pad(list, dg::host_stream{}).code == dg::errc::aliasing);
  const dg::unit_counts broken{.padded = 4, .capacity = 8, .live = &rows, .rows_per_unit = 0};
  const dg::pad_tensor zero[] = {dg::pad_vector(values.data(), broken, -1)};
  CHECK(dg::pad(zero, dg::host_stream{}).code == dg::errc::count_out_of_range);
  std::vector<std::int32_t> small(2);
  const dg::trim_tensor trims[] = {dg::trim_vector(values.data(), small, live)};
  CHECK(dg::trim(trims, dg::host_stream{}).code == dg::errc::capacity_exceeded);
}

TEST_CASE("a wrong list writes nothing") {
  std::vector<std::int32_t> values(8, 5);
  const dg::pad_tensor list[] = {
      dg::pad_vector(values.data(), {.real = 1, .padded = 4, .capacity = 8}, -1),
      dg::pad_vector(values.data() + 4, {.real = 1, .padded = 5, .capacity = 4}, -1)};
  int launches = 0;
  CHECK(dg::pad(list, counting_stream{&launches}).code == dg::errc::capacity_exceeded);
  CHECK(launches == 0);
  CHECK(values == std::vector<std::int32_t>(8, 5));
}

TEST_CASE("compact on a stream is compact") {
  const std::int32_t counts[] = {2, 0, 3};
  const std::int64_t offsets[] = {0, 2, 2};
  std::vector<std::int16_t> slots(12), packed(5);
  std::iota(slots.begin(), slots.end(), std::int16_t{0});
  int launches = 0;
  CHECK(dg::compact({.source = slots.data(),
                     .destination = packed.data(),
                     .counts = counts,
                     .offsets = offsets,
                     .ranks = 3,
                     .slot_rows = 4,
                     .row_bytes = 2,
                     .destination_rows = 5},
                    counting_stream{&launches})
            .ok());
  CHECK(launches == 1);
  CHECK(packed == std::vector<std::int16_t>{0, 1, 8, 9, 10});
}
