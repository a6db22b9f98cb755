#pragma once

/// @file
/// What a forward is told about its rows, and the one call that pads it to the plan's size.

#include "../serve/scheduler.hpp"
#include "kv_cache.hpp"
#include "model.hpp"

#include <dpgather/batch_fill.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

class batch {
public:
  /// A token that follows from a row.
  struct sample {
    std::int32_t row = 0;
    std::int32_t request = 0;
  };

  explicit batch(std::int64_t capacity)
      : tokens(static_cast<std::size_t>(capacity)), positions(tokens.size()), slots(tokens.size()),
        lengths(tokens.size()), tables(tokens.size()) {}

  // `[capacity]` each, one entry for a row.
  std::vector<std::int32_t> tokens, positions;
  std::vector<std::int32_t> slots;   ///< of the cache, to write the row's key and value to
  std::vector<std::int32_t> lengths; ///< tokens that the row attends to, itself included
  std::vector<std::int32_t> tables;  ///< of the cache, where those are found
  std::vector<sample> samples;
  std::vector<std::int32_t> finished; ///< requests that are over after this step

  /// The real rows of a step. `last_token`: of each request, the one that it has decoded last.
  void load(const serve::rank_step& step, const std::vector<serve::request>& trace, kv_cache& cache,
            const std::vector<std::int32_t>& last_token) {
    std::size_t row = 0;
    samples.clear();
    finished.clear();
    for (const serve::row_slice& slice : step.slices) {
      const auto request = static_cast<std::size_t>(slice.request);
      const std::int32_t table = cache.table(slice.request);
      for (std::int32_t i = 0; i < slice.rows; ++i, ++row) {
        const std::int32_t position = slice.position + i;
        tokens[row] = position < trace[request].prompt_tokens
                          ? prompt_token(slice.request, position)
                          : last_token[request];
        positions[row] = position;
        slots[row] = cache.slot_to_write(table, position);
        lengths[row] = position + 1;
        tables[row] = table;
      }
      if (slice.samples) samples.push_back({static_cast<std::int32_t>(row) - 1, slice.request});
      if (slice.is_last) finished.push_back(slice.request);
    }
  }

  /// Grows every tensor a tail that a kernel can run on: token 0 at position 0, written to the slot
  /// that nobody owns, attending to that one slot.
  [[nodiscard]] dg::status pad(std::int32_t real, std::int32_t padded) noexcept {
    const dg::unit_counts rows{
        .real = real, .padded = padded, .capacity = static_cast<std::int32_t>(tokens.size())};
    using name = dg::batch_tensor;
    const auto padded_with_default = [&](std::vector<std::int32_t>& to, name which) {
      const auto tail = dg::default_tail(which, dg::phase::decode, 1);
      return dg::pad_vector(to.data(), rows, static_cast<std::int32_t>(tail.value));
    };
    const dg::pad_tensor list[] = {padded_with_default(tokens, name::input_ids),
                                   padded_with_default(positions, name::positions),
                                   padded_with_default(slots, name::out_cache_locations),
                                   padded_with_default(lengths, name::sequence_lengths),
                                   padded_with_default(tables, name::request_pool_indices)};
    return dg::pad(list);
  }
};

} // namespace engine
