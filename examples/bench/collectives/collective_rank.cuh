#pragma once

/// @file
/// One rank: its GPU, stream, communicator and buffers.

#include "../support/device_memory.cuh"
#include "../support/device_rows.cuh"
#include "../support/nccl_gpu.cuh"
#include "../support/run_group.cuh"
#include "../support/symmetric_window.cuh"
#include "collective_case.hpp"
#include "contents.hpp"
#include "rotation.hpp"
#include "section_kernels.cuh"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace bench {

namespace dg = dpgather;

/// A method's buffers. Every output has room for one row more than the largest case, which nobody
/// may write.
struct collective_buffers {
  rotation inputs;             ///< gather: own rows, padded; combine: partial sums in slots
  std::byte* global = nullptr; ///< output of gathers: all ranks' rows
  std::byte* local = nullptr;  ///< output of combines: own rows

  /// Bytes of it all.
  [[nodiscard]] static std::size_t bytes(const collective_shape& shape, std::size_t cache_bytes) {
    return input_room(shape, cache_bytes) + global_room(shape) + local_room(shape);
  }
  [[nodiscard]] static std::size_t input_room(const collective_shape& shape,
                                              std::size_t cache_bytes) {
    return rotation::room(cache_bytes, shape.most_global_bytes());
  }
  [[nodiscard]] static collective_buffers at(std::byte* memory, const collective_shape& shape,
                                             std::size_t cache_bytes) {
    const std::size_t room = input_room(shape, cache_bytes);
    return {{memory, room}, memory + room, memory + room + global_room(shape)};
  }

private:
  [[nodiscard]] static std::size_t global_room(const collective_shape& shape) {
    return aligned(shape.most_global_bytes() + shape.row_bytes());
  }
  [[nodiscard]] static std::size_t local_room(const collective_shape& shape) {
    return aligned(shape.most_local_bytes() + shape.row_bytes());
  }
};

/// Made by the thread that is the rank. All memory is allocated before anything runs: an allocation
/// may wait for a device on which a kernel waits for a peer.
class collective_rank {
public:
  collective_rank(dg::host_communicator ranks, const collective_shape& shape,
                  std::size_t cache_bytes, team& others)
      : shape_{shape}, gpu_{ranks}, memory_{collective_buffers::bytes(shape, cache_bytes)},
        packed_memory_{collective_buffers::input_room(shape, cache_bytes)},
        counts_{sizeof collective_case::counts}, offsets_{most_ranks * sizeof(std::int64_t)},
        window_{comm(), memory_.size(), others}, place_{others, rank(), stream(), waiter()} {
    load_section_kernels();
    plain_ = collective_buffers::at(memory_.data(), shape, cache_bytes);
    packed_ = {packed_memory_.data(), packed_memory_.size()};
    if (has_windows()) windows_ = collective_buffers::at(window_.data(), shape, cache_bytes);
  }
  collective_rank(const collective_rank&) = delete;
  collective_rank& operator=(const collective_rank&) = delete;
  /// Collective, when all graphs are gone.
  ~collective_rank() {
    gpu_.await_graphs();
    place_.meet();
    window_.close();
    gpu_.close();
  }

  [[nodiscard]] const bench_place& place() const { return place_; }
  [[nodiscard]] const collective_shape& shape() const { return shape_; }
  [[nodiscard]] std::int32_t rank() const { return gpu_.rank(); }
  [[nodiscard]] cudaStream_t stream() const { return gpu_.stream(); }
  [[nodiscard]] ncclComm_t comm() { return gpu_.comm(); }
  [[nodiscard]] const row_checker& checker() const { return checker_; }

  /// Memory of `cudaMalloc`.
  [[nodiscard]] const collective_buffers& plain() const { return plain_; }
  /// The same in a registered window; only where there are windows.
  [[nodiscard]] const collective_buffers& windows() const { return windows_; }
  [[nodiscard]] bool has_windows() const { return window_.data() != nullptr; }
  [[nodiscard]] const char* why_no_windows() const { return window_.why_none(); }
  /// Inputs of combines, packed: the same rows as in slots. Memory of `cudaMalloc`.
  [[nodiscard]] const rotation& packed() const { return packed_; }
  /// What an engine has on the device: rows of every rank, and how many lie before them.
  [[nodiscard]] const std::int32_t* counts() const {
    return reinterpret_cast<const std::int32_t*>(counts_.data());
  }
  [[nodiscard]] const std::int64_t* offsets() const {
    return reinterpret_cast<const std::int64_t*>(offsets_.data());
  }

  /// Writes the counts and offsets of a case, in one small kernel. Stream: ordered.
  void write_counts_of(const collective_case& what) {
    launch(write_counts<collective_case>, 1, most_ranks, stream(), what,
           reinterpret_cast<std::int32_t*>(counts_.data()),
           reinterpret_cast<std::int64_t*>(offsets_.data()));
  }

  /// Until the stream is idle; a peer that does not come is an error after 20 s.
  void wait(const char* what) { gpu_.wait(what); }

  /// Inputs of gathers: payload in real rows, zeros in the others.
  void fill_for_gather(const collective_case& what, std::int32_t calls) {
    publish(what);
    const auto fill = [&](rotation& inputs) {
      inputs.cut(static_cast<std::size_t>(what.rows) * what.row_bytes(), calls);
      for (std::int32_t b = 0; b < inputs.count(); ++b)
        write_rows(inputs.buffer(b), what.rows, what.hidden, own_rows{what, rank(), b}, stream());
    };
    fill(plain_.inputs);
    if (has_windows()) fill(windows_.inputs);
    wait("payload");
    place_.meet();
  }
  /// Rows of the inputs in plain memory once more, which a method may have cleared. `what`: that of
  /// `fill_for_gather`. Stream: ordered.
  void rewrite_plain_rows(const collective_case& what) {
    for (std::int32_t b = 0; b < plain_.inputs.count(); ++b)
      write_rows(plain_.inputs.buffer(b), what.rows, what.hidden, own_rows{what, rank(), b},
                 stream());
  }
  /// Inputs of combines, in slots and packed: likewise.
  void fill_for_combine(const collective_case& what, std::int32_t calls) {
    publish(what);
    const auto fill = [&](rotation& inputs, std::int64_t rows, bool packed) {
      inputs.cut(static_cast<std::size_t>(rows) * what.row_bytes(), calls);
      for (std::int32_t b = 0; b < inputs.count(); ++b)
        write_rows(inputs.buffer(b), rows, what.hidden, partial_rows{what, rank(), b, packed},
                   stream());
    };
    fill(plain_.inputs, what.slot_rows(), false);
    fill(packed_, what.total(), true);
    if (has_windows()) fill(windows_.inputs, what.slot_rows(), false);
    wait("payload");
    place_.meet();
  }

private:
  [[nodiscard]] std::function<void(const char*)> waiter() {
    return [this](const char* what) { wait(what); };
  }
  void publish(const collective_case& what) const {
    std::int64_t offsets[most_ranks]{};
    for (std::int32_t r = 0; r < what.ranks; ++r) offsets[r] = what.offset(r);
    upload(counts_.data(), what.counts, sizeof what.counts, stream());
    upload(offsets_.data(), offsets, sizeof offsets, stream());
  }

  collective_shape shape_;
  nccl_gpu gpu_;
  device_memory memory_, packed_memory_, counts_, offsets_;
  row_checker checker_;
  symmetric_window window_;
  collective_buffers plain_, windows_;
  rotation packed_;
  bench_place place_;
};

} // namespace bench
