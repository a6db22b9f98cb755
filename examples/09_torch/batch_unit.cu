/// @file
/// The tensors of a batch, padded and restored by the library. Compiled by nvcc, knows nothing of
/// PyTorch.

#include "library_words.cuh"
#include "unit.hpp"

#include <dpgather/batch.hpp>
#include <dpgather/device/executor.cuh>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dg = dpgather;

namespace {

using dp_torch::batch_part, dp_torch::narrow;

constexpr std::pair<const char*, dg::batch_tensor> kinds[] = {
    {"input_ids", dg::batch_tensor::input_ids},
    {"positions", dg::batch_tensor::positions},
    {"input_embeddings", dg::batch_tensor::input_embeddings},
    {"out_cache_locations", dg::batch_tensor::out_cache_locations},
    {"request_pool_indices", dg::batch_tensor::request_pool_indices},
    {"encoder_lengths", dg::batch_tensor::encoder_lengths},
    {"sequence_lengths", dg::batch_tensor::sequence_lengths},
    {"extend_lengths", dg::batch_tensor::extend_lengths},
    {"prefix_lengths", dg::batch_tensor::prefix_lengths},
    {"lora_ids", dg::batch_tensor::lora_ids},
    {"request_ids", dg::batch_tensor::request_ids},
    {"room_ids", dg::batch_tensor::room_ids},
    {"speculative_hidden", dg::batch_tensor::speculative_hidden},
    {"topk_probabilities", dg::batch_tensor::topk_probabilities},
    {"topk_indices", dg::batch_tensor::topk_indices},
};

/// Positions `[3, T]` are padded along T; other tensors of two dimensions have a unit in a row.
dg::batch_entry entry_of(const batch_part& part) {
  const dp_torch::tensor& from = part.memory;
  dg::batch_entry out;
  const auto kind =
      std::ranges::find(kinds, part.kind, [](const auto& each) { return std::string{each.first}; });
  if (kind == std::end(kinds))
    throw std::runtime_error{"Batch: no kind of tensor is called '" + part.kind + "'"};
  out.tensor = kind->second;
  out.data = from.data;
  out.type = dp_torch::element_of(from.type, "Batch");
  out.on_host = from.device < 0;
  const bool slices = out.tensor == dg::batch_tensor::positions && from.dimensions == 2;
  const std::size_t bytes = dg::size_of(out.type);
  const std::int64_t unit = slices ? from.column_stride : from.row_stride;
  const std::int64_t other = slices ? from.row_stride : from.column_stride;
  if (unit < 1 || other < 0 || (!slices && from.columns > 1 && other != 1) ||
      std::max(from.rows, from.columns) > INT32_MAX)
    throw std::runtime_error{"Batch: the elements of a unit of " + part.kind +
                             " do not follow each other"};
  out.capacity = static_cast<std::int32_t>(slices ? from.columns : from.rows);
  out.outer = slices ? static_cast<std::int32_t>(from.rows) : 1;
  out.width = slices ? 1 : static_cast<std::int32_t>(from.columns);
  out.unit_stride = static_cast<std::size_t>(unit) * bytes;
  out.outer_stride = slices ? static_cast<std::size_t>(other) * bytes : 0;
  return out;
}

std::vector<dg::batch_entry> entries_of(const std::vector<batch_part>& parts) {
  std::vector<dg::batch_entry> out;
  for (const batch_part& each : parts) out.push_back(entry_of(each));
  return out;
}

class batch_of final : public dp_torch::padded_tensors {
public:
  batch_of(const std::vector<dg::batch_entry>& tensors, std::span<std::byte> workspace)
      : batch_{dg::batch_declaration{.tensors = tensors}, workspace} {
    dg::throw_if_failed(batch_.check());
  }

  void pad(std::int64_t real, std::int64_t padded, std::int64_t tokens_per_request,
           const std::int32_t* live, cudaStream_t stream) override {
    const std::int32_t k = narrow(tokens_per_request);
    if (k < 1) throw std::runtime_error{"Batch: a request has at least one token"};
    dg::unit_counts requests{.real = narrow(real), .padded = narrow(padded)};
    if (live != nullptr) requests.live = live, requests.rows_per_unit = k;
    const dg::batch_step step = k == 1 ? dg::batch_step::decode(requests)
                                : real == 0 && live == nullptr
                                    ? dg::batch_step::idle(requests.padded, k)
                                    : dg::batch_step::verify(requests, k);
    dg::result<dg::padded_batch<cudaStream_t>> padding = batch_.pad(step, stream);
    dg::throw_if_failed(padding.status());
    (void)(guard_ = std::move(*padding));
  }
  void restore() override { dg::throw_if_failed(guard_.finish()); }

private:
  dg::batch<cudaStream_t> batch_;
  dg::padded_batch<cudaStream_t> guard_; // ends before its batch
};

} // namespace

namespace dp_torch {

std::size_t padded_tensors::workspace_bytes(const std::vector<batch_part>& parts) {
  return dg::value_or_throw(dg::batch_workspace_bytes({.tensors = entries_of(parts)}));
}

std::unique_ptr<padded_tensors> padded_tensors::make(const std::vector<batch_part>& parts,
                                                     void* workspace, std::size_t bytes) {
  return std::make_unique<batch_of>(
      entries_of(parts), std::span<std::byte>{static_cast<std::byte*>(workspace), bytes});
}

} // namespace dp_torch
