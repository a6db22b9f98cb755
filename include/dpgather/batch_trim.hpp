#pragma once

/// @file
/// Which rows stay when the forward is over, as rules that the compiler can read.
///
/// ```cpp
/// const auto rule = dpgather::trim_rule_of(dpgather::batch_output::logits, facts);
/// if (!rule) return rule.status();
/// const auto rows = rule->rows_left(logits_rows); // what `unit_counts::real` of the trim is
/// ```

#include <dpgather/config.hpp>
#include <dpgather/errc.hpp>
#include <dpgather/phase.hpp>
#include <dpgather/status.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// The tensors that are cut after the forward.
enum class batch_output : std::uint8_t {
  logits,
  hidden,
  positions,
  sequence_lengths, ///< device and host copies alike
  request_pool_indices,
  accept_lengths,
};

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(batch_output tensor) noexcept {
  switch (tensor) {
  case batch_output::logits:
    return "logits";
  case batch_output::hidden:
    return "hidden";
  case batch_output::positions:
    return "positions";
  case batch_output::sequence_lengths:
    return "sequence_lengths";
  case batch_output::request_pool_indices:
    return "request_pool_indices";
  case batch_output::accept_lengths:
    return "accept_lengths";
  }
  return "unknown";
}

/// Whether the batch carries speculative state. Which of draft, target verify and draft extend it
/// is in is the phase: `decode`, `verify` and `draft_extend`.
enum class speculation : std::uint8_t { none, active };

/// Rows that a draft-extend forward puts out.
enum class draft_extend_form : std::uint8_t {
  row_per_request, ///< one, of the last accepted token
  row_per_token,   ///< `tokens_per_request`, so that shapes are fixed (the newer form)
};

/// What the rules read, all of it *real*: never a padded count.
struct batch_facts {
  phase step = phase::idle;
  speculation spec = speculation::none;
  draft_extend_form form = draft_extend_form::row_per_request;
  std::int32_t requests = 0;            ///< `bs`
  std::int32_t tokens_per_request = 1;  ///< `k`
  std::int32_t saved_hidden_rows = 0;   ///< rows of the draft's hidden states before padding
  std::int64_t sequence_length_sum = 0; ///< of the real requests
};

/// What becomes of one tensor.
struct trim_rule {
  bool touched = false;  ///< false: the tensor stays as it is, pad rows included
  bool at_most = false;  ///< true: a tensor with fewer than `rows` rows is complete already
  std::int64_t rows = 0; ///< rows kept, from row 0 on

  /// Rows left of `present` ones. An absent tensor has 0 rows and keeps them.
  /// Errors: `count_out_of_range{value = rows, limit = present}` when real rows are missing.
  [[nodiscard]] constexpr result<std::int64_t> rows_left(std::int64_t present) const noexcept {
    if (present < 0 || (touched && !at_most && present > 0 && present < rows)) {
      return status{.code = errc::count_out_of_range,
                    .about = subject::tensor,
                    .value = rows,
                    .limit = present,
                    .value_name = "rows kept",
                    .where = "rows_left"};
    }
    return touched && rows < present ? rows : present;
  }

  friend constexpr bool operator==(const trim_rule&, const trim_rule&) = default;
};

/// The rule for `tensor` after a forward with these facts.
///
/// Without speculation:
/// - decode, idle: logits and hidden keep `bs` rows;
/// - extend, mixed: logits and hidden keep at most the sum of the sequence lengths;
/// - verify, draft-extend: refused.
///
/// With speculation:
/// - decode (the draft): logits, hidden and positions keep the saved hidden rows, sequence lengths
///   and request-pool indices keep `bs`;
/// - verify: logits and hidden keep `bs * k` rows;
/// - draft-extend: logits and hidden keep `bs` rows, in the newer form `bs * k`; accept lengths,
///   one per request, keep `bs` in both;
/// - extend, mixed, idle: logits and hidden keep `bs` rows.
///
/// Everything else is untouched.
///
/// Extend and mixed without speculation are the documented deviation: the rule of the engines cuts
/// at the sum of the sequence lengths, and slicing past the end is silent there. Logits have one
/// row per request by then, so nothing is cut, and the sum counts cached prefixes too, so it may
/// even exceed the padded rows of hidden. The same rows stay here (`at_most` spells the silent
/// slice), real rows are never cut, but pad rows may stay: an engine that wants none hands in the
/// sum of its extend lengths as `sequence_length_sum`, or trims by its own counts. Every other rule
/// is exact: fewer rows than it keeps is an error of `rows_left`, not a short tensor.
///
/// Units: rows.
/// Errors: `count_out_of_range` for a negative fact or `tokens_per_request` < 1;
/// `bad_config` about `phase` for verify and draft-extend without speculation.
/// Source: sglang PR #8278, the function that follows the forward, and its newer draft-extend.
[[nodiscard]] constexpr result<trim_rule> trim_rule_of(batch_output tensor,
                                                       const batch_facts& facts) noexcept {
  const auto refuse = [](errc code, subject about, std::int64_t value, std::int64_t limit,
                         const char* name) {
    return status{.code = code,
                  .about = about,
                  .value = value,
                  .limit = limit,
                  .value_name = name,
                  .where = "trim_rule_of"};
  };
  const auto too_small = [&](subject about, std::int64_t value, std::int64_t least,
                             const char* name) {
    return refuse(errc::count_out_of_range, about, value, least, name);
  };
  if (facts.requests < 0) return too_small(subject::requests, facts.requests, 0, nullptr);
  if (facts.tokens_per_request < 1) {
    return too_small(subject::width, facts.tokens_per_request, 1, "tokens_per_request");
  }
  if (facts.saved_hidden_rows < 0) {
    return too_small(subject::draft_tokens, facts.saved_hidden_rows, 0, "saved_hidden_rows");
  }
  if (facts.sequence_length_sum < 0) {
    return too_small(subject::tokens, facts.sequence_length_sum, 0, "sequence_length_sum");
  }

  const bool drafting = facts.spec == speculation::active;
  const bool is_result = tensor == batch_output::logits || tensor == batch_output::hidden;
  const std::int64_t requests = facts.requests;
  const std::int64_t tokens = requests * facts.tokens_per_request;
  const auto keep = [](bool touched, std::int64_t rows) {
    return trim_rule{.touched = touched, .rows = touched ? rows : 0};
  };
  switch (facts.step) {
  case phase::decode:
    if (!drafting) return keep(is_result, requests);
    if (is_result || tensor == batch_output::positions) return keep(true, facts.saved_hidden_rows);
    return keep(tensor != batch_output::accept_lengths, requests);
  case phase::verify:
    if (!drafting) break;
    return keep(is_result, tokens);
  case phase::draft_extend:
    if (!drafting) break;
    if (tensor == batch_output::accept_lengths) return keep(true, requests);
    return keep(is_result, facts.form == draft_extend_form::row_per_token ? tokens : requests);
  case phase::extend:
  case phase::mixed: {
    if (drafting) return keep(is_result, requests);
    trim_rule rule = keep(is_result, facts.sequence_length_sum);
    rule.at_most = is_result;
    return rule;
  }
  case phase::idle:
    return keep(is_result, requests);
  }
  return refuse(errc::bad_config, subject::phase, static_cast<std::int64_t>(facts.step), 0,
                "needs speculation, phase");
}

} // namespace dpgather::inline v0
