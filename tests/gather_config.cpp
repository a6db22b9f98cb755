#include <dpgather/gather_config.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

namespace dg = dpgather;
using dg::element;
using dg::errc;
using dg::gather_config;
using dg::subject;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();

constexpr gather_config good{.topology = {8, 2, 3, 1},
                             .element = element::bf16,
                             .row_bytes = 7168 * 2,
                             .max_rows_per_rank = 16384};

template <class Change>
constexpr gather_config changed(Change change) {
  gather_config config = good;
  change(config);
  return config;
}

template <class Change>
void check_refused(errc code, subject about, std::int64_t value, Change change) {
  const dg::status s = changed(change).validate();
  CAPTURE(std::string{name_of(s.code)});
  CHECK(s.code == code);
  CHECK(s.about == about);
  CHECK(s.value == value);
}

/// True if calling `F` is a constant expression, that is: without undefined behaviour.
template <auto F>
concept defined = requires {
  typename std::bool_constant<(F(), true)>;
};

} // namespace

static_assert(good.validate().ok());

TEST_CASE("a bad topology is named as the topology names it") {
  check_refused(errc::bad_group, subject::dp_size, 0,
                [](gather_config& c) { c.topology.dp_size = 0; });
  check_refused(errc::bad_group, subject::rank, 8,
                [](gather_config& c) { c.topology.dp_rank = 8; });
  check_refused(errc::too_many_ranks, subject::tp_size, 300,
                [](gather_config& c) { c.topology.tp_size = 300; });
}

TEST_CASE("each field that means nothing is named") {
  check_refused(errc::bad_config, subject::row_bytes, 0, [](gather_config& c) { c.row_bytes = 0; });
  check_refused(errc::bad_config, subject::max_rows, 0,
                [](gather_config& c) { c.max_rows_per_rank = 0; });
  check_refused(errc::bad_config, subject::max_rows, -16,
                [](gather_config& c) { c.max_rows_per_rank = -16; });
  check_refused(errc::bad_config, subject::max_requests, -1,
                [](gather_config& c) { c.max_requests_per_rank = -1; });
  check_refused(errc::bad_config, subject::width, 0, [](gather_config& c) { c.draft_width = 0; });
  check_refused(errc::bad_config, subject::width, -2, [](gather_config& c) { c.draft_width = -2; });
  check_refused(errc::bad_config, subject::max_global_rows, -1,
                [](gather_config& c) { c.max_global_rows = -1; });
  for (const double limit : {-1.0, -0.001, 0.001, 0.5, 0.999}) {
    CAPTURE(limit);
    CHECK(changed([=](gather_config& c) { c.waste_limit = limit; }).validate().code ==
          errc::bad_config);
    CHECK(changed([=](gather_config& c) { c.waste_limit = limit; }).validate().about ==
          subject::waste_limit);
  }
}

TEST_CASE("the smallest values that mean something are taken") {
  const auto accepts = [](auto change) { return changed(change).validate().ok(); };
  CHECK(accepts([](gather_config& c) { c.row_bytes = 2; }));
  CHECK(accepts([](gather_config& c) { c.max_rows_per_rank = 1; }));
  CHECK(accepts([](gather_config& c) { c.max_requests_per_rank = 1; }));
  CHECK(accepts([](gather_config& c) { c.draft_width = 1; }));
  CHECK(accepts([](gather_config& c) { c.max_global_rows = 1; }));
  CHECK(accepts([](gather_config& c) { c.waste_limit = 1; }));
  CHECK(accepts([](gather_config& c) { c.waste_limit = 2.5; }));
  CHECK(accepts([](gather_config& c) { c.waste_limit = 0; }));
}

TEST_CASE("a waste limit that is no number is refused without undefined behaviour") {
  constexpr auto nan = [] {
    return changed(
               [](gather_config& c) { c.waste_limit = std::numeric_limits<double>::quiet_NaN(); })
        .validate()
        .code;
  };
  constexpr auto half = [] {
    return changed([](gather_config& c) { c.waste_limit = 0.5; }).validate().code;
  };
  static_assert(half() == errc::bad_config);
  CHECK(defined<half>);
  // Such a number has no 64-bit integer, so that a conversion of it is no constant expression.
  CHECK(defined<nan>);
}

TEST_CASE("a row is a whole number of elements") {
  const auto code = [](element e, std::size_t bytes) {
    return changed([=](gather_config& c) {
             c.element = e;
             c.row_bytes = bytes;
           })
        .validate()
        .code;
  };
  for (const element e : {element::u8, element::i32, element::i64, element::f16, element::bf16,
                          element::f32, element::f64}) {
    CAPTURE(std::string{name_of(e)});
    for (std::size_t bytes = 1; bytes <= 32; ++bytes) {
      CAPTURE(bytes);
      CHECK(code(e, bytes) == (bytes % size_of(e) == 0 ? errc::ok : errc::misaligned));
    }
  }
  const dg::status s = changed([](gather_config& c) { c.row_bytes = 7; }).validate();
  CHECK(s.about == subject::row_bytes);
  CHECK(s.value == 7);
  CHECK(s.limit == 2);
}

TEST_CASE("sizes that do not fit 63 bits are refused, those that do are not") {
  // Past 2^31 bytes: 149,797 rows of 7168 bf16.
  CHECK(changed([](gather_config& c) { c.max_rows_per_rank = 149'797; }).validate().ok());
  CHECK(changed([](gather_config& c) {
          c.topology = {256, 1, 0, 0};
          c.max_rows_per_rank = most;
          c.row_bytes = 7168 * 2;
        })
            .validate()
            .ok());
  // 256 ranks x 2^31 rows x 2^25 bytes = 2^64.
  const dg::status s = changed([](gather_config& c) {
                         c.topology = {256, 1, 0, 0};
                         c.max_rows_per_rank = most;
                         c.row_bytes = std::size_t{1} << 25;
                       }).validate();
  CHECK(s.code == errc::size_overflow);
  // 1 x 1 x 2^63 bytes.
  CHECK(changed([](gather_config& c) {
          c.element = element::u8;
          c.topology = {};
          c.max_rows_per_rank = 1;
          c.row_bytes = std::size_t{1} << 63;
        })
            .validate()
            .code != errc::ok);
  // All that is accepted can be multiplied out in 63 bits.
  for (int bits = 1; bits < 62; ++bits) {
    const gather_config c = changed([=](gather_config& out) {
      out.topology = {256, 1, 0, 0};
      out.max_rows_per_rank = 1 << 20;
      out.row_bytes = std::size_t{1} << bits;
    });
    CAPTURE(bits);
    if (c.validate().ok()) CHECK(bits + 8 + 20 < 63);
    if (bits + 8 + 20 < 60) CHECK(c.validate().ok());
  }
}
