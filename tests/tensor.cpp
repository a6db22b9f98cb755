#include <dpgather/tensor.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace dg = dpgather;
using dg::element;
using dg::partial;
using dg::replicated;

using final_rows = dg::token_rows<replicated>;
using owed_rows = dg::token_rows<partial>;
using final_input = dg::const_token_rows<replicated>;
using owed_input = dg::const_token_rows<partial>;

// Who still owes a sum is part of the type: neither state becomes the other, in no direction.
template <class A, class B>
inline constexpr bool never_converts =
    !std::is_constructible_v<B, A> && !std::is_assignable_v<B&, A> && !std::is_convertible_v<A, B>;
static_assert(never_converts<final_rows, owed_rows> && never_converts<owed_rows, final_rows>);
static_assert(never_converts<final_rows, owed_input> && never_converts<owed_rows, final_input>);
static_assert(never_converts<final_input, owed_input> && never_converts<owed_input, final_input>);

// Rows to write are rows to read, and not the other way round.
static_assert(std::is_convertible_v<final_rows, final_input>);
static_assert(std::is_convertible_v<owed_rows, owed_input>);
static_assert(never_converts<final_input, final_rows> && never_converts<owed_input, owed_rows>);

static_assert(std::is_trivially_copyable_v<final_rows>);
static_assert(std::is_same_v<final_input::state, replicated>);
static_assert(std::is_same_v<decltype(final_rows{}.data()), std::byte*>);
static_assert(std::is_same_v<decltype(final_input{}.data()), const std::byte*>);
static_assert(dg::row_state<replicated> && dg::row_state<partial> && !dg::row_state<int>);

// A default view: no rows of nothing.
static_assert(final_rows{}.data() == nullptr && final_rows{}.rows() == 0 &&
              final_rows{}.extent() == 0);

TEST_CASE("a view is pointer, rows, element, row bytes and stride; stride 0 means no gaps") {
  alignas(8) std::array<std::byte, 64> memory{};
  const final_rows dense{memory.data(), 4, element::f32, 16};
  CHECK(dense.data() == memory.data());
  CHECK(dense.rows() == 4);
  CHECK(dense.element() == element::f32);
  CHECK(dense.row_bytes() == 16);
  CHECK(dense.row_stride() == 16);
  CHECK(dense.contiguous());
  CHECK(dense.extent() == 64);
  CHECK(dense.row(3) == memory.data() + 48);

  const final_rows strided{memory.data(), 3, element::bf16, 10, 24};
  CHECK(strided.row_stride() == 24);
  CHECK_FALSE(strided.contiguous());
  CHECK(strided.extent() == 58); // the gap behind the last row is not part of it
  CHECK(strided.row(2) == memory.data() + 48);

  const final_input readable = strided;
  CHECK(readable.data() == strided.data());
  CHECK(readable.rows() == 3);
  CHECK(readable.row_stride() == 24);
  CHECK(readable.element() == element::bf16);
}

TEST_CASE("first keeps everything but the number of rows") {
  std::array<std::byte, 64> memory{};
  const owed_rows rows{memory.data(), 4, element::i64, 8, 16};
  const owed_rows some = rows.first(2);
  CHECK(some.data() == rows.data());
  CHECK(some.rows() == 2);
  CHECK(some.row_stride() == 16);
  CHECK(some.extent() == 24);
  CHECK(rows.first(0).extent() == 0);
  CHECK(rows.first(0).data() == rows.data());
}

TEST_CASE("rows_of takes element and row bytes from the pointer") {
  const auto check = [](auto* data, element expected, std::size_t bytes) {
    const auto rows = dg::rows_of<partial>(data, 3, 5);
    CHECK(rows.element() == expected);
    CHECK(rows.row_bytes() == 5 * bytes);
    CHECK(rows.contiguous());
    CHECK(static_cast<const void*>(rows.data()) == static_cast<const void*>(data));
    CHECK(rows.rows() == 3);
  };
  std::vector<std::uint64_t> memory(15);
  check(reinterpret_cast<std::byte*>(memory.data()), element::u8, 1);
  check(reinterpret_cast<std::uint8_t*>(memory.data()), element::u8, 1);
  check(reinterpret_cast<std::int32_t*>(memory.data()), element::i32, 4);
  check(reinterpret_cast<std::int64_t*>(memory.data()), element::i64, 8);
  check(reinterpret_cast<float*>(memory.data()), element::f32, 4);
  check(reinterpret_cast<double*>(memory.data()), element::f64, 8);
  check(reinterpret_cast<const double*>(memory.data()), element::f64, 8);

  using of_const = decltype(dg::rows_of<replicated>(static_cast<const float*>(nullptr), 0, 4));
  using of_mutable = decltype(dg::rows_of<replicated>(static_cast<float*>(nullptr), 0, 4));
  static_assert(std::is_same_v<of_const, final_input>);
  static_assert(std::is_same_v<of_mutable, final_rows>);
}

TEST_CASE("extents and row addresses are 64 bits wide") {
  // At hidden 7168 bf16 bytes pass 2^31 at row 149,797 (sglang #35188). Nothing is read here.
  const std::size_t row_bytes = 7168 * 2;
  const final_rows rows{nullptr, 400'000, element::bf16, row_bytes};
  CHECK(rows.extent() == 5'734'400'000U);
  std::byte anchor{};
  const final_rows here{&anchor, 400'000, element::bf16, row_bytes};
  const auto distance = reinterpret_cast<std::uintptr_t>(here.row(399'999)) -
                        reinterpret_cast<std::uintptr_t>(&anchor);
  CHECK(distance == 5'734'385'664U);
  const final_rows many{nullptr, std::int64_t{1} << 33, element::u8, 1, 3};
  CHECK(many.extent() == ((std::size_t{1} << 33) - 1) * 3 + 1);
}
