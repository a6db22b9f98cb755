#pragma once

/// @file
/// What a batch is in one step: the phase, and how many units of each kind are real and padded.
///
/// ```cpp
/// const auto step = dpgather::batch_step::decode({.real = 3, .padded = 4});
/// const auto checked = dpgather::batch_step::verify({.real = 3, .padded = 4}, 5); // 15 of 20
/// tokens
/// ```

#include <dpgather/batch_fill.hpp>
#include <dpgather/batch_trim.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/phase.hpp>

#include <cstdint>
#include <limits>

namespace dpgather::inline v0 {

/// Made by the function that is named after the phase; an engine with a phase of its own fills it
/// in. `capacity` of the counts is not read: each tensor has its own.
///
/// In a captured graph set `live` of the counts that are handed in, and `rows_per_unit`, as for any
/// `unit_counts`: `{.padded = 64, .live = dp.live_rows(), .rows_per_unit = k}` for requests of k
/// tokens. The other kinds of units then follow the same count.
struct batch_step {
  phase step = phase::decode;
  speculation spec = speculation::none;
  draft_extend_form form = draft_extend_form::row_per_request;
  std::int32_t tokens_per_request = 1; ///< `k`; where requests are of any length it means nothing
  unit_counts requests{};
  unit_counts tokens{};
  unit_counts draft_tokens{}; ///< of tensors that an engine declares with this unit; none has it

  [[nodiscard]] constexpr const unit_counts& units(batch_unit unit) const noexcept {
    return unit == batch_unit::request       ? requests
           : unit == batch_unit::draft_token ? draft_tokens
                                             : tokens;
  }

  /// One token for each request.
  [[nodiscard]] static constexpr batch_step decode(const unit_counts& requests) noexcept {
    return of(phase::decode, speculation::none, requests, 1);
  }
  /// Prompts of any length. Units: `tokens` are those of this step, cached prefixes apart.
  [[nodiscard]] static constexpr batch_step extend(const unit_counts& requests,
                                                   const unit_counts& tokens) noexcept {
    return {.step = phase::extend, .requests = requests, .tokens = tokens};
  }
  /// Prompts beside requests that decode.
  [[nodiscard]] static constexpr batch_step mixed(const unit_counts& requests,
                                                  const unit_counts& tokens) noexcept {
    return {.step = phase::mixed, .requests = requests, .tokens = tokens};
  }
  /// No request, padded to as many as the other ranks need.
  [[nodiscard]] static constexpr batch_step idle(std::int32_t padded_requests,
                                                 std::int32_t tokens_per_request = 1) noexcept {
    return of(phase::idle, speculation::none, {.padded = padded_requests}, tokens_per_request);
  }
  /// A step of the draft model, `k` tokens (branches of the tree) for each request.
  [[nodiscard]] static constexpr batch_step draft(const unit_counts& requests,
                                                  std::int32_t k = 1) noexcept {
    return of(phase::decode, speculation::active, requests, k);
  }
  /// The target model on `k` drafted tokens for each request.
  [[nodiscard]] static constexpr batch_step verify(const unit_counts& requests,
                                                   std::int32_t k) noexcept {
    return of(phase::verify, speculation::active, requests, k);
  }
  /// The draft model on what was accepted, `k` tokens for each request with what was not.
  [[nodiscard]] static constexpr batch_step
  draft_extend(const unit_counts& requests, std::int32_t k,
               draft_extend_form form = draft_extend_form::row_per_request) noexcept {
    batch_step out = of(phase::draft_extend, speculation::active, requests, k);
    out.form = form;
    return out;
  }

private:
  /// Products that do not fit stay above every capacity, and below zero.
  [[nodiscard]] static constexpr std::int32_t times(std::int32_t a, std::int32_t b) noexcept {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    const std::int64_t product = std::int64_t{a} * b;
    return static_cast<std::int32_t>(product > most ? most : product < -most ? -most : product);
  }
  [[nodiscard]] static constexpr batch_step
  of(phase step, speculation spec, const unit_counts& requests, std::int32_t k) noexcept {
    batch_step out{.step = step, .spec = spec, .tokens_per_request = k, .requests = requests};
    out.tokens = requests;
    out.tokens.real = times(requests.real, k);
    out.tokens.padded = times(requests.padded, k);
    out.tokens.rows_per_unit = k > 0 ? requests.rows_per_unit / k : 0;
    return out;
  }
};

} // namespace dpgather::inline v0
