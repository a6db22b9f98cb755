#pragma once

/// @file
/// One rank of the end-to-end tests: the step of an engine, and every byte of what comes out
/// compared with a scalar reference.

#include "case_maker.hpp"
#include "gather_engine.hpp"
#include "guarded_bytes.hpp"
#include "payload.hpp"
#include "plan_oracle.hpp"
#include "random_cases.hpp"

#include <dpgather/hash.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace test_support {

/// What went wrong on any rank, and what the cases were like.
class case_log {
public:
  void problem(const std::string& where, const std::string& what) {
    const std::lock_guard lock{mutex_};
    if (problems_.size() < 12) problems_.push_back(what + "\n    in " + where);
    failed_ = true;
  }
  [[nodiscard]] bool failed() const { return failed_; }
  void report() const {
    for (const std::string& text : problems_) FAIL_CHECK(text);
  }

  std::atomic<std::uint64_t> cases{0}, idle{0}, all_idle{0}, at_capacity{0}, above_capacity{0},
      refused{0}, partial{0}, in_graph{0};

private:
  std::mutex mutex_;
  std::vector<std::string> problems_;
  std::atomic<bool> failed_{false};
};

/// What ranks compare after a step.
struct step_tally {
  std::uint64_t gather_bytes = 0;
  std::uint64_t combine_bytes = 0;
  std::uint64_t plan = 0;
};

/// Every field of a plan, in one word.
inline std::uint64_t digest_of(const dg::step_plan& p) {
  dg::digest_builder all;
  const auto add = [&](auto value) { all.add(static_cast<std::uint64_t>(value)); };
  add(p.mode), add(p.padding), add(p.layout), add(p.situation), add(p.why), add(p.counts);
  add(p.combine), add(p.kind), add(p.element), add(p.counts_known), add(p.bucket_missed);
  add(p.attention_in_bucket), add(p.dp_size), add(p.tp_size), add(p.width), add(p.shared_bucket);
  add(p.row_bytes), add(p.global_rows), add(p.stride), add(p.step), add(p.total_rows);
  add(p.gather_wire_rows), add(p.combine_wire_rows), add(p.digest), add(p.counts_digest);
  for (std::int32_t r = 0; r < p.dp_size; ++r) {
    add(p.real[r]), add(p.padded[r]);
    add(p.packed_offset[static_cast<std::size_t>(r) + 1]);
  }
  return all.value();
}

class case_rank {
public:
  case_rank(dg::host_communicator comm, case_log& log) : comm_{comm}, log_{log} {}

  /// False when the world cannot go on.
  bool session(const gather_variant& variant, std::uint64_t key, int steps, std::uint64_t first) {
    variant_ = &variant;
    topo_ = comm_.topology();
    case_maker maker{variant.means, topo_, random_source{key}};
    const auto bytes = variant.workspace_bytes(maker.config);
    step_ = {};
    if (!good(bytes.ok(), "workspace_bytes", bytes.status())) return false;
    workspace_.reset(*bytes);
    engine_ = variant.make(comm_, maker.config, {workspace_.data(), workspace_.size()});
    if (!good(engine_->check().ok(), "constructor", engine_->check())) return false;
    config_ = maker.config;
    for (int s = 0; s < steps; ++s) {
      step_ = maker.next(variant.flips_bits);
      number_ = first + static_cast<std::uint64_t>(s);
      if (!run_step() || log_.failed()) return false;
    }
    return true;
  }

private:
  // --- a step, in the order of an engine ---

  bool run_step() {
    want_ = plan_that_must_come(variant_->means, config_, engine_->sum_ladder(), step_.counts);
    count_case();
    dg::step_record mine = engine_->record(number_);
    fill(mine);
    dg::agreement agreed;
    const bool counts_agreed = variant_->means.counts == dg::counts_kind::agreed;
    if (counts_agreed || step_.agrees_anyway) {
      const auto merged = engine_->agree(comm_, mine);
      if (!good(merged.ok(), "agree", merged.status())) return false;
      agreed = *merged;
    }
    const auto planned = engine_->plan(agreed, mine, step_.counts.kind);
    if (!check_refusal(planned.status())) return false;
    if (!want_.refused.empty()) return true;
    plan_ = *planned;
    if (!check_plan()) return false;

    engine_->write_counts(step_.counts.rows());
    draw_views();
    step_tally tally;
    if (!gather(tally)) return false;
    if (views_.draw.chance(50)) {
      if (!combine(tally) || !scatter()) return false;
    } else {
      if (!scatter() || !combine(tally)) return false;
    }
    return good(workspace_.intact(), "a byte beside the workspace changed") && compare(tally);
  }

  void count_case() {
    if (comm_.rank() != 0) return;
    const auto& n = step_.counts.rows();
    ++log_.cases;
    log_.idle += std::count(n.begin(), n.end(), 0) > 0;
    log_.all_idle += std::count(n.begin(), n.end(), 0) == topo_.dp_size;
    log_.at_capacity += step_.near_capacity;
    log_.above_capacity += std::count(n.begin(), n.end(), config_.max_rows_per_rank + 1) > 0 ||
                           std::count(step_.counts.tokens.begin(), step_.counts.tokens.end(),
                                      config_.max_rows_per_rank + 1) > 0;
    log_.refused += !want_.refused.empty();
    log_.partial += step_.owes_sum;
    log_.in_graph += want_.in_graph;
  }

  void fill(dg::step_record& out) const {
    const step_counts& counts = step_.counts;
    const auto d = static_cast<std::size_t>(topo_.dp_rank);
    out.tokens = counts.tokens[d];
    out.logits_tokens = counts.logits[d];
    out.draft_tokens = counts.draft[d];
    out.requests = counts.tokens[d] / counts.width;
    out.width = counts.width;
    out.votes = dg::step_record::graph_vote;
    // One rank that cannot replay a graph is enough; where the host merges nothing, all must know.
    const bool everybody = variant_->means.counts != dg::counts_kind::agreed;
    const auto victim = step_.key % static_cast<std::uint64_t>(comm_.size());
    if (!counts.all_vote_graph && (everybody || static_cast<std::uint64_t>(comm_.rank()) == victim))
      out.votes = 0;
    if (out.tokens == 0) return;
    out.phase = dg::phase::decode;
    const bool first_busy =
        std::all_of(counts.tokens.begin(), counts.tokens.begin() + topo_.dp_rank,
                    [](std::int32_t t) { return t == 0; });
    if (counts.any_prefill && first_busy) out.phase = dg::phase::extend;
  }

  /// Whether the plan was refused exactly when, and for what, it must be.
  bool check_refusal(const dg::status& got) {
    if (variant_->means.counts != dg::counts_kind::agreed) return check_own_refusal(got);
    if (want_.refused.empty()) return good(got.ok(), "plan", got);
    if (std::find(want_.refused.begin(), want_.refused.end(), got.code) == want_.refused.end())
      return good(false, "plan must be refused", got);
    if (got.code != dg::errc::count_out_of_range) return true;
    return good(got.rank == want_.refused_rank && got.limit == config_.max_rows_per_rank &&
                    got.value > got.limit,
                "rank, value and limit of a refused count", got);
  }
  /// A host that knows its own count only refuses its own only.
  bool check_own_refusal(const dg::status& got) {
    step_counts own = step_.counts;
    for (auto* list : {&own.tokens, &own.logits, &own.draft}) {
      for (std::size_t r = 0; r < list->size(); ++r) {
        if (r != static_cast<std::size_t>(topo_.dp_rank)) (*list)[r] = 0;
      }
    }
    const expected_plan here =
        plan_that_must_come(variant_->means, config_, engine_->sum_ladder(), own);
    if (here.refused.empty()) return good(got.ok(), "plan", got);
    return good(std::find(here.refused.begin(), here.refused.end(), got.code) != here.refused.end(),
                "plan must be refused", got);
  }

  bool check_plan() {
    const dg::step_plan& p = plan_;
    bool same = p.mode == want_.mode && p.in_graph() == want_.in_graph &&
                (p.layout == dg::layout_kind::slots) == want_.slots && p.stride == want_.stride &&
                p.global_rows == want_.global_rows && p.bucket_missed == want_.missed &&
                p.combine == want_.combine && p.kind == step_.counts.kind;
    const bool known = variant_->means.counts == dg::counts_kind::agreed;
    same = same && p.counts_known == known;
    for (std::int32_t r = 0; r < topo_.dp_size; ++r) {
      const auto at = static_cast<std::size_t>(r);
      if (!known && r != topo_.dp_rank) continue;
      same = same && p.real[r] == step_.counts.rows()[at] && p.padded[r] == want_.padded[at];
      if (known) same = same && p.offset(r) == want_.offset[at];
    }
    if (known)
      same = same && p.total_rows == want_.total &&
             p.gather_wire_rows == want_.gather_wire_rows() &&
             p.combine_wire_rows == want_.combine_wire_rows();
    std::ostringstream text;
    if (!same) {
      text << "plan: mode " << name_of(p.mode) << " not " << name_of(want_.mode) << ", rows "
           << p.global_rows << " not " << want_.global_rows << ", stride " << p.stride << " not "
           << want_.stride << ", total " << p.total_rows << " not " << want_.total << ", wire "
           << p.gather_wire_rows << '/' << p.combine_wire_rows << " not "
           << want_.gather_wire_rows() << '/' << want_.combine_wire_rows() << ", padded "
           << p.padded[topo_.dp_rank] << " not "
           << want_.padded[static_cast<std::size_t>(topo_.dp_rank)];
    }
    return good(same, text.str());
  }

  // --- shapes of this rank's views ---

  struct view_choices {
    random_source draw{0};
    std::int64_t real = 0; // n of this rank
  };

  void draw_views() {
    views_.draw =
        random_source{mixed(step_.key, 0x76696577, static_cast<std::uint64_t>(comm_.rank()))};
    views_.real = step_.counts.rows()[static_cast<std::size_t>(topo_.dp_rank)];
  }
  /// Rows of a local view: what is real, up to the slot, or more.
  std::int64_t local_rows() {
    const std::int64_t n = views_.real;
    switch (views_.draw.between(0, 3)) {
    case 0:
      return n;
    case 1:
      return std::max(n, want_.stride);
    case 2:
      return n + views_.draw.between(0, 5);
    default:
      return std::max<std::int64_t>(n, want_.padded[static_cast<std::size_t>(topo_.dp_rank)]) +
             views_.draw.between(0, 3);
    }
  }
  std::size_t row_stride() {
    if (views_.draw.chance(60)) return step_.row_bytes;
    return step_.row_bytes + dg::size_of(step_.type) * views_.draw.between<std::size_t>(1, 5);
  }
  static std::size_t extent(std::int64_t rows, std::size_t stride, std::size_t row_bytes) {
    return rows == 0 ? 0 : static_cast<std::size_t>(rows - 1) * stride + row_bytes;
  }

  // --- payloads ---

  std::uint64_t row_key(std::uint64_t what, std::int32_t rank, std::int64_t dp_rank,
                        std::int64_t row) const {
    return mixed(step_.key, what << 32 | static_cast<std::uint64_t>(rank),
                 static_cast<std::uint64_t>(dp_rank), static_cast<std::uint64_t>(row));
  }
  [[nodiscard]] bool sums_peers() const { return step_.owes_sum && topo_.tp_size > 1; }

  /// What attention-TP rank `t` of rank `d` hands in as its row `i`.
  void input_row(std::byte* out, std::int32_t d, std::int32_t t, std::int64_t i) const {
    if (!sums_peers()) return random_row(out, step_.row_bytes, row_key(1, 0, d, i));
    addend_row(out, 1, t, d, i, topo_.tp_size);
  }
  void addend_row(std::byte* out, std::uint64_t what, std::int32_t from, std::int64_t d,
                  std::int64_t i, std::int32_t addends) const {
    const std::uint64_t key = row_key(what, from, d, i);
    const std::size_t unit = dg::size_of(step_.type);
    for (std::size_t at = 0; at < step_.row_bytes; at += unit)
      store_element(out + at, step_.type, addend(step_.type, key, at, addends));
  }
  /// Row `i` of rank `d` after the gather.
  void gathered_row(std::byte* out, std::int32_t d, std::int64_t i) const {
    constexpr std::uint64_t mask = 0x0101010101010101U * row_op_mask;
    if (!sums_peers()) {
      input_row(out, d, 0, i);
      for (std::size_t at = 0; variant_->flips_bits && at < step_.row_bytes; ++at)
        out[at] ^= std::byte{row_op_mask};
      return;
    }
    sum_row(out, 1, d, i, topo_.tp_size, variant_->flips_bits ? mask : 0);
  }
  /// The sum of what `addends` ranks hand in for a row.
  void sum_row(std::byte* out, std::uint64_t what, std::int64_t d, std::int64_t i,
               std::int32_t addends, std::uint64_t mask = 0) const {
    const std::size_t unit = dg::size_of(step_.type);
    std::uint64_t sums[largest_row_bytes] = {};
    for (std::int32_t from = 0; from < addends; ++from) {
      const std::uint64_t key = row_key(what, from, d, i);
      for (std::size_t at = 0; at < step_.row_bytes; at += unit)
        sums[at] += addend(step_.type, key, at, addends) ^ mask;
    }
    for (std::size_t at = 0; at < step_.row_bytes; at += unit)
      store_element(out + at, step_.type, sums[at]);
  }
  /// A row of the tail, if the policy says what it holds.
  bool tail_row(std::byte* out) const {
    const std::size_t unit = dg::size_of(step_.type);
    for (std::size_t at = 0; at < step_.row_bytes; at += unit) {
      switch (variant_->tail) {
      case tail_option::zero:
        store_element(out + at, step_.type, 0);
        break;
      case tail_option::sentinel:
        store_element(out + at, step_.type, static_cast<std::uint64_t>(sentinel_number));
        break;
      case tail_option::poison:
        std::memset(out + at, dg::is_floating(step_.type) ? 0xff : 0, unit);
        if (!dg::is_floating(step_.type)) out[at + unit - 1] = std::byte{0x80};
        break;
      case tail_option::leave:
        return false;
      }
    }
    return true;
  }

  // --- the calls ---

  bool gather(step_tally& tally) {
    const std::size_t row = step_.row_bytes;
    const std::int64_t n = views_.real;
    const std::int64_t spare = views_.draw.between(0, 3);
    // 0xcd: what the output held before. 0xff: NaN in what is not real of an input.
    global_.reset(static_cast<std::size_t>(want_.global_rows + spare) * row, 0xcd);
    std::byte* const out =
        want_.global_rows + spare == 0 && views_.draw.chance(50) ? nullptr : global_.data();
    const gather_engine::output_rows global{out, want_.global_rows + spare, step_.type, row};

    const bool in_place = plan_.counts_known && plan_.mode != dg::mode_kind::all_reduce && n > 0 &&
                          views_.draw.chance(20);
    std::int64_t rows = local_rows();
    std::size_t stride = row_stride();
    std::byte* from = nullptr;
    if (in_place) {
      stride = row;
      const std::int64_t first = want_.offset[static_cast<std::size_t>(topo_.dp_rank)];
      rows = std::min(rows, want_.global_rows - first);
      from = global_.data() + static_cast<std::size_t>(first) * row;
    } else {
      input_.reset(extent(rows, stride, row), 0xff);
      if (rows > 0 || views_.draw.chance(50)) from = input_.data();
    }
    for (std::int64_t i = 0; i < n; ++i)
      input_row(from + static_cast<std::size_t>(i) * stride, topo_.dp_rank, topo_.tp_rank, i);
    const std::vector<std::byte> input_before =
        in_place ? std::vector<std::byte>{} : input_.snapshot();
    const std::vector<std::byte> output_before = global_.snapshot();

    const std::uint64_t received = engine_->bytes_received();
    const auto done =
        step_.owes_sum
            ? engine_->gather(gather_engine::partial_rows{from, rows, step_.type, row, stride},
                              global, plan_)
            : engine_->gather(gather_engine::replicated_rows{from, rows, step_.type, row, stride},
                              global, plan_);
    tally.gather_bytes = engine_->bytes_received() - received;
    if (!good(done.ok(), "gather", done.status())) return false;
    if (!good(done->data() == out && done->rows() == want_.global_rows &&
                  done->row_bytes() == row && done->contiguous(),
              "the view that gather answers"))
      return false;
    if (!good(in_place || (input_.intact() && input_.equals(input_before)),
              "gather wrote its input"))
      return false;
    return check_global(output_before) && check_counts();
  }

  /// Every byte of the global tensor, and those behind it.
  bool check_global(const std::vector<std::byte>& before) {
    const std::size_t row = step_.row_bytes;
    expected_.assign(before.begin(), before.end());
    std::vector<bool>& free = any_value_;
    free.assign(static_cast<std::size_t>(want_.global_rows), true);
    const auto place = [&](std::int64_t g) {
      return expected_.data() + static_cast<std::size_t>(g) * row;
    };
    const bool filled = variant_->tail != tail_option::leave;
    for (std::int64_t g = 0; filled && g < want_.global_rows; ++g) (void)tail_row(place(g));
    // Nothing arrives in a tail that only real rows travel to.
    if (filled || want_.mode == dg::mode_kind::exact) free.assign(free.size(), false);
    for (std::int32_t d = 0; d < topo_.dp_size; ++d) {
      const auto at = static_cast<std::size_t>(d);
      for (std::int64_t i = 0; i < step_.counts.rows()[at]; ++i) {
        gathered_row(place(want_.offset[at] + i), d, i);
        free[static_cast<std::size_t>(want_.offset[at] + i)] = false;
      }
    }
    for (std::int64_t g = 0; g < want_.global_rows; ++g) {
      if (!free[static_cast<std::size_t>(g)] &&
          std::memcmp(place(g), global_.data() + static_cast<std::size_t>(g) * row, row) != 0)
        return good(false,
                    "global row " + std::to_string(g) + " of " + std::to_string(want_.global_rows));
    }
    const std::size_t end = static_cast<std::size_t>(want_.global_rows) * row;
    return good(global_.intact() && std::equal(before.begin() + static_cast<std::ptrdiff_t>(end),
                                               before.end(), global_.data() + end),
                "gather wrote behind the global rows");
  }

  bool check_counts() {
    const dg::count_set& set = engine_->counts();
    std::int64_t sum = 0;
    bool same = true;
    for (std::int32_t d = 0; d < topo_.dp_size; ++d) {
      const auto at = static_cast<std::size_t>(d);
      same = same && set.rows[at] == step_.counts.rows()[at] && set.offset[at] == sum;
      sum += step_.counts.rows()[at];
    }
    return good(same && set.total == sum &&
                    set.offset[static_cast<std::size_t>(topo_.dp_size)] == sum,
                "counts()");
  }

  bool combine(step_tally& tally) {
    const std::size_t row = step_.row_bytes;
    const std::int64_t spare = views_.draw.between(0, 2);
    sums_.reset(static_cast<std::size_t>(want_.global_rows + spare) * row, 0xff);
    for (std::int32_t d = 0; d < topo_.dp_size; ++d) {
      const auto at = static_cast<std::size_t>(d);
      for (std::int64_t i = 0; i < step_.counts.rows()[at]; ++i)
        addend_row(sums_.data() + static_cast<std::size_t>(want_.offset[at] + i) * row, 2,
                   comm_.rank(), d, i, comm_.size());
    }
    const std::vector<std::byte> before = sums_.snapshot();
    const std::uint64_t received = engine_->bytes_received();
    const bool summable = dg::is_summable(step_.type);
    const dg::status done = back([&](const gather_engine::output_rows& local) {
      return engine_->combine(
          gather_engine::partial_rows{sums_.data(), want_.global_rows + spare, step_.type, row},
          local, plan_);
    });
    tally.combine_bytes = engine_->bytes_received() - received;
    if (!good(sums_.intact() && sums_.equals(before), "combine wrote its input")) return false;
    if (summable) {
      return good(done.ok(), "combine", done) &&
             check_back(
                 "combined row",
                 [&](std::byte* out, std::int64_t i) {
                   sum_row(out, 2, topo_.dp_rank, i, comm_.size());
                 },
                 want_.mode != dg::mode_kind::all_gather);
    }
    return good(done.code == dg::errc::unsupported_type, "bytes have no sum", done) &&
           good(output_.intact() && output_.equals(output_before_), "a refused combine wrote");
  }

  bool scatter() {
    const gather_engine::replicated_rows global{global_.data(), want_.global_rows, step_.type,
                                                step_.row_bytes};
    const std::vector<std::byte> before = global_.snapshot();
    const dg::status done = back([&](const gather_engine::output_rows& local) {
      return engine_->scatter(global, local, plan_);
    });
    if (!good(global_.intact() && global_.equals(before), "scatter wrote its input")) return false;
    return good(done.ok(), "scatter", done) &&
           check_back(
               "scattered row",
               [&](std::byte* out, std::int64_t i) { gathered_row(out, topo_.dp_rank, i); }, true);
  }

  /// Calls with a fresh local output.
  template <class Call>
  dg::status back(Call call) {
    out_rows_ = local_rows();
    out_stride_ = row_stride();
    output_.reset(extent(out_rows_, out_stride_, step_.row_bytes), 0xcd);
    output_before_ = output_.snapshot();
    const bool null = out_rows_ == 0 && views_.draw.chance(50);
    return call(gather_engine::output_rows{null ? nullptr : output_.data(), out_rows_, step_.type,
                                           step_.row_bytes, out_stride_});
  }

  /// Real rows, tail and the gaps between rows of the local output. `leaves`: under `tail::leave`
  /// nothing at all reaches the tail.
  template <class Row>
  bool check_back(const char* what, Row&& expected_row, bool leaves) {
    const std::size_t row = step_.row_bytes;
    expected_.assign(output_before_.begin(), output_before_.end());
    for (std::int64_t i = 0; i < out_rows_; ++i) {
      std::byte* const place = expected_.data() + static_cast<std::size_t>(i) * out_stride_;
      const std::byte* const got = output_.data() + static_cast<std::size_t>(i) * out_stride_;
      if (i < views_.real) {
        expected_row(place, i);
      } else if (!tail_row(place) && !leaves && i < want_.stride) {
        std::memcpy(place, got, row);
      }
      if (std::memcmp(place, got, row) != 0)
        return good(false, std::string{what} + ' ' + std::to_string(i) + " of " +
                               std::to_string(views_.real) + " real, " + std::to_string(out_rows_) +
                               " in all");
    }
    return good(output_.intact() && output_.equals(expected_),
                "bytes between or behind local rows");
  }

  // --- the end of a step ---

  /// Plans are equal on all ranks; what travelled is what the formulas of the field say.
  bool compare(const step_tally& tally) {
    step_tally mine = tally;
    mine.plan = plan_.counts_known ? digest_of(plan_) : plan_.digest;
    all_.resize(static_cast<std::size_t>(comm_.size()));
    const dg::status met = comm_.all_gather(&mine, all_.data(), sizeof mine);
    if (!good(met.ok(), "exchange of tallies", met)) return false;
    std::uint64_t gathered = 0;
    std::uint64_t combined = 0;
    for (const step_tally& t : all_) {
      if (!good(t.plan == mine.plan, "two ranks hold different plans")) return false;
      gathered += t.gather_bytes;
      combined += t.combine_bytes;
    }
    if (topo_.tp_size != 1) return true;
    const std::uint64_t unit = static_cast<std::uint64_t>(topo_.dp_size - 1) * step_.row_bytes;
    const auto rows = [](std::int64_t r) { return static_cast<std::uint64_t>(r); };
    const std::uint64_t combine_rows =
        dg::is_summable(step_.type) ? rows(want_.combine_wire_rows()) : 0;
    return good(gathered == unit * rows(want_.gather_wire_rows()) &&
                    combined == unit * combine_rows,
                "wire bytes " + std::to_string(gathered) + " and " + std::to_string(combined) +
                    " for " + std::to_string(want_.gather_wire_rows()) + " and " +
                    std::to_string(combine_rows) + " rows of " + std::to_string(step_.row_bytes));
  }

  // --- failures ---

  bool good(bool yes, const std::string& what) {
    if (!yes) log_.problem(describe_step(), what);
    return yes;
  }
  bool good(bool yes, const char* what, const dg::status& why) {
    if (!yes) log_.problem(describe_step(), std::string{what} + ": " + why.message().c_str());
    return yes;
  }

  std::string describe_step() const {
    std::ostringstream out;
    out << "seed " << seed() << ", case " << number_ << ", W=" << topo_.dp_size
        << " A=" << topo_.tp_size << ", world rank " << comm_.rank() << ", " << variant_->name
        << ", " << name_of(step_.counts.kind) << ' ' << name_of(step_.type) << ' '
        << step_.row_bytes << " B" << (step_.owes_sum ? " partial" : "")
        << (step_.counts.all_vote_graph ? " graph" : " no_graph") << " width " << step_.counts.width
        << " n=";
    for (const std::int32_t n : step_.counts.rows()) out << n << ' ';
    return out.str();
  }

  dg::host_communicator comm_;
  case_log& log_;
  dg::topology topo_;
  const gather_variant* variant_ = nullptr;
  dg::gather_config config_;
  std::unique_ptr<gather_engine> engine_;
  std::uint64_t number_ = 0;
  gather_step step_;
  expected_plan want_;
  dg::step_plan plan_;
  view_choices views_;
  guarded_bytes workspace_, input_, global_, sums_, output_;
  std::vector<std::byte> output_before_, expected_;
  std::vector<bool> any_value_;
  std::int64_t out_rows_ = 0;
  std::size_t out_stride_ = 0;
  std::vector<step_tally> all_;
};

} // namespace test_support
