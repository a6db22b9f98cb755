#pragma once

/// @file
/// Tensors of one batch, by description: [outer, units, width] each, in one piece of memory.

#include <dpgather/dpgather.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// A padded axis with `outer` slices around it and `width` elements inside.
struct unit_tensor {
  const char* name;
  dg::element type = dg::element::i64;
  std::int64_t fill = 0; ///< what a tail holds
  std::int32_t outer = 1;
  std::int32_t width = 1;

  [[nodiscard]] std::size_t unit_bytes() const {
    return dg::size_of(type) * static_cast<std::size_t>(width);
  }
  [[nodiscard]] std::size_t bytes(std::int32_t units) const {
    return static_cast<std::size_t>(outer) * static_cast<std::size_t>(units) * unit_bytes();
  }
};

/// What a decode step of an engine pads: indices to nothing, lengths and factors to 1.
[[nodiscard]] inline std::vector<unit_tensor> decode_tensors() {
  using dg::element;
  return {{"input_ids"},
          {"positions"},
          {"mrope_positions", element::i64, 0, 3},
          {"out_cache_loc"},
          {"req_pool_indices"},
          {"seq_lens", element::i32, 1},
          {"encoder_lens", element::i32},
          {"accept_lengths", element::i32, 1},
          {"lora_indices", element::i32, -1},
          {"page_table", element::i32, 0, 1, 32},
          {"temperatures", element::f32, 1},
          {"top_ps", element::f32, 1},
          {"top_ks", element::i32, 1},
          {"min_ps", element::f32},
          {"sampling_seeds"}};
}

/// What comes back from it.
[[nodiscard]] inline std::vector<unit_tensor> result_tensors() {
  return {{"next_token_ids"},
          {"next_token_logprobs", dg::element::f32},
          {"mrope_positions", dg::element::i64, 0, 3}};
}

/// Where each tensor of a list begins, with room for `units` units and a gap behind it.
[[nodiscard]] inline std::vector<std::size_t> places_of(const std::vector<unit_tensor>& tensors,
                                                        std::int32_t units) {
  std::vector<std::size_t> out{0};
  for (const unit_tensor& t : tensors)
    out.push_back((out.back() + t.bytes(units) + 2 * 256 - 1) / 256 * 256);
  return out; // one more than tensors: the end
}

/// Bytes without a pattern.
[[nodiscard]] inline std::vector<std::byte> mixed_bytes(std::size_t count) {
  std::vector<std::byte> out(count);
  std::uint32_t x = 1;
  for (std::byte& b : out) {
    x = x * 1664525u + 1013904223u;
    b = static_cast<std::byte>(x >> 24);
  }
  return out;
}

/// Writes the fill of a tensor as its element, without the library's help.
inline void write_fill(const unit_tensor& t, std::byte* at) {
  if (t.type == dg::element::f32) {
    const auto value = static_cast<float>(t.fill);
    std::memcpy(at, &value, sizeof value);
  } else if (t.type == dg::element::i32) {
    const auto value = static_cast<std::int32_t>(t.fill);
    std::memcpy(at, &value, sizeof value);
  } else {
    std::memcpy(at, &t.fill, sizeof t.fill);
  }
}

/// Bytes that differ.
[[nodiscard]] inline std::int64_t count_different(const std::vector<std::byte>& a,
                                                  const std::vector<std::byte>& b) {
  std::int64_t out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out += a[i] != b[i];
  return out;
}

} // namespace bench
