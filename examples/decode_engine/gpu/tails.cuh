#pragma once

/// @file
/// `--poison` on a GPU: tails become NaN before they can be read, real rows are looked through
/// after each stage. Both are kernels that read the counts where they run, so they are captured
/// with the step; the record tells the first leak: step, layer, tensor, row.

#include "../tail_guard.hpp"
#include "kernels.cuh"
#include "launch.cuh"

#include <dpgather/count_set.hpp>
#include <dpgather/device/leak_scan.hpp>
#include <dpgather/placement.hpp>

#include <cstdint>

namespace engine::gpu {

/// Which rows of a tensor are real, by the counts of the moment.
struct real_rows {
  std::int64_t rows = 0;               ///< of the shape
  const std::int32_t* local = nullptr; ///< this rank's count, for its own tensors
  dg::placement places{};              ///< for tensors of all ranks' rows

  [[nodiscard]] __device__ bool holds(std::int64_t row) const {
    return local != nullptr ? row < *local : places.owner(row) >= 0;
  }
};

static_assert(layers <= 16, "a leak's key has 8 bits for layer and tensor");

/// What the kernels have found, in device memory.
struct leak_counters {
  dg::leak_record first; ///< tensor: 16 * layer + `tensor_name`
  unsigned long long leaks = 0;
  unsigned long long checked = 0;
};

template <class T>
__global__ void poison_tails(real_rows which, std::int32_t width, T* values) {
  const std::int64_t i = thread_number();
  if (i >= which.rows * width || which.holds(i / width)) return;
  if constexpr (sizeof(T) == 2) {
    values[i] = __float2bfloat16(NAN);
  } else {
    values[i] = NAN;
  }
}

/// A thread for each row.
template <class T>
__global__ void check_rows(real_rows which, std::int32_t width, const T* values,
                           std::uint32_t tensor, const std::int32_t* step, leak_counters* to) {
  const std::int64_t row = thread_number();
  if (row >= which.rows || !which.holds(row)) return;
  atomicAdd(&to->checked, 1ULL);
  for (std::int32_t c = 0; c < width; ++c) {
    const auto value = static_cast<float>(values[row * width + c]);
    if (value == value) continue;
    atomicAdd(&to->leaks, 1ULL);
    atomicMin(reinterpret_cast<unsigned long long*>(&to->first.first),
              dg::leak_record::key(static_cast<std::uint64_t>(*step), tensor,
                                   static_cast<std::uint64_t>(row)));
    return;
  }
}

/// One rank's.
class gpu_tail_guard {
public:
  gpu_tail_guard(bool on, std::int32_t world_rank) : on_{on}, rank_{world_rank}, found_{1} {}

  [[nodiscard]] bool on() const noexcept { return on_; }
  /// `step`: its number, in device memory.
  void watch(const std::int32_t* step) noexcept { step_ = step; }
  [[nodiscard]] dg::status forget(cudaStream_t stream) noexcept {
    const leak_counters none;
    return dg::cuda_status(
        cudaMemcpyAsync(found_.data(), &none, sizeof none, cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  }

  /// Looks through the real rows of what a stage has written, then fills its tails for the next.
  template <class T>
  void pass(enqueuer& to, std::int32_t layer, tensor_name name, T* values, std::int32_t width,
            const real_rows& which) const noexcept {
    if (!on_) return;
    to.launch(check_rows<T>, which.rows, which, width, static_cast<const T*>(values),
              static_cast<std::uint32_t>(16 * layer + static_cast<std::int32_t>(name)), step_,
              found_.data());
    poison(to, values, width, which);
  }
  template <class T>
  void poison(enqueuer& to, T* values, std::int32_t width, const real_rows& which) const noexcept {
    if (on_) to.launch(poison_tails<T>, which.rows * width, which, width, values);
  }

  /// When the stream has passed.
  [[nodiscard]] leak_counters found() const {
    leak_counters out;
    dg::throw_if_failed(dg::cuda_status(
        cudaMemcpy(&out, found_.data(), sizeof out, cudaMemcpyDeviceToHost), "cudaMemcpy"));
    return out;
  }
  [[nodiscard]] leak first() const {
    const std::uint64_t key = found().first.first;
    if (key == dg::leak_record::none) return {};
    const std::uint32_t tensor = dg::leak_record::tensor_of(key);
    leak out;
    out.step = dg::leak_record::step_of(key);
    out.stage = tensor;
    out.layer = static_cast<std::int32_t>(tensor / 16);
    out.rank = rank_;
    out.found_in = static_cast<tensor_name>(tensor % 16);
    out.found_row = dg::leak_record::row_of(key);
    return out;
  }

private:
  bool on_;
  std::int32_t rank_;
  const std::int32_t* step_ = nullptr;
  serve::device_array<leak_counters> found_;
};

} // namespace engine::gpu
