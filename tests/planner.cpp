#include <dpgather/planner.hpp>

#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dg = dpgather;
using dg::bucket_list;
using dg::errc;
using dg::gather_config;
using dg::planner;
using dg::policy;
using dg::situation;
using dg::subject;
using sizes = std::vector<std::int32_t>;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();

struct generated : policy<dg::mode::all_gather, dg::padding::max_len, dg::ladder::sglang<64>> {};
struct listed : policy<dg::mode::all_gather, dg::padding::max_len, dg::ladder::list<4, 8, 12, 32>> {
};
struct configured : policy<dg::mode::all_gather, dg::padding::max_len, dg::ladder::from_config> {};
struct aligned_by_eight : policy<dg::mode::all_gather, dg::padding::max_len, dg::ladder::sglang<64>,
                                 dg::padding::align<8>> {};

bucket_list list_of(const sizes& content) { return *bucket_list::make(content); }

gather_config config_of(std::int32_t dp, std::int32_t tp = 1, std::int32_t max_rows = 256) {
  return {.topology = {dp, tp, 0, 0}, .row_bytes = 7168 * 2, .max_rows_per_rank = max_rows};
}

template <class P>
sizes ladder_of(const gather_config& config) {
  const auto made = planner<P>::make(config);
  REQUIRE(made.ok());
  return {made->ladder().span().begin(), made->ladder().span().end()};
}

template <class P>
void check_refused(const gather_config& config, errc code, subject about, std::int64_t value) {
  const auto made = planner<P>::make(config);
  CAPTURE(std::string{made.status().message().view()});
  CHECK(made.code() == code);
  CHECK(made.status().about == about);
  CHECK(made.status().value == value);
}

/// True if calling `F` is a constant expression, that is: without undefined behaviour.
template <auto F>
concept defined = requires {
  typename std::bool_constant<(F(), true)>;
};

} // namespace

// --- ladders ------------------------------------------------------------------------------------

TEST_CASE("generated sizes that do not fit are dropped, as the engines drop them") {
  CHECK(ladder_of<generated>(config_of(4)) == sizes{1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64});
  CHECK(ladder_of<generated>(config_of(4, 4)) == sizes{4, 8, 12, 16, 24, 32, 40, 48, 56, 64});
  gather_config config = config_of(4, 4);
  config.two_batch_overlap = true; // each half a multiple of A
  CHECK(ladder_of<generated>(config) == sizes{8, 16, 24, 32, 40, 48, 56, 64});
  config.max_requests_per_rank = 40;
  CHECK(ladder_of<generated>(config) == sizes{8, 16, 24, 32, 40});
  config.max_requests_per_rank = 39;
  CHECK(ladder_of<generated>(config) == sizes{8, 16, 24, 32});
  config = config_of(4);
  config.two_batch_overlap = true;
  CHECK(ladder_of<generated>(config) == sizes{2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64});
  CHECK(ladder_of<aligned_by_eight>(config_of(4)) == sizes{8, 16, 24, 32, 40, 48, 56, 64});
  CHECK(ladder_of<aligned_by_eight>(config_of(4, 3)) == sizes{24, 48});
}

TEST_CASE("a generated ladder of which nothing is left is an error") {
  gather_config config = config_of(1, 128);
  config.max_requests_per_rank = 64;
  CHECK(planner<generated>::make(config).code() == errc::bad_buckets);
}

TEST_CASE("without a request pool the rows of a rank cap the ladder") {
  CHECK(ladder_of<generated>(config_of(2, 1, 13)) == sizes{1, 2, 4, 8, 12});
  gather_config config = config_of(2, 1, 256);
  config.max_requests_per_rank = 12;
  CHECK(ladder_of<generated>(config) == sizes{1, 2, 4, 8, 12});
}

TEST_CASE("a size that a user wrote and that does not fit is named by its index") {
  CHECK(ladder_of<listed>(config_of(2, 4)) == sizes{4, 8, 12, 32});
  check_refused<listed>(config_of(2, 8), errc::bad_buckets, subject::ladder, 0);
  check_refused<listed>(config_of(2, 1, 31), errc::bad_buckets, subject::ladder, 3);
  gather_config config = config_of(2, 4);
  config.two_batch_overlap = true;
  check_refused<listed>(config, errc::bad_buckets, subject::ladder, 0);

  config = config_of(2, 2);
  config.ladder = list_of({2, 4, 7, 8});
  check_refused<configured>(config, errc::bad_buckets, subject::ladder, 2);
  config.ladder = list_of({2, 4, 6, 8});
  CHECK(ladder_of<configured>(config) == sizes{2, 4, 6, 8});
  config.max_requests_per_rank = 7;
  check_refused<configured>(config, errc::bad_buckets, subject::ladder, 3);
  CHECK(planner<configured>::make(config).status().limit == 7);
}

TEST_CASE("a configured ladder that is empty is an error where graphs are wanted") {
  check_refused<configured>(config_of(2), errc::bad_buckets, subject::ladder, 0);
  check_refused<dg::pr8278>(config_of(2), errc::bad_buckets, subject::ladder, 0);
  CHECK(planner<dg::exact_eager>::make(config_of(2)).ok());
  CHECK(planner<dg::exact_eager>::make(config_of(2))->ladder().empty());
  CHECK(planner<dg::exact_eager>::make(config_of(2))->shared_ladder().empty());
}

TEST_CASE("the ladder for sums follows from the filtered one") {
  for (const std::int32_t ranks : {1, 2, 8, 16}) {
    const auto made = planner<generated>::make(config_of(ranks, 4));
    REQUIRE(made.ok());
    CHECK(made->shared_ladder() == dg::sum_ladder(made->ladder(), ranks));
    CHECK(made->shared_ladder().largest() == 64 * ranks);
    for (const std::int32_t s : made->shared_ladder().span()) CHECK(s % 4 == 0);
  }
}

TEST_CASE("stated sums take the place of the derived ones, under ladder::from_config only") {
  gather_config config = config_of(4, 2);
  config.ladder = list_of({4, 8, 16});
  config.sum_ladder = list_of({2, 10, 64});
  const auto made = planner<dg::exact_graph>::make(config);
  REQUIRE(made.ok());
  CHECK(made->shared_ladder() == config.sum_ladder);
  CHECK(made->captured_sizes() == config.sum_ladder);
  CHECK(made->ladder() == config.ladder);
  const auto by_max = planner<configured>::make(config);
  REQUIRE(by_max.ok());
  CHECK(by_max->captured_sizes() == config.ladder);
  const auto own_sizes = planner<generated>::make(config);
  REQUIRE(own_sizes.ok());
  CHECK(own_sizes->shared_ladder() == dg::sum_ladder(own_sizes->ladder(), 4));
}

TEST_CASE("a stated sum that does not fit is named by its index, and as a sum") {
  gather_config config = config_of(4, 2);
  config.ladder = list_of({4, 8, 16});
  config.sum_ladder = list_of({2, 7, 64});
  check_refused<dg::exact_graph>(config, errc::bad_buckets, subject::sum_ladder, 1);
  CHECK(planner<dg::exact_graph>::make(config).status().limit == 2);
  check_refused<configured>(config, errc::bad_buckets, subject::sum_ladder, 1);
  CHECK(planner<dg::exact_eager>::make(config).ok()); // no graphs, no ladder
  config.sum_ladder = list_of({2, 8, 64, 66});
  check_refused<dg::exact_graph>(config, errc::bad_buckets, subject::sum_ladder, 3);
  CHECK(planner<dg::exact_graph>::make(config).status().limit == 64);
  config.two_batch_overlap = true;
  config.sum_ladder = list_of({4, 8, 18});
  check_refused<dg::exact_graph>(config, errc::bad_buckets, subject::sum_ladder, 2);
  CHECK(planner<dg::exact_graph>::make(config).status().limit == 4);
  config.ladder = list_of({4, 8, 18}); // the ladder per rank is looked at first
  check_refused<dg::exact_graph>(config, errc::bad_buckets, subject::ladder, 2);
  // 256 times the largest size leaves 32 bits; a stated size cannot.
  config = config_of(256, 1, most / 2);
  config.ladder = list_of({most / 2});
  config.sum_ladder = list_of({1, most});
  CHECK(planner<dg::exact_graph>::make(config).ok());
}

TEST_CASE("what sizes must be is known before there is a ladder") {
  gather_config config = config_of(4, 3, 100);
  CHECK(planner<configured>::size_multiple(config) == 3);
  CHECK(planner<aligned_by_eight>::size_multiple(config) == 24);
  CHECK(planner<configured>::pool(config) == 100);
  config.two_batch_overlap = true;
  config.max_requests_per_rank = 40;
  CHECK(planner<configured>::size_multiple(config) == 6);
  CHECK(planner<configured>::pool(config) == 40);
}

TEST_CASE("errors of the configuration come first") {
  gather_config config = config_of(2);
  config.row_bytes = 7;
  CHECK(planner<generated>::make(config).code() == errc::misaligned);
  config = config_of(2);
  config.topology.dp_rank = 2;
  CHECK(planner<generated>::make(config).code() == errc::bad_group);
  config = config_of(2);
  config.max_rows_per_rank = 0;
  CHECK(planner<dg::exact_eager>::make(config).code() == errc::bad_config);
}

// --- sizes --------------------------------------------------------------------------------------

namespace {

struct two_alignments
    : policy<dg::mode::exact, dg::padding::max_len, dg::ladder::sglang<64>,
             dg::eager<dg::padding::align<6>>, dg::in_graph<dg::padding::align<4>>> {};
template <std::int32_t N>
struct aligned_by : policy<dg::mode::exact, dg::padding::none, dg::padding::align<N>> {};

} // namespace

TEST_CASE("rows are rounded up to the attention-TP size and the policy's own multiple") {
  const auto plain = planner<dg::exact_eager>::make(config_of(2, 4));
  CHECK(plain->row_multiple<situation::eager>() == 4);
  const auto mixed = planner<two_alignments>::make(config_of(2, 4));
  CHECK(mixed->row_multiple<situation::eager>() == 12);
  CHECK(mixed->row_multiple<situation::in_graph>() == 4);
  const auto eight = planner<aligned_by<8>>::make(config_of(2, 4));
  CHECK(eight->row_multiple<situation::eager>() == 8);
}

TEST_CASE("all buffers can be sized before the first step") {
  const auto made = planner<dg::exact_eager>::make(config_of(8, 4, 1001));
  REQUIRE(made.ok());
  CHECK(made->max_padded_rows() == 1004);
  CHECK(made->max_global_rows() == 1004 * 8);
  CHECK(made->max_global_bytes() == std::size_t{1004} * 8 * 7168 * 2);

  gather_config config = config_of(8, 4, 1001);
  config.max_global_rows = 5000;
  CHECK(planner<dg::exact_eager>::make(config)->max_global_rows() == 5000);

  // Past 2^31 bytes, past 2^31 rows.
  CHECK(planner<dg::exact_eager>::make(config_of(1, 1, 149'797))->max_global_bytes() ==
        std::size_t{149'797} * 7168 * 2);
  CHECK(planner<dg::exact_eager>::make(config_of(256, 1, most))->max_global_rows() ==
        std::int64_t{most} * 256);
}

TEST_CASE("rows that alignment carries past 32 bits are refused") {
  check_refused<aligned_by<1024>>(config_of(1, 1, most), errc::size_overflow, subject::max_rows,
                                  std::int64_t{1} << 31);
  CHECK(planner<aligned_by<1>>::make(config_of(1, 1, most)).ok());
  CHECK(planner<aligned_by<1024>>::make(config_of(1, 1, most - 1023)).ok());
  CHECK_FALSE(planner<dg::exact_eager>::make(config_of(1, 2, most)).ok());
}

TEST_CASE("a common multiple past 32 bits is refused, not wrapped around") {
  constexpr auto refused = [] {
    return planner<aligned_by<1'073'741'827>>::make(
               {.topology = {1, 4, 0, 0}, .row_bytes = 2, .max_rows_per_rank = 16})
        .code();
  };
  CHECK(defined<refused>);
  CHECK(planner<aligned_by<1'073'741'827>>::make(config_of(1, 4, 16)).code() ==
        errc::size_overflow);
}

// --- the hash that ranks compare ----------------------------------------------------------------

namespace {

template <class P>
std::uint64_t hash_of(const gather_config& config) {
  const auto made = planner<P>::make(config);
  REQUIRE(made.ok());
  return made->config_hash();
}

gather_config full_config() {
  gather_config config = config_of(4, 2, 256);
  config.ladder = list_of({4, 8, 16});
  config.max_requests_per_rank = 128;
  config.max_global_rows = 10'000;
  config.waste_limit = 2;
  return config;
}

} // namespace

TEST_CASE("ranks that were configured alike have one hash") {
  const gather_config config = full_config();
  const std::uint64_t hash = hash_of<configured>(config);
  for (std::int32_t r = 0; r < config.topology.world_size(); ++r) {
    gather_config other = config;
    other.topology = config.topology.at(r);
    CHECK(hash_of<configured>(other) == hash);
  }
}

TEST_CASE("each field that can change a plan changes the hash") {
  std::map<std::uint64_t, std::string> seen;
  const auto check = [&](const char* what, auto change) {
    gather_config config = full_config();
    change(config);
    const std::uint64_t hash = hash_of<configured>(config);
    const std::string same_hash = seen.emplace(hash, what).first->second;
    CHECK(same_hash == std::string{what});
  };
  check("nothing", [](gather_config&) {});
  check("dp_size", [](gather_config& c) { c.topology.dp_size = 5; });
  check("tp_size", [](gather_config& c) { c.topology.tp_size = 1; });
  check("element", [](gather_config& c) { c.element = dg::element::f16; });
  check("row_bytes", [](gather_config& c) { c.row_bytes += 2; });
  check("max_rows_per_rank", [](gather_config& c) { c.max_rows_per_rank += 2; });
  check("max_requests_per_rank", [](gather_config& c) { c.max_requests_per_rank += 2; });
  check("draft_width", [](gather_config& c) { c.draft_width = 3; });
  check("max_global_rows", [](gather_config& c) { c.max_global_rows += 1; });
  check("two_batch_overlap", [](gather_config& c) { c.two_batch_overlap = true; });
  check("ladder size", [](gather_config& c) { c.ladder = list_of({4, 8, 12}); });
  check("ladder length", [](gather_config& c) { c.ladder = list_of({4, 8}); });
  check("sum ladder", [](gather_config& c) { c.sum_ladder = list_of({8, 32}); });
  check("sum ladder size", [](gather_config& c) { c.sum_ladder = list_of({8, 64}); });
  check("sum ladder length", [](gather_config& c) { c.sum_ladder = list_of({8}); });
  check("a size moves", [](gather_config& c) {
    c.ladder = list_of({4, 8});
    c.sum_ladder = list_of({16, 32});
  });
  check("from one ladder to the other", [](gather_config& c) {
    c.ladder = list_of({4, 8, 16});
    c.sum_ladder = list_of({32});
  });
  check("waste_limit", [](gather_config& c) { c.waste_limit = 3; });
  // Two limits between which a waste may lie: one rank would take the bucket, the other would not.
  check("waste_limit, next", [](gather_config& c) { c.waste_limit = std::nextafter(2.0, 3.0); });
}

namespace {

constexpr errc code_with_waste_limit(double limit) {
  return planner<dg::exact_eager>::make({.topology = {2, 1, 0, 0},
                                         .row_bytes = 2,
                                         .max_rows_per_rank = 16,
                                         .waste_limit = limit})
      .code();
}

} // namespace

TEST_CASE("a waste limit of any size is hashed without undefined behaviour") {
  constexpr auto small = [] { return code_with_waste_limit(2.5); };
  constexpr auto huge = [] { return code_with_waste_limit(1e300); };
  constexpr auto infinite = [] {
    return code_with_waste_limit(std::numeric_limits<double>::infinity());
  };
  CHECK(defined<small>);
  CHECK(defined<huge>);
  CHECK(defined<infinite>);
}

namespace {

using reduce_to_max = policy<dg::mode::all_reduce, dg::padding::max_len>;
template <std::size_t I>
struct variant;
template <>
struct variant<0> : reduce_to_max {};
template <>
struct variant<1> : policy<dg::mode::all_reduce, dg::padding::max_len, dg::layout::packed> {};
template <>
struct variant<2> : policy<dg::mode::all_reduce, dg::padding::sum_len> {};
template <>
struct variant<3> : policy<dg::mode::all_reduce, dg::padding::none> {};
template <>
struct variant<4> : policy<dg::mode::exact, dg::padding::max_len> {};
template <>
struct variant<5> : policy<dg::mode::exact, dg::padding::max_len, dg::layout::packed> {};
template <>
struct variant<6> : policy<dg::mode::exact, dg::padding::sum_len> {};
template <>
struct variant<7> : policy<dg::mode::exact, dg::padding::none> {};
template <>
struct variant<8> : policy<dg::mode::all_gather, dg::padding::max_len> {};
template <>
struct variant<9> : policy<dg::mode::exact, dg::padding::none, dg::padding::align<4>> {};
template <>
struct variant<10> : policy<dg::mode::exact, dg::padding::none, dg::counts::exchanged> {};
template <>
struct variant<11> : policy<dg::mode::exact, dg::padding::none, dg::counts::device> {};
template <>
struct variant<12> : policy<dg::mode::exact, dg::padding::none, dg::comm::peer> {};
template <>
struct variant<13> : policy<dg::mode::exact, dg::padding::none, dg::comm::nccl> {};
template <>
struct variant<14>
    : policy<dg::mode::all_reduce, dg::padding::sum_len, dg::combine::all_reduce_then_scatter> {};
template <>
struct variant<15> : dg::pr8278 {};
template <>
struct variant<16> : dg::sum_always {};
template <>
struct variant<17> : dg::max_always {};
template <>
struct variant<18> : dg::exact_graph {};
template <>
struct variant<19> : dg::exact_graph {
  using lookup_type = dg::lookup::sum;
};
template <>
struct variant<20> : dg::exact_graph {
  using on_miss_type = dg::on_miss::agreed_eager;
};
constexpr std::size_t variant_count = 21;

} // namespace

TEST_CASE("ranks that were compiled with different policies find out before the first step") {
  std::map<std::uint64_t, std::size_t> seen;
  const auto hashes = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::vector<std::uint64_t>{hash_of<variant<I>>(full_config())...};
  }
  (std::make_index_sequence<variant_count>{});
  for (std::size_t i = 0; i < hashes.size(); ++i) {
    const std::size_t same_hash = seen.emplace(hashes[i], i).first->second;
    CHECK(same_hash == i);
  }
}

namespace {

struct poisoned : dg::max_always {
  using tail_type = dg::tail::poison;
};
struct said_again : reduce_to_max {
  using layout_type = dg::layout::slots;
};

} // namespace

TEST_CASE("options that change nothing on the wire leave the hash alone") {
  CHECK(hash_of<poisoned>(full_config()) == hash_of<dg::max_always>(full_config()));
  CHECK(hash_of<said_again>(full_config()) == hash_of<reduce_to_max>(full_config()));
}

// A planner can be made by the compiler.
static_assert([] {
  const auto made = planner<generated>::make(
      {.topology = {4, 2, 0, 0}, .row_bytes = 1024, .max_rows_per_rank = 64});
  return made.ok() && made->ladder().largest() == 64 && made->shared_ladder().largest() == 256 &&
         made->config().row_bytes == 1024;
}());
