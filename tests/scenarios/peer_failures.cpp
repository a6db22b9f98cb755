// Faults in the peer protocol, on CPU threads and a clock of their own: what every rank is told,
// what its tensors hold then, and that a new arena works.
#include <support/fault_world.hpp> // first: the watchdog

#include <support/expected_races.hpp>
#include <support/peer_host_stage.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;
using sum = dg::detail::bf16_sum;

/// How calls move their rows.
enum class kind : std::uint8_t {
  lines,     ///< a gather
  stored,    ///< a gather, straight into views
  exchanged, ///< a gather whose ranks tell each other their counts
  partial,   ///< a gather of partial rows; needs attention-TP peers
  sent,      ///< a combine in lines
  pulled,    ///< a combine that reads the inputs of peers
  relayed,   ///< a gather of which one rank has most rows, and its peers pass them on
  helped,    ///< a combine of the same, where they sum them
};
constexpr kind all_kinds[] = {kind::lines, kind::stored, kind::exchanged, kind::partial,
                              kind::sent,  kind::pulled, kind::relayed,   kind::helped};
constexpr bool combines(kind k) {
  return k == kind::sent || k == kind::pulled || k == kind::helped;
}
/// Whether it takes four ranks, none of them another's attention-TP peer.
constexpr bool is_relayed(kind k) { return k == kind::relayed || k == kind::helped; }
constexpr bool uses_lines(kind k) {
  return k != kind::stored && k != kind::pulled && !is_relayed(k);
}
/// Whether rows are read from peers.
constexpr bool rereads(kind k) { return k == kind::pulled || k == kind::helped; }

constexpr std::uint64_t budget_ns = 1'000'000;

/// Cases, of which sanitizers run a quarter.
#if defined(__SANITIZE_ADDRESS__) || DPGATHER_TEST_TSAN
constexpr std::uint64_t fewer = 4;
#else
constexpr std::uint64_t fewer = 1;
#endif

/// The gate that lets time begin: when as many blocks have entered a call as a test says. Until
/// then nobody waits in vain, however long a thread sleeps.
class gate {
public:
  static constexpr std::int64_t never = INT64_MAX;

  void expect(std::int64_t entries) { expected_.store(entries); }
  void enter() { entered_.fetch_add(1); }
  [[nodiscard]] bool open() const { return entered_.load() >= expected_.load(); }

private:
  std::atomic<std::int64_t> expected_{never}, entered_{0};
};

/// One block's virtual time: stands still until the gate opens, then passes at every look.
class looking_clock final : public wait_clock {
public:
  static constexpr std::int64_t looks = 400; // that a budget allows

  [[nodiscard]] std::int64_t now_ns() noexcept override {
    if (by != nullptr && by->open()) now_.fetch_add(budget_ns / looks);
    seen.fetch_add(1);
    return now_.load();
  }
  void wait(std::uint64_t, std::int64_t) noexcept override {}
  void pass(std::int64_t ns) noexcept { now_.fetch_add(ns); }
  [[nodiscard]] std::int64_t passed() const noexcept { return now_.load() - start; }

  const gate* by = nullptr;
  std::atomic<std::int64_t> seen{0};

private:
  static constexpr std::int64_t start = 1'000'000'000;
  std::atomic<std::int64_t> now_{start};
};

using hook = std::function<void(std::int32_t rank, peer_point, std::uint32_t block)>;

/// All rules kept; a test is told of every point.
struct hooked_rules : peer_rules {
  const hook* on = nullptr;
  std::int32_t rank = 0;

  template <class Block>
  void at(peer_point point, const Block& block) const noexcept {
    if (on != nullptr) (*on)(rank, point, block.block());
  }
};

watchdog& dog() {
  static watchdog out;
  return out;
}

/// A world and the calls of a test.
class fault_world {
public:
  static constexpr std::int32_t rank_rows = 6;

  fault_world(random_source& random, std::int32_t dp, std::int32_t tp, bool in_lines,
              std::int32_t blocks)
      : random_{random}, with_{options(dp, tp, in_lines, blocks)}, stage_{with_, random,
                                                                          random.pick(starts)},
        clocks_(static_cast<std::size_t>(stage_.ranks()) * most_blocks) {
    for (auto& each : clocks_) each = std::make_unique<looking_clock>();
    stage_.set_budget(budget_ns);
  }

  [[nodiscard]] host_stage& stage() { return stage_; }
  [[nodiscard]] const story_options& options() const { return with_; }
  [[nodiscard]] std::int32_t ranks() const { return stage_.ranks(); }
  [[nodiscard]] std::int32_t tp() const { return with_.tp_size; }
  [[nodiscard]] std::int32_t blocks() const { return with_.blocks; }
  [[nodiscard]] looking_clock& clock(std::int32_t rank, std::int32_t block) {
    return *clocks_[static_cast<std::size_t>(rank * most_blocks + block)];
  }
  [[nodiscard]] const peer_record& record(std::int32_t rank) const {
    return stage_.controls[static_cast<std::size_t>(rank)].first;
  }
  [[nodiscard]] bool failed(std::int32_t rank) const { return record(rank).written != 0; }

  /// The next call. Rank `eager`'s data-parallel rank has at least two rows and room for one more.
  [[nodiscard]] story_call call(kind k, std::int32_t eager) {
    story_call out;
    out.combines = combines(k);
    out.partial = k == kind::partial;
    out.source = k == kind::exchanged ? counts_kind::exchanged
                 : random_.chance(50) ? counts_kind::device
                                      : counts_kind::agreed;
    step_plan plan;
    plan.mode = mode_kind::exact;
    plan.dp_size = with_.dp_size;
    plan.tp_size = with_.tp_size;
    plan.layout = random_.chance(50) ? layout_kind::slots : layout_kind::packed;
    plan.stride = plan.layout == layout_kind::slots ? rank_rows : 0;
    plan.global_rows = rank_rows * with_.dp_size;
    static const count_set none{};
    out.places = placement{plan, none};
    for (std::int32_t d = 0; d < with_.dp_size; ++d)
      out.rows[d] = d == eager / with_.tp_size ? random_.between(2, rank_rows - 1)
                                               : random_.between(0, rank_rows - 1);
    if (is_relayed(k)) {
      for (std::int32_t d = 0; d < with_.dp_size; ++d)
        out.rows[d] = d == eager ? 2 : random_.between(0, 1);
      out.rows[random_.between(0, with_.dp_size - 1)] = rank_rows - 1;
    }
    out.global_rows = plan.global_rows;
    out.local_rows = rank_rows;
    out.blocks = with_.blocks;
    out.key = ++calls_;
    out.shape = static_cast<std::uint32_t>(out.key);
    return out;
  }

  using script = std::vector<story_call>;

  /// Every rank runs its own calls; no barrier between ranks. Bytes are looked at where `looks`
  /// says so and the call went well.
  void run(
      const std::vector<script>& scripts, const gate* by = nullptr, const hook* on = nullptr,
      const std::function<bool(std::int32_t)>& looks = [](std::int32_t) { return true; }) {
    each_block(by, on, [&](std::int32_t r, auto& teller) {
      for (const story_call& call : scripts[static_cast<std::size_t>(r)]) {
        const std::uint64_t before = epochs(r);
        teller.prepare(call);
        dog().at(r, "call", call.key);
        teller.make(call);
        // All blocks of this rank have left the call: each of them finds the same answer.
        if (epochs(r) == before + static_cast<std::uint64_t>(call.blocks) && looks(r))
          teller.look(call);
        dog().at(r, "between calls", call.key);
      }
    });
  }
  /// Calls that the blocks of a rank have been through, counted together.
  [[nodiscard]] std::uint64_t epochs(std::int32_t r) const {
    peer_state& state = stage_.story_ranks[static_cast<std::size_t>(r)].lane.state();
    std::uint64_t out = 0;
    for (std::int32_t b = 0; b < with_.blocks; ++b) out += std::atomic_ref{state.epoch[b]}.load();
    return out;
  }
  /// The same calls on all ranks.
  void run_all(const script& calls) {
    run(std::vector<script>(static_cast<std::size_t>(ranks()), calls));
  }
  [[nodiscard]] std::uint64_t wrong_bytes() const {
    std::uint64_t out = 0;
    for (const std::uint64_t each : stage_.wrong) out += each;
    return out;
  }

  /// The next call is a no-op that says so: zeros, no rows, nothing else written, and the cause is
  /// still the first one. On every rank.
  void require_sticky(kind k) {
    const story_call next = call(k, 0);
    each_block(nullptr, nullptr, [&](std::int32_t, auto& teller) { teller.prepare(next); });
    std::vector<peer_control> controls = stage_.controls;
    std::vector<std::vector<std::byte>> expected;
    for (std::int32_t r = 0; r < ranks(); ++r) expected.push_back(emptied(r, next));
    each_block(nullptr, nullptr, [&](std::int32_t r, auto& teller) {
      dog().at(r, "no-op", next.key);
      teller.make(next);
    });
    for (std::int32_t r = 0; r < ranks(); ++r) {
      CAPTURE(r);
      REQUIRE(failed(r));
      const peer_record& before = controls[static_cast<std::size_t>(r)].first;
      if (before.written != 0) REQUIRE(std::memcmp(&before, &record(r), sizeof before) == 0);
      const std::vector<std::byte> found = bytes(r);
      for (std::size_t i = 0; i < found.size(); ++i) {
        // The lock of the record and the poison word may be new.
        if (i >= stage_.layout.state + offsetof(peer_state, failed) &&
            i < stage_.layout.state + sizeof(peer_state))
          continue;
        CAPTURE(i);
        if (found[i] != expected[static_cast<std::size_t>(r)][i])
          REQUIRE(found[i] == expected[static_cast<std::size_t>(r)][i]);
      }
    }
  }
  /// A new arena and 20 calls that go well.
  void require_rebuilds() {
    host_stage fresh{with_, random_, random_.pick(starts)};
    REQUIRE(tell_on_host<sum>(fresh, with_, draw_story<sum>(random_, with_, 20, 7)) == 0);
  }
  /// What this call leaves behind if it fails, or the no-op after: zeros in a view, no counts.
  [[nodiscard]] bool is_empty(std::int32_t r, const story_call& call) const {
    return bytes(r) == emptied(r, call);
  }

  /// Epochs at either end of 32 and 64 bits.
  static constexpr std::uint64_t starts[] = {0, 5, (std::uint64_t{1} << 31) - 3,
                                             (std::uint64_t{1} << 32) - 3, ~std::uint64_t{0} - 2};

private:
  static constexpr std::int32_t most_blocks = 2;

  [[nodiscard]] static story_options options(std::int32_t dp, std::int32_t tp, bool in_lines,
                                             std::int32_t blocks) {
    story_options out;
    out.dp_size = dp;
    out.tp_size = tp;
    out.rank_rows = rank_rows;
    out.tensors = 2;
    out.row_bytes[0] = 272; // more than two lines
    out.row_bytes[1] = 20;
    out.most_line_bytes = in_lines ? 1 << 20 : 0;
    out.blocks = blocks;
    return out;
  }
  template <class Body>
  void each_block(const gate* by, const hook* on, Body body) {
    for (auto& each : clocks_) each->by = by;
    on_host_threads<sum>(
        stage_, with_.blocks,
        [&](std::int32_t r, std::int32_t b) -> wait_clock& { return clock(r, b); },
        [&](std::int32_t r) {
          hooked_rules rules;
          rules.on = on;
          rules.rank = r;
          return rules;
        },
        [&](std::int32_t r, auto&, auto& teller) { body(r, teller); });
  }

  /// Everything that rank `r` owns: its arena, its local tensors, its counts.
  [[nodiscard]] std::vector<std::byte> bytes(std::int32_t r) const {
    std::vector<std::byte> out;
    const auto add = [&out](const void* data, std::size_t size) {
      const auto* const from = static_cast<const std::byte*>(data);
      out.insert(out.end(), from, from + size);
    };
    const auto i = static_cast<std::size_t>(r);
    add(stage_.arenas[i].get(), stage_.arenas[i].size());
    const std::size_t each = stage_.locals.size() / stage_.arenas.size();
    for (std::size_t l = 0; l < each; ++l)
      add(stage_.locals[i * each + l].get(), stage_.locals[i * each + l].size());
    add(&stage_.live[i], sizeof(count_set));
    return out;
  }
  /// The same after a call that was a no-op.
  [[nodiscard]] std::vector<std::byte> emptied(std::int32_t r, const story_call& call) const {
    std::vector<std::byte> out = bytes(r);
    const auto zero = [&out](std::size_t from, std::size_t size) {
      std::memset(out.data() + from, 0, size);
    };
    const auto i = static_cast<std::size_t>(r);
    const peer_layout& layout = stage_.layout;
    if (!call.combines) {
      for (std::int32_t t = 0; t < (call.partial ? 1 : layout.tensors); ++t)
        zero(layout.views[t], static_cast<std::size_t>(call.global_rows) * layout.row_bytes[t]);
      count_set none = stage_.live[i];
      for (std::int32_t d = 0; d < with_.dp_size; ++d) none.rows[d] = 0, none.offset[d] = 0;
      none.offset[with_.dp_size] = none.total = 0;
      std::memcpy(out.data() + out.size() - sizeof none, &none, sizeof none);
      return out;
    }
    std::size_t at = stage_.arenas[i].size();
    const std::size_t each = stage_.locals.size() / stage_.arenas.size();
    for (std::size_t l = 0; l + 1 < each; ++l) at += stage_.locals[i * each + l].size();
    zero(at, static_cast<std::size_t>(call.local_rows) * layout.row_bytes[0]);
    return out;
  }

  random_source& random_;
  story_options with_;
  host_stage stage_;
  std::vector<std::unique_ptr<looking_clock>> clocks_;
  std::uint64_t calls_ = 0;
};

/// What goes wrong.
enum class fault : std::uint8_t {
  skip,           ///< the victim does not come
  extra,          ///< it makes one call more
  swapped,        ///< it makes the next two calls in the other order
  digest,         ///< it takes the call for another one
  counts_more,    ///< it has one row more than the others think
  counts_fewer,   ///< one fewer
  counts_other,   ///< it thinks that another rank has one row fewer
  count_negative, ///< its count is no count
  count_above,    ///< its count is above the arena's capacity
  local_small,    ///< its local tensor is smaller than its count
  aliasing,       ///< all ranks combine from the last call's input
  aliasing_one,   ///< the victim does
};
constexpr fault all_faults[] = {fault::skip,         fault::extra,          fault::swapped,
                                fault::digest,       fault::counts_more,    fault::counts_fewer,
                                fault::counts_other, fault::count_negative, fault::count_above,
                                fault::local_small,  fault::aliasing,       fault::aliasing_one};
constexpr const char* fault_names[] = {
    "skip",         "extra",          "swapped",     "digest",      "counts_more", "counts_fewer",
    "counts_other", "count_negative", "count_above", "local_small", "aliasing",    "aliasing_one"};

/// One fault of one rank in one kind of call, and what all ranks must be told.
class fault_case {
public:
  fault_case(random_source& random, std::int32_t dp, std::int32_t tp, std::int32_t victim, kind k,
             fault f, std::int32_t blocks)
      : world_{random, dp, tp, uses_lines(k), blocks}, random_{random}, victim_{victim}, kind_{k},
        fault_{f} {}

  void run() {
    // Some calls before, so that epochs, views and inputs are in use.
    fault_world::script before;
    const kind friendly[] = {kind::lines, kind::sent};
    for (int i = random_.between(0, 3); i > 0; --i)
      before.push_back(world_.call(is_aliasing() ? kind::lines : random_.pick(friendly), 0));
    if (is_aliasing()) before.push_back(input_0(world_.call(kind_, victim_)));
    world_.run_all(before);
    for (std::int32_t r = 0; r < world_.ranks(); ++r) REQUIRE_FALSE(world_.failed(r));

    std::vector<fault_world::script> scripts(static_cast<std::size_t>(world_.ranks()));
    gate by;
    plan(scripts, by);
    std::vector<std::int64_t> passed;
    for (std::int32_t r = 0; r < world_.ranks(); ++r)
      for (std::int32_t b = 0; b < world_.blocks(); ++b)
        passed.push_back(world_.clock(r, b).passed());
    const hook enters = [&](std::int32_t, peer_point at, std::uint32_t) {
      if (at == peer_point::entered) by.enter();
    };
    // Where ranks differ on the counts, rows may lie where nobody looks for them: the error comes
    // with the call, or with the next.
    const bool places_differ = fault_ == fault::counts_more || fault_ == fault::counts_fewer ||
                               fault_ == fault::counts_other;
    {
      // Zeros after an error meet what peers and other blocks of the rank still store; a rank that
      // has given up no longer keeps its input for readers, who drop what they have read.
      std::optional<expected_races> racing;
      if (places_differ || world_.blocks() > 1 || !uses_lines(kind_)) racing.emplace();
      world_.run(scripts, &by, &enters, [&](std::int32_t) { return !places_differ; });
    }
    REQUIRE(world_.wrong_bytes() == 0);
    for (std::int32_t r = 0; r < world_.ranks(); ++r) {
      for (std::int32_t b = 0; b < world_.blocks(); ++b) {
        const auto i = static_cast<std::size_t>(r * world_.blocks() + b);
        REQUIRE(world_.clock(r, b).passed() - passed[i] <= std::int64_t{2} * budget_ns);
      }
    }
    bool anybody = false;
    for (std::int32_t r = 0; r < world_.ranks(); ++r) {
      CAPTURE(r);
      anybody = anybody || world_.failed(r);
      if (world_.failed(r)) require_expected(r);
      if (must_know(r)) REQUIRE(world_.failed(r));
      // One block fails as a whole; and in lines nobody else writes into a view.
      const story_call* const last = scripts[static_cast<std::size_t>(r)].empty()
                                         ? nullptr
                                         : &scripts[static_cast<std::size_t>(r)].back();
      if (world_.failed(r) && last != nullptr && world_.blocks() == 1 && kind_ != kind::stored &&
          kind_ != kind::relayed)
        REQUIRE(world_.is_empty(r, *last));
    }
    REQUIRE(anybody);
    if (code() == errc::plan_mismatch) require_both_named();
    world_.require_sticky(random_.pick(all_but_partial));
    for (std::int32_t r = 0; r < world_.ranks(); ++r) {
      CAPTURE(r);
      require_expected(r);
    }
    world_.require_rebuilds();
  }

private:
  static constexpr kind all_but_partial[] = {kind::lines, kind::exchanged, kind::sent};

  [[nodiscard]] bool is_aliasing() const {
    return fault_ == fault::aliasing || fault_ == fault::aliasing_one;
  }
  [[nodiscard]] static story_call input_0(story_call call) {
    call.input = 0;
    return call;
  }
  /// Entries to a call: a combine's block 0 enters for all.
  [[nodiscard]] std::int64_t entries(const story_call& call) const {
    return call.combines ? 1 : call.blocks;
  }

  void plan(std::vector<fault_world::script>& scripts, gate& by) {
    const story_call good = world_.call(kind_, victim_);
    story_call bad = good;
    std::int32_t& own = bad.rows[victim_ / world_.tp()];
    for (auto& each : scripts) each = {good};
    fault_world::script& script = scripts[static_cast<std::size_t>(victim_)];
    shapes_ = {good.shape, good.shape};
    switch (fault_) {
    case fault::skip:
      script.clear();
      by.expect((world_.ranks() - 1) * entries(good));
      return;
    case fault::extra: {
      const story_call more = world_.call(random_.chance(50) ? other() : kind_, victim_);
      script.push_back(more);
      by.expect(world_.ranks() * entries(good) + entries(more));
      return;
    }
    case fault::swapped: {
      const story_call second = world_.call(other(), victim_);
      for (auto& each : scripts) each.push_back(second);
      script = {second, good};
      shapes_[1] = second.shape;
      return;
    }
    case fault::digest:
      bad.shape += 1000;
      shapes_[1] = bad.shape;
      break;
    case fault::counts_more:
      ++own;
      break;
    case fault::counts_fewer:
      --own;
      by.expect(world_.ranks() * entries(good));
      break;
    case fault::counts_other: {
      const std::int32_t peer = (victim_ + world_.tp()) % world_.ranks() / world_.tp();
      for (auto& each : scripts)
        for (story_call& call : each) call.rows[peer] += call.rows[peer] == 0 ? 1 : 0;
      bad.rows[peer] = scripts[0][0].rows[peer] - 1;
      break;
    }
    case fault::count_negative:
      own = random_.chance(50) ? -1 : INT32_MIN;
      break;
    case fault::count_above:
      own = random_.chance(50) ? fault_world::rank_rows + 1 : INT32_MAX;
      break;
    case fault::local_small:
      bad.local_rows = own - 1;
      break;
    case fault::aliasing:
      for (auto& each : scripts) each = {input_0(good)};
      return;
    case fault::aliasing_one:
      bad = input_0(good);
      break;
    }
    script = {bad};
  }
  /// A call of the other direction, by the same way.
  [[nodiscard]] kind other() const {
    switch (kind_) {
    case kind::stored:
      return kind::pulled;
    case kind::pulled:
      return kind::stored;
    case kind::relayed:
      return kind::helped;
    case kind::helped:
      return kind::relayed;
    case kind::sent:
      return kind::lines;
    default:
      return kind::sent;
    }
  }

  [[nodiscard]] errc code() const {
    switch (fault_) {
    case fault::skip:
    case fault::extra:
      return errc::timeout;
    case fault::count_negative:
    case fault::count_above:
      return errc::count_out_of_range;
    case fault::local_small:
      return errc::capacity_exceeded;
    case fault::aliasing:
    case fault::aliasing_one:
      return errc::aliasing;
    default:
      return errc::plan_mismatch;
    }
  }
  /// Whether a rank must know after the call itself; all know after the next.
  [[nodiscard]] bool must_know(std::int32_t r) const {
    switch (fault_) {
    case fault::skip:
      return r != victim_;
    case fault::extra:
      return r == victim_;
    case fault::local_small: // its group may need no rows of it
      return r == victim_ || !is_group_of_victim(r);
    default:
      return true;
    }
  }
  [[nodiscard]] bool is_group_of_victim(std::int32_t rank) const {
    return rank / world_.tp() == victim_ / world_.tp();
  }
  void require_expected(std::int32_t r) const {
    const peer_record& found = world_.record(r);
    CAPTURE(std::string{name_of(static_cast<errc>(found.code))});
    CAPTURE(std::string{name_of(static_cast<subject>(found.about))});
    CAPTURE(found.rank);
    CAPTURE(found.peer);
    const auto got = static_cast<errc>(found.code);
    const auto about = static_cast<subject>(found.about);
    // A header is sent before its count is checked, and the victim's group waits for no rows of it.
    if (got == errc::plan_mismatch && code() == errc::count_out_of_range && world_.tp() > 1) {
      REQUIRE(about == subject::counts);
      REQUIRE(found.peer == victim_);
      return;
    }
    REQUIRE(got == code());
    switch (fault_) {
    case fault::skip:
      // A peer of the victim's group waits for the victim, and its own peers for it.
      REQUIRE(found.rank != victim_);
      if (world_.tp() == 1) REQUIRE(found.peer == victim_);
      REQUIRE(is_group_of_victim(found.peer));
      break;
    case fault::extra:
      REQUIRE(found.rank == victim_);
      REQUIRE(found.peer != victim_);
      break;
    case fault::swapped:
    case fault::digest:
      REQUIRE(about == subject::operation);
      REQUIRE((found.rank == victim_ || found.peer == victim_));
      break;
    case fault::counts_more:
    case fault::counts_fewer:
    case fault::counts_other:
      REQUIRE(about == subject::counts);
      REQUIRE((found.peer == victim_ || found.rank == victim_));
      break;
    case fault::count_negative:
    case fault::count_above:
      REQUIRE(about == subject::counts);
      REQUIRE(is_group_of_victim(found.peer));
      break;
    case fault::local_small:
      REQUIRE(about == subject::local);
      REQUIRE(found.rank == victim_);
      break;
    case fault::aliasing:
    case fault::aliasing_one:
      REQUIRE(about == subject::global);
      break;
    }
  }
  /// Whoever finds that two calls differ names both; those who hear of it know who did.
  void require_both_named() const {
    bool own = false;
    for (std::int32_t r = 0; r < world_.ranks(); ++r) {
      const peer_record& found = world_.record(r);
      if (found.written == 0 || found.rank != r) continue;
      own = true;
      if (static_cast<errc>(found.code) != errc::plan_mismatch) continue;
      if (fault_ == fault::swapped || fault_ == fault::digest) {
        REQUIRE(found.shape == shapes_[r == victim_ ? 1 : 0]);
        REQUIRE(found.peer_shape == shapes_[r == victim_ ? 0 : 1]);
        REQUIRE(found.value == found.shape);
        REQUIRE(found.limit == found.peer_shape);
      } else {
        REQUIRE(found.value != found.limit);
      }
    }
    REQUIRE(own);
  }

  fault_world world_;
  random_source& random_;
  std::int32_t victim_;
  kind kind_;
  fault fault_;
  std::array<std::uint32_t, 2> shapes_{};
};

} // namespace

TEST_CASE("every rank hears of every fault, by name, and a new arena works") {
  for_random_cases(
      [&](random_source& random) {
        fault f = random.pick(all_faults);
        kind k = random.pick(all_kinds);
        const bool aliases = f == fault::aliasing || f == fault::aliasing_one;
        if (aliases && !combines(k)) k = random.pick({kind::sent, kind::pulled, kind::helped});
        const std::int32_t ranks = is_relayed(k) ? 4 : random.between(2, 4);
        const std::int32_t tp = ranks % 2 == 0 && !is_relayed(k) && random.chance(40) ? 2 : 1;
        const std::int32_t dp = ranks / tp;
        std::int32_t victim = random.between(0, ranks - 1);
        if (k == kind::partial && tp == 1) k = kind::lines;
        // What a rank has not been told it cannot hold another opinion on; and with one
        // data-parallel rank there is no other.
        const bool counts = f == fault::counts_more || f == fault::counts_fewer;
        if ((counts && k == kind::exchanged) || (f == fault::counts_other && dp == 1))
          f = fault::digest;
        if (f == fault::counts_other && k == kind::exchanged) k = kind::lines;
        // Of an attention-TP group the first rank's count is the one that goes round.
        if ((f == fault::count_negative || f == fault::count_above) && k == kind::exchanged)
          victim -= victim % tp;
        const std::int32_t blocks = random.between(1, 2);
        const std::string name = std::string{fault_names[static_cast<std::size_t>(f)]} + ", kind " +
                                 std::to_string(static_cast<int>(k)) + ", W " +
                                 std::to_string(ranks) + ", A " + std::to_string(tp) + ", victim " +
                                 std::to_string(victim) + ", blocks " + std::to_string(blocks);
        INFO(name);
        dog().feed(name);
        fault_case{random, dp, tp, victim, k, f, blocks}.run();
      },
      case_count(40'000) / 100 / fewer);
}

TEST_CASE("a rank just below the deadline is in time, one at it is not") {
  for_random_cases(
      [&](random_source& random) {
        kind k = random.pick(all_kinds);
        const std::int32_t ranks = is_relayed(k) ? 4 : random.between(2, 4);
        const std::int32_t tp = ranks % 2 == 0 && !is_relayed(k) && random.chance(40) ? 2 : 1;
        if (k == kind::partial && tp == 1) k = kind::stored;
        const bool late = random.chance(50);
        const std::int32_t slow = random.between(0, ranks - 1);
        dog().feed("slow rank, kind " + std::to_string(static_cast<int>(k)) +
                   (late ? ", late" : ", in time"));
        fault_world world{random, ranks / tp, tp, uses_lines(k), 1};
        const auto looks = [&](std::int64_t more) {
          std::array<std::int64_t, 4> first{};
          const auto at = [](std::int32_t r) { return static_cast<std::size_t>(r); };
          for (std::int32_t r = 0; r < ranks; ++r) first[at(r)] = world.clock(r, 0).seen;
          for (std::int32_t r = 0; r < ranks; ++r) {
            while (r != slow && world.clock(r, 0).seen < first[at(r)] + more) {
              // Who has heard of an error looks no more.
              if (std::atomic_ref{world.stage().controls[at(r)].first.written}.load() != 0) break;
              std::this_thread::yield();
            }
          }
        };
        const auto pass = [&](std::int64_t ns) {
          for (std::int32_t r = 0; r < ranks; ++r) world.clock(r, 0).pass(ns);
        };
        // All others wait for this rank, and time stands still unless it is moved here.
        const hook holds = [&](std::int32_t rank, peer_point at, std::uint32_t) {
          if (rank != slow || at != peer_point::entered) return;
          // Rows on their way through a peer take three waits; whoever has looked at the last one
          // since looks at this rank only.
          for (int i = 0; i < 3; ++i) looks(20);
          pass(late ? budget_ns : budget_ns - 1);
          looks(20);
        };
        const story_call call = world.call(k, slow);
        {
          std::optional<expected_races> racing;
          if (late && !uses_lines(k)) racing.emplace();
          world.run(std::vector<fault_world::script>(static_cast<std::size_t>(ranks), {call}),
                    nullptr, &holds);
        }
        REQUIRE(world.wrong_bytes() == 0);
        for (std::int32_t r = 0; r < ranks; ++r) {
          CAPTURE(r);
          if (r != slow) REQUIRE(world.failed(r) == late);
          if (!world.failed(r)) continue;
          REQUIRE(static_cast<errc>(world.record(r).code) == errc::timeout);
          REQUIRE(world.record(r).rank != slow);
          REQUIRE(world.record(r).peer / tp == slow / tp);
        }
        if (late) {
          world.require_sticky(k);
          world.require_rebuilds();
        } else {
          world.run_all({world.call(k, 0), world.call(kind::lines, 0)});
          REQUIRE(wrong_on_host(world.stage(), true) == 0);
        }
      },
      case_count(20'000) / 200 / fewer);
}

TEST_CASE("word of an error may come at any time") {
  const std::uint64_t word = poison_word::of(errc::native_error, subject::none, 1, 0);
  for_random_cases(
      [&](random_source& random) {
        kind k = random.pick(all_kinds);
        if (k == kind::partial) k = kind::pulled;
        const std::int32_t ranks = is_relayed(k) ? 4 : random.between(2, 4);
        dog().feed("late poison, kind " + std::to_string(static_cast<int>(k)));
        fault_world world{random, ranks, 1, uses_lines(k), 1};
        const auto leave_word = [&](std::int32_t r) {
          std::atomic_ref{
              world.stage().story_ranks[static_cast<std::size_t>(r)].lane.state().poison}
              .store(word);
        };
        world.run_all({world.call(kind::lines, 0), world.call(kind::sent, 0)});
        if (random.chance(50)) {
          for (std::int32_t r = 0; r < ranks; ++r) leave_word(r);
        } else {
          // Then the call is a success, unless rows were read from peers: they may have been
          // overwritten by then.
          const hook leaves = [&](std::int32_t r, peer_point at, std::uint32_t) {
            if (at == peer_point::received) leave_word(r);
          };
          const story_call call = world.call(k, 0);
          std::vector<fault_world::script> scripts(static_cast<std::size_t>(ranks), {call});
          const bool drops = rereads(k);
          world.run(scripts, nullptr, &leaves, [&](std::int32_t) { return !drops; });
          if (drops) {
            for (std::int32_t r = 0; r < ranks; ++r) REQUIRE(world.is_empty(r, call));
          }
        }
        REQUIRE(world.wrong_bytes() == 0);
        world.require_sticky(k);
        for (std::int32_t r = 0; r < ranks; ++r) {
          REQUIRE(static_cast<errc>(world.record(r).code) == errc::native_error);
          REQUIRE(world.record(r).rank == 1);
          REQUIRE(world.record(r).peer == 0);
        }
        world.require_rebuilds();
      },
      case_count(20'000) / 400 / fewer);
}

TEST_CASE("flags and lines of another generation are nobody's") {
  for_random_cases(
      [&](random_source& random) {
        dog().feed("another generation");
        const std::int32_t ranks = random.between(2, 4);
        const std::int32_t tp = ranks == 4 && random.chance(50) ? 2 : 1;
        fault_world world{random, ranks / tp, tp, random.chance(50), random.between(1, 2)};
        host_stage& stage = world.stage();
        const std::uint64_t start = random.pick(fault_world::starts);
        stage.clear_words(start);
        stage.begin(start);
        REQUIRE(tell_on_host<sum>(stage, world.options(),
                                  draw_story<sum>(random, world.options(), 12, 1)) == 0);
        // The same memory again, with all that lies in it; or anything else that is not an epoch
        // of this generation.
        const std::uint64_t next =
            start + random.pick<std::uint64_t>({12, 1000, ~std::uint64_t{0} - 20, 1ull << 40});
        if (random.chance(50)) {
          for (const aligned_memory& arena : stage.arenas) {
            for (std::uint64_t at = 0; at < stage.layout.words_end(); at += 8) {
              std::uint64_t any = random();
              if (any - next <= 40) any = next;
              std::memcpy(arena.get() + at, &any, 8);
            }
          }
        }
        stage.begin(next);
        REQUIRE(tell_on_host<sum>(stage, world.options(),
                                  draw_story<sum>(random, world.options(), 20, 2)) == 0);
      },
      case_count(20'000) / 400 / fewer);
}

TEST_CASE("a combine that drops what it has read says so itself") {
  // Word of an error comes when all rows have been read. The output is zeros, so the host must see
  // a record without another call.
  dog().feed("dropped combine");
  random_source random{1};
  fault_world world{random, 2, 1, false, 1};
  const hook leaves = [&](std::int32_t r, peer_point at, std::uint32_t) {
    if (at != peer_point::received || r != 0) return;
    std::atomic_ref{world.stage().story_ranks[0].lane.state().poison}.store(
        poison_word::of(errc::native_error, subject::none, 1, 0));
  };
  const story_call call = world.call(kind::pulled, 0);
  world.run({{call}, {call}}, nullptr, &leaves);
  REQUIRE(world.is_empty(0, call));
  CHECK(world.failed(0));
}

TEST_CASE("fewer rows than announced are another count, not a timeout") {
  // Time stands still, but the header that tells of the other count is here.
  dog().feed("fewer rows");
  random_source random{1};
  fault_world world{random, 2, 1, true, 1};
  gate by;
  by.expect(2);
  const story_call call = world.call(kind::lines, 1);
  story_call less = call;
  --less.rows[1];
  const hook enters = [&](std::int32_t, peer_point at, std::uint32_t) {
    if (at == peer_point::entered) by.enter();
  };
  world.run({{call}, {less}}, &by, &enters, [](std::int32_t) { return false; });
  REQUIRE(world.failed(0));
  CHECK(static_cast<errc>(world.record(0).code) == errc::plan_mismatch);
}

TEST_CASE("a rank sees that its own count is not its group's") {
  // Counts are exchanged; only the group's first rank's is used.
  dog().feed("group's count");
  random_source random{1};
  fault_world world{random, 1, 2, true, 1};
  const story_call call = world.call(kind::exchanged, 0);
  story_call bad = call;
  bad.rows[0] = -1;
  world.run({{call}, {bad}}, nullptr, nullptr, [](std::int32_t) { return false; });
  REQUIRE(world.failed(0));
  CHECK(world.failed(1));
}

TEST_CASE("no rank takes rows of a peer that holds other counts") {
  // Rank 2 thinks that rank 0 has one row fewer, so it takes rank 1's rows from one row too early.
  // It says so, but rank 1's call was a success, with wrong sums.
  dog().feed("other counts");
  random_source random{1};
  fault_world world{random, 3, 1, true, 1};
  story_call call = world.call(kind::sent, 0);
  while (call.places.slot_rows() != 0) call = world.call(kind::sent, 0);
  for (std::int32_t d = 0; d < 3; ++d) call.rows[d] = 3;
  story_call bad = call;
  --bad.rows[0];
  world.run({{call}, {call}, {bad}}, nullptr, nullptr, [](std::int32_t r) { return r != 2; });
  REQUIRE(world.failed(2));
  CHECK(world.wrong_bytes() == 0);
}

TEST_CASE("a clock may begin at zero") {
  dog().feed("clock at zero");
  random_source random{1};
  fault_world world{random, 2, 1, true, 1};
  world.clock(0, 0).pass(-world.clock(0, 0).now_ns());
  // Rank 1 comes after rank 0 has looked at its clock a few times, which stands still.
  const hook holds = [&](std::int32_t rank, peer_point at, std::uint32_t) {
    if (rank != 1 || at != peer_point::entered) return;
    for (int i = 0; i < 2000 && world.clock(0, 0).seen < 4; ++i)
      std::this_thread::sleep_for(std::chrono::microseconds{100});
  };
  const story_call call = world.call(kind::lines, 1);
  world.run({{call}, {call}}, nullptr, &holds);
  CHECK_FALSE(world.failed(0));
}
