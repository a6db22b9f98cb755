#include <dpgather/view_checks.hpp>

#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using dg::errc;
using dg::subject;
using rows = dg::token_rows<dg::replicated>;
using input = dg::const_token_rows<dg::partial>;

namespace {

alignas(16) std::array<std::byte, 256> memory{};

void check_fault(const dg::view_fault& fault, errc code, subject about, std::int64_t value,
                 std::int64_t limit) {
  CHECK(static_cast<bool>(fault));
  CHECK(fault.code == code);
  CHECK(fault.about == about);
  CHECK(fault.value == value);
  CHECK(fault.limit == limit);
}

} // namespace

TEST_CASE("a good view has no fault, dense or strided, const or not") {
  CHECK_FALSE(dg::check_view(rows{memory.data(), 4, element::f32, 16}, subject::local));
  CHECK_FALSE(dg::check_view(rows{memory.data(), 4, element::f64, 16, 24}, subject::local));
  CHECK_FALSE(dg::check_view(input{memory.data(), 4, element::bf16, 6, 8}, subject::global));
  CHECK_FALSE(dg::check_view(rows{memory.data() + 1, 4, element::u8, 7}, subject::local));
  CHECK_FALSE(dg::check_view(rows{memory.data() + 2, 4, element::f16, 2}, subject::local));
}

TEST_CASE("null with rows is a fault, null without is not") {
  check_fault(dg::check_view(rows{nullptr, 3, element::f32, 16}, subject::global),
              errc::null_pointer, subject::global, 3, 0);
  CHECK_FALSE(dg::check_view(rows{nullptr, 0, element::f32, 16}, subject::global));
}

TEST_CASE("rows, strides and pointers are whole elements") {
  for (const element e :
       {element::i32, element::i64, element::f16, element::bf16, element::f32, element::f64}) {
    const std::size_t unit = dg::size_of(e);
    const auto wide = static_cast<std::int64_t>(unit);
    CAPTURE(dg::name_of(e));
    check_fault(dg::check_view(rows{memory.data(), 2, e, 2 * unit + 1}, subject::local),
                errc::misaligned, subject::local, 2 * wide + 1, wide);
    check_fault(dg::check_view(rows{memory.data(), 2, e, unit, unit + 1}, subject::local),
                errc::misaligned, subject::local, wide + 1, wide);
    check_fault(dg::check_view(rows{memory.data() + 1, 2, e, unit}, subject::local),
                errc::misaligned, subject::local, 1, wide);
  }
  check_fault(dg::check_view(rows{memory.data(), 2, element::u8, 0}, subject::local),
              errc::misaligned, subject::local, 0, 1);
}

TEST_CASE("a stride below the row would lay rows over each other") {
  check_fault(dg::check_view(rows{memory.data(), 2, element::f32, 16, 12}, subject::local),
              errc::misaligned, subject::local, 12, 16);
}

TEST_CASE("two views of one call have one element and one row size; strides and rows may differ") {
  const rows a{memory.data(), 2, element::f32, 16};
  CHECK_FALSE(dg::check_same_shape(a, input{memory.data(), 9, element::f32, 16, 32}));
  check_fault(dg::check_same_shape(a, input{memory.data(), 2, element::i32, 16}),
              errc::shape_mismatch, subject::element, static_cast<std::int64_t>(element::f32),
              static_cast<std::int64_t>(element::i32));
  check_fault(dg::check_same_shape(a, input{memory.data(), 2, element::f32, 12}),
              errc::shape_mismatch, subject::row_bytes, 16, 12);
}

TEST_CASE("views overlap when their extents share a byte, and only then") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const auto view = [&] {
          const auto row = random.between<std::size_t>(1, 6);
          return rows{memory.data() + random.between<std::size_t>(0, 60),
                      random.between<std::int64_t>(0, 5), element::u8, row,
                      row + random.between<std::size_t>(0, 3)};
        };
        const rows a = view();
        const rows b = view();
        std::vector<int> touched(256);
        for (const rows& v : {a, b}) {
          const auto first = static_cast<std::size_t>(v.data() - memory.data());
          for (std::size_t i = 0; i < v.extent(); ++i) ++touched[first + i];
        }
        bool shared = false;
        for (const int times : touched) shared = shared || times == 2;
        REQUIRE(dg::overlap(a, b) == shared);
        REQUIRE(dg::overlap(b, a) == shared);
      },
      ts::case_count(20'000));
}

TEST_CASE("views without rows overlap nothing, themselves included") {
  const rows some{memory.data(), 4, element::u8, 4};
  CHECK_FALSE(dg::overlap(some.first(0), some));
  CHECK_FALSE(dg::overlap(some, rows{}));
  CHECK_FALSE(dg::overlap(rows{}, rows{}));
  CHECK(dg::overlap(some, some));
  CHECK_FALSE(dg::overlap(some, rows{memory.data() + 16, 1, element::u8, 4}));
  CHECK(dg::overlap(some, rows{memory.data() + 15, 1, element::u8, 4}));
}
