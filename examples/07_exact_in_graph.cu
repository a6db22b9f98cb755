/// @file
/// Tutorial 7: exactly the real rows inside a captured graph. Needs two GPUs with peer access.
///
/// A capture freezes what the host says, so graphs over NCCL move padded rows. Over `comm::peer`
/// the kernels read the counts of the step themselves, as they run: one graph, captured before any
/// count is known, then serves every split of the rows over the ranks, idle ranks too, and moves
/// real rows only. The FFN behind it runs on as many, by a total that it reads in device memory.
///
/// A thread and its GPU are a rank. Every value is checked by the graph itself, against a list that
/// the library never sees. `run_rank` is the tutorial; see `07_exact_in_graph --help`.

#include "exact_in_graph/compare.cuh"
#include "exact_in_graph/kernels.cuh"
#include "exact_in_graph/options.hpp"
#include "exact_in_graph/ranks.cuh"
#include "exact_in_graph/report.hpp"
#include "exact_in_graph/splits.hpp"
#include "serve/cuda_resources.cuh"
#include "serve/progress.hpp"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace dg = dpgather;

namespace {

using exact::bf16_bits;

/// Only real rows, the FFN at the sum; packed, rank after rank.
struct decode : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {};
/// Sums bf16: one combine kernel instead of one for each element type.
using peer = dg::basic_peer_communicator<dg::element::bf16>;

void run_rank(dg::host_communicator ranks, const exact::options& asked,
              const std::vector<exact::split>& steps, exact::results& out) {
  dg::throw_if_failed(dg::cuda_status(cudaSetDevice(ranks.rank()), "cudaSetDevice"));
  const auto me = static_cast<std::size_t>(ranks.rank());

  // 1. Sizes. What the channel needs is known before anything is allocated: its arena (views,
  // inputs, lines and flags of all peers) and a little workspace.
  dg::gather_config config;
  config.topology = ranks.topology();
  config.row_bytes = static_cast<std::size_t>(asked.hidden) * sizeof(bf16_bits);
  config.max_rows_per_rank = asked.rows;
  config.ladder.append(asked.rows); // one graph, of the largest size; an engine captures a few
  const dg::peer_options options{.inputs = 1}; // here a gather comes between two combines
  const auto limits = dg::value_or_throw(dg::peer_limits_of<decode>(config, options));
  const auto arena_bytes = dg::value_or_throw(dg::peer_arena_bytes<decode>(config, options));
  const auto work_bytes = dg::value_or_throw(dg::DpGather<decode, peer>::workspace_bytes(config));

  // 2. The channel. It borrows everything: declared in this order, nothing is outlived.
  const serve::cuda_stream own_stream;
  const cudaStream_t stream = own_stream.get();
  const serve::device_array<std::byte> workspace{work_bytes};
  dg::peer_access_memory memory{ranks, arena_bytes};
  dg::throw_if_failed(memory.check());
  dg::peer_world world{ranks, config.topology, memory.pointers(), limits};
  dg::throw_if_failed(world.check());
  dg::DpGather<decode, peer> dp{peer{world}, config, workspace.span()};
  dg::throw_if_failed(dp.check());

  // 3. The engine's own: local tensors that hold the rows of any replay, and what the checks know.
  const std::size_t local_size =
      static_cast<std::size_t>(asked.rows) * static_cast<std::size_t>(asked.hidden);
  const serve::device_array<bf16_bits> local_rows{local_size};
  const serve::device_array<bf16_bits> output_rows{local_size};
  const serve::device_array<unsigned long long> numbers{2};
  const serve::device_array<std::int32_t> truth{steps.size() * steps[0].size()};
  std::vector<std::int32_t> flat;
  for (const exact::split& each : steps) flat.insert(flat.end(), each.begin(), each.end());
  dg::throw_if_failed(dg::cuda_status(
      cudaMemcpyAsync(truth.data(), flat.data(), truth.bytes(), cudaMemcpyHostToDevice, stream),
      "cudaMemcpyAsync"));
  dg::throw_if_failed(dg::cuda_status(cudaMemsetAsync(numbers.data(), 0, numbers.bytes(), stream),
                                      "cudaMemsetAsync"));
  const dg::token_rows<dg::replicated> output{reinterpret_cast<std::byte*>(output_rows.data()),
                                              asked.rows, config.element, config.row_bytes};
  const dg::const_token_rows<dg::replicated> local{
      reinterpret_cast<const std::byte*>(local_rows.data()), asked.rows, config.element,
      config.row_bytes};

  // 4. One graph, while nobody knows a count: all that it has is a shape.
  const std::int32_t largest = dp.rules().captured_sizes().largest();
  const dg::step_plan shape = dg::value_or_throw(dp.capture_plan(largest));
  const exact::step_facts facts{.splits = truth.data(),
                                .step = numbers.data(),
                                .wrong = numbers.data() + 1,
                                .steps = static_cast<std::int64_t>(steps.size()),
                                .global_rows = shape.global_rows,
                                .rank = ranks.rank(),
                                .ranks = ranks.size(),
                                .rows = asked.rows,
                                .hidden = asked.hidden};
  const std::int64_t most_local = std::int64_t{asked.rows} * asked.hidden;
  const std::int64_t most_global = shape.global_rows * asked.hidden;
  const auto step = [&]() -> dg::status {
    using exact::begin_step, exact::attention, exact::check_gathered, exact::ffn;
    if (dg::status bad = serve::launch(begin_step, 1, stream, facts); !bad) return bad;
    if (dg::status bad =
            serve::launch(attention, most_local, stream, facts, dp.live_rows(), local_rows.data());
        !bad)
      return bad;

    const auto rows = dp.gather(local, shape, stream); // a view of the arena, valid until combine
    if (!rows) return rows.status();
    const auto* const gathered = reinterpret_cast<const bf16_bits*>(rows->data());
    if (dg::status bad =
            serve::launch(check_gathered, most_global, stream, facts, dp.live_counts(), gathered);
        !bad)
      return bad;

    const auto addends = dp.combine_input(shape); // of the arena too: nothing is copied
    if (dg::status bad = serve::launch(ffn, most_global, stream, facts, &dp.live_counts()->total,
                                       gathered, reinterpret_cast<bf16_bits*>(addends.data()));
        !bad)
      return bad;
    if (dg::status bad = dp.combine(addends, output, shape, stream); !bad) return bad;
    return serve::launch(exact::check_output, most_local, stream, facts, output_rows.data());
  };
  dg::bucket_list sizes;
  sizes.append(largest);
  dg::graph_set graphs;
  dg::throw_if_failed(graphs.capture(sizes, stream, [&](std::int32_t) { return step(); }));
  dg::throw_if_failed(dp.refresh_counts(shape, stream)); // loads its kernel
  dg::throw_if_failed(world.wait(stream, exact::patience_ns));
  const exact::meeting_at_the_end end{ranks, stream};
  // A kernel waits for its peers 30 s at most, so all begin together.
  dg::throw_if_failed(ranks.barrier());

  // 5. Every step: the hosts agree, counts go to the GPU, one launch does the rest. Nobody waits
  // for a GPU; replays queue up, and a rank may be ahead of the others.
  {
    serve::progress_bar bar{ranks.rank() == 0 ? "replaying" : "",
                            ranks.rank() == 0 ? static_cast<std::int64_t>(steps.size()) : 0};
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto agreed = dg::value_or_throw(
          dp.agree(ranks, exact::record_of(dp.record(i + 1), ranks.rank(), steps[i][me])));
      const auto plan = dg::value_or_throw(dp.plan(agreed));
      dg::throw_if_failed(dp.refresh_counts(plan, stream));
      dg::throw_if_failed(graphs.launch(largest, stream));
      bar.at(static_cast<std::int64_t>(i) + 1);
    }
  }
  dg::throw_if_failed(world.wait(stream, exact::patience_ns)); // and how the calls went
  unsigned long long wrong = 0;
  dg::throw_if_failed(dg::cuda_status(
      cudaMemcpy(&wrong, facts.wrong, sizeof wrong, cudaMemcpyDeviceToHost), "cudaMemcpy"));
  out.steps = facts.steps;
  out.checked = facts.steps * (most_global + most_local + ranks.size() + 1);
  out.wrong = static_cast<std::int64_t>(wrong);

  // 6. What it takes.
  out.times = exact::compare(ranks, world, dp, shape, exact::a_few(steps), local, output, stream);

  // 7. What a mistake looks like. A kernel that waits for a peer in vain ends after the timeout,
  // and records who waited for whom in which call; the host hears of it without a CUDA call. The
  // channel is poisoned then: calls say so, kernels of graphs do nothing, and no rank hangs. The
  // way on is a new world, over other memory or over this once all streams are idle.
  if (asked.show_error && ranks.rank() == 0) {
    world.set_timeout(200'000'000);
    dg::throw_if_failed(graphs.launch(largest, stream)); // and nobody else does
    (void)world.wait(stream, exact::patience_ns);
    out.shown_error.emplace_back(world.check().message().c_str());
    out.shown_error.emplace_back(dp.refresh_counts(shape, stream).message().c_str());
  }
}

int run(const exact::options& asked) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess) gpus = 0;
  const std::int32_t peers = std::min(exact::peers_among(gpus), exact::most_ranks);
  if (peers < 2) {
    std::printf("skipped: needs 2 GPUs that reach each other's memory, %d %s visible\n", gpus,
                gpus == 1 ? "is" : "are");
    return 77;
  }
  if (asked.ranks > peers)
    throw serve::usage_error{"--ranks " + std::to_string(asked.ranks) + ": only " +
                             std::to_string(peers) + " GPUs reach each other's memory"};
  const std::int32_t ranks = asked.ranks == 0 ? peers : asked.ranks;
  const std::vector<exact::split> steps = exact::splits_of(asked, ranks);
  std::printf("%s, %zu steps on %d ranks of a GPU each, at most %d rows of %d bf16 a rank; policy "
              "exact_graph,\ncommunicator peer, one graph captured before the first count\n",
              asked.trace.empty() ? "built-in splits" : asked.trace.c_str(), steps.size(), ranks,
              asked.rows, asked.hidden);
  std::fflush(stdout);

  std::vector<exact::results> results(static_cast<std::size_t>(ranks));
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = ranks}, clock};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    exact::results& mine = results[static_cast<std::size_t>(comm.rank())];
    try {
      run_rank(comm, asked, steps, mine);
    } catch (const std::exception& error) {
      mine.error = error.what(); // the others hear of it where they wait for this rank
    }
  });
  return exact::print(results) ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(exact::parse(argc, argv));
  } catch (const serve::usage_error& error) {
    std::fprintf(stderr, "07_exact_in_graph: %s\n(see 07_exact_in_graph --help)\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "07_exact_in_graph: %s\n", error.what());
    return 2;
  }
}
