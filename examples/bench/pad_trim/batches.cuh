#pragma once

/// @file
/// Batches in device memory: padded in place, or trimmed into another place.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "unit_tensors.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace bench {

/// Units of the batches, and their number where kernels read it.
class batch_units {
public:
  static constexpr std::int32_t real = 50;
  static constexpr std::int32_t padded = 64;
  static constexpr std::int32_t capacity = 256;

  explicit batch_units(cudaStream_t stream) : live_{sizeof real} {
    const std::int32_t count = real;
    upload(live_.data(), &count, sizeof count, stream);
  }
  /// With `live`, the host's count is wrong on purpose: nobody may use it.
  [[nodiscard]] dg::unit_counts counts(bool live) const {
    dg::unit_counts out{.real = live ? -1 : real, .padded = padded, .capacity = capacity};
    if (live) out.live = reinterpret_cast<const std::int32_t*>(live_.data());
    return out;
  }

private:
  device_memory live_;
};

/// A batch to pad in place.
class pad_batch {
public:
  pad_batch(std::vector<unit_tensor> tensors, const batch_units& units, cudaStream_t stream)
      : tensors_{std::move(tensors)}, places_{places_of(tensors_, batch_units::capacity)},
        stream_{stream}, units_{units}, before_{mixed_bytes(places_.back())},
        memory_{before_.size()}, saved_{saved_bytes()} {
    reset();
  }

  /// The same with places for what they hold, as a `batch` makes them.
  [[nodiscard]] std::vector<dg::saved_tensor> saved_list(bool live) const {
    std::vector<dg::saved_tensor> out;
    std::byte* next = saved_.data();
    auto* const counted = reinterpret_cast<std::int32_t*>(next);
    next += header_bytes;
    for (const dg::pad_tensor& t : list(live)) {
      out.push_back({.tensor = t, .saved = next, .counted = counted + out.size()});
      next += dg::saved_bytes(t);
    }
    return out;
  }

  [[nodiscard]] std::vector<dg::pad_tensor> list(bool live) const {
    std::vector<dg::pad_tensor> out;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const unit_tensor& t = tensors_[i];
      out.push_back({.data = memory_.data() + places_[i],
                     .units = units_.counts(live),
                     .unit_bytes = t.unit_bytes(),
                     .unit_stride = t.unit_bytes(),
                     .outer = t.outer,
                     .outer_stride = slice_bytes(t),
                     .fill = dg::value_fill(t.type, t.fill)});
    }
    return out;
  }
  /// What an engine does without the library: one call for each tensor, which can write zeros only.
  void set_each() const {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const unit_tensor& t = tensors_[i];
      std::byte* const tail = memory_.data() + places_[i] + batch_units::real * t.unit_bytes();
      const std::size_t bytes = (batch_units::padded - batch_units::real) * t.unit_bytes();
      must(t.outer == 1 ? cudaMemsetAsync(tail, 0, bytes, stream_)
                        : cudaMemset2DAsync(tail, slice_bytes(t), 0, bytes,
                                            static_cast<std::size_t>(t.outer), stream_),
           "memset");
    }
  }

  void reset() const { upload(memory_.data(), before_.data(), before_.size(), stream_); }
  /// Bytes that are not those of the reset batch.
  [[nodiscard]] std::int64_t changed() const {
    std::vector<std::byte> got(before_.size());
    download(got.data(), memory_.data(), got.size(), stream_);
    return count_different(got, before_);
  }
  /// Bytes that are not what padding the reset batch makes of it, gaps and capacities included.
  [[nodiscard]] std::int64_t wrong() const {
    std::vector<std::byte> right = before_;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const unit_tensor& t = tensors_[i];
      const std::size_t element = dg::size_of(t.type);
      for (std::int32_t o = 0; o < t.outer; ++o) {
        std::byte* const slice =
            right.data() + places_[i] + static_cast<std::size_t>(o) * slice_bytes(t);
        for (std::size_t at = batch_units::real * t.unit_bytes();
             at < batch_units::padded * t.unit_bytes(); at += element)
          write_fill(t, slice + at);
      }
    }
    std::vector<std::byte> got(right.size());
    download(got.data(), memory_.data(), got.size(), stream_);
    return count_different(got, right);
  }

private:
  static constexpr std::size_t header_bytes = dg::most_saved_tensors * sizeof(std::int32_t);

  [[nodiscard]] static std::size_t slice_bytes(const unit_tensor& t) {
    return batch_units::capacity * t.unit_bytes();
  }
  [[nodiscard]] std::size_t saved_bytes() const {
    std::size_t out = header_bytes;
    for (const dg::pad_tensor& t : list(false)) out += dg::saved_bytes(t);
    return out;
  }

  std::vector<unit_tensor> tensors_;
  std::vector<std::size_t> places_;
  cudaStream_t stream_;
  const batch_units& units_;
  std::vector<std::byte> before_;
  device_memory memory_;
  device_memory saved_;
};

/// A batch to trim.
class trim_batch {
public:
  trim_batch(std::vector<unit_tensor> tensors, const batch_units& units, cudaStream_t stream)
      : tensors_{std::move(tensors)}, from_{places_of(tensors_, batch_units::capacity)},
        to_{places_of(tensors_, batch_units::padded)}, stream_{stream}, units_{units},
        before_{mixed_bytes(from_.back())}, source_{before_.size()}, destination_{to_.back()} {
    upload(source_.data(), before_.data(), before_.size(), stream_);
  }

  [[nodiscard]] std::vector<dg::trim_tensor> list(bool live) const {
    std::vector<dg::trim_tensor> out;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const unit_tensor& t = tensors_[i];
      out.push_back({.source = source_.data() + from_[i],
                     .destination = destination_.data() + to_[i],
                     .destination_bytes = t.bytes(batch_units::padded),
                     .units = units_.counts(live),
                     .unit_bytes = t.unit_bytes(),
                     .unit_stride = t.unit_bytes(),
                     .outer = t.outer,
                     .outer_stride = batch_units::capacity * t.unit_bytes()});
    }
    return out;
  }

  void reset() const { poison_bytes(destination_.data(), destination_.size(), stream_); }
  /// Bytes of the destinations that are not the real units, slice behind slice, in poison.
  [[nodiscard]] std::int64_t wrong() const {
    std::vector<std::byte> right(destination_.size(), poison);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const unit_tensor& t = tensors_[i];
      const std::size_t kept = batch_units::real * t.unit_bytes();
      for (std::size_t o = 0; o < static_cast<std::size_t>(t.outer); ++o)
        std::memcpy(right.data() + to_[i] + o * kept,
                    before_.data() + from_[i] + o * batch_units::capacity * t.unit_bytes(), kept);
    }
    std::vector<std::byte> got(right.size());
    download(got.data(), destination_.data(), got.size(), stream_);
    return count_different(got, right);
  }

private:
  std::vector<unit_tensor> tensors_;
  std::vector<std::size_t> from_, to_;
  cudaStream_t stream_;
  const batch_units& units_;
  std::vector<std::byte> before_;
  device_memory source_, destination_;
};

} // namespace bench
