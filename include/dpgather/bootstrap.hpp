#pragma once

/// @file
/// The exchange of small host values between ranks: step records, handles, votes. Any engine has
/// one already; the library asks for two functions.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_record.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// Host-side all-gather and barrier with a deadline of their own.
///
/// `all_gather(mine, all, bytes)` writes the `bytes` of rank r to `all + r * bytes`, for all ranks
/// of the world, and `barrier()` returns when every rank entered it; both are collective, block the
/// calling thread and answer a named error, never hang, when a rank does not come.
template <class B>
concept bootstrap = requires(B& b, const void* mine, void* all, std::size_t bytes) {
  { b.rank() }
  noexcept->std::convertible_to<std::int32_t>;
  { b.size() }
  noexcept->std::convertible_to<std::int32_t>;
  { b.all_gather(mine, all, bytes) }
  noexcept->std::same_as<status>;
  { b.barrier() }
  noexcept->std::same_as<status>;
};

/// A bootstrap over the engine's own exchange (MPI, a TCP store, torch.distributed, ...).
///
/// Ownership: borrows `context`. The callbacks answer 0 or a native error code, block until all
/// ranks took part, and bound their own waiting.
class callback_bootstrap {
public:
  using all_gather_function = int (*)(void* context, const void* mine, void* all,
                                      std::size_t bytes);
  using barrier_function = int (*)(void* context);

  constexpr callback_bootstrap(std::int32_t rank, std::int32_t size, void* context,
                               all_gather_function gather_call,
                               barrier_function barrier_call) noexcept
      : rank_{rank}, size_{size}, context_{context}, all_gather_{gather_call}, barrier_{
                                                                                   barrier_call} {}

  [[nodiscard]] constexpr std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] constexpr std::int32_t size() const noexcept { return size_; }
  /// Errors: `native_error` with what the callback answered.
  [[nodiscard]] status all_gather(const void* mine, void* all, std::size_t bytes) noexcept {
    return as_status(all_gather_(context_, mine, all, bytes), "callback_bootstrap::all_gather");
  }
  /// Errors: `native_error` with what the callback answered.
  [[nodiscard]] status barrier() noexcept {
    return as_status(barrier_(context_), "callback_bootstrap::barrier");
  }

private:
  [[nodiscard]] status as_status(int native, const char* where) const noexcept {
    if (native == 0) return {};
    return {.code = errc::native_error,
            .rank = rank_,
            .native = native,
            .value_name = "the engine's bootstrap callback",
            .where = where};
  }

  std::int32_t rank_;
  std::int32_t size_;
  void* context_;
  all_gather_function all_gather_;
  barrier_function barrier_;
};

/// Exchanges step records: `all` becomes the records of all ranks in world-rank order.
///
/// Collective, unconditional, constant-size. A rank that cannot run the step takes part with
/// `cannot_run` set. Errors: `bad_group` when `all` is not the world; those of the bootstrap.
template <bootstrap Bootstrap>
[[nodiscard]] status exchange_records(Bootstrap& ranks, const step_record& mine,
                                      std::span<step_record> all) noexcept {
  if (all.size() != static_cast<std::size_t>(ranks.size())) {
    return {.code = errc::bad_group,
            .about = subject::world,
            .value = static_cast<std::int64_t>(all.size()),
            .limit = ranks.size(),
            .where = "exchange_records"};
  }
  return ranks.all_gather(&mine, all.data(), sizeof mine);
}

} // namespace dpgather::inline v0
