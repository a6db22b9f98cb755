#pragma once

/// @file
/// What this benchmark can be told.

#include "../support/command_line.hpp"
#include "collective_case.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// Parts of the benchmark, in the order in which they run.
enum class section : std::size_t { gather, combine, slope, random, straggler, gemm };
inline constexpr std::array<const char*, 6> section_names{"gather", "combine",   "slope",
                                                          "random", "straggler", "gemm"};

/// Two numbers of rows that a slope is taken between.
struct slope_ends {
  std::int32_t low = 0, high = 0;
};

struct collective_options {
  common_options common;
  collective_shape shape; ///< ranks are the caller's to set; rows: all that any section has
  std::vector<std::int32_t> rows{1, 8, 32, 128, 512, 2048};
  std::vector<std::int32_t> blocks;
  std::array<bool, section_names.size()> wanted{};
  std::int32_t most_ranks = 0;
  std::int32_t seed = 1;
  std::int32_t splits = 24; ///< random counts in a sample
  slope_ends slope{2048, 8192};
  std::vector<std::int32_t> straggler_rows{8, 512};
  std::vector<std::int32_t> gemm_rows{128, 512};
  std::string svg;
  std::string fault; ///< empty, or what is wrong

  static constexpr const char* help_text =
      R"(usage: NCCL_NVLS_ENABLE=0 collectives [options]
  --only LIST     sections (all):
                    gather, combine   --rows with the counts of --dists, beside NCCL's
                    slope             bandwidth, from 2048 to 8192 rows on every rank
                    random            --rows; counts drawn anew for each replay: one graph of ours,
                                      NCCL moves what the longest rank may have
                    straggler         8 and 512 rows; one rank comes 20 us late to each call
                    gemm              128 and 512 rows; a GEMM on another stream
  --rows LIST     rows of the longest rank (1,8,32,128,512,2048; with --smoke 1,16)
  --dists LIST    the others' rows: equal, 8:1 (an eighth), one (none) (equal,8:1,one)
  --blocks LIST   limits on the blocks of our kernels, each a method more in gather, combine and
                  slope: 1, 2, 4, 8, 16, 32 or 64 (16)
  --seed S        of random counts (1)
  --ranks W       GPUs, 2 to 8 (all that are visible)
  --hidden H      bf16 elements of a row, a multiple of 8 (7168)
  --svg FILE      also plot time and goodput over rows
)";

  [[nodiscard]] bool wants(section which) const { return wanted[static_cast<std::size_t>(which)]; }

  /// `known_blocks`: the limits that there are methods for.
  [[nodiscard]] static collective_options of(command_line& line,
                                             std::span<const std::int32_t> known_blocks) {
    collective_options out;
    out.common = common_options::of(line);
    if (out.common.smoke) out.shrink();
    out.rows = line.numbers("--rows", out.rows, 1, 1 << 16);
    out.blocks = line.numbers("--blocks", {16}, 1, 64);
    out.seed = line.number("--seed", out.seed, 0, 1 << 30);
    out.svg = line.text("--svg");
    out.shape.hidden = line.number("--hidden", out.shape.hidden, 8, 1 << 17);
    out.most_ranks = line.number("--ranks", bench::most_ranks, 2, bench::most_ranks);
    const std::string shares = line.text("--dists");
    const auto known = distributions_of(shares.empty() ? "equal,8:1,one" : shares);
    out.shape.shares = known.value_or(std::vector<distribution>{});
    const bool named = out.choose(line.text("--only"));
    out.fault = line.fault();
    const auto refuse = [&out](bool right, const char* why) {
      if (!right && out.fault.empty()) out.fault = why;
    };
    refuse(out.shape.hidden % 8 == 0, "--hidden takes multiples of 8");
    refuse(known.has_value(), "--dists takes equal, 8:1 and one");
    refuse(named, "--only takes gather, combine, slope, random, straggler and gemm");
    refuse(out.common.calls % 2 == 0,
           "--calls takes even numbers: combines take two inputs in turn");
    refuse(std::ranges::all_of(out.blocks,
                               [&](std::int32_t one) {
                                 return std::ranges::find(known_blocks, one) != known_blocks.end();
                               }),
           "--blocks takes 1, 2, 4, 8, 16, 32 and 64");
    out.make_room();
    return out;
  }

private:
  /// For `--smoke`.
  void shrink() {
    rows = {1, 16};
    splits = 4;
    slope = {16, 64};
    straggler_rows = gemm_rows = {16};
  }
  [[nodiscard]] bool choose(const std::string& list) {
    if (list.empty()) {
      wanted.fill(true);
      return true;
    }
    for (std::size_t from = 0; from <= list.size();) {
      const std::size_t comma = std::min(list.find(',', from), list.size());
      const std::string_view word = std::string_view{list}.substr(from, comma - from);
      const auto* const at = std::ranges::find(section_names, word);
      if (at == section_names.end()) return false;
      wanted[static_cast<std::size_t>(at - section_names.begin())] = true;
      from = comma + 1;
    }
    return true;
  }
  void make_room() {
    const auto add = [&](bool is_wanted, const std::vector<std::int32_t>& more) {
      if (is_wanted) shape.rows.insert(shape.rows.end(), more.begin(), more.end());
    };
    add(wants(section::gather) || wants(section::combine) || wants(section::random), rows);
    add(wants(section::slope), {slope.low, slope.high});
    add(wants(section::straggler), straggler_rows);
    add(wants(section::gemm), gemm_rows);
    if (shape.rows.empty()) shape.rows = rows; // after a fault
  }
};

} // namespace bench
