#pragma once

/// @file
/// The policy options that need no file of their own: source of counts, way of combining,
/// communicator tags, checks, launch shape, row operation.

#include <dpgather/category.hpp>
#include <dpgather/config.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dpgather::inline v0 {

enum class counts_kind : std::uint8_t { agreed, device, exchanged };
enum class combine_kind : std::uint8_t { reduce_scatter, all_reduce_then_scatter };
enum class comm_kind : std::uint8_t { host, nccl, peer };

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(counts_kind c) noexcept {
  return c == counts_kind::agreed ? "agreed" : c == counts_kind::device ? "device" : "exchanged";
}
/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(combine_kind c) noexcept {
  return c == combine_kind::reduce_scatter ? "reduce_scatter" : "all_reduce_then_scatter";
}
/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(comm_kind c) noexcept {
  return c == comm_kind::host ? "host" : c == comm_kind::nccl ? "nccl" : "peer";
}

namespace counts {

/// Host records, merged by all ranks before the step. The default.
struct agreed {
  using category = category::counts;
  static constexpr counts_kind kind = counts_kind::agreed;
};
/// The engine wrote all `n[W]` into the channel's count set; the host knows this rank's only.
struct device {
  using category = category::counts;
  static constexpr counts_kind kind = counts_kind::device;
};
/// This rank's count only; the others arrive with the rows.
struct exchanged {
  using category = category::counts;
  static constexpr counts_kind kind = counts_kind::exchanged;
};

} // namespace counts

namespace combine {

/// Each rank receives the sum of its own rows only. The default.
struct reduce_scatter {
  using category = category::combine;
  static constexpr combine_kind kind = combine_kind::reduce_scatter;
};
/// Every rank receives every sum and keeps its own rows: what engines run today under all-reduce.
struct all_reduce_then_scatter {
  using category = category::combine;
  static constexpr combine_kind kind = combine_kind::all_reduce_then_scatter;
};

} // namespace combine

namespace comm {

/// Ranks are threads of one process; no GPU. The default.
struct host {
  using category = category::comm;
  static constexpr comm_kind kind = comm_kind::host;
};
/// Anything NCCL reaches.
struct nccl {
  using category = category::comm;
  static constexpr comm_kind kind = comm_kind::nccl;
};
/// Loads and stores inside one NVLink domain.
struct peer {
  using category = category::comm;
  static constexpr comm_kind kind = comm_kind::peer;
};

} // namespace comm

namespace checks {

/// Arguments are checked; plans are compared where the communicator does so for free (own kernels
/// and the host). The default.
struct standard {
  using category = category::checks;
  static constexpr bool compare_plans = false;
};
/// Plans are compared before each call on every communicator, for debugging and CI.
struct checked {
  using category = category::checks;
  static constexpr bool compare_plans = true;
};

} // namespace checks

namespace launch {

/// The communicator's own choice. The default.
struct automatic {
  using category = category::launch;
  static constexpr std::int32_t blocks = 0;
  static constexpr bool dependent = false;
};
/// At most `Blocks` blocks, and programmatic dependent launch if wanted. The host ignores both.
template <std::int32_t Blocks, bool Dependent = false>
requires(Blocks >= 1) struct shape {
  using category = category::launch;
  static constexpr std::int32_t blocks = Blocks;
  static constexpr bool dependent = Dependent;
};

} // namespace launch

/// A functor that turns one source row into one destination row of the same length. It may run in
/// kernels: mark it `DPGATHER_HOST_DEVICE`. Rows do not overlap unless they are the same row.
template <class F>
concept row_functor = requires(const std::byte* from, std::byte* to, std::size_t bytes) {
  { F::apply(from, to, bytes) }
  noexcept;
};

namespace row_op {

/// Rows move as they are. The default.
struct identity {
  using category = category::row_op;
  static constexpr bool is_identity = true;
  DPGATHER_HOST_DEVICE static void apply(const std::byte* from, std::byte* to,
                                         std::size_t bytes) noexcept {
    if (from != to) memcpy(to, from, bytes);
  }
};

/// `Functor` is applied to each of this rank's real rows as it enters the gather.
template <row_functor Functor>
struct apply_to_rows {
  using category = category::row_op;
  static constexpr bool is_identity = false;
  DPGATHER_HOST_DEVICE static void apply(const std::byte* from, std::byte* to,
                                         std::size_t bytes) noexcept {
    Functor::apply(from, to, bytes);
  }
};

} // namespace row_op

} // namespace dpgather::inline v0
