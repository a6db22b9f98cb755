// Fault runs: a world of ranks works through steps (records, agreement, plan, gather, combine) on a
// manual clock, one rank makes one mistake, and every rank must answer what the promises say,
// within two deadlines, with the same first cause, and never succeed again after a sticky error.
//
// DPGATHER_TEST_CASES: number of runs, 400 if not set; `all` for the whole grid.

#include <support/fault_world.hpp>

#include <dpgather/dp_gather.hpp>
#include <dpgather/plan.hpp>
#include <dpgather/policy.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;
using test_support::real_world;
using test_support::schedule_noise;
using test_support::virtual_world;
using test_support::watchdog;

constexpr host_stream stream{};
constexpr std::int32_t hidden = 4;
constexpr std::size_t row_bytes = hidden * sizeof(std::int32_t);
constexpr std::int32_t max_rows = 16;
constexpr std::uint64_t steps = 3;

std::size_t at(std::int32_t i) { return static_cast<std::size_t>(i); }

// --- policies ---------------------------------------------------------------------------------

/// What a thread does once inside its next gather, after the announcement and before any row moves.
thread_local std::function<void()> inside_call; // NOLINT: the functor below is stateless

struct stopping_point {
  static void apply(const std::byte* from, std::byte* to, std::size_t bytes) noexcept {
    if (inside_call) std::exchange(inside_call, nullptr)();
    if (from != to) std::memcpy(to, from, bytes);
  }
};
using with_stop = row_op::apply_to_rows<stopping_point>;

/// All-gather or all-reduce, whichever is cheaper; in graphs the bucket of the longest rank.
struct classic
    : policy<mode::choose<rule::strict_volume, mode::with<mode::all_gather, padding::max_len>,
                          mode::with<mode::all_reduce, padding::sum_len>>,
             in_graph<mode::all_gather, padding::max_len>, lookup::max, ladder::list<4, 8, 16>,
             combine::all_reduce_then_scatter, with_stop> {
  using other_mode = policy<mode::exact, padding::none>;
};

/// Real rows only; in graphs the bucket of the sum.
struct exact : policy<mode::exact, padding::sum_len, lookup::own_and_sum, ladder::list<4, 8, 16>,
                      eager<padding::none>, with_stop> {
  using other_mode = policy<mode::all_gather, padding::max_len>;
};

// --- faults -----------------------------------------------------------------------------------

enum class op : std::uint8_t { agree, gather, combine, scatter, barrier };

const char* name_of(op o) {
  constexpr const char* names[] = {"agree", "gather", "combine", "scatter", "barrier"};
  return names[static_cast<std::size_t>(o)];
}

enum class mistake : std::uint8_t {
  none,
  // the order of calls
  skip,
  extra,
  swapped,
  // another plan, or views of another shape
  wrong_mode,
  wrong_bucket,
  other_counts,
  wrong_element,
  wrong_row_bytes,
  stale_plan,
  // gone or late
  stop,
  stop_inside,
  leave_at_once,
  leave_while_others_wait,
  exception,
  abort,
  slow_below,
  slow_above,
  slow_inside_below,
  slow_inside_above,
  // the record
  bad_magic,
  bad_version,
  bad_phase,
  bad_world_rank,
  negative_count,
  count_above_capacity,
  peers_differ,
  other_config,
  other_step,
  other_width,
  other_last_plan,
  cannot_run,
  // refused input
  null_local,
  short_local,
  short_global,
  misaligned,
  local_of_other_element,
  global_of_other_element,
  aliasing,
  plan_of_other_world,
  small_workspace,
  // two threads
  second_thread,
  second_thread_inside,
};

/// Where a row of the table holds.
enum class needs : std::uint8_t { nothing, graph, peers, no_peers };

/// One row of the table of promises.
struct fault {
  std::string name{};
  mistake what = mistake::none;
  op where = op::agree;          ///< the call in which the mistake is made
  errc victim = errc::ok;        ///< what the rank that makes it answers
  errc others = errc::ok;        ///< what the others answer
  errc sticky = errc::ok;        ///< cause of `poisoned` in every later call; ok: later calls work
  subject about = subject::none; ///< what the error is about, where a promise says so
  op intruder = op::barrier;     ///< what the second thread calls
  needs only = needs::nothing;
};

/// The table, from the promises: refused input is named by the rank at fault, the others answer
/// `peer_refused` and the next call works; a divergence is `plan_mismatch` on all ranks and sticky;
/// a rank that is late or gone is named by all, and finds the world poisoned when it comes; what is
/// wrong with a record is answered alike on every rank.
std::vector<fault> table() {
  std::vector<fault> out;
  const auto add = [&](const char* name, mistake what, std::vector<op> where, fault row) {
    for (const op o : where) {
      row.what = what;
      row.where = o;
      row.name = std::string{name} + " in " + name_of(o);
      out.push_back(row);
    }
  };
  const std::vector<op> all{op::agree, op::gather, op::combine};
  const std::vector<op> calls{op::gather, op::combine};
  const auto alike = [](errc code, subject about) {
    return fault{.victim = code, .others = code, .about = about};
  };
  const auto diverged = [](subject about) {
    return fault{.victim = errc::plan_mismatch,
                 .others = errc::plan_mismatch,
                 .sticky = errc::plan_mismatch,
                 .about = about};
  };
  const auto refused = [](errc code, subject about) {
    return fault{.victim = code, .others = errc::peer_refused, .about = about};
  };
  const auto late = [](errc code) {
    return fault{.victim = errc::poisoned, .others = code, .sticky = code};
  };
  const auto only = [](fault row, needs what) {
    row.only = what;
    return row;
  };

  add("nothing", mistake::none, {op::agree}, {});
  add("call left out", mistake::skip, all, diverged(subject::operation));
  add("call made twice", mistake::extra, all, diverged(subject::operation));
  add("combine before gather", mistake::swapped, {op::gather}, diverged(subject::operation));
  add("other mode", mistake::wrong_mode, calls, diverged(subject::mode));
  add("other bucket", mistake::wrong_bucket, calls, only(diverged(subject::mode), needs::graph));
  add("other counts", mistake::other_counts, calls, diverged(subject::counts));
  add("other element", mistake::wrong_element, calls, diverged(subject::element));
  add("other row bytes", mistake::wrong_row_bytes, calls, diverged(subject::row_bytes));
  add("plan of the step before", mistake::stale_plan, calls, diverged(subject::step));

  add("thread stops before the call", mistake::stop, all, late(errc::timeout));
  add("thread stops inside the call", mistake::stop_inside, {op::gather},
      {.victim = errc::timeout, .others = errc::timeout, .sticky = errc::timeout});
  add("leaves at once", mistake::leave_at_once, all, late(errc::peer_left));
  add("leaves while others wait", mistake::leave_while_others_wait, all, late(errc::peer_left));
  add("exception in user code", mistake::exception, all, late(errc::peer_left));
  add("abort while others wait", mistake::abort, all, late(errc::native_error));
  add("just below the deadline", mistake::slow_below, all, {});
  add("just above the deadline", mistake::slow_above, all, late(errc::timeout));
  add("inside the call, just below the deadline", mistake::slow_inside_below, {op::gather}, {});
  add("inside the call, just above the deadline", mistake::slow_inside_above, {op::gather},
      {.victim = errc::timeout, .others = errc::timeout, .sticky = errc::timeout});

  const std::vector<op> agree{op::agree};
  add("foreign magic", mistake::bad_magic, agree, alike(errc::bad_record, subject::record));
  add("foreign version", mistake::bad_version, agree, alike(errc::bad_record, subject::record));
  add("phase out of range", mistake::bad_phase, agree, alike(errc::bad_record, subject::phase));
  add("record of another rank", mistake::bad_world_rank, agree,
      alike(errc::bad_group, subject::rank));
  add("negative count", mistake::negative_count, agree,
      alike(errc::count_out_of_range, subject::tokens));
  add("count above capacity", mistake::count_above_capacity, agree,
      only(alike(errc::count_out_of_range, subject::tokens), needs::no_peers));
  add("attention-TP peers hold other counts", mistake::peers_differ, agree,
      only(alike(errc::config_mismatch, subject::tokens), needs::peers));
  add("other configuration", mistake::other_config, agree,
      alike(errc::config_mismatch, subject::config));
  add("other step number", mistake::other_step, agree, alike(errc::config_mismatch, subject::step));
  add("other width", mistake::other_width, agree, alike(errc::config_mismatch, subject::width));
  add("another plan was run before", mistake::other_last_plan, agree, diverged(subject::last_plan));
  add("cannot run", mistake::cannot_run, agree, alike(errc::rank_cannot_run, subject::none));

  add("null local", mistake::null_local, calls, refused(errc::null_pointer, subject::local));
  add("fewer rows than announced", mistake::short_local, calls,
      refused(errc::count_changed, subject::local));
  add("global tensor too small", mistake::short_global, calls,
      refused(errc::capacity_exceeded, subject::global));
  add("misaligned", mistake::misaligned, calls, refused(errc::misaligned, subject::local));
  add("local of another element than global", mistake::local_of_other_element, calls,
      refused(errc::shape_mismatch, subject::element));
  add("global of another element than local", mistake::global_of_other_element, calls,
      refused(errc::shape_mismatch, subject::element));
  add("aliasing", mistake::aliasing, calls, refused(errc::aliasing, subject::none));
  add("plan of another world", mistake::plan_of_other_world, calls,
      refused(errc::bad_group, subject::world));
  add("workspace too small", mistake::small_workspace, agree,
      {.victim = errc::capacity_exceeded, .others = errc::rank_cannot_run});

  for (const op o : {op::agree, op::gather, op::combine, op::scatter, op::barrier}) {
    const std::string name = std::string{"second thread calls "} + name_of(o);
    add(name.c_str(), mistake::second_thread, all, {.intruder = o});
    if (o != op::barrier) { // inside a gather, and between its collectives
      add((name + ", inside").c_str(), mistake::second_thread_inside, {op::gather},
          {.intruder = o});
    }
  }
  return out;
}

/// One run: a row of the table in one world.
struct fault_case {
  fault row;
  topology shape{};
  std::int32_t victim = 0;
  std::uint64_t step = 0; // in which the mistake is made
  bool in_graph = false;
  bool is_exact = false;
  bool partial_input = false;
  std::uint64_t seed = 0;

  [[nodiscard]] bool is(mistake what) const { return row.what == what; }
  [[nodiscard]] std::string name() const {
    return row.name + ", W=" + std::to_string(shape.dp_size) +
           " A=" + std::to_string(shape.tp_size) + ", rank " + std::to_string(victim) + ", step " +
           std::to_string(step) + (is_exact ? ", exact" : ", classic") +
           (in_graph ? " in graph" : "") + (partial_input ? ", partial" : "") + ", seed " +
           std::to_string(seed);
  }
};

/// The grid: every row, every world, the first, a middle and the last rank as victim; in an order
/// in which any beginning has all rows.
std::vector<fault_case> grid() {
  std::vector<std::vector<fault_case>> by_row;
  random_source random{test_support::seed()};
  for (const fault& row : table()) {
    std::vector<fault_case> cases;
    for (const std::int32_t dp : {2, 3, 4, 8}) {
      for (const std::int32_t tp : {1, 2}) {
        if ((row.only == needs::peers && tp == 1) || (row.only == needs::no_peers && tp > 1))
          continue;
        const std::int32_t last = dp * tp - 1;
        for (const std::int32_t victim : {0, random.between(1, last), last}) {
          fault_case c{.row = row, .shape = {dp, tp}, .victim = victim};
          c.step = random.between<std::uint64_t>(0, 1);
          const bool needs_step_before = row.what == mistake::stale_plan ||
                                         (row.what == mistake::skip && row.where == op::agree);
          if (needs_step_before) c.step = 1;
          c.in_graph = row.only == needs::graph || random.chance(40);
          c.is_exact = random.chance(50);
          // Only partial inputs pass the stopping point on all attention-TP ranks.
          c.partial_input =
              tp > 1 &&
              (row.what == mistake::stop_inside || row.what == mistake::slow_inside_below ||
               row.what == mistake::slow_inside_above ||
               row.what == mistake::second_thread_inside || random.chance(50));
          c.seed = random() % 1'000'000;
          cases.push_back(c);
        }
      }
    }
    std::vector<fault_case> shuffled;
    for (const std::uint64_t i : random.order(cases.size())) shuffled.push_back(cases[i]);
    by_row.push_back(shuffled);
  }
  std::vector<fault_case> out;
  for (std::size_t round = 0; out.size() < 100'000; ++round) {
    const std::size_t before = out.size();
    for (const auto& cases : by_row) {
      if (round < cases.size()) out.push_back(cases[round]);
    }
    if (out.size() == before) break;
  }
  return out;
}

// --- what is moved ------------------------------------------------------------------------------

std::int32_t word(std::uint64_t seed, std::uint64_t step, std::uint64_t salt, std::int64_t a,
                  std::int64_t b) {
  random_source hash{((seed * 31 + step) * 31 + salt) * 1'000'003 +
                     static_cast<std::uint64_t>(a * 4099 + b)};
  return static_cast<std::int32_t>(hash());
}
std::int32_t plus(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}
std::int32_t minus(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) - static_cast<std::uint32_t>(b));
}

/// Counts of every step; equal on all ranks, as an engine's scheduler would deal them.
struct workload {
  topology shape{};
  std::uint64_t seed;
  bool in_graph;
  std::vector<std::vector<std::int32_t>> counts; // [step][dp rank]

  explicit workload(const fault_case& c) : shape{c.shape}, seed{c.seed}, in_graph{c.in_graph} {
    random_source random{c.seed};
    for (std::uint64_t s = 0; s < steps; ++s) {
      std::vector<std::int32_t> rows(at(shape.dp_size));
      const std::int32_t most = in_graph ? 8 : max_rows;
      for (std::int32_t& n : rows) n = random.chance(25) ? 0 : random.between(1, most);
      if (random.chance(10)) std::fill(rows.begin(), rows.end(), 0);
      if (s == c.step && !c.is(mistake::none)) {
        // The mistake must be able to show: the victim has rows, and no two neighbours as many.
        for (std::size_t d = 0; d < rows.size(); ++d) {
          rows[d] = 1 + (rows[d] + static_cast<std::int32_t>(d % 2) * 4) % 8;
          if (d > 0 && rows[d] == rows[d - 1]) rows[d] = rows[d] % 8 + 1;
        }
      }
      counts.push_back(rows);
    }
  }

  [[nodiscard]] step_record record(step_record out, std::int32_t rank, std::uint64_t s) const {
    out.step = s + 1;
    out.world_rank = rank;
    out.tokens = counts[s][at(rank / shape.tp_size)];
    out.logits_tokens = out.requests = out.tokens;
    out.phase = out.tokens == 0 ? phase::idle : phase::decode;
    if (in_graph) out.votes = step_record::graph_vote;
    return out;
  }
  /// What all ranks agree on in step `s`, without asking anybody.
  [[nodiscard]] agreement agreed(std::uint64_t s) const {
    std::vector<step_record> records;
    for (std::int32_t r = 0; r < shape.world_size(); ++r) records.push_back(record({}, r, s));
    return *merge(records, shape);
  }
  /// Row `i` of data-parallel rank `d` as the gather must deliver it.
  [[nodiscard]] std::int32_t row(std::uint64_t s, std::int32_t d, std::int64_t i,
                                 std::int32_t column) const {
    return word(seed, s, 1, d, i * hidden + column);
  }
  /// The same as attention-TP rank `t` brings it: whole, or one addend of it.
  [[nodiscard]] std::int32_t input(std::uint64_t s, std::int32_t d, std::int32_t t, std::int64_t i,
                                   std::int32_t column, bool addend) const {
    const auto part = [&](std::int32_t peer) {
      return word(seed, s, 2 + static_cast<std::uint64_t>(peer), d, i * hidden + column);
    };
    if (!addend) return row(s, d, i, column);
    if (t > 0) return part(t);
    std::int32_t out = row(s, d, i, column);
    for (std::int32_t peer = 1; peer < shape.tp_size; ++peer) out = minus(out, part(peer));
    return out;
  }
  /// World rank `r`'s addend to global row `g` of the combine.
  [[nodiscard]] std::int32_t addend(std::uint64_t s, std::int32_t r, std::int64_t g,
                                    std::int32_t column) const {
    return word(seed, s, 50, r, g * hidden + column);
  }
};

// --- one rank -----------------------------------------------------------------------------------

constexpr std::int32_t canary = 0x5a5a5a5a;
constexpr std::int32_t garbage = 0x7fc00001; // in input tails, never to be seen again

struct buffers {
  std::vector<std::int32_t> local, global;
};

/// One call as a rank saw it.
struct entry {
  op what = op::agree;
  std::uint64_t step = 0;
  status answered{};
  bool skipped = false;                // there was no agreement, so the step was not run
  std::string wrong{};                 // bytes that are not what they must be
  std::int64_t started = 0, ended = 0; // virtual time
};

/// One rank's calls with their payloads; `bent` makes the mistake. Buffers of failed calls live as
/// long as this object, those of calls that worked are gone when the call returns.
template <class P>
class rank_calls {
public:
  rank_calls(host_communicator comm, const workload& work, const fault_case& c)
      : comm_{comm}, work_{work}, case_{c}, shape_{comm.topology()}, config_{config(shape_)},
        workspace_(room(c)), channel_{comm, config_, workspace_} {}

  [[nodiscard]] static gather_config config(const topology& shape) {
    return {.topology = shape,
            .element = element::i32,
            .row_bytes = row_bytes,
            .max_rows_per_rank = max_rows};
  }
  [[nodiscard]] step_plan right_plan(std::uint64_t s) const {
    const result<planner<P>> rules = planner<P>::make(config_);
    return *make_plan(*rules, work_.agreed(s));
  }

  entry make(op what, std::uint64_t s, bool bent) {
    entry out{.what = what, .step = s};
    switch (what) {
    case op::agree:
      agree(out, bent);
      break;
    case op::gather:
      gather(out, bent);
      break;
    case op::combine:
      combine(out, bent);
      break;
    case op::scatter:
      scatter(out);
      break;
    case op::barrier:
      out.answered = comm_.barrier();
      break;
    }
    return out;
  }
  [[nodiscard]] bool is(mistake what) const { return case_.is(what); }

private:
  [[nodiscard]] std::vector<std::byte> room(const fault_case& c) const {
    const std::size_t needed = *DpGather<P>::workspace_bytes(config_);
    const bool small = c.is(mistake::small_workspace) && comm_.rank() == c.victim;
    return std::vector<std::byte>(small ? needed - 16 : needed);
  }
  [[nodiscard]] std::int32_t rows_here(std::uint64_t s) const {
    return work_.counts[s][at(shape_.dp_rank)];
  }

  void agree(entry& out, bool bent) {
    const auto mine = std::make_unique<step_record>(
        work_.record(channel_.record(out.step + 1), comm_.rank(), out.step));
    if (bent) bend(*mine);
    const result<agreement> agreed = channel_.agree(comm_, *mine);
    out.answered = agreed.status();
    if (!agreed) {
      records_.push_back(*mine);
      return;
    }
    const result<step_plan> plan = channel_.plan(*agreed);
    out.answered = plan.status();
    if (plan && *plan != right_plan(out.step)) out.wrong = "another plan";
  }
  void bend(step_record& record) const {
    switch (case_.row.what) {
    case mistake::bad_magic:
      record.magic ^= 1;
      break;
    case mistake::bad_version:
      record.version += 1;
      break;
    case mistake::bad_phase:
      record.phase = static_cast<phase>(77);
      break;
    case mistake::bad_world_rank:
      record.world_rank = (record.world_rank + 1) % shape_.world_size();
      break;
    case mistake::negative_count:
      record.tokens = -1;
      break;
    case mistake::count_above_capacity:
      record.tokens = max_rows + 1;
      break;
    case mistake::peers_differ:
      record.tokens += 1;
      break;
    case mistake::other_config:
      record.config_hash ^= 1;
      break;
    case mistake::other_step:
      record.step += 1;
      break;
    case mistake::other_width:
      record.width = 2;
      break;
    case mistake::other_last_plan:
      record.last_plan ^= 1;
      break;
    case mistake::cannot_run:
      record.cannot_run = static_cast<std::int32_t>(errc::graph_missing);
      break;
    default:
      break;
    }
  }

  /// The plan that this rank hands in.
  [[nodiscard]] step_plan plan_for(std::uint64_t s, bool bent) const {
    step_plan plan = right_plan(s);
    if (!bent) return plan;
    switch (case_.row.what) {
    case mistake::wrong_mode:
      return *make_plan<typename P::other_mode>(config_, work_.agreed(s));
    case mistake::wrong_bucket:
      plan.shared_bucket += 4;
      plan.digest ^= 1;
      return plan;
    case mistake::other_counts: {
      agreement agreed = work_.agreed(s);
      const std::int32_t first = agreed.tokens[0];
      agreed.tokens.set(0, agreed.tokens[1]);
      agreed.tokens.set(1, first);
      return *make_plan(*planner<P>::make(config_), agreed);
    }
    case mistake::stale_plan:
    case mistake::skip:
      return right_plan(s - 1);
    case mistake::plan_of_other_world:
      plan.dp_size += 1;
      return plan;
    default:
      return plan;
    }
  }

  struct bent_views {
    std::int64_t local_rows = 0, global_rows = 0;
    element local_element = element::i32, global_element = element::i32;
    std::size_t bytes = row_bytes;
    std::byte* local = nullptr;
    std::byte* global = nullptr;
  };
  /// The views that this rank hands in.
  [[nodiscard]] bent_views views_for(buffers& b, const step_plan& plan, bool bent) const {
    bent_views v{.local_rows = static_cast<std::int64_t>(b.local.size()) / hidden - 1,
                 .global_rows = static_cast<std::int64_t>(b.global.size()) / hidden - 1,
                 .local = reinterpret_cast<std::byte*>(b.local.data()),
                 .global = reinterpret_cast<std::byte*>(b.global.data())};
    if (!bent) return v;
    const std::int64_t n = plan.real[shape_.dp_rank];
    switch (case_.row.what) {
    case mistake::wrong_element:
      v.local_element = v.global_element = element::f32;
      break;
    case mistake::wrong_row_bytes:
      v.bytes = row_bytes / 2;
      break;
    case mistake::null_local:
      v.local = nullptr;
      break;
    case mistake::short_local:
      v.local_rows = n - 1;
      break;
    case mistake::short_global:
      v.global_rows = plan.global_rows - 1;
      break;
    case mistake::misaligned:
      v.local += 1;
      break;
    case mistake::local_of_other_element:
      v.local_element = element::f32;
      break;
    case mistake::global_of_other_element:
      v.global_element = element::f32;
      break;
    case mistake::aliasing:
      v.local = v.global + static_cast<std::size_t>(plan.offset(shape_.dp_rank)) * row_bytes +
                sizeof(std::int32_t);
      v.local_rows = n;
      break;
    default:
      break;
    }
    return v;
  }

  [[nodiscard]] std::unique_ptr<buffers> new_buffers(std::uint64_t s, bool bent) const {
    auto b = std::make_unique<buffers>();
    random_source random{case_.seed * 7 + s * 3 + static_cast<std::uint64_t>(comm_.rank())};
    // One row more than the views have, which nobody may touch.
    const std::int32_t rows =
        bent ? max_rows : std::min(max_rows, rows_here(s) + random.between(0, 9));
    b->local.assign(at((rows + 1) * hidden), canary);
    b->global.assign(at((max_rows * shape_.dp_size + 1) * hidden), canary);
    return b;
  }
  void keep_if_failed(std::unique_ptr<buffers> b, const status& answered) {
    if (!answered) kept_.push_back(std::move(b));
  }
  /// A call that was refused has written nothing, whoever refused it.
  static void expect_untouched(entry& out, const std::vector<std::int32_t>& now,
                               const std::vector<std::int32_t>& before, const char* what) {
    if (now != before && out.wrong.empty()) out.wrong = what;
  }

  void gather(entry& out, bool bent) {
    const std::uint64_t s = out.step;
    const step_plan plan = plan_for(s, bent);
    auto b = new_buffers(s, bent);
    std::fill(b->local.begin(), b->local.end(), garbage);
    const std::int32_t rows = std::min(plan.real[shape_.dp_rank],
                                       static_cast<std::int32_t>(b->local.size()) / hidden - 1);
    for (std::int32_t i = 0; i < rows; ++i) {
      for (std::int32_t c = 0; c < hidden; ++c) {
        b->local[at(i * hidden + c)] =
            work_.input(s, shape_.dp_rank, shape_.tp_rank, i, c, case_.partial_input);
      }
    }
    const buffers before = *b;
    const bent_views v = views_for(*b, plan, bent);
    const token_rows<replicated> global{v.global, v.global_rows, v.global_element, v.bytes};
    if (case_.partial_input) {
      const token_rows<partial> local{v.local, v.local_rows, v.local_element, v.bytes};
      out.answered = channel_.gather(local, global, plan, stream).status();
    } else {
      const token_rows<replicated> local{v.local, v.local_rows, v.local_element, v.bytes};
      out.answered = channel_.gather(local, global, plan, stream).status();
    }
    if (out.answered.ok()) {
      std::vector<std::int32_t> want = before.global;
      std::fill_n(want.begin(), plan.global_rows * hidden, 0);
      for (std::int32_t d = 0; d < shape_.dp_size; ++d) {
        for (std::int32_t i = 0; i < plan.real[d]; ++i) {
          for (std::int32_t c = 0; c < hidden; ++c) {
            want[static_cast<std::size_t>((plan.offset(d) + i) * hidden + c)] =
                work_.row(s, d, i, c);
          }
        }
      }
      if (b->global != want) out.wrong = "gathered rows";
    }
    if (!is_sticky(out.answered.code)) {
      expect_untouched(out, b->local, before.local, "input of gather");
      if (!out.answered.ok()) expect_untouched(out, b->global, before.global, "refused gather");
    }
    keep_if_failed(std::move(b), out.answered);
  }

  void combine(entry& out, bool bent) {
    const std::uint64_t s = out.step;
    const step_plan plan = plan_for(s, bent);
    auto b = new_buffers(s, bent);
    for (std::int64_t g = 0; g < max_rows * shape_.dp_size; ++g) {
      for (std::int32_t c = 0; c < hidden; ++c) {
        b->global[static_cast<std::size_t>(g * hidden + c)] = work_.addend(s, comm_.rank(), g, c);
      }
    }
    const buffers before = *b;
    const bent_views v = views_for(*b, plan, bent);
    const token_rows<partial> global{v.global, v.global_rows, v.global_element, v.bytes};
    const token_rows<replicated> local{v.local, v.local_rows, v.local_element, v.bytes};
    out.answered = channel_.combine(global, local, plan, stream);
    if (out.answered.ok()) {
      std::vector<std::int32_t> want = before.local;
      std::fill_n(want.begin(), v.local_rows * hidden, 0);
      for (std::int32_t i = 0; i < plan.real[shape_.dp_rank]; ++i) {
        for (std::int32_t c = 0; c < hidden; ++c) {
          std::int32_t sum = 0;
          for (std::int32_t r = 0; r < shape_.world_size(); ++r)
            sum = plus(sum, work_.addend(s, r, plan.offset(shape_.dp_rank) + i, c));
          want[at(i * hidden + c)] = sum;
        }
      }
      if (b->local != want) out.wrong = "combined rows";
    }
    if (!is_sticky(out.answered.code)) {
      expect_untouched(out, b->global, before.global, "input of combine");
      if (!out.answered.ok()) expect_untouched(out, b->local, before.local, "refused combine");
    }
    keep_if_failed(std::move(b), out.answered);
  }

  void scatter(entry& out) {
    const step_plan plan = right_plan(out.step);
    auto b = new_buffers(out.step, false);
    const bent_views v = views_for(*b, plan, false);
    const token_rows<replicated> global{v.global, v.global_rows, v.global_element, v.bytes};
    const token_rows<replicated> local{v.local, v.local_rows, v.local_element, v.bytes};
    out.answered = channel_.scatter(global, local, plan, stream);
  }

  host_communicator comm_;
  const workload& work_;
  const fault_case& case_;
  topology shape_;
  gather_config config_;
  std::vector<std::byte> workspace_;
  std::vector<std::unique_ptr<buffers>> kept_;
  std::vector<step_record> records_;
  DpGather<P> channel_;
};

// --- scripts ------------------------------------------------------------------------------------

struct action {
  op what;
  std::uint64_t step;
};

constexpr std::size_t no_fault = SIZE_MAX;

/// What every rank means to do, and the place in it at which things go wrong.
struct script {
  std::vector<action> actions;
  std::size_t fails_at = no_fault; // the call that answers the fault
  std::size_t bent_at = no_fault;  // the call in which the victim makes its mistake
};

script script_of(const fault_case& c, bool victim) {
  script out;
  for (std::uint64_t s = 0; s < steps; ++s) {
    for (const op o : {op::agree, op::gather, op::combine}) out.actions.push_back({o, s});
  }
  if (c.is(mistake::none)) return out;
  const std::size_t place = c.step * 3 + static_cast<std::size_t>(c.row.where);
  const auto there = out.actions.begin() + static_cast<std::ptrdiff_t>(place);
  out.fails_at = out.bent_at = place;
  if (c.is(mistake::extra)) out.fails_at = place + 1; // the others are in the call after it
  if (victim) {
    if (c.is(mistake::skip)) out.actions.erase(there);
    if (c.is(mistake::extra)) out.actions.insert(there, *there);
    if (c.is(mistake::swapped)) std::swap(there[0], there[1]);
  }
  // A call left out shows in the one made instead, with the plan at hand.
  if (c.is(mistake::skip) && c.row.where != op::agree) out.bent_at = no_fault;
  return out;
}

struct engine_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One run of policy `P` on the clock of `World`.
template <class P, class World>
class fault_run {
public:
  static constexpr std::int64_t deadline = World::deadline;
  static constexpr std::int64_t margin = World::is_exact ? 1 : deadline / 2;
  using membership = typename World::membership;

  fault_run(const fault_case& c, watchdog& dog)
      : case_{c}, dog_{dog}, work_{c}, ranks_{c.shape, has_intruder(c) ? 1 : 0},
        logs(at(c.shape.world_size())), calls_(logs.size()) {}

  void execute() {
    try {
      ranks_.run(case_.seed, [&](host_communicator& comm, membership& member) {
        auto& calls = calls_[at(comm.rank())];
        calls = std::make_unique<rank_calls<P>>(comm, work_, case_);
        play(comm, member, *calls);
      });
    } catch (const engine_error& error) {
      thrown = error.what();
    }
  }

  [[nodiscard]] std::int64_t now() { return ranks_.clock().now_ns(); }
  [[nodiscard]] status first_failure() { return ranks_.world().first_failure(); }

  std::vector<entry> intruder_log;
  std::string thrown;

private:
  static bool has_intruder(const fault_case& c) {
    return c.is(mistake::second_thread) || c.is(mistake::second_thread_inside);
  }

  /// The second thread of the victim: one call while the first is in its own.
  void start_intruder(rank_calls<P>& calls, std::int64_t when) {
    intruder_ = std::thread{[this, &calls, when] {
      schedule_noise::seed(case_.seed + 99);
      ranks_.clock().sleep_until(when);
      entry e = calls.make(case_.row.intruder, case_.step, false);
      e.ended = ranks_.clock().now_ns();
      intruder_log.push_back(std::move(e));
      ranks_.clock().leave();
    }};
  }

  void sleep_for(std::int64_t ns) { ranks_.clock().sleep_until(ranks_.clock().now_ns() + ns); }

  /// What the victim does instead of going straight into its call. False: it makes no more calls.
  bool before_mistake(host_communicator& comm, membership& member, rank_calls<P>& calls) {
    switch (case_.row.what) {
    case mistake::stop:
      member.wait_for_others();
      break;
    case mistake::stop_inside:
      inside_call = [&] { member.wait_for_others(); };
      break;
    case mistake::leave_at_once:
      return false;
    case mistake::leave_while_others_wait:
      sleep_for(deadline / 2);
      return false;
    case mistake::exception:
      sleep_for(deadline / 2);
      throw engine_error{"rank " + std::to_string(comm.rank())};
    case mistake::abort:
      sleep_for(deadline / 2);
      comm.abort(
          {.code = errc::native_error, .rank = comm.rank(), .peer = comm.rank(), .native = 7});
      break;
    case mistake::slow_below:
      sleep_for(deadline - margin);
      break;
    case mistake::slow_above:
      sleep_for(deadline + margin);
      break;
    case mistake::slow_inside_below:
      inside_call = [&] { sleep_for(deadline - margin); };
      break;
    case mistake::slow_inside_above:
      inside_call = [&] { sleep_for(deadline + margin); };
      break;
    case mistake::second_thread:
      start_intruder(calls, deadline / 4);
      break;
    case mistake::second_thread_inside:
      start_intruder(calls, deadline / 8);
      inside_call = [&] { sleep_for(deadline / 4); };
      break;
    default:
      break;
    }
    return true;
  }

  void play(host_communicator& comm, membership& member, rank_calls<P>& calls) {
    const std::int32_t rank = comm.rank();
    const bool victim = rank == case_.victim;
    const script mine = script_of(case_, victim);
    auto& log = logs[at(rank)];
    inside_call = nullptr;
    bool no_step = false; // there was no agreement, as all ranks know
    for (std::size_t i = 0; i < mine.actions.size(); ++i) {
      const action next = mine.actions[i];
      dog_.at(rank, name_of(next.what), next.step);
      if (next.what == op::agree) no_step = false;
      if (no_step) {
        log.push_back({.what = next.what, .step = next.step, .skipped = true});
        continue;
      }
      const bool bent = victim && i == mine.bent_at;
      if (bent && !before_mistake(comm, member, calls)) break;
      if (!victim && i == mine.fails_at && case_.is(mistake::second_thread))
        sleep_for(deadline / 2); // so that the victim waits
      const std::int64_t started = ranks_.clock().now_ns();
      log.push_back(calls.make(next.what, next.step, bent));
      log.back().started = started;
      log.back().ended = ranks_.clock().now_ns();
      const errc code = log.back().answered.code;
      no_step = next.what == op::agree && code != errc::ok && !is_sticky(code);
    }
    dog_.at(rank, "end", 0);
    if (victim && intruder_.joinable()) {
      member.leave_clock();
      intruder_.join();
    }
  }

  const fault_case& case_;
  watchdog& dog_;
  workload work_;
  World ranks_;
  std::thread intruder_;

public:
  std::vector<std::vector<entry>> logs;

private:
  std::vector<std::unique_ptr<rank_calls<P>>> calls_; // their buffers outlive every thread
};

// --- expectations -------------------------------------------------------------------------------

std::string text(const status& s) { return s.message().c_str(); }

bool names(const status& s, std::int32_t rank) { return s.rank == rank || s.peer == rank; }

/// Compares one run with the table. Answers the first difference, or nothing.
class verdict_check {
public:
  explicit verdict_check(const fault_case& c) : case_{c} {}

  template <class P, class World>
  std::string operator()(fault_run<P, World>& run) {
    const fault& row = case_.row;
    if constexpr (World::is_exact) deadline_ = World::deadline;
    if (run.now() / 2 > deadline_) return "more than two deadlines";
    for (std::int32_t rank = 0; rank < case_.shape.world_size(); ++rank) {
      const bool victim = rank == case_.victim;
      const script mine = script_of(case_, victim);
      std::size_t expected_calls = mine.actions.size();
      const bool gone = case_.is(mistake::leave_at_once) ||
                        case_.is(mistake::leave_while_others_wait) || case_.is(mistake::exception);
      if (victim && gone) expected_calls = mine.fails_at;
      const auto& log = run.logs[at(rank)];
      if (log.size() != expected_calls)
        return "rank " + std::to_string(rank) + " made " + std::to_string(log.size()) + " calls";
      for (std::size_t i = 0; i < log.size(); ++i) {
        const std::string bad = one_call(log[i], i, mine, victim);
        if (!bad.empty()) {
          return "rank " + std::to_string(rank) + ", " + name_of(log[i].what) + " of step " +
                 std::to_string(log[i].step) + ": " + bad + "; answered '" +
                 name_of(log[i].answered.code) + "': " + text(log[i].answered);
        }
      }
    }
    if (row.sticky == errc::ok && !run.first_failure().ok()) return "the world has failed";
    for (const entry& e : run.intruder_log) {
      if (e.answered.code != errc::busy) return "second thread: " + text(e.answered);
      if (e.answered.rank != case_.victim) return "second thread: rank " + text(e.answered);
    }
    const bool wants_intruder =
        case_.is(mistake::second_thread) || case_.is(mistake::second_thread_inside);
    if (run.intruder_log.size() != (wants_intruder ? 1U : 0U)) return "no second thread";
    if (case_.is(mistake::exception) != !run.thrown.empty()) return "exception: " + run.thrown;
    return {};
  }

private:
  std::string one_call(const entry& e, std::size_t i, const script& mine, bool victim) {
    const fault& row = case_.row;
    if (!e.wrong.empty()) return e.wrong;
    // A call waits for others until its deadline, not longer.
    if (!victim && e.ended - e.started > deadline_) return "waited beyond its deadline";
    const bool repeats = case_.is(mistake::small_workspace); // broken in every step
    const bool fails = i == mine.fails_at ||
                       (repeats && e.what == op::agree && i > mine.fails_at) ||
                       (repeats && e.what == op::agree && i < mine.fails_at);
    if (fails) return failing_call(e, victim);
    // Calls end with a meeting of the attention-TP peers. Who leaves right after its own may be
    // missed in the next call before other peers have come to the end of this one.
    if (case_.is(mistake::leave_at_once) && !victim && i + 1 == mine.fails_at &&
        case_.shape.tp_size > 1 && !e.answered.ok())
      return failing_call(e, victim);
    if (i < mine.fails_at && !repeats) return e.answered.ok() ? "" : "failed too early";
    // The rest of a step without agreement is not run.
    const errc code = victim ? row.victim : row.others;
    const op failed = mine.fails_at == no_fault ? op::agree : mine.actions[mine.fails_at].what;
    const bool no_step = row.sticky == errc::ok && code != errc::ok && failed == op::agree &&
                         (repeats || e.step == mine.actions[mine.fails_at].step);
    if (no_step) return e.skipped ? "" : "runs a step without agreement";
    if (row.sticky == errc::ok) return e.answered.ok() && !e.skipped ? "" : "a later call fails";
    return poisoned_call(e);
  }

  std::string failing_call(const entry& e, bool victim) {
    const fault& row = case_.row;
    const status& got = e.answered;
    const errc want = victim ? row.victim : row.others;
    if (want == errc::ok) return got.ok() ? "" : "should succeed";
    // Only here does it depend on who came first: at once means before or after the others'
    // arrival.
    const bool either = case_.is(mistake::leave_at_once) && !victim;
    if (want == errc::poisoned || (either && got.code == errc::poisoned)) return poisoned_call(e);
    if (got.code != want) return std::string{"expected "} + dpgather::name_of(want);
    if (!names(got, case_.victim)) return "does not name the rank at fault";
    if (row.about != subject::none && want != errc::peer_refused && got.about != row.about)
      return std::string{"expected to be about "} + dpgather::name_of(row.about);
    if (want == errc::peer_refused && got.cause != row.victim) return "expected the peer's cause";
    if (want == errc::rank_cannot_run && got.cause != cannot_run_cause()) return "expected a cause";
    if (want == errc::timeout && got.peer != case_.victim) return "the late rank is the peer";
    return is_sticky(want) ? same_cause(got) : "";
  }
  [[nodiscard]] errc cannot_run_cause() const {
    return case_.is(mistake::cannot_run) ? errc::graph_missing : errc::capacity_exceeded;
  }

  std::string poisoned_call(const entry& e) {
    if (e.answered.code != errc::poisoned) return "expected poisoned";
    if (e.answered.cause != case_.row.sticky)
      return std::string{"expected the cause "} + dpgather::name_of(case_.row.sticky);
    if (!names(e.answered, case_.victim)) return "does not name the rank at fault";
    return same_cause(e.answered);
  }

  /// Every rank tells the same story.
  std::string same_cause(const status& got) {
    const auto story = std::tuple{got.rank, got.peer, got.about, got.value, got.limit, got.call};
    if (!first_) first_ = story;
    return *first_ == story ? "" : "another cause than on other ranks";
  }

  const fault_case& case_;
  std::int64_t deadline_ = INT64_MAX; // real time is bounded by the watchdog
  std::optional<
      std::tuple<std::int32_t, std::int32_t, subject, std::int64_t, std::int64_t, std::uint64_t>>
      first_;
};

template <class P>
std::string run_once(const fault_case& c, watchdog& dog) {
  dog.feed(c.name());
  fault_run<P, virtual_world> run{c, dog};
  run.execute();
  return verdict_check{c}(run);
}

std::string run_case(const fault_case& c, watchdog& dog) {
  std::string bad = c.is_exact ? run_once<exact>(c, dog) : run_once<classic>(c, dog);
  if (!bad.empty()) return c.name() + ": " + bad;
  // Nothing of it stays behind: a fresh world of the same shape works.
  fault_case fresh = c;
  fresh.row = {.name = "fresh world after " + c.row.name};
  bad = c.is_exact ? run_once<exact>(fresh, dog) : run_once<classic>(fresh, dog);
  return bad.empty() ? bad : fresh.name() + ": " + bad;
}

} // namespace

TEST_CASE("fault runs on the manual clock: the expected answer on every rank") {
  watchdog dog;
  const std::vector<fault_case> all = grid();
  const char* const wanted = std::getenv("DPGATHER_TEST_CASES");
  const bool everything = wanted != nullptr && std::string_view{wanted} == "all";
  const auto runs = static_cast<std::size_t>(
      everything ? all.size() : std::min<std::uint64_t>(test_support::case_count(400), all.size()));
  MESSAGE("DPGATHER_TEST_SEED=", test_support::seed(), ", ", runs, " of ", all.size(),
          " fault runs (DPGATHER_TEST_CASES=all for the whole grid)");
  std::map<std::string, int> failed;
  for (std::size_t i = 0; i < runs; ++i) {
    const std::string bad = run_case(all[i], dog);
    if (bad.empty()) continue;
    // Each row of the table is reported once, with all its failures counted.
    if (++failed[all[i].row.name] == 1) FAIL_CHECK(bad);
  }
  for (const auto& [name, times] : failed) MESSAGE(name, ": ", times, " runs failed");
  CHECK(failed.empty());
}

TEST_CASE("fault runs: whatever the delays, nobody succeeds after a call that a rank failed") {
  watchdog dog;
  test_support::for_random_cases(
      [&](random_source& random) {
        fault_case c{.row = {.name = "random delays"}};
        c.shape = {random.between(2, 5), random.between(1, 2)};
        c.in_graph = random.chance(40);
        c.partial_input = c.shape.tp_size > 1;
        c.seed = random() % 1'000'000;
        const workload work{c};
        constexpr std::size_t calls = steps * 3;
        constexpr std::int64_t deadline = virtual_world::deadline;
        std::vector<std::vector<std::int64_t>> delays(at(c.shape.world_size()));
        for (auto& mine : delays) {
          for (std::size_t i = 0; i < calls; ++i) {
            mine.push_back(random.chance(90)
                               ? 0
                               : random.pick({deadline / 2, deadline - 1, deadline, deadline + 1}));
          }
        }
        dog.feed(c.name());
        virtual_world ranks{c.shape};
        std::vector<std::unique_ptr<rank_calls<exact>>> owned(delays.size());
        std::vector<std::vector<entry>> logs(delays.size());
        ranks.run(c.seed, [&](host_communicator& comm, virtual_world::membership&) {
          const auto me = at(comm.rank());
          owned[me] = std::make_unique<rank_calls<exact>>(comm, work, c);
          for (std::size_t i = 0; i < calls; ++i) {
            const std::int64_t delay = delays[me][i];
            if (delay > 0) ranks.clock().sleep_until(ranks.clock().now_ns() + delay);
            logs[me].push_back(owned[me]->make(static_cast<op>(i % 3), i / 3, false));
          }
        });
        bool failed = false;
        for (std::size_t i = 0; i < calls; ++i) {
          bool fails_here = false;
          for (const auto& log : logs) {
            const status& got = log[i].answered;
            REQUIRE(log[i].wrong == "");
            REQUIRE((got.ok() || got.code == errc::timeout || got.cause == errc::timeout));
            if (failed) REQUIRE(!got.ok());
            fails_here = fails_here || !got.ok();
          }
          failed = failed || fails_here;
        }
      },
      std::min<std::uint64_t>(test_support::case_count(), 150));
}

TEST_CASE("fault runs in real time: ten, with short deadlines") {
  watchdog dog;
  struct smoke {
    mistake what;
    op where;
  };
  constexpr smoke list[] = {{mistake::none, op::agree},        {mistake::skip, op::gather},
                            {mistake::extra, op::combine},     {mistake::wrong_mode, op::combine},
                            {mistake::null_local, op::gather}, {mistake::cannot_run, op::agree},
                            {mistake::stop, op::combine},      {mistake::stop_inside, op::gather},
                            {mistake::slow_above, op::agree},  {mistake::exception, op::gather}};
  std::uint64_t seed = test_support::seed();
  for (const smoke& wanted : list) {
    fault_case c{.row = {}, .shape = {3, 1}, .victim = 1, .step = 1, .seed = ++seed};
    for (const fault& row : table()) {
      if (row.what == wanted.what && row.where == wanted.where) c.row = row;
    }
    REQUIRE(c.row.what == wanted.what);
    dog.feed("real time: " + c.name());
    fault_run<exact, real_world> run{c, dog};
    run.execute();
    const std::string bad = verdict_check{c}(run);
    if (bad.empty()) continue;
    // A machine that stops for longer than the deadline makes any rank late. Then, and only then,
    // another answer is right: the world has failed by a timeout, and nobody goes on.
    INFO(c.name());
    INFO(bad);
    MESSAGE("a rank was late by itself: ", c.name(), ": ", bad);
    REQUIRE(run.first_failure().code == errc::timeout);
    for (const auto& log : run.logs) {
      bool failed = false;
      for (const entry& e : log) {
        if (failed) REQUIRE(e.answered.code == errc::poisoned);
        failed = failed || is_sticky(e.answered.code);
      }
    }
  }
}

TEST_CASE("second thread: a call that found the communicator busy was no call") {
  // The engine's own thread is in a barrier of the same communicator, not in the channel.
  watchdog dog;
  const fault_case c{.row = {.name = "busy communicator"}, .shape = {3, 1}, .victim = 1, .seed = 5};
  const workload work{c};
  virtual_world ranks{c.shape, 1};
  std::array<status, 3> barrier;
  std::array<entry, 3> gathered;
  entry refused;
  std::array<std::unique_ptr<rank_calls<exact>>, 3> owned;
  std::thread second;
  ranks.run(1, [&](host_communicator& comm, virtual_world::membership&) {
    const auto me = at(comm.rank());
    owned[me] = std::make_unique<rank_calls<exact>>(comm, work, c);
    if (comm.rank() == 1) {
      second = std::thread{[&] {
        ranks.clock().sleep_until(10);
        refused = owned[1]->make(op::gather, 0, false);
        ranks.clock().leave();
      }};
    } else {
      ranks.clock().sleep_until(20);
    }
    barrier[me] = comm.barrier();
    gathered[me] = owned[me]->make(op::gather, 0, false);
  });
  second.join();
  CHECK(refused.answered.code == errc::busy);
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(barrier[r].ok());
    INFO(text(gathered[r].answered));
    CHECK(gathered[r].answered.ok());
    CHECK(gathered[r].wrong == "");
  }
}

TEST_CASE("exchanged counts: attention-TP peers that bring different ones are told, all of them") {
  watchdog dog;
  using channel_policy = policy<mode::exact, padding::none, counts::exchanged>;
  constexpr topology shape{2, 2};
  virtual_world ranks{shape};
  std::array<status, 4> got, later;
  ranks.run(1, [&](host_communicator& comm, virtual_world::membership& member) {
    const auto me = at(comm.rank());
    const gather_config config = rank_calls<exact>::config(shape.at(comm.rank()));
    std::vector<std::byte> workspace(*DpGather<channel_policy>::workspace_bytes(config));
    DpGather<channel_policy> channel{comm, config, workspace};
    std::vector<std::int32_t> in(max_rows * hidden, comm.rank());
    std::vector<std::int32_t> out(2 * max_rows * hidden);
    for (status* each : {&got[me], &later[me]}) {
      step_record mine = channel.record(1);
      // Ranks 2 and 3 are peers and must hold the same requests.
      mine.tokens = comm.rank() == 3 && each == &got[me] ? 3 : 5;
      const result<step_plan> plan = channel.plan(mine);
      *each = channel
                  .gather(rows_of<replicated>(in.data(), mine.tokens, hidden),
                          rows_of<replicated>(out.data(), 2 * max_rows, hidden), *plan, stream)
                  .status();
    }
    member.wait_for_all();
  });
  for (std::size_t r = 0; r < 4; ++r) {
    INFO(text(got[r]));
    CHECK(got[r].code == errc::plan_mismatch);
    CHECK((got[r].rank == 3 || got[r].peer == 3));
    CHECK(later[r].code == errc::poisoned);
    CHECK(later[r].cause == errc::plan_mismatch);
  }
}
