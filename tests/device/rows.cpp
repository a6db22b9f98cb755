#include <dpgather/device/rows.hpp>

#include <dpgather/device/executor.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/options.hpp>
#include <dpgather/placement.hpp>
#include <dpgather/tensor.hpp>

#include "support/guarded_bytes.hpp"
#include "support/random_cases.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

using bytes = std::vector<std::byte>;

/// Two added to every byte, so that a row that went through the functor twice shows.
struct add_two {
  static void apply(const std::byte* from, std::byte* to, std::size_t size) noexcept {
    for (std::size_t i = 0; i < size; ++i)
      to[i] = static_cast<std::byte>(std::to_integer<unsigned>(from[i]) + 2);
  }
};
using adding = dg::row_op::apply_to_rows<add_two>;

/// A plan, its counts, and rows whose every byte is random.
struct scene {
  dg::step_plan plan;
  dg::count_set counts;
  std::int32_t dp = 0, tp = 0;
  std::size_t unit = 1, row = 1, local_stride = 1;
  std::int64_t local_rows = 0;
  bytes local;
  dg::fill_pattern fill{};
  std::uint64_t workers = 1;

  explicit scene(ts::random_source& random) {
    plan.dp_size = random.between<std::int32_t>(1, 5);
    plan.tp_size = random.pick<std::int32_t>({1, 2, 4});
    plan.mode =
        random.pick({dg::mode_kind::all_gather, dg::mode_kind::all_reduce, dg::mode_kind::exact});
    std::int32_t longest = 0;
    for (std::int32_t d = 0; d < plan.dp_size; ++d) {
      counts.set(d, random.chance(30) ? 0 : random.between<std::int32_t>(0, 9));
      longest = std::max(longest, counts.rows[d]);
    }
    counts.sum_up(plan.dp_size);
    const bool slots = plan.mode == dg::mode_kind::all_gather || random.chance(40);
    plan.layout = slots ? dg::layout_kind::slots : dg::layout_kind::packed;
    if (slots) {
      plan.stride =
          (longest + random.between(0, 5) + plan.tp_size - 1) / plan.tp_size * plan.tp_size;
      plan.global_rows = plan.stride * plan.dp_size;
    } else {
      plan.global_rows = counts.total + random.between(0, 5);
    }
    dp = random.between<std::int32_t>(0, plan.dp_size - 1);
    tp = random.between<std::int32_t>(0, plan.tp_size - 1);
    unit = random.pick<std::size_t>({1, 2, 4, 8});
    row = unit * random.between<std::size_t>(1, 9);
    local_stride = row + unit * random.between<std::size_t>(0, 3) * (random.chance(50) ? 1U : 0U);
    local_rows = counts.rows[dp] + random.between(0, 4);
    local.resize(static_cast<std::size_t>(local_rows) * local_stride);
    for (std::byte& b : local) b = static_cast<std::byte>(random.between(0, 255));
    if (random.chance(20)) {
      fill.leave = true;
    } else {
      fill.size = static_cast<std::uint8_t>(unit);
      for (std::size_t i = 0; i < 8; ++i) fill.bytes[i] = static_cast<std::byte>(i % unit * 31 + 7);
    }
    workers = random.between<std::uint64_t>(1, 6);
  }

  [[nodiscard]] dg::placement places() const { return {plan, counts}; }
  [[nodiscard]] std::size_t global_bytes() const {
    return static_cast<std::size_t>(plan.global_rows) * row;
  }
  [[nodiscard]] dg::detail::row_places<const std::byte> from() const {
    return {local.data(), row, local_stride};
  }
  [[nodiscard]] dg::detail::row_places<std::byte> global(ts::guarded_bytes& memory) const {
    return {memory.data(), row, row};
  }
  /// What global row `g` must hold: row `i` of the local rows, or the fill.
  void expect_copy(bytes& global, std::int64_t g, std::int64_t i, unsigned add) const {
    for (std::size_t b = 0; b < row; ++b)
      global[static_cast<std::size_t>(g) * row + b] = static_cast<std::byte>(
          std::to_integer<unsigned>(local[static_cast<std::size_t>(i) * local_stride + b]) + add);
  }
  void expect_fill(bytes& rows, std::size_t stride, std::int64_t r) const {
    if (fill.leave) return;
    for (std::size_t b = 0; b < row; ++b)
      rows[static_cast<std::size_t>(r) * stride + b] = fill.bytes[b % unit];
  }
  template <class Job>
  void run(const Job& job) const {
    for (std::uint64_t w = 0; w < workers; ++w) job(0, dg::worker_id{w, workers});
  }
};

} // namespace

static_assert(dg::device_job<dg::place_rows<dg::row_op::identity>>);
static_assert(dg::device_job<dg::fill_tails>);
static_assert(dg::device_job<dg::fill_share_tail>);
static_assert(dg::device_job<dg::take_rows>);

TEST_CASE("place_rows: real rows at their place, the rest of the window filled, nothing else") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const scene s{random};
        const auto window =
            random.pick({dg::row_window::share, dg::row_window::slot, dg::row_window::all});
        const bool copies = random.chance(85);
        const bool op = random.chance(30);
        ts::guarded_bytes global{s.global_bytes()};
        bytes expected = global.snapshot();
        // By row: who owns it, and does the window have it?
        const std::int64_t n = s.counts.rows[s.dp];
        const bool slots = s.plan.layout == dg::layout_kind::slots;
        const std::int64_t start = slots ? s.dp * s.plan.stride : s.counts.offset[s.dp];
        const bool whole_slot = s.plan.mode == dg::mode_kind::all_gather;
        const std::int64_t extent = whole_slot ? s.plan.stride : n;
        const std::int64_t first = extent * s.tp / s.plan.tp_size;
        const std::int64_t last = extent * (s.tp + 1) / s.plan.tp_size;
        for (std::int64_t g = 0; g < s.plan.global_rows; ++g) {
          const std::int64_t i = g - start;
          const bool inside = window == dg::row_window::all    ? true
                              : window == dg::row_window::slot ? i >= 0 && i < extent
                                                               : i >= first && i < last;
          if (!inside) continue;
          if (copies && i >= 0 && i < n) {
            s.expect_copy(expected, g, i, op ? 2 : 0);
          } else {
            s.expect_fill(expected, s.row, g);
          }
        }
        const auto place = [&]<class Op>(Op) {
          s.run(dg::place_rows<Op>{.local = s.from(),
                                   .global = s.global(global),
                                   .places = s.places(),
                                   .fill = s.fill,
                                   .dp_rank = s.dp,
                                   .tp_rank = s.tp,
                                   .local_rows = s.local_rows,
                                   .most_rows = s.plan.global_rows,
                                   .window = window,
                                   .copies = copies});
        };
        op ? place(adding{}) : place(dg::row_op::identity{});
        REQUIRE(global.equals(expected));
        REQUIRE(global.intact());
      },
      ts::case_count(10'000));
}

TEST_CASE("place_rows: rows that lie at their place stay, and go through a functor in place") {
  dg::step_plan plan;
  plan.mode = dg::mode_kind::exact;
  plan.global_rows = 2;
  dg::count_set counts;
  counts.set(0, 2);
  counts.sum_up(1);
  bytes memory{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  const auto place = [&]<class Op>(Op) {
    const dg::place_rows<Op> job{.local = {memory.data(), 2, 2},
                                 .global = {memory.data(), 2, 2},
                                 .places = {plan, counts},
                                 .fill = dg::no_fill(),
                                 .local_rows = 2,
                                 .most_rows = 2};
    CHECK(dg::executor<dg::host_stream>::run(job, 0, {}).ok());
  };
  place(dg::row_op::identity{});
  CHECK(memory == bytes{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}});
  place(adding{});
  CHECK(memory == bytes{std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}});
}

TEST_CASE("fill_tails and fill_share_tail: rows that are not real, and no others") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        const scene s{random};
        ts::guarded_bytes global{s.global_bytes()};
        const bool all = random.chance(50) || s.plan.mode != dg::mode_kind::all_gather;
        bytes expected = global.snapshot();
        const std::int64_t slice = s.plan.stride / s.plan.tp_size;
        for (std::int64_t g = 0; g < s.plan.global_rows; ++g) {
          bool real = g < s.counts.total;
          bool mine = true;
          if (s.plan.layout == dg::layout_kind::slots) {
            real = g % s.plan.stride < s.counts.rows[g / s.plan.stride];
            mine = g / s.plan.stride == s.dp && slice > 0 && g % s.plan.stride / slice == s.tp;
          }
          if (!real && (all || mine)) s.expect_fill(expected, s.row, g);
        }
        if (all) {
          s.run(dg::fill_tails{.global = s.global(global),
                               .places = s.places(),
                               .fill = s.fill,
                               .most_rows = s.plan.global_rows});
        } else {
          s.run(dg::fill_share_tail{.global = s.global(global),
                                    .places = s.places(),
                                    .fill = s.fill,
                                    .dp_rank = s.dp,
                                    .tp_rank = s.tp,
                                    .most_rows = slice});
        }
        REQUIRE(global.equals(expected));
        REQUIRE(global.intact());
      },
      ts::case_count(10'000));
}

TEST_CASE("take_rows: this rank's rows out of sums or a global tensor, the tail behind them") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        scene s{random};
        const bool from_global = random.chance(50);
        const bool in_place = !from_global && random.chance(20);
        bytes sums(from_global ? s.global_bytes()
                               : static_cast<std::size_t>(s.counts.rows[s.dp]) * s.row);
        for (std::byte& b : sums) b = static_cast<std::byte>(random.between(0, 255));
        ts::guarded_bytes local{static_cast<std::size_t>(s.local_rows) * s.local_stride};
        bytes expected = local.snapshot();
        const std::int64_t first = !from_global ? 0
                                   : s.plan.layout == dg::layout_kind::slots
                                       ? s.dp * s.plan.stride
                                       : s.counts.offset[s.dp];
        for (std::int64_t r = 0; r < s.local_rows; ++r) {
          if (r >= s.counts.rows[s.dp]) {
            s.expect_fill(expected, s.local_stride, r);
          } else if (!in_place) {
            std::copy_n(sums.begin() + static_cast<std::ptrdiff_t>(
                                           static_cast<std::size_t>(first + r) * s.row),
                        s.row,
                        expected.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) *
                                                                       s.local_stride));
          }
        }
        dg::take_rows job{.local = {local.data(), s.row, s.local_stride},
                          .places = s.places(),
                          .fill = s.fill,
                          .dp_rank = s.dp,
                          .from_global = from_global,
                          .local_rows = s.local_rows};
        if (!in_place) job.sums = {sums.data(), s.row, s.row};
        s.run(job);
        REQUIRE(local.equals(expected));
        REQUIRE(local.intact());
      },
      ts::case_count(10'000));
}

TEST_CASE("counts that no host has seen name no row outside the shape") {
  ts::for_random_cases(
      [](ts::random_source& random) {
        scene s{random};
        dg::count_set wild = s.counts;
        for (std::int32_t d = 0; d < s.plan.dp_size; ++d)
          wild.rows[d] = random.pick<std::int32_t>({-1'000'000, -1, 0, 3, 1'000, 2'000'000'000});
        for (std::int32_t d = 0; d <= s.plan.dp_size; ++d)
          wild.offset[d] = random.pick<std::int64_t>({-7, 0, 5, 1'000'000'000'000});
        wild.total = random.pick<std::int64_t>({-7, 0, 5, 1'000'000'000'000});
        const dg::placement places{s.plan, wild};
        ts::guarded_bytes global{s.global_bytes()};
        s.run(dg::fill_tails{.global = s.global(global),
                             .places = places,
                             .fill = s.fill,
                             .most_rows = s.plan.global_rows});
        // Wide enough for every count the clamp lets through.
        bytes sums(s.global_bytes());
        ts::guarded_bytes local{static_cast<std::size_t>(s.local_rows) * s.local_stride};
        if (s.plan.global_rows >= s.local_rows) {
          s.run(dg::take_rows{.sums = {sums.data(), s.row, s.row},
                              .local = {local.data(), s.row, s.local_stride},
                              .places = places,
                              .fill = s.fill,
                              .dp_rank = s.dp,
                              .local_rows = s.local_rows});
        }
        REQUIRE(global.intact());
        REQUIRE(local.intact());
      },
      ts::case_count(5'000));
}
