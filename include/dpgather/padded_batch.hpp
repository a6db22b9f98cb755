#pragma once

/// @file
/// The guard of a padded batch: restores everything on every way out, exceptions included.

#include <dpgather/batch_trim.hpp>
#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/status.hpp>

#include <cstdint>
#include <utility>

namespace dpgather::inline v0 {

template <class Stream>
class batch;

/// The guard: while it lives the batch is padded. Movable. Its batch outlives it.
///
/// Guards end in the reverse order of their beginning: one that ends earlier takes those inside it
/// with it, innermost first, and they are empty then.
template <class Stream>
class [[nodiscard]] padded_batch {
public:
  /// Guards nothing.
  padded_batch() noexcept = default;
  padded_batch(padded_batch&& other) noexcept
      : of_{std::exchange(other.of_, nullptr)}, level_{other.level_}, number_{other.number_} {}
  padded_batch& operator=(padded_batch&& other) noexcept {
    if (this != &other) {
      abandon();
      of_ = std::exchange(other.of_, nullptr);
      level_ = other.level_;
      number_ = other.number_;
    }
    return *this;
  }
  /// Restores, without an answer: what could not be restored is in `batch::check`. Results are cut
  /// where they have the rows, and not looked through: nobody knows what an interrupted forward
  /// has written.
  ~padded_batch() { abandon(); }

  /// Whether this guard still has something to restore.
  [[nodiscard]] bool active() const noexcept {
    return of_ != nullptr && of_->holds(level_, number_);
  }

  /// Looks for leaks (under `poison`), restores tensors, row counts, host copies and the sum, and
  /// cuts the results. One launch, one more under `poison`. Empty guards answer ok.
  /// Stream: that of `pad`, ordered; host memory is as it was when the call returns, so copies from
  /// it must have been made. Capture: only with the `pad` in the same capture.
  /// Errors: `not_capturable` when a capture has begun or ended since `pad`, `native_error` when a
  /// launch fails: while `active()` the batch is still padded in all its parts: call again, or
  /// leave it to the destructor. `count_out_of_range` about `subject::tensor` when result
  /// `peer` lacks real rows: all else is restored and cut.
  [[nodiscard]] status finish() noexcept {
    if (!active()) return {};
    const status outcome = of_->finish(level_);
    if (!active()) of_ = nullptr;
    return outcome;
  }

  /// Rows that stay of `present` rows of a result that is not declared. Errors: those of
  /// `trim_rule_of` and `rows_left`; `bad_config` for a guard that is empty or has live counts.
  [[nodiscard]] result<std::int64_t> rows_left(batch_output tensor,
                                               std::int64_t present) const noexcept {
    if (!active() || of_->is_live(level_))
      return status{.code = errc::bad_config, .about = subject::counts, .where = "rows_left"};
    const result<trim_rule> rule = trim_rule_of(tensor, of_->facts(level_));
    if (!rule) return rule.status();
    return rule->rows_left(present);
  }

private:
  friend class batch<Stream>;
  padded_batch(batch<Stream>* of, std::int32_t level, std::uint64_t number) noexcept
      : of_{of}, level_{level}, number_{number} {}
  void abandon() noexcept {
    if (active()) of_->abandon(level_);
    of_ = nullptr;
  }

  batch<Stream>* of_ = nullptr;
  std::int32_t level_ = 0;
  std::uint64_t number_ = 0;
};

} // namespace dpgather::inline v0
