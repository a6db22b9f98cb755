/// @file
/// Tutorial 4, the main job: a request trace through data-parallel ranks, step by step.
///
/// Requests are dealt to the ranks and batched as an engine does. Every step goes through records
/// -> merge -> plan -> pad -> gather -> a sharded FFN whose sums are exact -> combine -> trim, once
/// per policy, and every value is compared with a scalar reference. The table says what each policy
/// moved and computed for the same rows; see `04_serve_trace --help`.

#include "serve/policy_run.hpp"
#include "serve/report.hpp"
#include "serve/scheduler.hpp"
#include "serve/trace.hpp"

#include <dpgather/dpgather.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr const char* help = R"(usage: 04_serve_trace [options]
  --trace FILE    requests in the format of the Azure LLM inference trace 2023
                  (TIMESTAMP,ContextTokens,GeneratedTokens); without it, generated ones
  --ranks W       data-parallel ranks, 1 to 64 (8)
  --tp A          attention-TP ranks in each, 1 to 8 (1)
  --steps N       steps to run (2000 of a trace, 1000 of generated requests)
  --start S       first second of the trace to run; what came before is scheduled, not run (0)
  --stride N      schedule every step, run every N-th that has work (20000 / steps): a sample of a
                  long stretch, since no short window of a trace stands for the whole
  --speed X       arrivals X times as fast as recorded (1)
  --policy NAME   run only this one; may be repeated: pr8278 sglang_now max_always sum_always
                  exact_eager exact_graph
  --seed N        of the generated requests (1)
  --json          print one JSON object instead of the table
  --help          print this
exit code: 0 when all values are right, 1 when some are wrong or a rank failed, 2 for wrong usage
)";

struct options {
  std::string trace;
  std::vector<std::string> policies;
  std::int64_t steps = 0;
  std::int32_t attention_ranks = 1;
  std::uint64_t seed = 1;
  bool json = false;
  serve::schedule_options schedule;
};

struct usage_error {
  std::string text;
};

template <class Number>
Number number(std::string_view name, std::string_view text, Number low, Number high) {
  Number value{};
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size() || value < low || value > high)
    throw usage_error{std::string{name} + " does not take '" + std::string{text} + "'"};
  return value;
}

options parse(int argc, char** argv) {
  options out;
  out.schedule.stride = 0; // not given
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help") {
      std::fputs(help, stdout);
      std::exit(0);
    }
    if (name == "--json") {
      out.json = true;
      continue;
    }
    if (i + 1 == argc) throw usage_error{"unknown option or missing value: " + std::string{name}};
    const std::string_view value = argv[++i];
    if (name == "--trace") {
      out.trace = value;
    } else if (name == "--ranks") {
      out.schedule.ranks = number<std::int32_t>(name, value, 1, 64);
    } else if (name == "--tp") {
      out.attention_ranks = number<std::int32_t>(name, value, 1, 8);
    } else if (name == "--steps") {
      out.steps = number<std::int64_t>(name, value, 1, 1'000'000);
    } else if (name == "--start") {
      out.schedule.start_seconds = number<double>(name, value, 0, 1e9);
    } else if (name == "--stride") {
      out.schedule.stride = number<std::int32_t>(name, value, 1, 1'000'000);
    } else if (name == "--speed") {
      out.schedule.speed = number<double>(name, value, 1e-3, 1e3);
    } else if (name == "--policy") {
      out.policies.emplace_back(value);
    } else if (name == "--seed") {
      out.seed = number<std::uint64_t>(name, value, 0, UINT64_MAX);
    } else {
      throw usage_error{"unknown option " + std::string{name}};
    }
  }
  return out;
}

/// The steps to run.
std::vector<serve::step> schedule(const options& asked, std::vector<serve::request> trace) {
  serve::scheduler source{std::move(trace), asked.schedule};
  std::vector<serve::step> out;
  serve::step next;
  while (static_cast<std::int64_t>(out.size()) < asked.steps && source.next(next))
    out.push_back(next);
  return out;
}

/// Runs the policies asked for, by name; throws for a name that is none.
class policy_runner {
public:
  policy_runner(const dpgather::gather_config& config, const std::vector<serve::step>& steps,
                const std::vector<std::string>& wanted)
      : config_{config}, steps_{steps}, wanted_{wanted} {}

  [[nodiscard]] std::vector<serve::policy_result> run() {
    const std::size_t known = visit([](auto, const char*) {});
    for (const std::string& name : wanted_) {
      if (std::string_view{" pr8278 sglang_now max_always sum_always exact_eager exact_graph "}
              .find(" " + name + " ") == std::string_view::npos)
        throw usage_error{"unknown policy " + name};
    }
    std::vector<serve::policy_result> out;
    out.reserve(known);
    visit([&]<class Policy>(Policy, const char* name) {
      out.push_back(serve::run_policy<Policy>(name, config_, steps_));
    });
    return out;
  }

private:
  template <class Visitor>
  std::size_t visit(Visitor&& visitor) const {
    std::size_t count = 0;
    const auto one = [&](auto policy, const char* name) {
      ++count;
      bool chosen = wanted_.empty();
      for (const std::string& w : wanted_) chosen = chosen || w == name;
      if (chosen) visitor(policy, name);
    };
    one(dpgather::pr8278{}, "pr8278");
    one(dpgather::sglang_now{}, "sglang_now");
    one(dpgather::max_always{}, "max_always");
    one(dpgather::sum_always{}, "sum_always");
    one(dpgather::exact_eager{}, "exact_eager");
    one(dpgather::exact_graph{}, "exact_graph");
    return count;
  }

  const dpgather::gather_config& config_;
  const std::vector<serve::step>& steps_;
  const std::vector<std::string>& wanted_;
};

int run(options asked) {
  const bool generated = asked.trace.empty();
  if (asked.steps == 0) asked.steps = generated ? 1000 : 2000;
  if (asked.schedule.stride == 0)
    asked.schedule.stride =
        static_cast<std::int32_t>(std::max<std::int64_t>(1, 20'000 / asked.steps));
  std::vector<serve::request> trace =
      generated ? serve::generate_trace({.seed = asked.seed}) : serve::read_trace(asked.trace);
  const std::size_t requests = trace.size();
  const std::vector<serve::step> steps = schedule(asked, std::move(trace));
  if (steps.empty()) throw usage_error{"no step is left after --start"};

  dpgather::gather_config config;
  config.topology.dp_size = asked.schedule.ranks;
  config.topology.tp_size = asked.attention_ranks;
  config.element = dpgather::element::f32;
  config.row_bytes = serve::hidden * sizeof(float);
  config.max_rows_per_rank = static_cast<std::int32_t>(max_rows_per_rank(asked.schedule));
  config.max_requests_per_rank = asked.schedule.max_running;
  config.ladder = filtered(dpgather::ladder::sglang<256>::sizes(), asked.attention_ranks,
                           asked.schedule.max_running);

  const std::string source =
      (generated ? "generated requests, seed " + std::to_string(asked.seed) : asked.trace);
  if (!asked.json) {
    std::printf("%s\n%zu requests on %d data-parallel ranks of %d attention-TP rank%s; %zu steps, "
                "every %d%s of those with work from second %.0f on; communicator host\n\n",
                source.c_str(), requests, asked.schedule.ranks, asked.attention_ranks,
                asked.attention_ranks == 1 ? "" : "s", steps.size(), asked.schedule.stride,
                asked.schedule.stride == 1 ? "st" : "th", steps.front().seconds);
    std::fflush(stdout);
  }
  const std::vector<serve::policy_result> results =
      policy_runner{config, steps, asked.policies}.run();
  if (asked.json) {
    serve::print_json(results, source, asked.schedule.ranks, asked.attention_ranks);
  } else {
    serve::print_table(results);
  }
  for (const serve::policy_result& r : results) {
    if (r.mismatches != 0 || !r.first_error.empty()) return 1;
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const usage_error& error) {
    std::fprintf(stderr, "04_serve_trace: %s\n(see 04_serve_trace --help)\n", error.text.c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "04_serve_trace: %s\n", error.what());
    return 2;
  }
}
