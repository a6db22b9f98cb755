#include <dpgather/graph_ways.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

namespace dg = dpgather;
using dg::graph_key;
using dg::graph_ladders;
using dg::graph_sizes;
using dg::step_outline;
using namespace dg::graph_way;

namespace {

dg::bucket_list list_of(std::initializer_list<std::int32_t> sizes) {
  dg::bucket_list out;
  for (const std::int32_t size : sizes) out.append(size);
  return out;
}

/// 12 and 20 are above all ranks' largest: 20 never occurs.
const graph_ladders ladders{
    .own = list_of({1, 4, 5}), .shared = list_of({2, 4, 8, 12, 20}), .ranks = 2};

/// Writes down what it is told, and fails at the part with number `fails`.
struct notes {
  std::vector<std::string> parts;
  int fails = -1;

  dg::status note(const std::string& part) {
    if (static_cast<int>(parts.size()) == fails) return {.code = dg::errc::bad_fill};
    parts.push_back(part);
    return {};
  }
  dg::status local(std::int32_t layer, std::int32_t own) {
    return note(
        std::string{"L"}.append(std::to_string(layer)).append(":").append(std::to_string(own)));
  }
  dg::status shared(std::int32_t layer, std::int32_t size) {
    return note(
        std::string{"S"}.append(std::to_string(layer)).append(":").append(std::to_string(size)));
  }
  dg::status switched(std::int32_t layer) {
    return note(std::string{"?"}.append(std::to_string(layer)));
  }
  dg::status finish(std::int32_t own) {
    return note(std::string{"F:"}.append(std::to_string(own)));
  }
};

/// All that the graphs of a step record, in launch order.
template <class Way>
std::vector<std::string> parts_of(const graph_sizes& sizes, const step_outline& step) {
  notes out;
  Way::for_each_key(
      sizes, step, [&](const graph_key& key) { CHECK(Way::record(key, step, ladders, out).ok()); });
  return out.parts;
}

/// A step of two layers in order, `sum` standing for its shared part.
std::vector<std::string> step_of(const std::string& own, const std::string& sum, bool finishes) {
  const bool asks = sum == "?";
  const auto shared = [&](const char* layer) {
    return asks ? std::string{sum}.append(layer)
                : std::string{"S"}.append(layer).append(":").append(sum);
  };
  std::vector<std::string> out{std::string{"L0:"}.append(own), shared("0"),
                               std::string{"L1:"}.append(own), shared("1")};
  if (finishes) out.push_back(std::string{"F:"}.append(own));
  return out;
}

template <class Way>
std::int64_t distinct_graphs(const step_outline& step) {
  std::set<graph_key> keys;
  Way::for_each_sizes(ladders, [&](const graph_sizes& sizes) {
    CHECK(Way::fits(sizes, ladders));
    Way::for_each_key(sizes, step, [&](const graph_key& key) { keys.insert(key); });
  });
  return static_cast<std::int64_t>(keys.size());
}

static_assert(dg::graph_way_like<coupled> && dg::graph_way_like<pairs> &&
              dg::graph_way_like<piecewise> && dg::graph_way_like<switch_on_sum> &&
              dg::graph_way_like<device_rows> && !dg::graph_way_like<int>);
static_assert(coupled::asks_host && pairs::asks_host && piecewise::asks_host &&
              !switch_on_sum::asks_host && !device_rows::asks_host);

} // namespace

TEST_CASE_TEMPLATE("the number of graphs is that of the different keys of all sizes", Way, coupled,
                   pairs, piecewise, switch_on_sum, device_rows) {
  for (const step_outline& step :
       {step_outline{1, false}, step_outline{1, true}, step_outline{61, true}}) {
    CAPTURE(step.layers);
    CHECK(Way::graphs(ladders, step) == distinct_graphs<Way>(step));
  }
  CHECK(Way::graphs({}, {2, true}) == 0);
}

TEST_CASE("as many graphs as the table says") {
  const step_outline step{3, true};
  CHECK(coupled::graphs(ladders, step) == 5);
  CHECK(switch_on_sum::graphs(ladders, step) == 3);
  CHECK(device_rows::graphs(ladders, step) == 3);
  CHECK(piecewise::graphs(ladders, step) == 3 * 4 + 4 * 3);
  CHECK(piecewise::graphs(ladders, {3, false}) == 3 * 4 + 3 * 3);
}

TEST_CASE("what the graphs of a step record is the step, at its sizes") {
  for (const bool finishes : {false, true}) {
    const step_outline step{2, finishes};
    CHECK(parts_of<pairs>({4, 8}, step) == step_of("4", "8", finishes));
    CHECK(parts_of<piecewise>({4, 8}, step) == step_of("4", "8", finishes));
    CHECK(parts_of<coupled>({8, 8}, step) == step_of("8", "8", finishes));
    CHECK(parts_of<switch_on_sum>({4, 8}, step) == step_of("4", "?", finishes));
    CHECK(parts_of<device_rows>({4, 8}, step) == step_of("4", "20", finishes));
  }
}

TEST_CASE("pieces are one part each") {
  int graphs = 0;
  piecewise::for_each_key({4, 8}, {2, true}, [&](const graph_key& key) {
    notes out;
    CHECK(piecewise::record(key, {2, true}, ladders, out).ok());
    CHECK(out.parts.size() == 1);
    ++graphs;
  });
  CHECK(graphs == 5);
}

TEST_CASE_TEMPLATE("a part that fails ends the recording", Way, coupled, pairs, switch_on_sum,
                   device_rows) {
  for (int fails = 0; fails < 5; ++fails) {
    notes out;
    out.fails = fails;
    Way::for_each_key({4, 4}, {2, true}, [&](const graph_key& key) {
      CHECK(Way::record(key, {2, true}, ladders, out).code == dg::errc::bad_fill);
    });
    CHECK(static_cast<int>(out.parts.size()) == fails);
  }
}

TEST_CASE("sizes that a way has graphs for") {
  CHECK(pairs::fits({4, 8}, ladders));
  CHECK(piecewise::fits({4, 8}, ladders));
  CHECK(coupled::fits({8, 8}, ladders)); // a size of the sum, which no rank's ladder has
  CHECK_FALSE(coupled::fits({4, 8}, ladders));
  CHECK_FALSE(coupled::fits({1, 1}, ladders));
  for (const graph_sizes& odd : {graph_sizes{3, 8}, {4, 7}, {0, 8}, {4, 0}, {8, 8}}) {
    CHECK_FALSE(pairs::fits(odd, ladders));
    CHECK_FALSE(piecewise::fits(odd, ladders));
  }
  // Where no host knows the sum, all sums must have a size.
  graph_ladders short_sums = ladders;
  short_sums.shared = list_of({2, 4, 8});
  CHECK(switch_on_sum::fits({4, 0}, ladders));
  CHECK(device_rows::fits({4, 0}, ladders));
  CHECK_FALSE(switch_on_sum::fits({4, 0}, short_sums));
  CHECK_FALSE(device_rows::fits({4, 0}, short_sums));
  CHECK(switch_on_sum::fits({4, 8}, short_sums));
  CHECK_FALSE(switch_on_sum::fits({3, 0}, ladders));
  CHECK_FALSE(switch_on_sum::fits({4, 12}, short_sums));
}

TEST_CASE("shared parts run at the sum's size, or at the largest") {
  CHECK(pairs::shared_size({4, 8}, ladders) == 8);
  CHECK(switch_on_sum::shared_size({4, 8}, ladders) == 8);
  CHECK(switch_on_sum::shared_size({4, 0}, ladders) == 0);
  CHECK(device_rows::shared_size({4, 0}, ladders) == 20);
}
