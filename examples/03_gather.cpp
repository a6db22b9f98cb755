/// @file
/// Tutorial 3: gather, a sharded FFN, combine. The whole life of a step.
///
/// Four ranks hold 3, 0, 5 and 1 rows. Each announces its count, all come to the same plan, every
/// rank gathers all rows, computes its shard of the FFN on them, and gets the sum of its own rows
/// back. Run it with a policy's name to see what changes: pr8278 (default), max_always, sum_always,
/// exact_eager.
///
/// Ranks are threads on the CPU, or threads with a GPU each and NCCL between them, where there is
/// one for each rank: `--backend auto|host|nccl`, `--ranks` 1 to 4. `place<Stream>` is all in which
/// the two differ.

#include "serve/backend.hpp"
#include "serve/command_line.hpp"
#include "serve/host_place.hpp"
#include "serve/launch.hpp"

#if defined(DPGATHER_EXAMPLE_NCCL)
#include "serve/gpu_place.cuh"
#endif

#include <dpgather/dpgather.hpp>
#include <dpgather/throw.hpp>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <string_view>

namespace dg = dpgather;

/// The engine's own kernel. A job is one text for the CPU and for GPUs; kernels are
/// instances of a template, so it has a name outside this file.
struct scale_job {
  const float* from = nullptr;
  float* to = nullptr;
  std::uint64_t count = 0;
  float factor = 1;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return count; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    for (std::uint64_t i = worker.index; i < count; i += worker.count) to[i] = from[i] * factor;
  }
};

namespace {

constexpr std::int32_t rows_of_rank[] = {3, 0, 5, 1};
constexpr std::int32_t most_ranks = 4;
constexpr std::int64_t hidden = 8;

float value_at(std::int32_t rank, std::int64_t row, std::int64_t column) {
  return static_cast<float>(100 * rank + 10 * row + column);
}

void print(const dg::step_plan& plan, std::uint64_t gather_bytes, std::uint64_t combine_bytes) {
  std::printf("mode %s (%s), layout %s, %lld global rows for %lld real ones, waste %.2f\n",
              name_of(plan.mode), name_of(plan.why), name_of(plan.layout),
              static_cast<long long>(plan.global_rows), static_cast<long long>(plan.total_rows),
              plan.waste());
  for (std::int32_t r = 0; r < plan.dp_size; ++r)
    std::printf("  rank %d: %d rows from global row %lld\n", r, plan.real[r],
                static_cast<long long>(plan.offset(r)));
  std::printf("rank 0 received %llu bytes in the gather, %llu in the combine\n",
              static_cast<unsigned long long>(gather_bytes),
              static_cast<unsigned long long>(combine_bytes));
}

/// One rank's whole step. Answers the number of wrong values; throws what goes wrong.
template <class BasePolicy, class Stream>
int run_rank(serve::rank_group& ranks) {
  using here = serve::place<Stream>;
  using policy = dg::rebind_comm<BasePolicy, typename here::comm_tag>;
  const std::int32_t me = ranks.rank();
  const std::int32_t rows = rows_of_rank[me];

  // 1. Once: sizes and limits, equal on all ranks, and the memory they need; then a communicator.
  dg::gather_config config;
  config.topology = dg::topology{.dp_size = ranks.size()}.at(me);
  config.element = dg::element::f32;
  config.row_bytes = hidden * sizeof(float);
  config.max_rows_per_rank = 8;
  config.ladder = dg::ladder::powers_of_two<8>::sizes();
  const auto rules = dg::value_or_throw(dg::planner<policy>::make(config));
  const std::int64_t most_rows = rules.max_global_rows();

  here::enter(me);
  typename here::template array<std::byte> workspace(
      dg::value_or_throw(dg::DpGather<policy>::workspace_bytes(config)));
  using tensor = typename here::template mirrored<float>;
  const auto floats_in = [](std::int64_t n) { return static_cast<std::size_t>(n * hidden); };
  tensor local{floats_in(config.max_rows_per_rank)}, output{floats_in(config.max_rows_per_rank)};
  tensor global{floats_in(most_rows)}, shard{floats_in(most_rows)};

  typename here::link link{ranks, config.topology}; // goes before the memory does
  const Stream stream = link.stream();
  dg::DpGather<policy> dp{link.communicator(), config,
                          std::span<std::byte>{workspace.data(), workspace.size()}};
  dg::throw_if_failed(dp.check());

  // 2. Every step: say what this rank has, hear what the others have, come to one plan.
  dg::step_record record = dp.record(/*step=*/1);
  record.tokens = record.requests = rows;
  record.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
  const auto agreed = dg::value_or_throw(dp.agree(ranks, record));
  const auto plan = dg::value_or_throw(dp.plan(agreed));

  // 3. Gather: my rows in, everybody's rows out.
  for (std::int64_t i = 0; i < rows * hidden; ++i)
    local.on_host()[static_cast<std::size_t>(i)] = value_at(me, i / hidden, i % hidden);
  dg::throw_if_failed(local.upload(floats_in(rows), stream));
  const std::uint64_t before = link.communicator().bytes_received();
  const auto all_rows = dg::value_or_throw(dp.gather(
      dg::rows_of<dg::replicated>(local.data(), rows, hidden),
      dg::rows_of<dg::replicated>(global.data(), plan.global_rows, hidden), plan, stream));
  const std::uint64_t gather_bytes = link.communicator().bytes_received() - before;

  // 4. The engine's own kernels: here shard r of the FFN multiplies by r + 1.
  const scale_job ffn{.from = global.data(),
                      .to = shard.data(),
                      .count = floats_in(all_rows.rows()),
                      .factor = static_cast<float>(me + 1)};
  dg::throw_if_failed(dg::executor<Stream>::run(ffn, 0, stream));

  // 5. Combine: this rank's addend in, my own rows out, summed over the ranks.
  dg::throw_if_failed(dp.combine(dg::rows_of<dg::partial>(shard.data(), plan.global_rows, hidden),
                                 dg::rows_of<dg::replicated>(output.data(), rows, hidden), plan,
                                 stream));
  dg::throw_if_failed(output.download(floats_in(rows), stream));
  dg::throw_if_failed(link.wait()); // with a deadline, since work on the stream waits for others

  const std::uint64_t all_bytes = link.communicator().bytes_received() - before;
  if (me == 0) print(plan, gather_bytes, all_bytes - gather_bytes);
  int wrong = 0;
  for (std::int64_t i = 0; i < rows * hidden; ++i) {
    const float factors = static_cast<float>(ranks.size() * (ranks.size() + 1) / 2);
    const float expected = value_at(me, i / hidden, i % hidden) * factors;
    wrong += output.on_host()[static_cast<std::size_t>(i)] != expected;
  }
  dg::throw_if_failed(link.close());
  return wrong;
}

template <class Policy>
int run(const serve::rank_launch& how, serve::backend_kind backend) {
  std::atomic<int> wrong{0};
  const std::string failed =
      serve::run_as_launched(how, {.dp_size = how.size}, "step", [&](serve::rank_group& ranks) {
#if defined(DPGATHER_EXAMPLE_NCCL)
        if (backend == serve::backend_kind::nccl) {
          wrong += run_rank<Policy, cudaStream_t>(ranks);
          return;
        }
#endif
        (void)backend;
        wrong += run_rank<Policy, dg::host_stream>(ranks);
      });
  if (!failed.empty()) std::printf("%s\n", failed.c_str());
  const bool right = wrong == 0 && failed.empty();
  std::printf("%s\n", right ? "all sums are right" : "WRONG SUMS");
  return right ? 0 : 1;
}

int run(int argc, char** argv) {
  std::string_view policy = "pr8278";
  serve::backend_kind backend = serve::backend_kind::automatic;
  std::int32_t ranks = most_ranks;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--backend" && i + 1 < argc) {
      backend = serve::backend_named(argv[++i]);
    } else if (name == "--ranks" && i + 1 < argc) {
      ranks = serve::number<std::int32_t>(name, argv[++i], 1, most_ranks);
    } else {
      policy = name;
    }
  }
  const auto chosen = serve::choose_backend(backend, ranks, serve::visible_gpus::here());
  const auto as = [&]<class Policy>(Policy) {
    std::printf("%s\n", chosen.sentence().c_str());
    return run<Policy>(serve::rank_launch{.dp_size = ranks, .size = ranks}, chosen.kind);
  };
  if (policy == "pr8278") return as(dg::pr8278{});
  if (policy == "max_always") return as(dg::max_always{});
  if (policy == "sum_always") return as(dg::sum_always{});
  if (policy == "exact_eager") return as(dg::exact_eager{});
  throw serve::usage_error{"usage: 03_gather [pr8278 | max_always | sum_always | exact_eager]\n"
                           "                 [--backend auto | host | nccl] [--ranks 1 to 4]"};
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const serve::usage_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  } catch (const serve::too_few_gpus& error) {
    std::fprintf(stderr, "03_gather: %s\n", error.what());
    return 77;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "03_gather: %s\n", error.what());
    return 1;
  }
}
