/// @file
/// Tutorial 8: an engine. A small decoder serves a request trace on data-parallel ranks, under each
/// of four policies, and must decode the same tokens as a single rank does. Ranks are threads of
/// the CPU, or have a GPU each, or share one; there decode steps are replayed graphs, and attention
/// and FFN run at sizes of their own in each of four ways.
///
/// Attention is data-parallel with a KV cache per rank (or split over attention-TP ranks), the FFN
/// is sharded over all ranks, every other one a mixture of experts; batches are continuous, prefill
/// is chunked, decoding is greedy. All sums are exact (decode_engine/grid.hpp), so policies may
/// differ in what they move, pad and compute, but not in a single bit of a result.
///
/// Read decode_engine/decode_rank.hpp first: it is a step, and has all that the library does in it;
/// then decode_engine/gpu/gpu_rank.cuh, which is the same on a GPU.
/// `--poison` fills tails with NaN and finds any kernel that lets one reach a real row;
/// `--plant-leak` makes one do it. See `08_decode_engine --help`.

#include "decode_engine/options.hpp"
#include "decode_engine/policies.hpp"
#include "decode_engine/policy_run.hpp"
#include "decode_engine/report.hpp"
#include "decode_engine/scalar_reference.hpp"
#if defined(DPGATHER_EXAMPLE_CUBLAS) // nvcc, NCCL and cuBLAS were found
#include "decode_engine/gpu/gpu_engine.cuh"
#endif

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

/// GPUs to run on: 0 for the CPU. Errors: `usage_error`, `too_few_gpus`.
std::int32_t gpus_for(engine::backend asked) {
  if (asked == engine::backend::host) return 0;
#if defined(DPGATHER_EXAMPLE_CUBLAS)
  const std::int32_t gpus = engine::gpu::usable_gpus();
  if (gpus == 0 && asked == engine::backend::cuda)
    throw serve::too_few_gpus{"skipped: --backend cuda, but no GPU"};
  return gpus;
#else
  if (asked == engine::backend::cuda)
    throw serve::usage_error{"--backend cuda: this program was built without nvcc, NCCL or cuBLAS"};
  return 0;
#endif
}

engine::served served_of(const engine::options& asked, std::int32_t gpus) {
  engine::served out;
  const std::int32_t ranks = asked.ranks > 0 ? asked.ranks : gpus == 0 ? 4 : std::max(gpus, 2);
  if (ranks * asked.attention_ranks > 16)
    throw serve::usage_error{"at most 16 ranks, attention-TP ranks counted"};
  out.trace = asked.requests_to_serve();
  out.shape = {.dp_size = ranks, .tp_size = asked.attention_ranks};
  out.speed = asked.speed;
  out.largest_graph = asked.largest_graph;
  out.poison = asked.poison;
  out.plant_leak = asked.plant_leak;
  return out;
}

/// Every policy on threads of the CPU. Answers whether all was right.
bool run_on_host(const engine::options& asked, const engine::served& what,
                 const policy_result& reference, std::vector<policy_result>& results) {
  bool right = true;
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
  return right;
}

#if defined(DPGATHER_EXAMPLE_CUBLAS)
/// The same on GPUs, and what steps take there.
bool run_on_gpus(const engine::options& asked, const engine::served& what, std::int32_t gpus,
                 const policy_result& reference, std::vector<policy_result>& results) {
  const engine::served on_one = on_one_rank(what);
  const engine::gpu::gpu_verdict all = engine::gpu::run_all(asked, what, on_one, reference, gpus);
  if (all.results.size() < 2) // the single rank
    throw serve::too_few_gpus{"skipped: what was asked for needs a GPU for each rank"};
  for (const engine::gpu::gpu_result& each : all.results) results.push_back(each.result);
  engine::gpu::print_gpu_head();
  for (const engine::gpu::gpu_result& each : all.results) engine::gpu::print_gpu_line(each);
  engine::gpu::print_gpu_legend();
  if (!asked.svg.empty()) engine::gpu::write_plot(asked.svg, all.results);
  return (!asked.bf16 || engine::gpu::run_real_numbers(asked, what, on_one, reference, gpus)) &&
         all.right;
}
#endif

int run(const engine::options& asked) {
  std::vector<std::string> known;
  engine::for_each_policy([&](auto, const char* name) { known.emplace_back(name); });
  for (const std::string& name : asked.policies) {
    if (std::ranges::count(known, name) == 0) throw serve::usage_error{"unknown policy " + name};
  }
  const std::int32_t gpus = gpus_for(asked.where);
  if (gpus == 0 && (asked.bf16 || !asked.svg.empty()))
    throw serve::usage_error{"--bf16 and --svg need a GPU"};
  const engine::served what = served_of(asked, gpus);
  std::printf(
      "%zu requests of %s on %d data-parallel ranks of %d attention-TP ranks each%s, %s\n\n",
      what.trace.size(), asked.trace.empty() ? "a generated trace" : asked.trace.c_str(),
      what.shape.dp_size, what.shape.tp_size, asked.poison ? ", tails poisoned" : "",
      gpus == 0                        ? "on threads of the CPU"
      : gpus < what.shape.world_size() ? "sharing GPUs"
                                       : "a GPU each");
  engine::print_head();
  const policy_result reference =
      engine::run_policy<engine::single_rank>("on one thread", on_one_rank(what));
  engine::print_line(reference, "reference");

  bool right = reference.error.empty();
  if (!right) std::printf("  %s\n", reference.error.c_str());
  std::vector<policy_result> results;
#if defined(DPGATHER_EXAMPLE_CUBLAS)
  right = (gpus > 0 ? run_on_gpus(asked, what, gpus, reference, results)
                    : run_on_host(asked, what, reference, results)) &&
          right;
#else
  right = run_on_host(asked, what, reference, results) && right;
#endif
  engine::print_legend();
  engine::print_variety(reference);
  if (reference.error.empty()) right = same_in_whole_numbers(what, reference) && right;
  for (const policy_result& each : results) {
    if (each.all.graph_steps > 0) engine::print_sizes(each);
  }
  if (asked.poison) {
    for (const policy_result& each : results) {
      if (each.checked > 0) engine::print_leaks(each); // a single rank has no tails
    }
  }
  if (asked.plant_leak) {
    const bool found = std::ranges::any_of(
        results, [](const policy_result& each) { return each.first_leak.rank >= 0; });
    std::printf("the planted leak was %s\n", found ? "found" : "NOT FOUND");
    right = false; // whether found or not: a leak has reached results
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
  } catch (const serve::too_few_gpus& error) {
    std::printf("%s\n", error.what());
    return 77;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "08_decode_engine: %s\n", error.what());
    return 1;
  }
}
