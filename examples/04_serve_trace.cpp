/// @file
/// Tutorial 4, the main job: a request trace through data-parallel ranks, step by step.
///
/// Requests are dealt to the ranks and batched as an engine does. Every step goes through records
/// -> merge -> plan -> pad -> gather -> a sharded FFN whose sums are exact -> combine -> trim, once
/// per policy, and every value is compared with a scalar reference. The table says what each policy
/// moved and computed for the same rows.
///
/// Ranks are threads on the CPU, or a GPU each with NCCL between them: then nvcc compiles this
/// file, and decode steps in graphs are captured and replayed. Results are the same, and so is the
/// text of a step: serve/served_rank.hpp. `--fit-ladder` moves nothing: it plans all decode steps,
/// and fits ladders to them (serve/ladder_study.hpp). See `04_serve_trace --help`.

#include "serve/backend.hpp"
#include "serve/host_place.hpp"
#include "serve/ladder_report.hpp"
#include "serve/ladder_study.hpp"
#include "serve/launch.hpp"
#include "serve/policy_run.hpp"
#include "serve/processes.hpp"
#include "serve/report.hpp"
#include "serve/scheduler.hpp"
#include "serve/serve_options.hpp"
#include "serve/trace.hpp"

#if defined(DPGATHER_EXAMPLE_NCCL)
#include "serve/gpu_place.cuh"
#endif

#include <dpgather/dpgather.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace {

/// The steps to run.
std::vector<serve::step> schedule(const serve::serve_options& asked,
                                  std::vector<serve::request> trace) {
  serve::scheduler source{std::move(trace), asked.schedule};
  std::vector<serve::step> out;
  serve::step next;
  while (static_cast<std::int64_t>(out.size()) < asked.steps && source.next(next))
    out.push_back(next);
  return out;
}

/// Whether NCCL can run a policy. The rule is the library's own, asked instead of broken.
template <class Policy>
inline constexpr bool over_nccl =
    dpgather::valid_policy<dpgather::rebind_comm<Policy, dpgather::comm::nccl>>;

/// What the policies asked for come to, on the communicator that was chosen.
class policy_runner {
public:
  /// Errors: `usage_error` for a name that is no policy, or one that the communicator cannot run.
  policy_runner(std::vector<std::string> wanted, serve::backend_kind on)
      : wanted_{std::move(wanted)}, nccl_{on == serve::backend_kind::nccl} {
    std::vector<std::string> known;
    visit([&]<class Policy>(Policy, const char* name) { known.emplace_back(name); });
    const std::vector<std::string> impossible = left_out();
    for (const std::string& name : wanted_) {
      if (std::ranges::count(known, name) == 0) throw serve::usage_error{"unknown policy " + name};
      if (std::ranges::count(impossible, name) > 0)
        throw serve::usage_error{"over NCCL a graph would freeze the exact counts of " + name +
                                 "; --backend host runs it"};
    }
  }

  [[nodiscard]] std::vector<serve::policy_result> run(const dpgather::gather_config& config,
                                                      const std::vector<serve::step>& steps,
                                                      const serve::rank_launch& how) const {
    std::vector<serve::policy_result> out;
    visit([&]<class Policy>(Policy, const char* name) {
      if (!wanted_.empty() && std::ranges::count(wanted_, name) == 0) return;
      // Processes that lost each other do not find together again.
      if (how.is == serve::rank_launch::role::process && !out.empty() &&
          !out.back().first_error.empty())
        return;
      if (!nccl_) {
        out.push_back(serve::run_policy<Policy, dpgather::host_stream>(name, config, steps, how));
        return;
      }
#if defined(DPGATHER_EXAMPLE_NCCL)
      if constexpr (over_nccl<Policy>)
        out.push_back(serve::run_policy<Policy, cudaStream_t>(name, config, steps, how));
#endif
    });
    return out;
  }

  /// Policies that the communicator cannot run.
  [[nodiscard]] std::vector<std::string> left_out() const {
    std::vector<std::string> out;
    visit([&]<class Policy>(Policy, const char* name) {
      if (nccl_ && !over_nccl<Policy>) out.emplace_back(name);
    });
    return out;
  }

private:
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    visitor(dpgather::pr8278{}, "pr8278");
    visitor(dpgather::sglang_now{}, "sglang_now");
    visitor(dpgather::max_always{}, "max_always");
    visitor(dpgather::sum_always{}, "sum_always");
    visitor(dpgather::exact_eager{}, "exact_eager");
    visitor(dpgather::exact_graph{}, "exact_graph");
  }

  std::vector<std::string> wanted_;
  bool nccl_;
};

std::vector<serve::request> trace_of(const serve::serve_options& asked) {
  return asked.generated() ? serve::generate_trace({.seed = asked.seed})
                           : serve::read_trace(asked.trace);
}

std::string source_of(const serve::serve_options& asked) {
  return asked.generated() ? "generated requests, seed " + std::to_string(asked.seed) : asked.trace;
}

/// Of world rank 0; SGLang's capture sizes.
dpgather::gather_config config_of(const serve::serve_options& asked, std::int32_t dp_size) {
  dpgather::gather_config config;
  config.topology.dp_size = dp_size;
  config.topology.tp_size = asked.launch.attention_ranks;
  config.element = dpgather::element::f32;
  config.row_bytes = serve::hidden * sizeof(float);
  config.max_rows_per_rank = static_cast<std::int32_t>(max_rows_per_rank(asked.schedule));
  config.max_requests_per_rank = asked.schedule.max_running;
  config.ladder = filtered(dpgather::ladder::sglang<256>::sizes(), config.topology.tp_size,
                           asked.schedule.max_running);
  return config;
}

/// --fit-ladder: nothing is moved, so there are no ranks.
int study(serve::serve_options asked) {
  asked.schedule.ranks = asked.launch.ranks == 0 ? asked.launch.default_ranks : asked.launch.ranks;
  serve::scheduler source{trace_of(asked), asked.schedule};
  const serve::decode_counts counts =
      serve::decode_steps(source, asked.schedule.ranks, asked.steps);
  if (counts.steps() < 2)
    throw serve::usage_error{"two decode steps are needed, one for each half"};
  const serve::ladder_study results =
      serve::study_ladders(config_of(asked, asked.schedule.ranks), counts, asked.fit_ladder);
  const serve::study_info info{source_of(asked), asked.schedule.ranks, asked.launch.attention_ranks,
                               asked.schedule.speed};
  if (asked.json) {
    serve::print_json(results, info);
  } else {
    serve::print_table(results, info);
  }
  return 0;
}

/// Runs as the ranks that this process has; rank 0's tells people.
int run_ranks(serve::serve_options asked, const serve::rank_launch& how,
              const serve::backend_choice& backend, const policy_runner& policies) {
  asked.schedule.ranks = how.dp_size;
  std::vector<serve::request> trace = trace_of(asked);
  const std::size_t requests = trace.size();
  const std::vector<serve::step> steps = schedule(asked, std::move(trace));
  if (steps.empty()) throw serve::usage_error{"no step is left after --start"};

  const dpgather::gather_config config = config_of(asked, how.dp_size);
  const serve::run_info info{.source = source_of(asked),
                             .ranks = how.dp_size,
                             .attention_ranks = config.topology.tp_size,
                             .backend = backend,
                             .launch = how.by,
                             .left_out = asked.policies.empty() ? policies.left_out()
                                                                : std::vector<std::string>{}};
  if (!asked.json && how.speaks()) {
    std::printf("%s\n%zu requests on %d data-parallel ranks of %d attention-TP rank%s; %zu steps, "
                "every %d%s of those with work from second %.0f on; %s\n\n",
                info.source.c_str(), requests, info.ranks, info.attention_ranks,
                info.attention_ranks == 1 ? "" : "s", steps.size(), asked.schedule.stride,
                asked.schedule.stride == 1 ? "st" : "th", steps.front().seconds,
                backend.sentence().c_str());
    if (how.is == serve::rank_launch::role::process)
      std::printf("a process for each rank, started by: %s\n\n", how.by.c_str());
    std::fflush(stdout);
  }

  const std::vector<serve::policy_result> results = policies.run(config, steps, how);
  if (how.speaks() && asked.json) serve::print_json(results, info);
  if (how.speaks() && !asked.json) serve::print_table(results, info);
  int code = 0;
  for (const serve::policy_result& r : results) {
    if (r.mismatches != 0 || !r.first_error.empty()) code = 1;
    if (!how.speaks() && !r.first_error.empty()) // rank 0 may only have heard that this one left
      std::fprintf(stderr, "04_serve_trace: rank %d, %s: %s\n", how.rank, r.name.c_str(),
                   r.first_error.c_str());
  }
  return code;
}

/// `speaks`: whether this process tells people what went wrong, as soon as that is known.
int run(char** argv, serve::serve_options asked, bool& speaks) {
  if (asked.fit_ladder >= 0) return study(std::move(asked));
  serve::rank_launch how = serve::resolve_launch(asked.launch);
  how.session = asked.digest();
  speaks = how.speaks();
  const serve::backend_choice backend =
      serve::choose_backend(asked.backend, how.size, serve::visible_gpus::here());
  if (backend.kind == serve::backend_kind::host && how.is != serve::rank_launch::role::threads)
    throw serve::usage_error{"ranks that are processes need communicator nccl, those of host are "
                             "threads of one process (" +
                             backend.sentence() + ")"};
  const policy_runner policies{asked.policies, backend.kind};
  if (how.is == serve::rank_launch::role::parent)
    return serve::run_as_processes(argv, how.size, how.socket);
  return run_ranks(std::move(asked), how, backend, policies);
}

} // namespace

int main(int argc, char** argv) {
  bool speaks = true;
  try {
    return run(argv, serve::parse_serve_options(argc, argv), speaks);
  } catch (const serve::usage_error& error) {
    if (speaks)
      std::fprintf(stderr, "04_serve_trace: %s\n(see 04_serve_trace --help)\n", error.what());
    return 2;
  } catch (const serve::too_few_gpus& error) {
    if (speaks) std::fprintf(stderr, "04_serve_trace: %s\n", error.what());
    return 77;
  } catch (const std::exception& error) {
    if (speaks) std::fprintf(stderr, "04_serve_trace: %s\n", error.what());
    return 2;
  }
}
