#pragma once

/// @file
/// A batch, declared once: which tensors there are, what their tails hold, what comes back.
///
/// ```cpp
/// const dpgather::batch_entry tensors[] = {
///     {.tensor = dpgather::batch_tensor::input_ids, .data = ids, .type = dpgather::element::i64,
///      .capacity = 256, .rows = &token_rows},
///     {.tensor = dpgather::batch_tensor::positions, .data = positions, // [3, 256]
///      .type = dpgather::element::i64, .outer = 3, .capacity = 256},
/// };
/// const dpgather::batch_declaration all{.tensors = tensors};
/// const auto bytes = dpgather::batch_workspace_bytes(all);
/// ```

#include <dpgather/batch_fill.hpp>
#include <dpgather/batch_results.hpp>
#include <dpgather/batch_step.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/leak_scan.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/device/saved_tail.hpp>
#include <dpgather/element.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/status.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace dpgather::inline v0 {

/// What the guard puts back of a tensor's memory.
enum class batch_saving : std::uint8_t {
  tail,   ///< what the tail held
  whole,  ///< the real units too: for tensors that the forward overwrites
  nothing ///< nothing: the tail is scratch
};

/// One tensor of a batch, in memory of a fixed address with room for every step.
/// Shapes: `outer` slices of `capacity` units of `width` elements. Units: bytes for strides; 0 for
/// units and slices that follow each other. Ownership: borrows `data` and `rows`. Null `data` with
/// no capacity is an absent tensor, as models without LoRA or speculation have them.
struct batch_entry {
  batch_tensor tensor = batch_tensor::input_ids; ///< its place in the table of `default_tail`
  void* data = nullptr;                          ///< of the stream's memory, or of the host's
  element type = element::i64;
  std::int32_t width = 1; ///< elements of a unit
  std::int32_t outer = 1; ///< slices, e.g. 3 for positions [3, T]
  std::int32_t capacity = 0;
  std::size_t unit_stride = 0;
  std::size_t outer_stride = 0;
  bool on_host = false;         ///< a host copy, padded and restored by the calling thread at once
  std::int64_t* rows = nullptr; ///< the engine's own row count: padded in between, then as it was
  std::optional<batch_tail> tail{};     ///< unit and fill instead of the table's
  std::optional<batch_saving> saving{}; ///< instead of `default_saving`
  /// Under `batch_declaration::poison`; unset: floating elements only. Indices only where all their
  /// readers skip pads, lengths never.
  std::optional<bool> poison{};
};

/// Everything about a batch that does not change from step to step.
struct batch_declaration {
  std::span<const batch_entry> tensors{}; ///< at most 32, so that one launch pads all
  std::span<const batch_result> results{};
  batch_choices engine{};
  /// The engine's sum of the sequence lengths, in host memory: renewed with the lengths.
  std::int64_t* sequence_sum = nullptr;
  std::int32_t depth = 1; ///< guards at once: 2 when a speculative step pads inside a padded step
  bool poison = false;    ///< tails of poison, results looked through when the guard ends
  leak_record* leak = nullptr; ///< where a leak is recorded, needed with `poison`
  std::int32_t rank = -1;      ///< that errors name
};

/// Out-cache locations and speculative hidden states come back whole, as engines keep them aside
/// during the forward; others have their tails back.
[[nodiscard]] constexpr batch_saving default_saving(batch_tensor tensor) noexcept {
  return tensor == batch_tensor::out_cache_locations || tensor == batch_tensor::speculative_hidden
             ? batch_saving::whole
             : batch_saving::tail;
}

namespace detail {

[[nodiscard]] constexpr bool is_absent(const batch_entry& e) noexcept {
  return e.data == nullptr && e.capacity == 0;
}
[[nodiscard]] constexpr batch_tail tail_of(const batch_entry& e, const batch_step& step,
                                           const batch_choices& engine) noexcept {
  return e.tail ? *e.tail : default_tail(e.tensor, step.step, step.tokens_per_request, engine);
}
[[nodiscard]] constexpr batch_saving saving_of(const batch_entry& e) noexcept {
  return e.saving ? *e.saving : default_saving(e.tensor);
}
[[nodiscard]] constexpr bool is_poisoned(const batch_entry& e,
                                         const batch_declaration& all) noexcept {
  return all.poison && (e.poison ? *e.poison : is_floating(e.type));
}

[[nodiscard]] constexpr fill_pattern fill_of(const batch_entry& e, const batch_tail& tail,
                                             const batch_declaration& all) noexcept {
  return is_poisoned(e, all) ? poison_fill(e.type) : value_fill(e.type, tail.value);
}

/// The tensor with the counts and the fill of a step.
[[nodiscard]] constexpr pad_tensor padding_of(const batch_entry& e, const batch_step& step,
                                              const batch_declaration& all) noexcept {
  const batch_tail tail = tail_of(e, step, all.engine);
  pad_tensor out{.data = e.data, .units = step.units(tail.unit)};
  out.units.capacity = e.capacity;
  out.unit_bytes = static_cast<std::size_t>(std::max(e.width, 0)) * size_of(e.type);
  out.unit_stride = e.unit_stride != 0 ? e.unit_stride : out.unit_bytes;
  out.outer = e.outer;
  out.outer_stride =
      e.outer_stride != 0 ? e.outer_stride : static_cast<std::size_t>(e.capacity) * out.unit_stride;
  out.fill = fill_of(e, tail, all);
  return out;
}

/// The tensor with any of its units written: what must hold for every step to come.
[[nodiscard]] constexpr pad_tensor most_padding_of(const batch_entry& e,
                                                   const batch_declaration& all) noexcept {
  const unit_counts any{.padded = e.capacity};
  return padding_of(e, {.requests = any, .tokens = any, .draft_tokens = any}, all);
}

/// Bytes that the tensors of one kind of memory need for one guard.
[[nodiscard]] inline std::size_t level_bytes(const batch_declaration& all, bool on_host) noexcept {
  std::size_t out = 0;
  for (const batch_entry& e : all.tensors) {
    if (e.on_host == on_host && saving_of(e) != batch_saving::nothing)
      out += saved_bytes(most_padding_of(e, all));
  }
  return out;
}
/// In front of each level: the real units of live counts, as the padding job has seen them.
inline constexpr std::size_t level_header = most_saved_tensors * sizeof(std::int32_t);

} // namespace detail

/// Checks a declaration, once, for all steps to come.
/// Errors: those of `validate(std::span<const pad_tensor>)` with every unit of every tensor in its
/// tail, about `subject::tensor`, `peer` its index; tensors that share memory are refused;
/// - `capacity_exceeded` for more than 32 tensors or results; `count_out_of_range` for `depth` < 1;
/// - `bad_config`: sequence lengths of several fills beside one sum;
/// - `bad_fill`: poisoned lengths; `null_pointer`: poison without a place for leaks;
/// - those of `validate(std::span<const batch_result>, bool)`.
[[nodiscard]] inline status validate(const batch_declaration& all) noexcept {
  constexpr const char* where = "batch";
  const auto refuse = [](errc code, subject about, std::size_t value, std::size_t limit,
                         const char* name) {
    return status{.code = code,
                  .about = about,
                  .value = static_cast<std::int64_t>(value),
                  .limit = static_cast<std::int64_t>(limit),
                  .value_name = name,
                  .where = where};
  };
  const std::size_t most = std::max(all.tensors.size(), all.results.size());
  if (most > most_saved_tensors)
    return refuse(errc::capacity_exceeded, subject::config, most, most_saved_tensors, "tensors");
  if (all.depth < 1)
    return refuse(errc::count_out_of_range, subject::config, static_cast<std::size_t>(all.depth), 1,
                  "depth");
  if (all.poison && all.leak == nullptr)
    return refuse(errc::null_pointer, subject::config, 0, 0, "leak");

  std::array<pad_tensor, most_saved_tensors> list;
  std::optional<std::int64_t> length_fill;
  for (std::size_t i = 0; i < all.tensors.size(); ++i) {
    const batch_entry& e = all.tensors[i];
    list[i] = detail::most_padding_of(e, all);
    if (e.outer < 1)
      return detail::refuse_tensor(errc::count_out_of_range, i, static_cast<std::uint64_t>(e.outer),
                                   1, "outer", where);
    const bool is_length =
        e.tensor == batch_tensor::sequence_lengths || e.tensor == batch_tensor::extend_lengths;
    if (is_length && e.poison.value_or(is_floating(e.type)) && all.poison)
      return detail::refuse_tensor(errc::bad_fill, i, 0, 0, "poisoned lengths", where);
    if (e.tensor != batch_tensor::sequence_lengths || detail::is_absent(e)) continue;
    const std::int64_t fill = detail::tail_of(e, {}, all.engine).value;
    if (all.sequence_sum != nullptr && length_fill.value_or(fill) != fill)
      return detail::refuse_tensor(errc::bad_config, i, static_cast<std::uint64_t>(fill),
                                   static_cast<std::uint64_t>(*length_fill), "fill", where);
    length_fill = fill;
  }
  if (const status bad = validate(std::span<const pad_tensor>{list.data(), all.tensors.size()});
      !bad)
    return bad;
  return validate(all.results, all.poison);
}

/// Bytes of workspace, in memory of the stream's kind: what `depth` guards save. Known before
/// anything is allocated. Errors: those of `validate`.
[[nodiscard]] inline result<std::size_t>
batch_workspace_bytes(const batch_declaration& all) noexcept {
  if (const status bad = validate(all); !bad) return bad;
  return static_cast<std::size_t>(all.depth) *
         (detail::level_header + detail::level_bytes(all, false));
}

} // namespace dpgather::inline v0
