#pragma once

/// @file
/// Ladders: the sizes graphs are captured for, in requests per rank, as policy options.

#include <dpgather/bucket_list.hpp>
#include <dpgather/category.hpp>
#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// Where a ladder's sizes come from, which decides what happens to a size that does not fit.
enum class ladder_source : std::uint8_t {
  none,      ///< no graphs
  generated, ///< sizes that do not fit are dropped, as engines do
  listed,    ///< the user wrote each size: one that does not fit is an error
  config,    ///< the same, written in the run-time configuration
};

namespace ladder {

/// No graphs: every step is eager. The default.
struct none {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::none;
  static constexpr bucket_list sizes() noexcept { return {}; }
};

/// The sizes given, ascending.
template <std::int32_t... Sizes>
struct list {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::listed;
  static constexpr bucket_list sizes() noexcept {
    bucket_list out;
    (out.append(Sizes), ...);
    return out;
  }
  static_assert(sizeof...(Sizes) > 0 && sizes().size() == sizeof...(Sizes) &&
                    sizes().size() <= bucket_list::max_stated,
                "dpgather: ladder::list needs positive sizes in strictly ascending order, at most "
                "bucket_list::max_stated of them");
};

/// 1, 2, 4, ... up to Max, and Max itself.
template <std::int32_t Max>
requires(Max >= 1) struct powers_of_two {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::generated;
  static constexpr bucket_list sizes() noexcept {
    bucket_list out;
    for (std::int64_t s = 1; s <= Max; s *= 2) out.append(static_cast<std::int32_t>(s));
    out.append(Max);
    return out;
  }
};

/// SGLang's decode sizes: 1 2 4 8 12, 16..256 by 8, 272..496 by 16, 512.. by 32, Max appended.
template <std::int32_t Max>
requires(Max >= 1) struct sglang {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::generated;
  static constexpr bucket_list sizes() noexcept {
    bucket_list out;
    for (const std::int32_t s : {1, 2, 4, 8, 12}) out.append_range(s, s, 1, Max);
    out.append_range(16, 256, 8, Max);
    out.append_range(272, 496, 16, Max);
    out.append_range(512, Max, 32, Max);
    out.append(Max);
    return out;
  }
};

/// SGLang's sizes under speculative decoding: 1..8, 10..32 by 2, 40..64 by 4, 72..256 by 8, and
/// from 272 by 16, Max appended.
template <std::int32_t Max>
requires(Max >= 1) struct sglang_speculative {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::generated;
  static constexpr bucket_list sizes() noexcept {
    bucket_list out;
    out.append_range(1, 8, 1, Max);
    out.append_range(10, 32, 2, Max);
    out.append_range(40, 64, 4, Max);
    out.append_range(72, 256, 8, Max);
    out.append_range(272, Max, 16, Max);
    out.append(Max);
    return out;
  }
};

/// vLLM's sizes: 1 2 4, 8..248 by 8, 256.. by 16, up to `min(2 * MaxSequences, 512)`.
template <std::int32_t MaxSequences>
requires(MaxSequences >= 1) struct vllm {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::generated;
  static constexpr bucket_list sizes() noexcept {
    const std::int32_t cap = MaxSequences > 256 ? 512 : 2 * MaxSequences;
    bucket_list out;
    for (const std::int32_t s : {1, 2, 4}) out.append_range(s, s, 1, cap);
    out.append_range(8, 248, 8, cap);
    out.append_range(256, cap, 16, cap);
    return out;
  }
};

/// The list in `gather_config::ladder`.
struct from_config {
  using category = category::ladder;
  static constexpr ladder_source source = ladder_source::config;
  static constexpr bucket_list sizes() noexcept { return {}; }
};

} // namespace ladder

/// By which count a bucket is chosen.
enum class lookup_kind : std::uint8_t { max, own, sum, own_and_sum };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(lookup_kind l) noexcept {
  switch (l) {
  case lookup_kind::max:
    return "max";
  case lookup_kind::own:
    return "own";
  case lookup_kind::sum:
    return "sum";
  case lookup_kind::own_and_sum:
    return "own_and_sum";
  }
  return "unknown";
}

namespace lookup {

/// One graph on all ranks, of the longest rank's size; what engines do today. The default.
struct max {
  using category = category::lookup;
  static constexpr lookup_kind kind = lookup_kind::max;
};
/// Attention at this rank's own size; nothing shared is captured.
struct own {
  using category = category::lookup;
  static constexpr lookup_kind kind = lookup_kind::own;
};
/// Attention launched eagerly on its own rows, the FFN at the size of the sum.
struct sum {
  using category = category::lookup;
  static constexpr lookup_kind kind = lookup_kind::sum;
};
/// Attention at this rank's own size, the FFN at the size of the sum: decoupled buckets.
struct own_and_sum {
  using category = category::lookup;
  static constexpr lookup_kind kind = lookup_kind::own_and_sum;
};

} // namespace lookup

namespace on_miss {

/// A count above every size is `no_bucket`; never a silent fall to eager. The default.
struct error {
  using category = category::on_miss;
  static constexpr bool go_eager = false;
};
/// All ranks run the step eagerly together; the plan says so, for counting (SGLang #5527, #7951).
struct agreed_eager {
  using category = category::on_miss;
  static constexpr bool go_eager = true;
};

} // namespace on_miss

} // namespace dpgather::inline v0
