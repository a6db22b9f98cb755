#include <dpgather/throw.hpp>

#include <doctest/doctest.h>

#include <exception>
#include <memory>
#include <string>
#include <type_traits>

namespace dg = dpgather;
using dg::errc;
using dg::status;

namespace {

constexpr status refused{.code = errc::count_out_of_range,
                         .about = dg::subject::tokens,
                         .rank = 3,
                         .value = 300,
                         .limit = 256,
                         .where = "a_function"};

} // namespace

TEST_CASE("an ok status does not throw") { CHECK_NOTHROW(dg::throw_if_failed(status{})); }

TEST_CASE("a failed status becomes an exception that carries it") {
  bool caught = false;
  try {
    dg::throw_if_failed(refused);
  } catch (const dg::error& e) {
    caught = true;
    CHECK(e.why().code == errc::count_out_of_range);
    CHECK(e.why().rank == 3);
    CHECK(e.why().value == 300);
    CHECK(e.why().limit == 256);
    CHECK(std::string{e.what()} == refused.message().c_str());
  }
  CHECK(caught);
}

TEST_CASE("the exception is a std::exception, and its copy has a text of its own") {
  std::unique_ptr<dg::error> copy;
  try {
    dg::throw_if_failed(refused);
  } catch (const std::exception& e) {
    CHECK(std::string{e.what()} == refused.message().c_str());
    copy = std::make_unique<dg::error>(dynamic_cast<const dg::error&>(e));
    CHECK(copy->what() != e.what());
  }
  REQUIRE(copy != nullptr);
  CHECK(std::string{copy->what()} == refused.message().c_str());
  static_assert(std::is_nothrow_copy_constructible_v<dg::error>);
}

TEST_CASE("value_or_throw gives the value, moved, or the exception") {
  CHECK(dg::value_or_throw(dg::result<int>{7}) == 7);
  const std::unique_ptr<int> owned =
      dg::value_or_throw(dg::result<std::unique_ptr<int>>{std::make_unique<int>(8)});
  REQUIRE(owned != nullptr);
  CHECK(*owned == 8);

  errc code = errc::ok;
  try {
    (void)dg::value_or_throw(dg::result<int>{refused});
  } catch (const dg::error& e) {
    code = e.why().code;
  }
  CHECK(code == errc::count_out_of_range);
}
