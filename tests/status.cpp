#include <dpgather/status.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>

namespace dg = dpgather;
using dg::errc;
using dg::status;
using dg::subject;

namespace {

constexpr errc last_errc = errc::poisoned;

template <class F>
void for_each_error(F f) {
  for (int i = 1; i <= static_cast<int>(last_errc); ++i) f(static_cast<errc>(i));
}

std::string text_of(const status& s) { return std::string{s.message().view()}; }

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("every error has a name of its own") {
  std::set<std::string> names;
  CHECK(std::string{name_of(errc::ok)} == "ok");
  for_each_error([&](errc e) {
    const std::string name = name_of(e);
    CAPTURE(name);
    CHECK(name != "unknown");
    CHECK(name != "ok");
    CHECK(names.insert(name).second);
  });
  CHECK(std::string{name_of(static_cast<errc>(static_cast<int>(last_errc) + 1))} == "unknown");

  // The refused inputs that the library promises to name, and the divergences.
  for (const char* promised : {"count_out_of_range", "capacity_exceeded", "count_changed",
                               "bad_group",          "config_mismatch",   "bad_buckets",
                               "no_bucket",          "graph_missing",     "over_budget",
                               "size_overflow",      "misaligned",        "aliasing",
                               "null_pointer",       "wrong_memory",      "unsupported_type",
                               "bad_fill",           "not_capturable",    "busy",
                               "poisoned",           "nccl_version",      "symmetric_unavailable",
                               "tail_leak",          "shape_mismatch",    "graphs_alive",
                               "too_many_ranks",     "not_coresident",    "plan_mismatch"}) {
    CAPTURE(std::string{promised});
    CHECK(names.count(promised) == 1);
  }
}

TEST_CASE("every subject has a name of its own") {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(subject::call); ++i) {
    const std::string name = name_of(static_cast<subject>(i));
    CAPTURE(name);
    CHECK(name != "unknown");
    CHECK(names.insert(name).second);
  }
  const int beyond = static_cast<int>(subject::call) + 1;
  CHECK(std::string{name_of(static_cast<subject>(beyond))} == "unknown");
}

TEST_CASE("the message of a refused input names the error, the rank, the value and the limit") {
  for_each_error([&](errc e) {
    if (e >= errc::plan_mismatch || e == errc::peer_refused || e == errc::tail_leak)
      return; // below, each by itself
    const status s{.code = e,
                   .about = subject::tokens,
                   .rank = 13,
                   .peer = 29,
                   .value = 812345,
                   .limit = 777001,
                   .where = "a_function"};
    const std::string text = text_of(s);
    CAPTURE(text);
    CHECK(text.rfind("rank 13: ", 0) == 0);
    CHECK(contains(text, name_of(e)));
    CHECK(contains(text, "tokens"));
    CHECK(contains(text, "812345"));
    CHECK(contains(text, "777001"));
    CHECK(contains(text, "a_function"));
  });
}

TEST_CASE("the sentence of a refused count, in full") {
  const status s{.code = errc::count_out_of_range,
                 .about = subject::tokens,
                 .rank = 3,
                 .value = 300,
                 .limit = 256,
                 .where = "make_plan"};
  CHECK(text_of(s) == "rank 3: count_out_of_range tokens: 300, limit 256 [make_plan]");
}

TEST_CASE("two plans in one call are told apart by mode and bucket") {
  const status s{.code = errc::plan_mismatch,
                 .about = subject::mode,
                 .rank = 3,
                 .peer = 1,
                 .value = 64,
                 .limit = 256,
                 .value_name = "all_reduce",
                 .limit_name = "all_gather",
                 .call = 812};
  CHECK(text_of(s) == "rank 3, call 812: plan has mode=all_reduce bucket=64, but rank 1 has "
                      "mode=all_gather bucket=256");
}

TEST_CASE("a mismatch in anything else names the field and both sides") {
  status s{.code = errc::plan_mismatch,
           .about = subject::row_bytes,
           .rank = 3,
           .peer = 1,
           .value = 14336,
           .limit = 7168,
           .call = 7};
  std::string text = text_of(s);
  CAPTURE(text);
  CHECK(text.rfind("rank 3, call 7: ", 0) == 0);
  CHECK(contains(text, "plan_mismatch"));
  CHECK(contains(text, "row_bytes"));
  CHECK(contains(text, "14336"));
  CHECK(contains(text, "rank 1"));
  CHECK(contains(text, "7168"));

  s.code = errc::config_mismatch;
  s.about = subject::phase;
  s.value_name = "decode";
  s.limit_name = "extend";
  text = text_of(s);
  CHECK(contains(text, "config_mismatch"));
  CHECK(contains(text, "phase"));
  CHECK(contains(text, "decode"));
  CHECK(contains(text, "rank 1"));
  CHECK(contains(text, "extend"));
}

TEST_CASE("a plan mismatch whose modes have no names is still a sentence") {
  const status s{
      .code = errc::plan_mismatch, .about = subject::mode, .rank = 3, .peer = 1, .value = 64};
  const std::string text = text_of(s);
  CAPTURE(text);
  CHECK(contains(text, "64"));
  CHECK(contains(text, "rank 1"));
  CHECK_FALSE(contains(text, "null"));
}

TEST_CASE("a timeout names who did not come, and the deadline") {
  const std::string text =
      text_of({.code = errc::timeout, .rank = 2, .peer = 5, .limit = 30'000'000, .call = 41});
  CAPTURE(text);
  CHECK(text.rfind("rank 2, call 41: ", 0) == 0);
  CHECK(contains(text, "timeout"));
  CHECK(contains(text, "rank 5"));
  CHECK(contains(text, "30000000"));
}

TEST_CASE("a leak names step, rank, tensor and row") {
  const std::string text = text_of({.code = errc::tail_leak,
                                    .about = subject::tensor,
                                    .rank = 2,
                                    .peer = 1,
                                    .value = 5,
                                    .value_name = "hidden",
                                    .call = 41});
  CHECK(text ==
        "rank 2, call 41: tail_leak: what pads were filled with has reached row 5 of tensor "
        "1 (hidden)");
  CHECK(contains(text_of({.code = errc::tail_leak, .about = subject::tensor}), "unnamed"));
}

TEST_CASE("a peer that left and a native error are named") {
  std::string text = text_of({.code = errc::peer_left, .rank = 2, .peer = 5});
  CHECK(contains(text, "rank 2"));
  CHECK(contains(text, "peer_left"));
  CHECK(contains(text, "rank 5"));

  text = text_of({.code = errc::native_error, .rank = 2, .native = 719, .value_name = "launch"});
  CHECK(contains(text, "native_error"));
  CHECK(contains(text, "719"));
  CHECK(contains(text, "launch"));
  text = text_of({.code = errc::native_error, .native = 719});
  CHECK(contains(text, "719"));
  CHECK_FALSE(contains(text, "null"));
}

TEST_CASE("poisoned and peer_refused name what happened first") {
  for (const errc code : {errc::poisoned, errc::peer_refused}) {
    for_each_error([&](errc cause) {
      const status s{.code = code,
                     .cause = cause,
                     .about = subject::mode,
                     .rank = 4,
                     .peer = 6,
                     .native = 5150,
                     .value = 812345,
                     .limit = 777001,
                     .value_name = "all_reduce",
                     .limit_name = "all_gather",
                     .call = 9};
      const std::string text = text_of(s);
      CAPTURE(text);
      CHECK(text.rfind("rank 4, call 9: ", 0) == 0);
      CHECK(contains(text, name_of(code)));
      // The sentence about modes and buckets stands for its name.
      const bool sentence = contains(text, "plan has mode=all_reduce bucket=812345, but rank 6");
      CHECK((sentence || contains(text, name_of(cause))));
    });
  }
}

TEST_CASE("what is not known is not printed") {
  CHECK(text_of({}) == "ok");
  const std::string text = text_of({.code = errc::busy, .where = nullptr});
  CHECK(text.rfind("busy", 0) == 0);
  CHECK_FALSE(contains(text, "rank"));
  CHECK_FALSE(contains(text, "call"));
  CHECK_FALSE(contains(text, "["));
}

TEST_CASE("rank 0 and extreme values are printed in full") {
  const std::string text = text_of({.code = errc::size_overflow,
                                    .about = subject::global,
                                    .rank = 0,
                                    .value = std::numeric_limits<std::int64_t>::min(),
                                    .limit = std::numeric_limits<std::int64_t>::max(),
                                    .call = std::numeric_limits<std::uint64_t>::max()});
  CHECK(contains(text, "rank 0, call 18446744073709551615: "));
  CHECK(contains(text, "-9223372036854775808"));
  CHECK(contains(text, "9223372036854775807"));
}

TEST_CASE("long texts are cut, never overrun") {
  const std::string longest(5000, 'x');
  struct guarded {
    dg::status_message message;
    unsigned char after[64];
  } out;
  for (const std::size_t length : {0u, 1u, 100u, 200u, 230u, 254u, 255u, 256u, 257u, 5000u}) {
    CAPTURE(length);
    const std::string word = longest.substr(0, length);
    for_each_error([&](errc e) {
      std::memset(out.after, 0xa5, sizeof out.after);
      out.message = status{.code = e,
                           .cause = errc::bad_fill,
                           .about = subject::mode,
                           .rank = 1,
                           .peer = 2,
                           .value_name = word.c_str(),
                           .limit_name = word.c_str(),
                           .call = 3,
                           .where = word.c_str()}
                        .message();
      for (const unsigned char guard : out.after) REQUIRE(guard == 0xa5);
      REQUIRE(out.message.view().size() == std::strlen(out.message.c_str()));
      REQUIRE(out.message.view().size() < sizeof(dg::status_message));
      REQUIRE(out.message.view().substr(0, 16) == "rank 1, call 3: ");
      if (length == 5000) REQUIRE(out.message.view().size() == sizeof(dg::status_message) - 1);
    });
  }
}

TEST_CASE("a divergence, a timeout and a lost peer are sticky, refused input is not") {
  for_each_error([](errc e) {
    const bool sticky = e == errc::plan_mismatch || e == errc::timeout || e == errc::peer_left ||
                        e == errc::native_error || e == errc::poisoned;
    CAPTURE(std::string{name_of(e)});
    CHECK(is_sticky(e) == sticky);
  });
  CHECK_FALSE(is_sticky(errc::ok));
}

static_assert(std::is_trivially_copyable_v<status>);
static_assert(status{}.ok() && static_cast<bool>(status{}));
static_assert(!status{.code = errc::busy}.ok() && !static_cast<bool>(status{.code = errc::busy}));
static_assert(!std::is_convertible_v<status, bool>);
static_assert(noexcept(status{}.message()));

// --- result -------------------------------------------------------------------------------------

static_assert([] {
  const dg::result<int> r = 7;
  return r.ok() && static_cast<bool>(r) && r.value() == 7 && *r == 7 && r.code() == errc::ok &&
         r.status().ok();
}());
static_assert([] {
  const dg::result<int> r = status{.code = errc::busy, .rank = 5};
  return !r.ok() && !static_cast<bool>(r) && r.code() == errc::busy && r.status().rank == 5;
}());
static_assert(!std::is_convertible_v<dg::result<int>, bool>);

TEST_CASE("a result holds a value or says why there is none") {
  struct pair {
    int a = 1;
    int b = 2;
  };
  dg::result<pair> empty;
  REQUIRE(empty.ok());
  CHECK(empty->b == 2);
  empty->b = 5;
  CHECK((*empty).b == 5);
  CHECK(std::as_const(empty)->b == 5);
  CHECK(std::as_const(empty).value().a == 1);

  dg::result<std::unique_ptr<int>> owner = std::make_unique<int>(3);
  REQUIRE(owner.ok());
  const std::unique_ptr<int> taken = *std::move(owner);
  CHECK(*taken == 3);
  dg::result<std::unique_ptr<int>> other = std::make_unique<int>(4);
  CHECK(*std::move(other).value() == 4);

  struct no_default {
    explicit no_default(int v) : value{v} {}
    int value;
  };
  static_assert(!std::is_default_constructible_v<dg::result<no_default>>);
  const dg::result<no_default> made = no_default{9};
  CHECK(made->value == 9);
  const dg::result<no_default> none = status{.code = errc::null_pointer, .where = "here"};
  CHECK_FALSE(none.ok());
  CHECK(none.code() == errc::null_pointer);
  CHECK(contains(text_of(none.status()), "here"));
}

TEST_CASE("a result made from an ok status is not taken for a value") {
  const dg::result<int> r = status{};
  CHECK_FALSE(r.ok());
}
