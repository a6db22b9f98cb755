#pragma once

/// @file
/// What this benchmark can be told.

#include "../support/command_line.hpp"
#include "step_case.hpp"
#include "step_shape.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

struct step_options {
  common_options common;
  step_shape shape; ///< ranks are the caller's to set
  std::vector<std::int32_t> balanced{1, 2, 4, 8, 16, 32, 64, 128, 256};
  std::vector<std::int32_t> skewed{512, 1024};
  std::vector<std::int32_t> one{512};
  std::int32_t most_ranks = 2;
  std::int32_t jitter = 6;
  bool parts = false;
  bool launches = false;
  std::string svg;
  std::string fault; ///< empty, or what is wrong

  static constexpr std::int32_t largest = 1024; ///< that graphs may be captured for, per rank

  static constexpr const char* help_text =
      R"(usage: NCCL_NVLS_ENABLE=0 decode_step [options]
  --balanced LIST   rows on every rank (1,2,4,8,16,32,64,128,256; with --smoke 1,8)
  --skewed LIST     rows of one rank, an eighth of them on each other (512,1024; with --smoke 16)
  --one LIST        rows of one rank, none on the others (512; with --smoke 16)
  --jitter P        steps have up to P percent fewer rows, in the same captured sizes (6)
  --parts           also the parts of a step apart: attention, FFN, gather and combine
  --launches        also exact rows by kernels in fewer blocks, and without dependent launch
  --layers L        of a step, each with weights of its own (8; with --smoke 2)
  --hidden H        bf16 elements of a row (7168; with --smoke 256)
  --intermediate I  of the FFN on all ranks together (18432; with --smoke 1024)
  --ranks W         GPUs, 2 to 8 (2)
  --svg FILE        also plot time and tokens per second over rows
a graph is one step: --calls changes nothing here
)";

  [[nodiscard]] static step_options of(command_line& line) {
    step_options out;
    out.common = common_options::of(line);
    if (out.common.smoke) out.shrink();
    out.balanced = line.numbers("--balanced", out.balanced, 0, largest);
    out.skewed = line.numbers("--skewed", out.skewed, 0, largest);
    out.one = line.numbers("--one", out.one, 0, largest);
    out.jitter = line.number("--jitter", out.jitter, 0, 50);
    out.parts = line.flag("--parts") || out.common.smoke;
    out.launches = line.flag("--launches") || out.common.smoke;
    out.shape.layers = line.number("--layers", out.shape.layers, 1, 128);
    out.shape.hidden = line.number("--hidden", out.shape.hidden, 64, 1 << 15);
    out.shape.intermediate = line.number("--intermediate", out.shape.intermediate, 64, 1 << 17);
    out.most_ranks = line.number("--ranks", 2, 2, 8);
    out.svg = line.text("--svg");
    out.fault = line.fault();
    out.settle();
    if (out.fault.empty() && out.shape.hidden % 8 != 0) out.fault = "--hidden takes multiples of 8";
    return out;
  }

private:
  void shrink() {
    balanced = {1, 8};
    skewed = one = {16};
    shape.hidden = 256;
    shape.intermediate = 1024;
    shape.layers = 2;
  }
  /// No rows: no case. The largest size that is captured is that of the longest rank.
  void settle() {
    shape.most_rows = 2; // that the check of the rows can tell two apart
    for (std::vector<std::int32_t>* const list : {&balanced, &skewed, &one}) {
      std::erase(*list, 0);
      for (const std::int32_t rows : *list) shape.most_rows = std::max(shape.most_rows, rows);
    }
  }
};

} // namespace bench
