#pragma once

/// @file
/// Ranks that are to fail: a place that outlives channels (a GPU, a stream, memory of all ranks),
/// channels made on it one after the other, and what must be true of each after a fault.

#include "peer_engine.cuh"

#include <dpgather/device/stream_wait.cuh>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

namespace test_support {

struct fault_device : dg::policy<dg::mode::exact, dg::counts::device, dg::layout::packed,
                                 dg::lookup::own, dg::ladder::from_config, dg::comm::peer> {};
struct fault_exchanged : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::layout::packed,
                                    dg::lookup::own, dg::ladder::from_config, dg::comm::peer> {};
struct fault_all_gather : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::lookup::max,
                                     dg::ladder::from_config, dg::comm::peer> {};
struct fault_slots : dg::policy<dg::mode::exact, dg::padding::max_len, dg::layout::slots,
                                dg::lookup::max, dg::ladder::from_config, dg::comm::peer> {};

inline constexpr std::int64_t fault_deadline_ns = 300'000'000;
/// Every error is there by then: a deadline, a fifth of it, and 100 ms.
inline constexpr double fault_bound_ms = 1.2 * 300 + 100;
/// What nobody waits for anybody in.
inline constexpr double at_once_ms = 50;
/// Waits on the host, so that a kernel that hangs fails the test.
inline constexpr std::int64_t fault_wait_ns = 10'000'000'000;

inline constexpr std::int32_t fault_capacity = 40; ///< rows of a rank
inline constexpr std::int32_t fault_small_bucket = 16;
inline constexpr std::int32_t fault_hidden = 60;
using rows_of_two = std::array<std::int32_t, 2>;

[[nodiscard]] inline dg::gather_config fault_config(std::int32_t rank) {
  dg::gather_config out;
  out.topology = {.dp_size = 2, .tp_size = 1, .dp_rank = rank, .tp_rank = 0};
  out.element = dg::element::f32;
  out.row_bytes = fault_hidden * sizeof(float);
  out.max_rows_per_rank = fault_capacity;
  out.ladder.append(fault_small_bucket);
  out.ladder.append(fault_capacity);
  return out;
}
/// The same for all policies here, so that ranks of two policies may meet by mistake.
[[nodiscard]] inline dg::peer_limits fault_limits(std::size_t most_line_bytes) {
  return limits_for<fault_slots>(fault_config(0), most_line_bytes);
}
/// Rows travel in lines, or are stored and loaded.
inline constexpr std::size_t both_ways[] = {std::size_t{1} << 20, 0};

[[nodiscard]] inline double ms_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - then).count();
}
inline std::string text(const dg::status& s) { return std::string{s.message().view()}; }

/// For the test of a context: other words out than in.
struct change_words {
  const std::uint32_t* from = nullptr;
  std::uint32_t* to = nullptr;
  std::uint64_t count = 0;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept { return count; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    for (std::uint64_t i = worker.index; i < count; i += worker.count) to[i] = from[i] * 3 + 1;
  }
};

/// Counts as an engine's kernel writes them.
struct set_rows {
  dg::count_set* live = nullptr;
  std::int32_t first = 0, second = 0;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    if (worker.index != 0) return;
    live->rows[0] = first;
    live->rows[1] = second;
  }
};

/// One of two ranks: its GPU, its stream, the memory of both. Channels come and go on it.
template <class Bootstrap, class Memory>
class fault_place {
public:
  explicit fault_place(Bootstrap& ranks)
      : ranks_{ranks}, stream_{stream_on(ranks.rank())}, memory_{ranks, most_arena_bytes()} {
    must(memory_.check(), "memory");
  }
  fault_place(const fault_place&) = delete;
  fault_place& operator=(const fault_place&) = delete;
  ~fault_place() {
    // The other rank's kernels may store here until their own deadline.
    if (std::uncaught_exceptions() > 0)
      std::this_thread::sleep_for(std::chrono::nanoseconds{2 * fault_deadline_ns});
    (void)cudaStreamDestroy(stream_);
  }

  [[nodiscard]] Bootstrap& ranks() { return ranks_; }
  [[nodiscard]] std::int32_t rank() const { return ranks_.rank(); }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] dg::peer_pointers pointers() const { return memory_.pointers(); }

  void meet() { must(ranks_.barrier(), "barrier"); }
  template <class T>
  [[nodiscard]] std::array<T, 2> share(const T& mine) {
    std::array<T, 2> out{};
    must(ranks_.all_gather(&mine, out.data(), sizeof mine), "all_gather");
    return out;
  }

  /// A copy in, a kernel, a copy out: what is wrong with this GPU's context.
  [[nodiscard]] std::string wrong_with_context() {
    constexpr std::size_t count = 1000;
    std::vector<std::uint32_t> words(count);
    for (std::size_t i = 0; i < count; ++i) words[i] = static_cast<std::uint32_t>(i);
    const device_bytes from{count * 4}, to{count * 4};
    cuda_must(cudaMemcpy(from.get(), words.data(), count * 4, cudaMemcpyHostToDevice), "copy in");
    const change_words job{from.template as<std::uint32_t>(), to.template as<std::uint32_t>(),
                           count};
    if (dg::status bad = dg::executor<cudaStream_t>::run(job, 0, stream_); !bad) return text(bad);
    const auto never = []() noexcept { return dg::status{}; };
    if (dg::status bad = dg::wait_for(stream_, fault_wait_ns, never); !bad) return text(bad);
    cuda_must(cudaMemcpy(words.data(), to.get(), count * 4, cudaMemcpyDeviceToHost), "copy out");
    for (std::size_t i = 0; i < count; ++i)
      if (words[i] != i * 3 + 1) return "word " + std::to_string(i);
    return {};
  }
  [[nodiscard]] bool is_idle() const { return cudaStreamQuery(stream_) == cudaSuccess; }

private:
  static std::size_t most_arena_bytes() {
    std::size_t most = 0;
    for (const std::size_t way : both_ways) most = std::max(most, arena_bytes(fault_limits(way)));
    return most;
  }

  Bootstrap& ranks_;
  cudaStream_t stream_;
  Memory memory_;
};

/// What a rank's stream came to, and how long after the launch.
struct fault_outcome {
  dg::status said;
  double ms = 0;
};

/// One rank's channel of one policy. Collective construction.
///
/// Two graphs: 20 steps that write their inputs and check their outputs, and a gather with its
/// combine alone.
template <class Policy, class Place>
class fault_rank {
public:
  static constexpr dg::counts_kind source = Policy::counts_type::kind;
  static constexpr int steps_in_graph = 20;

  fault_rank(Place& here, std::size_t most_line_bytes)
      : here_{here}, config_{fault_config(here.rank())}, world_{here.ranks(), config_.topology,
                                                                here.pointers(),
                                                                fault_limits(most_line_bytes),
                                                                fault_deadline_ns},
        workspace_{std::max<std::size_t>(workspace_for<Policy>(config_), 256)},
        dp_{f32_communicator{world_}, config_, {workspace_.get(), workspace_for<Policy>(config_)}},
        local_{fault_capacity * fault_hidden * sizeof(float)},
        output_{fault_capacity * fault_hidden * sizeof(float)}, numbers_{4096, 0} {
    must(world_.check(), "world");
    must(dp_.check(), "DpGather");
    const dg::step_plan shape = plan();
    part_ = peer_step::of(numbers_, dp_, config_.topology, fault_capacity, fault_hidden, shape);
    must(capture(graphs_,
                 [&] {
                   for (int i = 0; i < steps_in_graph; ++i)
                     if (dg::status bad = step(shape, i); !bad) return bad;
                   return dg::status{};
                 }),
         "capture of steps");
    must(capture(calls_, [&] { return both(shape); }), "capture of calls");
  }
  fault_rank(const fault_rank&) = delete;
  fault_rank& operator=(const fault_rank&) = delete;
  ~fault_rank() {
    (void)world_.wait(here_.stream(), fault_wait_ns);
    drop_graphs();
    (void)alive_in_the_end(0); // or the world would keep its page
  }

  [[nodiscard]] dg::peer_world& world() { return world_; }
  [[nodiscard]] peer_dp<Policy>& dp() { return dp_; }
  void drop_graphs() {
    graphs_.clear();
    calls_.clear();
  }
  /// Graphs that hold calls. CUDA may let go of one a little later than the destroying call
  /// returns.
  [[nodiscard]] std::int32_t alive_in_the_end(std::int32_t expected) const {
    for (int i = 0; i < 2000 && world_.graphs_alive() != expected; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    return world_.graphs_alive();
  }
  /// A graph of whatever `body` enqueues.
  template <class Body>
  [[nodiscard]] dg::status capture(dg::graph_set& into, Body body) {
    dg::bucket_list one;
    one.append(1);
    return into.capture(one, here_.stream(), [&](std::int32_t) { return body(); });
  }

  // --- plans and counts -------------------------------------------------------------------------

  /// The shape that every split fits.
  [[nodiscard]] dg::step_plan plan() const {
    if constexpr (source == dg::counts_kind::agreed) {
      const auto out = dp_.capture_plan(fault_capacity);
      must(out.status(), "capture plan");
      return *out;
    } else {
      const auto out = dp_.plan(graph_record(dp_, here_.rank(), 0));
      must(out.status(), "plan");
      return *out;
    }
  }
  /// The plan of agreed counts, outside graphs unless `in_graph`.
  [[nodiscard]] dg::step_plan plan_of(const rows_of_two& rows, bool in_graph) const {
    std::array<dg::step_record, 2> records{graph_record(dp_, 0, rows[0]),
                                           graph_record(dp_, 1, rows[1])};
    for (dg::step_record& each : records)
      each.votes = in_graph ? dg::step_record::graph_vote : std::uint8_t{0};
    const auto out = dp_.plan(records);
    must(out.status(), "plan of counts");
    return *out;
  }
  /// This shape with other counts.
  [[nodiscard]] dg::step_plan with_counts(dg::step_plan shape, const rows_of_two& rows) const {
    if constexpr (source == dg::counts_kind::agreed)
      shape = with_counts_of(shape, plan_of(rows, true));
    return shape;
  }
  /// Counts of the next calls, where kernels read them.
  void set_counts(const rows_of_two& rows) {
    if constexpr (source == dg::counts_kind::agreed) {
      must(dp_.refresh_counts(with_counts(plan(), rows), here_.stream()), "refresh");
    } else {
      must(run(set_rows{part_.live, rows[0], rows[1]}), "counts");
    }
  }

  // --- calls ------------------------------------------------------------------------------------

  [[nodiscard]] dg::status gather(const dg::step_plan& by) {
    return dp_
        .gather(dg::rows_of<dg::replicated>(static_cast<const float*>(local_.template as<float>()),
                                            fault_capacity, fault_hidden),
                by, here_.stream())
        .status();
  }
  [[nodiscard]] dg::status combine(const dg::step_plan& by, std::int32_t which = 0) {
    return dp_.combine(
        dp_.combine_input(by, which),
        dg::rows_of<dg::replicated>(output_.template as<float>(), fault_capacity, fault_hidden), by,
        here_.stream());
  }
  [[nodiscard]] dg::status both(const dg::step_plan& by) {
    if (dg::status bad = gather(by); !bad) return bad;
    return combine(by);
  }

  /// Launches the graph of steps; the clock of `finish` starts.
  void start() {
    launched_ = std::chrono::steady_clock::now();
    launch_steps();
  }
  /// The same for the graph of calls, by counts that have been set.
  void start_calls() { start_calls(calls_); }
  void start_calls(dg::graph_set& graph) {
    launched_ = std::chrono::steady_clock::now();
    must(graph.launch(1, here_.stream()), "launch");
  }
  /// The same for calls that `body` makes. Answers what it answers.
  template <class Body>
  [[nodiscard]] dg::status start_eagerly(Body body) {
    launched_ = std::chrono::steady_clock::now();
    return body();
  }
  [[nodiscard]] fault_outcome finish() {
    const dg::status said = world_.wait(here_.stream(), fault_wait_ns);
    return {said, ms_since(launched_)};
  }

  /// Steps that must go well, a multiple of 20; the number of wrong bytes and counts so far.
  [[nodiscard]] std::uint64_t good(int steps) {
    for (int done = 0; done < steps; done += steps_in_graph) launch_steps();
    must(world_.wait(here_.stream(), fault_wait_ns), "good steps");
    return wrong();
  }
  [[nodiscard]] std::uint64_t wrong() const {
    unsigned long long out = 0;
    cuda_must(cudaMemcpy(&out, part_.wrong, sizeof out, cudaMemcpyDeviceToHost), "wrong");
    return out;
  }

  // --- after a fault ----------------------------------------------------------------------------

  /// What is left where kernels behind a gather read counts; empty for zeros.
  [[nodiscard]] std::string counts_left() const {
    dg::count_set live;
    cuda_must(cudaMemcpy(&live, part_.live, sizeof live, cudaMemcpyDeviceToHost), "counts");
    for (int d = 0; d < 2; ++d) {
      if (live.rows[d] != 0) return "rows of " + std::to_string(d);
      if (live.offset[d + 1] != 0) return "offset of " + std::to_string(d + 1);
    }
    return live.total == 0 && live.offset[0] == 0 ? std::string{} : std::string{"total"};
  }
  /// The same for view and output.
  [[nodiscard]] std::string rows_left() {
    const auto view = dp_.view(plan());
    const auto view_bytes =
        static_cast<std::size_t>(plan().global_rows) * fault_hidden * sizeof(float);
    if (!is_zero(view.data(), view_bytes)) return "view";
    const bool zero = is_zero(output_.get(), fault_capacity * fault_hidden * sizeof(float));
    return zero ? std::string{} : std::string{"output"};
  }

  /// Ten more replays return at once and leave nothing, calls answer the first cause. Where this
  /// rank has not heard so far, it hears now. Every rank's stream is idle before. Collective.
  void require_sticky() {
    const dg::status before = world_.check();
    launched_ = std::chrono::steady_clock::now();
    for (int i = 0; i < 10; ++i) must(calls_.launch(1, here_.stream()), "launch");
    const fault_outcome now = finish();
    CHECK(now.ms < at_once_ms);
    CHECK_MESSAGE(!now.said.ok(), "ten replays on rank ", here_.rank(), " went well");
    CHECK(counts_left() == "");
    CHECK(rows_left() == "");
    if (!before.ok()) check_same(now.said, before);
    check_poisoned(gather(plan()), now.said);
    check_poisoned(combine(plan()), now.said);
    check_poisoned(dp_.refresh_counts(plan(), here_.stream()), now.said);
    dg::graph_set none;
    check_poisoned(capture(none, [&] { return both(plan()); }), now.said);
    CHECK(here_.is_idle()); // nothing was launched
    check_same(world_.check(), now.said);
    here_.meet();
  }

private:
  static void check_same(const dg::status& found, const dg::status& first) {
    CHECK_MESSAGE(found.code == first.code, text(found), " instead of ", text(first));
    CHECK(found.about == first.about);
    CHECK(found.rank == first.rank);
    CHECK(found.peer == first.peer);
    CHECK(found.call == first.call);
  }
  static void check_poisoned(const dg::status& found, const dg::status& first) {
    CHECK_MESSAGE(found.code == dg::errc::poisoned, text(found));
    CHECK_MESSAGE(found.cause == first.code, text(found), " after ", text(first));
    CHECK(found.rank == first.rank);
    CHECK(found.peer == first.peer);
  }
  static bool is_zero(const void* data, std::size_t bytes) {
    std::vector<std::byte> found(bytes);
    cuda_must(cudaMemcpy(found.data(), data, bytes, cudaMemcpyDeviceToHost), "rows");
    for (const std::byte b : found)
      if (b != std::byte{0}) return false;
    return true;
  }

  [[nodiscard]] std::int32_t most_total() const {
    return static_cast<std::int32_t>(plan().global_rows);
  }
  /// With agreed counts all steps of a graph have the same ones, and the host knows which.
  void launch_steps() {
    if constexpr (source == dg::counts_kind::agreed) {
      const std::int32_t most = most_total();
      const std::int32_t first = begin_step::counts_of(next_step_ + 1, 0, fault_capacity, most);
      set_counts({first, begin_step::counts_of(next_step_ + 1, 1, fault_capacity, most - first)});
    }
    next_step_ += source == dg::counts_kind::agreed ? 1 : steps_in_graph;
    must(graphs_.launch(1, here_.stream()), "launch");
  }
  template <class Job>
  [[nodiscard]] dg::status run(const Job& job) {
    return dg::executor<cudaStream_t>::run(job, 0, here_.stream());
  }
  /// One step of an engine.
  [[nodiscard]] dg::status step(const dg::step_plan& shape, int index) {
    if (source != dg::counts_kind::agreed || index == 0) {
      if (dg::status bad = run(begin_step{part_, most_total(), source}); !bad) return bad;
    }
    if (dg::status bad = run(write_local{part_, local_.template as<float>()}); !bad) return bad;
    if (dg::status bad = gather(shape); !bad) return bad;
    if (dg::status bad =
            run(check_global{part_, reinterpret_cast<const float*>(dp_.view(shape).data())});
        !bad)
      return bad;
    const std::int32_t which = index % 2;
    auto* const addends = reinterpret_cast<float*>(dp_.combine_input(shape, which).data());
    if (dg::status bad = run(write_addends{part_, addends}); !bad) return bad;
    if (dg::status bad = combine(shape, which); !bad) return bad;
    return run(check_output{part_, output_.template as<float>()});
  }

  Place& here_;
  dg::gather_config config_;
  dg::peer_world world_;
  device_bytes workspace_;
  peer_dp<Policy> dp_;
  device_bytes local_, output_, numbers_;
  peer_step part_{};
  dg::graph_set graphs_, calls_;
  std::uint64_t next_step_ = 0;
  std::chrono::steady_clock::time_point launched_{};
};

template <class Policy, class Place>
using fault_rank_ptr = std::unique_ptr<fault_rank<Policy, Place>>;

inline constexpr int warm_steps = 20;
/// The call in which a fault after the warm-up happens, if it is the next one.
inline constexpr std::uint64_t first_call = 2 * warm_steps + 1;

/// A channel on both ranks; nobody launches before the other has captured. Collective.
template <class Policy, class Place>
[[nodiscard]] fault_rank_ptr<Policy, Place> make_rank(Place& here, std::size_t most_line_bytes) {
  auto out = std::make_unique<fault_rank<Policy, Place>>(here, most_line_bytes);
  here.meet();
  return out;
}
/// The same after some steps, so that all kernels are loaded and buffers hold rows. Collective.
template <class Policy, class Place>
[[nodiscard]] fault_rank_ptr<Policy, Place> ready_rank(Place& here, std::size_t most_line_bytes) {
  auto out = make_rank<Policy>(here, most_line_bytes);
  CHECK(out->good(warm_steps) == 0);
  here.meet();
  return out;
}

/// How every case ends: contexts work, streams are idle, and a new world over the same memory does
/// 1,000 steps without a wrong byte. Collective.
template <class AfterPolicy, class Policy, class Place>
void require_recovery(Place& here, fault_rank_ptr<Policy, Place> rank,
                      std::size_t most_line_bytes) {
  CHECK(here.is_idle());
  CHECK(here.wrong_with_context() == "");
  here.meet();
  rank.reset();
  here.meet();
  auto next = make_rank<AfterPolicy>(here, most_line_bytes);
  CHECK(next->good(1000) == 0);
  CHECK(next->world().check().ok());
  here.meet();
}

/// A call that meets an error under way may be launched, or its host half may know by then.
inline bool launched_or_heard(const dg::status& answer, dg::errc cause) {
  return answer.ok() || answer.code == cause ||
         (answer.code == dg::errc::poisoned && answer.cause == cause);
}

/// Rank 0 waited for rank 1, in call `call`, and said so to the `listener` within the bound.
inline void check_late_rank(const fault_outcome& found, std::int32_t listener, std::uint64_t call) {
  CHECK_MESSAGE(found.said.code == dg::errc::timeout, text(found.said));
  CHECK(found.said.rank == 0);
  CHECK(found.said.peer == 1);
  CHECK(found.said.call == call);
  if (listener == found.said.rank) CHECK(found.said.limit == fault_deadline_ns / 1000);
  CHECK(found.ms <= fault_bound_ms);
}

/// Both ranks know that their calls differed, and between whom; who found it knows how: `names` and
/// `values` by rank, of which null and negative ones are not looked at. Collective.
template <class Place>
void check_mismatch(Place& here, const fault_outcome& found, dg::subject about,
                    const std::array<const char*, 2>& names,
                    const std::array<std::int64_t, 2>& values) {
  const dg::status& said = found.said;
  INFO("rank ", here.rank(), ": ", text(said));
  CHECK(found.ms <= fault_bound_ms);
  CHECK(said.code == dg::errc::plan_mismatch);
  const bool named = (said.rank == 0 || said.rank == 1) && said.peer == 1 - said.rank;
  CHECK(named);
  const bool own = named && said.rank == here.rank();
  if (own) {
    const auto mine = static_cast<std::size_t>(said.rank);
    const auto theirs = static_cast<std::size_t>(said.peer);
    CHECK(said.about == about);
    if (names[mine] != nullptr) {
      CHECK(said.value_name != nullptr);
      CHECK(said.limit_name != nullptr);
      if (said.value_name != nullptr) CHECK(std::string_view{said.value_name} == names[mine]);
      if (said.limit_name != nullptr) CHECK(std::string_view{said.limit_name} == names[theirs]);
    }
    if (values[mine] >= 0) {
      CHECK(said.value == values[mine]);
      CHECK(said.limit == values[theirs]);
    }
  }
  const std::array<std::int32_t, 2> finders = here.share(std::int32_t{own ? 1 : 0});
  CHECK(finders[0] + finders[1] >= 1);
}

} // namespace test_support
