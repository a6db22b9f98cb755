#pragma once

/// @file
/// What the tail of each tensor of a batch holds by default, as a table that the compiler can read.
///
/// ```cpp
/// const auto tail = dpgather::default_tail(dpgather::batch_tensor::sequence_lengths, step, k);
/// list[n++] = dpgather::pad_vector(seq_lens, units_of(tail.unit),
///                                  dpgather::value_fill(dpgather::element::i32, tail.value));
/// ```

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/phase.hpp>
#include <dpgather/status.hpp>

#include <cstdint>
#include <limits>

namespace dpgather::inline v0 {

/// The tensors of a batch that engines pad, in their own words.
enum class batch_tensor : std::uint8_t {
  input_ids,
  positions, ///< also [3, T], padded along dim 1
  input_embeddings,
  out_cache_locations,
  request_pool_indices,
  encoder_lengths,
  sequence_lengths, ///< device and host copies alike; see `padded_sequence_sum`
  extend_lengths,
  prefix_lengths,
  lora_ids,
  request_ids,
  room_ids,
  speculative_hidden,
  topk_probabilities,
  topk_indices,
};

/// What a tensor has one entry of, and so which counts it is padded by.
enum class batch_unit : std::uint8_t {
  token,       ///< rows of the forward: requests * tokens per request, or the prompt tokens
  request,     ///< requests
  draft_token, ///< rows of the draft's own count; no default uses it, engines' own tensors do
};

/// What only the engine knows.
struct batch_choices {
  /// KV-cache slot that pad tokens may overwrite; usually 0, or -1 where the kernel skips it.
  std::int64_t sacrificial_slot = 0;
  /// Length of a pad request that the attention backend can run on; usually 1.
  std::int64_t sequence_length_fill = 1;
};

/// Unit and value of a tail. `value_fill(element, value)` makes it a pattern.
struct batch_tail {
  batch_unit unit = batch_unit::token;
  std::int64_t value = 0;

  friend constexpr bool operator==(const batch_tail&, const batch_tail&) = default;
};

/// The default tail of `tensor`, the same for any number of real units, none included: what a rank
/// pads follows its counts, never its phase. Only the extend lengths look at `step`: in
/// draft-extend a pad request is as long as any other. Units: `tokens_per_request` >= 1; read in
/// draft-extend only.
/// Source: the fills of sglang PR #8278 and of the code that grew out of it.
[[nodiscard]] constexpr batch_tail default_tail(batch_tensor tensor, phase step,
                                                std::int32_t tokens_per_request,
                                                const batch_choices& engine = {}) noexcept {
  switch (tensor) {
  case batch_tensor::input_ids:
  case batch_tensor::positions:
  case batch_tensor::input_embeddings:
    return {batch_unit::token, 0};
  case batch_tensor::out_cache_locations:
    return {batch_unit::token, engine.sacrificial_slot};
  case batch_tensor::request_pool_indices:
  case batch_tensor::encoder_lengths:
    return {batch_unit::request, 0};
  case batch_tensor::sequence_lengths:
    return {batch_unit::request, engine.sequence_length_fill};
  case batch_tensor::extend_lengths:
    return {batch_unit::request, step == phase::draft_extend ? tokens_per_request : 0};
  case batch_tensor::prefix_lengths:
    return {batch_unit::request, 0};
  case batch_tensor::lora_ids:
  case batch_tensor::request_ids:
    return {batch_unit::request, 0};
  case batch_tensor::room_ids:
    return {batch_unit::request, -1};
  case batch_tensor::speculative_hidden:
    return {batch_unit::token, 0};
  case batch_tensor::topk_probabilities:
  case batch_tensor::topk_indices:
    return {batch_unit::request, 0};
  }
  return {};
}

/// The sum of the sequence lengths once the tail is filled: `real_sum` plus the fill for each pad
/// request. Engines keep the sum beside the lengths; whoever pads the one must renew the other, and
/// on the way back `real_sum` comes back.
/// Units: requests, tokens.
/// Errors: `count_out_of_range` when `real` or `real_sum` is negative or `real` > `padded`;
/// `bad_fill` for a negative fill; `size_overflow`.
[[nodiscard]] constexpr result<std::int64_t>
padded_sequence_sum(std::int64_t real_sum, std::int32_t real, std::int32_t padded,
                    const batch_choices& engine = {}) noexcept {
  const std::int64_t fill = engine.sequence_length_fill;
  const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit,
                         const char* name) {
    return status{.code = code,
                  .about = about,
                  .value = value,
                  .limit = limit,
                  .value_name = name,
                  .where = "padded_sequence_sum"};
  };
  if (real < 0 || real > padded) {
    return refuse(errc::count_out_of_range, subject::requests, real, padded, "real");
  }
  if (real_sum < 0) {
    return refuse(errc::count_out_of_range, subject::tokens, real_sum, 0, "real_sum");
  }
  if (fill < 0) return refuse(errc::bad_fill, subject::tokens, fill, 0, "sequence_length_fill");
  const std::int64_t pads = std::int64_t{padded} - real;
  const std::int64_t room = std::numeric_limits<std::int64_t>::max() - real_sum;
  if (pads > 0 && fill > room / pads) {
    return refuse(errc::size_overflow, subject::tokens, fill, room / pads, "sequence_length_fill");
  }
  return real_sum + fill * pads;
}

} // namespace dpgather::inline v0
