/// @file
/// Tutorial 3: gather, a sharded FFN, combine. The whole life of a step, on threads.
///
/// Four ranks hold 3, 0, 5 and 1 rows. Each announces its count, all come to the same plan, every
/// rank gathers all rows, computes its shard of the FFN on them, and gets the sum of its own rows
/// back. Run it with a policy's name to see what changes: pr8278 (default), max_always, sum_always,
/// exact_eager.

#include <dpgather/dpgather.hpp>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

namespace dg = dpgather;

namespace {

constexpr std::int32_t rows_of_rank[] = {3, 0, 5, 1};
constexpr std::int32_t world = 4;
constexpr std::int64_t hidden = 8;

float value_at(std::int32_t rank, std::int64_t row, std::int64_t column) {
  return static_cast<float>(100 * rank + 10 * row + column);
}

/// One rank's whole step. Answers the number of wrong values, or -1.
template <class Policy>
int run_rank(dg::host_communicator comm) {
  const std::int32_t me = comm.rank();
  const std::int32_t rows = rows_of_rank[me];

  // 1. Once: sizes and limits, equal on all ranks, and the workspace they need.
  dg::gather_config config;
  config.topology = comm.topology();
  config.element = dg::element::f32;
  config.row_bytes = hidden * sizeof(float);
  config.max_rows_per_rank = 8;
  config.ladder = dg::ladder::powers_of_two<8>::sizes();
  const auto workspace_bytes = dg::DpGather<Policy>::workspace_bytes(config);
  if (!workspace_bytes) return -1;
  std::vector<std::byte> workspace(*workspace_bytes);
  dg::DpGather<Policy> dp{comm, config, workspace};
  const auto fail = [&](const dg::status& why) {
    std::fprintf(stderr, "%s\n", why.message().c_str());
    return -1;
  };
  if (!dp.check()) return fail(dp.check());

  // 2. Every step: say what this rank has, hear what the others have, come to one plan.
  dg::step_record record = dp.record(/*step=*/1);
  record.tokens = record.requests = rows;
  record.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
  const auto agreed = dp.agree(comm, record);
  if (!agreed) return fail(agreed.status());
  const auto plan = dp.plan(*agreed);
  if (!plan) return fail(plan.status());

  // 3. Gather: my rows in, everybody's rows out.
  std::vector<float> local(static_cast<std::size_t>(rows * hidden));
  for (std::int64_t i = 0; i < rows * hidden; ++i)
    local[static_cast<std::size_t>(i)] = value_at(me, i / hidden, i % hidden);
  std::vector<float> global(static_cast<std::size_t>(plan->global_rows * hidden));
  const auto gathered =
      dp.gather(dg::rows_of<dg::replicated>(local.data(), rows, hidden),
                dg::rows_of<dg::replicated>(global.data(), plan->global_rows, hidden), *plan,
                dg::host_stream{});
  if (!gathered) return fail(gathered.status());
  const std::uint64_t gather_bytes = comm.bytes_received();

  // 4. The engine's own kernels: here shard r of the FFN multiplies by r + 1.
  std::vector<float> shard(global.size());
  for (std::size_t i = 0; i < global.size(); ++i) shard[i] = global[i] * static_cast<float>(me + 1);

  // 5. Combine: this rank's addend in, my own rows out, summed over the ranks.
  std::vector<float> output(static_cast<std::size_t>(rows * hidden));
  const dg::status combined = dp.combine(
      dg::rows_of<dg::partial>(shard.data(), plan->global_rows, hidden),
      dg::rows_of<dg::replicated>(output.data(), rows, hidden), *plan, dg::host_stream{});
  if (!combined) return fail(combined);

  if (me == 0) {
    std::printf("mode %s (%s), layout %s, %lld global rows for %lld real ones, waste %.2f\n",
                name_of(plan->mode), name_of(plan->why), name_of(plan->layout),
                static_cast<long long>(plan->global_rows), static_cast<long long>(plan->total_rows),
                plan->waste());
    for (std::int32_t r = 0; r < world; ++r)
      std::printf("  rank %d: %d rows from global row %lld\n", r, plan->real[r],
                  static_cast<long long>(plan->offset(r)));
    std::printf("rank 0 received %llu bytes in the gather, %llu in the combine\n",
                static_cast<unsigned long long>(gather_bytes),
                static_cast<unsigned long long>(comm.bytes_received() - gather_bytes));
  }
  int wrong = 0;
  for (std::int64_t i = 0; i < rows * hidden; ++i) {
    const float expected = value_at(me, i / hidden, i % hidden) * (1 + 2 + 3 + 4);
    wrong += output[static_cast<std::size_t>(i)] != expected;
  }
  return wrong;
}

template <class Policy>
int run() {
  dg::steady_wait_clock clock;
  dg::host_world ranks{{.dp_size = world}, clock};
  std::atomic<int> wrong{0};
  dg::run_ranks(ranks, [&](dg::host_communicator comm) { wrong += run_rank<Policy>(comm) != 0; });
  std::printf("%s\n", wrong == 0 ? "all sums are right" : "WRONG SUMS");
  return wrong == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
  const std::string_view policy = argc > 1 ? argv[1] : "pr8278";
  if (policy == "pr8278") return run<dg::pr8278>();
  if (policy == "max_always") return run<dg::max_always>();
  if (policy == "sum_always") return run<dg::sum_always>();
  if (policy == "exact_eager") return run<dg::exact_eager>();
  std::fprintf(stderr, "usage: 03_gather [pr8278 | max_always | sum_always | exact_eager]\n");
  return 2;
}
