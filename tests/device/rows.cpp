#include <dpgather/device/rows.hpp>

#include <dpgather/device/row_jobs.hpp>
#include <dpgather/element.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/options.hpp>
#include <dpgather/tensor.hpp>

#include "support/guarded_bytes.hpp"
#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

using bytes = std::vector<std::byte>;

/// Two additions to every byte, so that a row copied twice shows.
struct add_two {
  static void apply(const std::byte* from, std::byte* to, std::size_t size) noexcept {
    for (std::size_t i = 0; i < size; ++i)
      to[i] = static_cast<std::byte>(std::to_integer<unsigned>(from[i]) + 2);
  }
};

bytes random_bytes(ts::random_source& random, std::size_t size) {
  bytes out(size);
  for (std::byte& b : out) b = static_cast<std::byte>(random.between(0, 255));
  return out;
}

} // namespace

static_assert(std::is_trivially_copyable_v<dg::row_copy>);
static_assert(std::is_trivially_copyable_v<dg::row_fill>);
static_assert(dg::row_functor<add_two>);
static_assert(dg::row_functor<dg::row_op::identity>);

TEST_CASE("rows are copied from stride to stride, by any number of workers, each row once") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto row = random.between<std::size_t>(1, 24);
        const std::size_t from_stride = row + random.between<std::size_t>(0, 5);
        const std::size_t to_stride = row + random.between<std::size_t>(0, 5);
        const auto rows = random.between<std::size_t>(0, 20);
        const auto workers = random.between<std::int64_t>(1, 7);
        const auto extent = [&](std::size_t stride) {
          return rows == 0 ? 0 : (rows - 1) * stride + row;
        };
        const bytes from = random_bytes(random, extent(from_stride));
        ts::guarded_bytes to{extent(to_stride)};
        bytes expected = to.snapshot();
        const bool op = random.chance(50);
        for (std::size_t i = 0; i < rows; ++i) {
          for (std::size_t b = 0; b < row; ++b)
            expected[i * to_stride + b] = static_cast<std::byte>(
                std::to_integer<unsigned>(from[i * from_stride + b]) + (op ? 2U : 0U));
        }
        const dg::row_copy job{.from = from.data(),
                               .to = to.data(),
                               .row_bytes = row,
                               .from_stride = from_stride,
                               .to_stride = to_stride,
                               .rows = static_cast<std::int64_t>(rows)};
        const bytes before = from;
        for (std::int64_t w = 0; w < workers; ++w) {
          if (op) {
            dg::copy_rows_body<dg::row_op::apply_to_rows<add_two>>(job, w, workers);
          } else {
            dg::copy_rows_body<dg::row_op::identity>(job, w, workers);
          }
        }
        REQUIRE(to.equals(expected));
        REQUIRE(to.intact());
        REQUIRE(from == before);
      },
      ts::case_count(10'000));
}

TEST_CASE("rows are filled with a pattern that starts anew in every row; gaps are left alone") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto unit = random.pick<std::size_t>({1, 2, 4, 8});
        const std::size_t row = unit * random.between<std::size_t>(1, 9);
        const std::size_t stride = row + unit * random.between<std::size_t>(0, 4);
        const auto rows = random.between<std::size_t>(0, 12);
        const auto workers = random.between<std::uint64_t>(1, 5);
        const bytes pattern = random_bytes(random, unit);
        dg::fill_pattern fill;
        fill.size = static_cast<std::uint8_t>(unit);
        std::copy(pattern.begin(), pattern.end(), fill.bytes.begin());
        // Aligned to the element, not to more: u8 rows start anywhere.
        const std::size_t skew = unit * random.between<std::size_t>(0, 9);
        ts::guarded_bytes memory{skew + (rows == 0 ? 0 : (rows - 1) * stride + row)};
        bytes expected = memory.snapshot();
        for (std::size_t i = 0; i < rows; ++i) {
          for (std::size_t b = 0; b < row; ++b) expected[skew + i * stride + b] = pattern[b % unit];
        }
        const dg::row_fill job{.to = memory.data() + skew,
                               .row_bytes = row,
                               .stride = stride,
                               .rows = static_cast<std::int64_t>(rows),
                               .fill = fill};
        for (std::uint64_t w = 0; w < workers; ++w) dg::fill_rows_body(job, w, workers);
        REQUIRE(memory.equals(expected));
        REQUIRE(memory.intact());
      },
      ts::case_count(10'000));
}

TEST_CASE("no rows: null pointers are not looked at") {
  dg::copy_rows_body<dg::row_op::identity>({.row_bytes = 8, .from_stride = 8, .to_stride = 8}, 0,
                                           1);
  dg::fill_rows_body({.row_bytes = 8, .stride = 8}, 0, 1);
  dg::row_executor<dg::host_stream>::copy<dg::row_op::identity>({.row_bytes = 8}, {});
  dg::row_executor<dg::host_stream>::fill({.row_bytes = 8}, {});
}

TEST_CASE("a fill replaces NaN, it does not multiply it") {
  std::vector<float> rows(6, std::numeric_limits<float>::quiet_NaN());
  dg::row_executor<dg::host_stream>::fill({.to = reinterpret_cast<std::byte*>(rows.data()),
                                           .row_bytes = 12,
                                           .stride = 12,
                                           .rows = 2,
                                           .fill = dg::zero_fill()},
                                          {});
  CHECK(rows == std::vector<float>(6, 0.0F));
}

TEST_CASE("a row that lies at its place already is left there by identity, changed by a functor") {
  bytes memory{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  const dg::row_copy job{.from = memory.data(),
                         .to = memory.data(),
                         .row_bytes = 2,
                         .from_stride = 2,
                         .to_stride = 2,
                         .rows = 2};
  dg::row_executor<dg::host_stream>::copy<dg::row_op::identity>(job, {});
  CHECK(memory == bytes{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}});
  dg::row_executor<dg::host_stream>::copy<dg::row_op::apply_to_rows<add_two>>(job, {});
  CHECK(memory == bytes{std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}});
}

TEST_CASE("a fill that leaves things be writes nothing") {
  ts::guarded_bytes memory{24};
  const bytes before = memory.snapshot();
  dg::fill_rows_body(
      {.to = memory.data(), .row_bytes = 8, .stride = 8, .rows = 3, .fill = dg::no_fill()}, 0, 1);
  CHECK(memory.equals(before));
}

// --- jobs on views ------------------------------------------------------------------------------

TEST_CASE("copy_rows goes from row to row of two views with strides of their own") {
  bytes from(40);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i);
  ts::guarded_bytes to{5 * 6};
  const dg::const_token_rows<dg::partial> source{from.data(), 4, dg::element::u8, 4, 10};
  const dg::token_rows<dg::replicated> target{to.data(), 5, dg::element::u8, 4, 6};
  bytes expected = to.snapshot();
  for (std::size_t b = 0; b < 4; ++b) {
    expected[3 * 6 + b] = from[10 + b];
    expected[4 * 6 + b] = from[20 + b];
  }
  dg::copy_rows<dg::row_op::identity>(source, 1, target, 3, 2, dg::host_stream{});
  CHECK(to.equals(expected));
  for (const std::int64_t none : {std::int64_t{0}, std::int64_t{-1}})
    dg::copy_rows<dg::row_op::identity>(source, 0, target, 0, none, dg::host_stream{});
  CHECK(to.equals(expected));
  CHECK(to.intact());
}

TEST_CASE("fill_rows fills a run of rows of a view") {
  ts::guarded_bytes memory{5 * 6};
  const dg::token_rows<dg::partial> rows{memory.data(), 5, dg::element::bf16, 4, 6};
  bytes expected = memory.snapshot();
  for (const std::size_t row : {std::size_t{2}, std::size_t{3}}) {
    for (std::size_t b = 0; b < 4; ++b)
      expected[row * 6 + b] = b % 2 == 0 ? std::byte{0x40} : std::byte{0xc0};
  }
  dg::fill_rows(rows, dg::row_range{2, 2}, dg::value_fill(dg::element::bf16, -3),
                dg::host_stream{});
  CHECK(memory.equals(expected));
  dg::fill_rows(rows, dg::row_range{0, 0}, dg::zero_fill(), dg::host_stream{});
  dg::fill_rows(rows, dg::row_range{1, -1}, dg::zero_fill(), dg::host_stream{});
  dg::fill_rows(rows, dg::row_range{0, 5}, dg::no_fill(), dg::host_stream{});
  CHECK(memory.equals(expected));
  CHECK(memory.intact());
}
