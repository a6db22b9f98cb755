/// @file
/// Tutorial 8: an engine. A small decoder serves a request trace on data-parallel ranks, under each
/// of four policies, and must decode the same tokens as a single rank does.
///
/// Attention is data-parallel with a KV cache per rank (or split over attention-TP ranks), the FFN
/// is sharded over all ranks, every other one a mixture of experts; batches are continuous, prefill
/// is chunked, decoding is greedy. All sums are exact (decode_engine/grid.hpp), so policies may
/// differ in what they move, pad and compute, but not in a single bit of a result.
///
/// Read decode_engine/decode_rank.hpp first: it is a step, and has all that the library does in it.
/// `--poison` fills tails with NaN and finds any kernel that lets one reach a real row;
/// `--plant-leak` makes one do it. See `08_decode_engine --help`.

#include "decode_engine/options.hpp"
#include "decode_engine/policies.hpp"
#include "decode_engine/policy_run.hpp"
#include "decode_engine/report.hpp"
#include "decode_engine/scalar_reference.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

using engine::policy_result;

/// One rank that holds what all ranks together would.
engine::served on_one_rank(engine::served what) {
  what.max_running *= what.shape.dp_size;
  what.shape = {};
  what.poison = what.plant_leak = false;
  return what;
}

/// Some of the requests again, by the scalar reference. Answers whether all are the same.
bool same_in_whole_numbers(const engine::served& what, const policy_result& result) {
  constexpr std::size_t checks = 8;
  const std::size_t stride = std::max<std::size_t>(1, what.trace.size() / checks);
  engine::scalar_reference alone;
  std::size_t requests = 0;
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < what.trace.size(); i += stride) {
    const std::vector<std::int32_t> expected =
        alone.decode(static_cast<std::int32_t>(i), what.trace[i].prompt_tokens,
                     std::max(what.trace[i].output_tokens, 1));
    ++requests;
    tokens += expected.size();
    if (expected == result.streams[i]) continue;
    std::printf("request %zu DIFFERS from its scalar reference\n", i);
    return false;
  }
  std::printf("%zu requests, %zu tokens decoded again, each alone and in whole numbers: equal\n",
              requests, tokens);
  return true;
}

int run(const engine::options& asked) {
  std::vector<std::string> known;
  engine::for_each_policy([&](auto, const char* name) { known.emplace_back(name); });
  for (const std::string& name : asked.policies) {
    if (std::ranges::count(known, name) == 0) throw serve::usage_error{"unknown policy " + name};
  }
  engine::served what;
  what.trace = asked.requests_to_serve();
  what.shape = {.dp_size = asked.ranks, .tp_size = asked.attention_ranks};
  what.speed = asked.speed;
  what.largest_graph = asked.largest_graph;
  what.poison = asked.poison;
  what.plant_leak = asked.plant_leak;

  std::printf("%zu requests of %s on %d data-parallel ranks of %d attention-TP ranks each%s\n\n",
              what.trace.size(), asked.trace.empty() ? "a generated trace" : asked.trace.c_str(),
              asked.ranks, asked.attention_ranks, asked.poison ? ", tails poisoned" : "");
  engine::print_head();
  const policy_result reference =
      engine::run_policy<engine::single_rank>("single_rank", on_one_rank(what));
  engine::print_line(reference, "reference");

  bool right = reference.error.empty();
  if (!right) std::printf("  %s\n", reference.error.c_str());
  std::vector<policy_result> results;
  engine::for_each_policy([&]<class Policy>(Policy, const char* name) {
    if (!asked.policies.empty() && std::ranges::count(asked.policies, name) == 0) return;
    results.push_back(engine::run_policy<Policy>(name, what));
    const policy_result& result = results.back();
    const std::string differs = engine::first_difference(result.streams, reference.streams);
    engine::print_line(result, differs.empty() ? "equal" : "DIFFER from " + differs);
    if (!result.error.empty()) std::printf("  %s\n", result.error.c_str());
    const bool routed_right = result.expert_rows == engine::expert_rows_of(result.all.real_rows);
    if (!routed_right) std::printf("  experts ran on other rows than the real ones\n");
    right = right && differs.empty() && result.leaks == 0 && result.error.empty() && routed_right;
  });
  engine::print_legend();
  engine::print_variety(reference);
  if (reference.error.empty()) right = same_in_whole_numbers(what, reference) && right;
  for (const policy_result& each : results) engine::print_sizes(each);
  if (asked.poison) {
    for (const policy_result& each : results) engine::print_leaks(each);
  }
  if (asked.plant_leak) {
    const bool found = std::ranges::any_of(
        results, [](const policy_result& each) { return each.first_leak.rank >= 0; });
    std::printf("the planted leak was %s\n", found ? "found" : "NOT FOUND");
  }
  std::printf("%s\n", right ? "all token streams are those of a single rank"
                            : "TOKEN STREAMS DIFFER OR TAILS HAVE LEAKED");
  return right ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(engine::parse_options(argc, argv));
  } catch (const serve::usage_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "08_decode_engine: %s\n", error.what());
    return 1;
  }
}
