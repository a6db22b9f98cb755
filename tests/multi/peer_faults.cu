// Faults of the peer communicator on two GPUs: what each rank is told, how soon, and that both go
// on afterwards. Ranks are threads, and processes where one of them is to go.
#include <support/peer_fault_engine.cuh>

#include <support/socket_ranks.hpp>

#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/comm/vmm_memory.cuh>

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <unistd.h>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

using thread_place = ts::fault_place<dg::host_communicator, dg::peer_access_memory>;
using process_place = ts::fault_place<dg::unix_socket_bootstrap, dg::vmm_memory>;

/// Both ranks as threads, once for each way that rows travel.
template <class Body>
void on_two_gpus(Body body) {
  const ts::hang_guard guard;
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = 2}, clock, 20'000'000'000};
  dg::run_ranks(world, [&](dg::host_communicator ranks) {
    thread_place here{ranks};
    for (const std::size_t most_line_bytes : ts::both_ways) {
      CAPTURE(most_line_bytes);
      body(here, most_line_bytes);
    }
  });
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds{ms}); }

constexpr ts::rows_of_two usual{5, 7};

/// Rank 1 does not come until rank 0 has given up. Its kernels find the word that rank 0 left, move
/// nothing and leave nothing.
template <class Policy, class Place>
void never_launches(Place& here, std::size_t most_line_bytes) {
  auto rank = ts::ready_rank<Policy>(here, most_line_bytes);
  if (here.rank() == 0) {
    rank->start();
    const ts::fault_outcome alone = rank->finish();
    ts::check_late_rank(alone, 0, ts::first_call);
    CHECK(alone.ms >= 0.9 * ts::fault_deadline_ns / 1e6);
    CHECK(rank->counts_left() == "");
  }
  here.meet();
  if (here.rank() == 1) {
    rank->start_calls();
    const ts::fault_outcome after = rank->finish();
    ts::check_late_rank(after, 1, ts::first_call);
    CHECK(after.ms < ts::at_once_ms);
    CHECK(rank->counts_left() == "");
    CHECK(rank->rows_left() == "");
  }
  here.meet();
  rank->require_sticky();
  ts::require_recovery<Policy>(here, std::move(rank), most_line_bytes);
}

} // namespace

TEST_CASE_TEMPLATE("a rank that never launches is named", Policy, ts::fault_device,
                   ts::fault_exchanged, ts::fault_all_gather) {
  on_two_gpus([](thread_place& here, std::size_t bytes) { never_launches<Policy>(here, bytes); });
}

TEST_CASE_TEMPLATE("a rank within the deadline is in time", Policy, ts::fault_device,
                   ts::fault_all_gather) {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<Policy>(here, bytes);
    if (here.rank() == 0) rank->start();
    here.meet();
    if (here.rank() == 1) {
      sleep_ms(150);
      rank->start();
    }
    const ts::fault_outcome done = rank->finish();
    CHECK_MESSAGE(done.said.ok(), ts::text(done.said));
    if (here.rank() == 0) CHECK(done.ms >= 140);
    CHECK(rank->wrong() == 0);
    CHECK(rank->good(100) == 0);
    ts::require_recovery<Policy>(here, std::move(rank), bytes);
  });
}

TEST_CASE_TEMPLATE("a rank beyond the deadline hears that it is late", Policy, ts::fault_device,
                   ts::fault_exchanged, ts::fault_all_gather) {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<Policy>(here, bytes);
    rank->set_counts(usual);
    const dg::step_plan plan = rank->with_counts(rank->plan(), usual);
    const auto calls = [&] { return rank->both(plan); };
    if (here.rank() == 0) {
      const dg::status launched = rank->start_eagerly(calls);
      CHECK_MESSAGE(launched.ok(), ts::text(launched));
    }
    here.meet();
    if (here.rank() == 1) {
      sleep_ms(450);
      const dg::status launched = rank->start_eagerly(calls);
      CHECK_MESSAGE(ts::launched_or_heard(launched, dg::errc::timeout), ts::text(launched));
    }
    const ts::fault_outcome done = rank->finish();
    ts::check_late_rank(done, here.rank(), ts::first_call);
    if (here.rank() == 1) CHECK(done.ms < ts::at_once_ms);
    here.meet();
    rank->require_sticky();
    ts::require_recovery<Policy>(here, std::move(rank), bytes);
  });
}

TEST_CASE("a combine where the other gathers") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    for (const std::int32_t gatherer : {0, 1}) {
      CAPTURE(gatherer);
      auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
      rank->set_counts(usual);
      const bool gathers = here.rank() == gatherer;
      const dg::status launched = rank->start_eagerly(
          [&] { return gathers ? rank->gather(rank->plan()) : rank->combine(rank->plan()); });
      CHECK_MESSAGE(launched.ok(), ts::text(launched));
      const ts::fault_outcome done = rank->finish();
      std::array<const char*, 2> names{"combine", "combine"};
      names[static_cast<std::size_t>(gatherer)] = "gather";
      ts::check_mismatch(here, done, dg::subject::operation, names, {-1, -1});
      CHECK(done.said.call == ts::first_call);
      here.meet();
      rank->require_sticky();
      ts::require_recovery<ts::fault_device>(here, std::move(rank), bytes);
    }
  });
}

namespace {

/// One rank's part of a gather whose plans are of different policies.
template <class Policy>
void gather_in_own_mode(thread_place& here, std::size_t bytes) {
  auto rank = ts::make_rank<Policy>(here, bytes);
  rank->set_counts(usual);
  const dg::step_plan plan = rank->with_counts(rank->plan(), usual);
  const dg::status launched = rank->start_eagerly([&] { return rank->gather(plan); });
  CHECK_MESSAGE(launched.ok(), ts::text(launched));
  const ts::fault_outcome done = rank->finish();
  ts::check_mismatch(here, done, dg::subject::mode, {"all_gather", "exact"},
                     {ts::fault_capacity, ts::fault_capacity});
  here.meet();
  rank->require_sticky();
  ts::require_recovery<ts::fault_all_gather>(here, std::move(rank), bytes);
}

} // namespace

TEST_CASE("another mode") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    if (here.rank() == 0) {
      gather_in_own_mode<ts::fault_all_gather>(here, bytes);
    } else {
      gather_in_own_mode<ts::fault_slots>(here, bytes);
    }
  });
}

TEST_CASE_TEMPLATE("graphs of different buckets", Policy, ts::fault_all_gather, ts::fault_slots) {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<Policy>(here, bytes);
    constexpr std::array<std::int64_t, 2> buckets{ts::fault_small_bucket, ts::fault_capacity};
    const auto plan = rank->dp().capture_plan(
        static_cast<std::int32_t>(buckets[static_cast<std::size_t>(here.rank())]));
    ts::must(plan.status(), "capture plan");
    dg::graph_set graph;
    ts::must(rank->capture(graph, [&] { return rank->both(*plan); }), "capture");
    rank->set_counts(usual);
    here.meet();
    rank->start_calls(graph);
    const ts::fault_outcome done = rank->finish();
    const char* const name =
        Policy::mode_type::kind == dg::mode_kind::exact ? "exact" : "all_gather";
    ts::check_mismatch(here, done, dg::subject::mode, {name, name}, buckets);
    CHECK(done.said.call == ts::first_call);
    here.meet();
    rank->require_sticky();
    graph.clear();
    ts::require_recovery<Policy>(here, std::move(rank), bytes);
  });
}

TEST_CASE("plans of different global rows") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    for (const ts::rows_of_two& other : {ts::rows_of_two{5, 9}, ts::rows_of_two{5, 2}}) {
      auto rank = ts::ready_rank<ts::fault_all_gather>(here, bytes);
      const dg::step_plan plan = rank->plan_of(here.rank() == 1 ? other : usual, false);
      const std::array<std::int64_t, 2> global_rows = here.share(plan.global_rows);
      CHECK(global_rows[0] != global_rows[1]);
      const dg::status launched = rank->start_eagerly([&] { return rank->both(plan); });
      CHECK_MESSAGE(ts::launched_or_heard(launched, dg::errc::plan_mismatch), ts::text(launched));
      const ts::fault_outcome done = rank->finish();
      // Alike in mode and bucket: two digests tell them apart.
      ts::check_mismatch(here, done, dg::subject::config, {nullptr, nullptr}, {-1, -1});
      here.meet();
      rank->require_sticky();
      ts::require_recovery<ts::fault_all_gather>(here, std::move(rank), bytes);
    }
  });
}

TEST_CASE("counts on the device that differ") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    // Rank 1 has more rows than rank 0 thinks, or fewer, or none; or another opinion on rank 0.
    for (const ts::rows_of_two& other : {ts::rows_of_two{5, 9}, ts::rows_of_two{5, 6},
                                         ts::rows_of_two{5, 0}, ts::rows_of_two{4, 7}}) {
      CAPTURE(other[0]);
      CAPTURE(other[1]);
      auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
      rank->set_counts(here.rank() == 1 ? other : usual);
      rank->start_calls();
      const ts::fault_outcome done = rank->finish();
      ts::check_mismatch(here, done, dg::subject::counts, {nullptr, nullptr}, {-1, -1});
      CHECK(done.said.about == dg::subject::counts);
      if (done.said.rank == here.rank()) CHECK(done.said.value != done.said.limit);
      here.meet();
      rank->require_sticky();
      ts::require_recovery<ts::fault_device>(here, std::move(rank), bytes);
    }
  });
}

TEST_CASE_TEMPLATE("a count that no rank may have", Policy, ts::fault_device, ts::fault_exchanged) {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    for (const std::int32_t count : {ts::fault_capacity + 1, -3}) {
      CAPTURE(count);
      auto rank = ts::ready_rank<Policy>(here, bytes);
      rank->set_counts(here.rank() == 1 ? ts::rows_of_two{usual[0], count} : usual);
      rank->start_calls();
      const ts::fault_outcome done = rank->finish();
      CHECK_MESSAGE(done.said.code == dg::errc::count_out_of_range, ts::text(done.said));
      CHECK(done.ms <= ts::fault_bound_ms);
      CHECK(done.said.about == dg::subject::counts);
      CHECK(done.said.peer == 1); // whose count it is
      // Counts that are told reach the other rank before anybody has looked at them.
      if (Policy::counts_type::kind == dg::counts_kind::device) CHECK(done.said.rank == 1);
      if (done.said.rank == here.rank()) {
        CHECK(done.said.value == count);
        CHECK(done.said.limit == ts::fault_capacity);
      }
      CHECK(done.said.call == ts::first_call);
      here.meet();
      rank->require_sticky();
      ts::require_recovery<Policy>(here, std::move(rank), bytes);
    }
  });
}

TEST_CASE("the input of the combine before") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
    rank->set_counts(usual);
    const dg::step_plan plan = rank->plan();
    const dg::status first = rank->start_eagerly([&] { return rank->combine(plan, 0); });
    CHECK_MESSAGE(first.ok(), ts::text(first));
    const ts::fault_outcome alone = rank->finish();
    CHECK_MESSAGE(alone.said.ok(), ts::text(alone.said));
    here.meet();
    const dg::status second = rank->start_eagerly([&] { return rank->combine(plan, 0); });
    CHECK_MESSAGE(ts::launched_or_heard(second, dg::errc::aliasing), ts::text(second));
    const ts::fault_outcome done = rank->finish();
    CHECK_MESSAGE(done.said.code == dg::errc::aliasing, ts::text(done.said));
    CHECK(done.said.about == dg::subject::global);
    CHECK(done.ms < ts::at_once_ms);
    if (done.said.rank == here.rank()) {
      CHECK(done.said.value == 0);
      CHECK(done.said.limit == 2);
    }
    here.meet();
    rank->require_sticky();
    ts::require_recovery<ts::fault_device>(here, std::move(rank), bytes);
  });
}

TEST_CASE("live graphs are counted until they are gone, errors or not") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
    const dg::step_plan plan = rank->plan();
    CHECK(rank->world().graphs_alive() == 2);
    dg::bucket_list sizes;
    for (const std::int32_t size : {1, 2, 3}) sizes.append(size);
    dg::graph_set more;
    ts::must(more.capture(sizes, here.stream(), [&](std::int32_t) { return rank->both(plan); }),
             "capture");
    CHECK(rank->world().graphs_alive() == 5);
    dg::graph_set failed;
    const dg::status refused = rank->capture(failed, [&] {
      if (dg::status bad = rank->both(plan); !bad) return bad;
      return dg::status{.code = dg::errc::bad_config};
    });
    CHECK(refused.code == dg::errc::bad_config);
    CHECK(rank->alive_in_the_end(5) == 5);
    rank->set_counts(usual);
    here.meet();
    if (here.rank() == 0) {
      rank->start_calls(more);
      ts::check_late_rank(rank->finish(), 0, ts::first_call);
    }
    here.meet();
    rank->require_sticky();
    CHECK(rank->alive_in_the_end(5) == 5);
    const dg::status held = rank->world().close();
    CHECK_MESSAGE(held.code == dg::errc::graphs_alive, ts::text(held));
    CHECK(held.value == 5);
    CHECK(rank->world().check().code == dg::errc::timeout);
    more.clear();
    CHECK(rank->alive_in_the_end(2) == 2);
    rank->drop_graphs();
    CHECK(rank->alive_in_the_end(0) == 0);
    CHECK(rank->world().close().ok());
    CHECK(rank->world().check().code == dg::errc::timeout); // still the first
    ts::require_recovery<ts::fault_device>(here, std::move(rank), bytes);
  });
}

TEST_CASE("a world that is closed says so, and is not closed under live graphs") {
  on_two_gpus([](thread_place& here, std::size_t bytes) {
    auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
    const dg::status held = rank->world().close();
    CHECK_MESSAGE(held.code == dg::errc::graphs_alive, ts::text(held));
    CHECK(held.rank == here.rank());
    CHECK(held.value == 2);
    here.meet();
    CHECK(rank->good(100) == 0); // nothing has happened
    here.meet();
    rank->drop_graphs();
    CHECK(rank->alive_in_the_end(0) == 0);
    CHECK(rank->world().close().ok());
    CHECK(rank->world().check().code == dg::errc::peer_left);
    const dg::status refused = rank->gather(rank->plan());
    CHECK_MESSAGE(refused.code == dg::errc::poisoned, ts::text(refused));
    CHECK(refused.cause == dg::errc::peer_left);
    CHECK(rank->world().close().ok()); // nothing
    ts::require_recovery<ts::fault_device>(here, std::move(rank), bytes);
  });
}

// --- processes ----------------------------------------------------------------------------------

namespace {

constexpr const char* rank_variable = "DPGATHER_TEST_RANK";
constexpr const char* socket_variable = "DPGATHER_TEST_SOCKET";
constexpr const char* story_variable = "DPGATHER_TEST_STORY";
constexpr const char* processes_case = "processes with a device each";

/// What happens to a pair of processes.
struct process_story {
  const char* name;
  std::int32_t leaver; ///< the rank that ends first, -1: none
  bool in_order;       ///< it destroys what it made
};
constexpr process_story stories[] = {{"one never launches", -1, true},
                                     {"rank 1 leaves in order", 1, true},
                                     {"rank 0 just ends", 0, false}};

/// Until a process has ended and been waited for.
bool is_gone(std::int64_t process) {
  for (int i = 0; i < 20'000; ++i) {
    if (::kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH) return true;
    sleep_ms(1);
  }
  return false;
}

/// One rank ends between two calls. The other's next call is an error within the bound, whatever
/// the mapped memory of a process that is no more comes to.
void leaves(process_place& here, const process_story& story) {
  auto rank = ts::ready_rank<ts::fault_device>(here, ts::both_ways[0]);
  const std::uint64_t wrong = rank->good(100);
  CHECK(wrong == 0);
  const auto processes = here.share(static_cast<std::int64_t>(::getpid()));
  if (here.rank() == story.leaver) {
    if (!story.in_order) ::_exit(wrong == 0 ? 0 : 1);
    return;
  }
  if (!is_gone(processes[static_cast<std::size_t>(story.leaver)])) {
    FAIL_CHECK("the other process has not ended");
    return;
  }
  rank->start();
  const ts::fault_outcome done = rank->finish();
  MESSAGE("after ", done.ms, " ms: ", ts::text(done.said));
  CHECK(done.ms <= ts::fault_bound_ms);
  CHECK_FALSE(done.said.ok());
  if (done.said.code != dg::errc::timeout) {
    CHECK(done.said.code == dg::errc::native_error); // of the context, which is lost
    return;
  }
  CHECK(done.said.rank == here.rank());
  CHECK(done.said.peer == story.leaver);
  CHECK(rank->counts_left() == "");
  CHECK(here.is_idle());
  CHECK(here.wrong_with_context() == "");
  const auto then = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) rank->start_calls();
  const ts::fault_outcome after = rank->finish();
  CHECK(ts::ms_since(then) < ts::at_once_ms);
  CHECK(after.said.code == dg::errc::timeout);
  const dg::status refused = rank->gather(rank->plan());
  CHECK(refused.code == dg::errc::poisoned);
  CHECK(refused.cause == dg::errc::timeout);
  CHECK(rank->counts_left() == "");
  CHECK(rank->rows_left() == "");
  rank.reset();
  // Nobody to make a new world with: an error, and not a wait for one.
  const auto asked = std::chrono::steady_clock::now();
  dg::peer_world alone{here.ranks(), ts::fault_config(here.rank()).topology, here.pointers(),
                       ts::fault_limits(ts::both_ways[0]), ts::fault_deadline_ns};
  CHECK_FALSE(alone.check().ok());
  CHECK(ts::ms_since(asked) < 5000);
}

void run_process(std::int32_t rank, const char* socket, const process_story& story) {
  ts::cuda_must(cudaSetDevice(rank), "device");
  auto joined = dg::unix_socket_bootstrap::connect(rank, 2, socket);
  ts::must(joined.status(), "connect");
  process_place here{*joined};
  if (story.leaver < 0) {
    for (const std::size_t bytes : ts::both_ways) never_launches<ts::fault_device>(here, bytes);
  } else {
    leaves(here, story);
  }
}

void spawn_processes(const process_story& story) {
  const ts::fresh_path path;
  std::vector<ts::child_process> processes;
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    // All made before the fork, in which only what is async-signal-safe may be called.
    std::vector<std::string> variables{std::string{rank_variable} + "=" + std::to_string(rank),
                                       std::string{socket_variable} + "=" + path.text(),
                                       std::string{story_variable} + "=" + story.name};
    std::vector<char*> environment;
    for (char** each = environ; *each != nullptr; ++each) environment.push_back(*each);
    for (std::string& each : variables) environment.push_back(each.data());
    environment.push_back(nullptr);
    std::string program{"peer_faults"};
    std::string filter = std::string{"--test-case="} + processes_case;
    char* const arguments[]{program.data(), filter.data(), nullptr};
    processes.emplace_back([&] {
      (void)::execve("/proc/self/exe", arguments, environment.data());
      return 127;
    });
  }
  // The one that ends first first: until it is waited for it still has its number.
  const std::size_t first = story.leaver == 1 ? 1 : 0;
  CHECK(processes[first].exit_code() == 0);
  CHECK(processes[1 - first].exit_code() == 0);
}

} // namespace

TEST_CASE(processes_case) {
  const char* const rank = std::getenv(rank_variable);
  for (const process_story& story : stories) {
    CAPTURE(story.name);
    const ts::hang_guard guard;
    if (rank == nullptr) {
      spawn_processes(story);
    } else if (std::string_view{std::getenv(story_variable)} == story.name) {
      run_process(std::atoi(rank), std::getenv(socket_variable), story);
    }
  }
}

// --- soak ---------------------------------------------------------------------------------------

TEST_CASE("soak") {
  const std::uint64_t calls = ts::detail::number_from("DPGATHER_SOAK_CALLS", 0);
  if (calls == 0) {
    MESSAGE("skipped: DPGATHER_SOAK_CALLS says how many gathers, each with its combine");
    return;
  }
  on_two_gpus([calls](thread_place& here, std::size_t bytes) {
    constexpr int batch = 1000;
    constexpr std::size_t slack = 4U << 20; // of a device that others may use
    const auto free_bytes = [&here] {
      std::size_t out = 0, total = 0;
      here.meet();
      ts::cuda_must(cudaMemGetInfo(&out, &total), "memory");
      here.meet();
      return out;
    };
    auto rank = ts::ready_rank<ts::fault_device>(here, bytes);
    CHECK(rank->good(batch) == 0);
    const std::size_t before = free_bytes();
    std::uint64_t wrong = 0;
    for (std::uint64_t done = 0; done < (calls + 1) / 2 && wrong == 0; done += batch) { // each way
      if (here.rank() == 0) (void)::alarm(60); // for each batch
      const auto found = here.share(rank->good(batch));
      wrong = found[0] + found[1];
    }
    CHECK(wrong == 0);
    const std::size_t after = free_bytes();
    CHECK(after + slack >= before);
    rank.reset();
    here.meet();
  });
}
