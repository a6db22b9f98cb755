/// @file
/// Tutorial 1: from row counts to a plan.
///
/// A plan answers, for one step: which mode, how many rows each rank and the global tensor are
/// padded to, which bucket, what it costs, and why. It is a value: no memory, no threads, no GPU.
///
/// Usage: 01_plan [rows of rank 0] [rows of rank 1] ...      (default: 12 0 7 3)

#include <dpgather/plan.hpp>
#include <dpgather/policies.hpp>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <vector>

namespace dg = dpgather;

namespace {

/// What the ranks would exchange once a step, here made by one thread. All vote for a graph or
/// none.
dg::result<dg::agreement> agree(const std::vector<std::int32_t>& rows, const dg::topology& topo,
                                bool in_graph) {
  std::vector<dg::step_record> records(rows.size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    records[r].world_rank = static_cast<std::int32_t>(r);
    records[r].tokens = rows[r];
    records[r].requests = rows[r];
    records[r].phase = rows[r] == 0 ? dg::phase::idle : dg::phase::decode;
    records[r].votes = in_graph ? dg::step_record::graph_vote : 0;
  }
  return dg::merge(records, topo);
}

template <class Policy>
void print(const char* name, const dg::gather_config& config, const dg::agreement& agreed) {
  const dg::result<dg::step_plan> plan = dg::make_plan<Policy>(config, agreed);
  if (!plan) {
    std::printf("  %-12s %s\n", name, plan.status().message().c_str());
    return;
  }
  std::printf("  %-12s %-8s %-10s %-8s %-6s %6lld %6lld %5.2f  %s\n", name,
              name_of(plan->situation), name_of(plan->mode), name_of(plan->padding),
              name_of(plan->layout), static_cast<long long>(plan->global_rows),
              static_cast<long long>(plan->gather_wire_rows), plan->waste(), name_of(plan->why));
}

/// The rank that speaks of its own bucket: attention runs at it, the FFN at the bucket of the sum.
void print_buckets(const dg::gather_config& config, const dg::agreement& agreed) {
  const auto plan = dg::make_plan<dg::exact_graph>(config, agreed);
  if (!plan) return;
  std::printf("\nexact_graph runs attention at");
  for (std::int32_t r = 0; r < plan->dp_size; ++r) std::printf(" %d", plan->own_bucket(r));
  std::printf(" requests, the FFN at %d (one graph each, counts read at replay)\n",
              plan->shared_bucket);
}

bool parse(int argc, char** argv, std::vector<std::int32_t>& rows) {
  if (argc == 1) {
    rows = {12, 0, 7, 3};
    return true;
  }
  for (int i = 1; i < argc; ++i) {
    std::int32_t value = 0;
    const char* end = argv[i] + std::strlen(argv[i]);
    const auto [stop, error] = std::from_chars(argv[i], end, value);
    if (error != std::errc{} || stop != end || value < 0) {
      std::fprintf(stderr, "01_plan: '%s' is not a number of rows\n", argv[i]);
      return false;
    }
    rows.push_back(value);
  }
  return true;
}

} // namespace

int main(int argc, char** argv) {
  std::vector<std::int32_t> rows;
  if (!parse(argc, argv, rows)) return 2;

  // Sizes and limits, the same on every rank. The ladder lists the captured sizes per rank.
  dg::gather_config config;
  config.topology.dp_size = static_cast<std::int32_t>(rows.size());
  config.row_bytes = 7168 * 2; // 7168 bf16
  config.max_rows_per_rank = 256;
  config.ladder = dg::ladder::sglang<256>::sizes();

  std::printf("rows per rank:");
  for (const std::int32_t n : rows) std::printf(" %d", n);
  std::printf("\n\n  %-12s %-8s %-10s %-8s %-6s %6s %6s %5s  %s\n", "policy", "where", "mode",
              "padding", "layout", "global", "wire", "waste", "why");
  for (const bool in_graph : {false, true}) {
    const auto agreed = agree(rows, config.topology, in_graph);
    if (!agreed) {
      std::fprintf(stderr, "01_plan: %s\n", agreed.status().message().c_str());
      return 1;
    }
    print<dg::pr8278>("pr8278", config, *agreed);
    print<dg::sglang_now>("sglang_now", config, *agreed);
    print<dg::max_always>("max_always", config, *agreed);
    print<dg::sum_always>("sum_always", config, *agreed);
    print<dg::exact_eager>("exact_eager", config, *agreed);
    print<dg::exact_graph>("exact_graph", config, *agreed);
    if (in_graph) print_buckets(config, *agreed);
  }
  std::printf("\nglobal: rows of the tensor the FFN sees; wire: rows moved, see README; waste: pad "
              "rows per real row\n");
  return 0;
}
