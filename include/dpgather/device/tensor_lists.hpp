#pragma once

/// @file
/// Pad, trim and compact as jobs: up to 32 tensors in one launch.

#include <dpgather/config.hpp>
#include <dpgather/device/compact.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/device/trim.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

namespace detail {

[[nodiscard]] inline std::uint64_t words_of(const byte_runs& runs) noexcept {
  return (runs.slices * runs.runs * runs.run_bytes + 15) / 16;
}
[[nodiscard]] inline std::uint64_t words_of(const pad_tensor& t) noexcept {
  return t.fill.leave ? 0 : words_of(units_from(t, least_real(t.units)));
}
[[nodiscard]] inline std::uint64_t words_of(const trim_tensor& t) noexcept {
  return always_stays(t) ? 0 : words_of(source_runs(t));
}
DPGATHER_HOST_DEVICE inline void do_share(const pad_tensor& t, worker_id worker) noexcept {
  pad_share(t, worker.index, worker.count);
}
DPGATHER_HOST_DEVICE inline void do_share(const trim_tensor& t, worker_id worker) noexcept {
  trim_share(t, worker.index, worker.count);
}

/// Tensors that travel in the launch: a tensor is a part, so that no thread walks through the list.
template <class Tensor, std::uint32_t Capacity>
struct tensor_list {
  Tensor tensors[Capacity]{};
  std::uint32_t count = 0;
  std::uint64_t most_words = 0;

  /// Takes a tensor in that has something to do. Precondition: there is room.
  void add(const Tensor& tensor) noexcept {
    const std::uint64_t words = words_of(tensor);
    if (words == 0) return;
    tensors[count++] = tensor;
    if (words > most_words) most_words = words;
  }
  [[nodiscard]] std::uint32_t parts() const noexcept { return count; }
  [[nodiscard]] std::uint64_t words() const noexcept { return most_words; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t part, worker_id worker) const noexcept {
    do_share(tensors[part], worker);
  }
};

/// Launches the first tensors that have something to do, at most `Capacity` of them, and takes them
/// off the list.
template <std::uint32_t Capacity, class Tensor, class Stream>
[[nodiscard]] status run_first(std::span<const Tensor>& tensors, Stream stream) noexcept {
  tensor_list<Tensor, Capacity> list;
  while (!tensors.empty() && list.count < Capacity) {
    list.add(tensors.front());
    tensors = tensors.subspan(1);
  }
  return executor<Stream>::run(list, 0, stream);
}

/// Launches a checked list. Kernel parameters hold 4 KiB on every GPU: 32 tensors; more go by
/// further launches.
template <class Tensor, class Stream>
[[nodiscard]] status run_checked_list(std::span<const Tensor> tensors, Stream stream) noexcept {
  if (tensors.size() <= 16) return run_first<16>(tensors, stream);
  while (!tensors.empty()) {
    if (const status bad = run_first<32>(tensors, stream); !bad) return bad;
  }
  return {};
}

/// One compaction as a job.
struct compact_job {
  compact_rows rows{};
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept {
    const std::int64_t slots = std::int64_t{rows.ranks} * rows.slot_rows;
    const std::int64_t most = slots < rows.destination_rows ? slots : rows.destination_rows;
    return static_cast<std::uint64_t>(most < 0 ? 0 : most) * rows.row_bytes / 16 + 1;
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, worker_id worker) const noexcept {
    compact_share(rows, worker.index, worker.count);
  }
};

} // namespace detail

/// Pads every tensor of the list in place, on a stream. One launch for up to 32 tensors that have a
/// tail, one more for each further 32.
/// Stream: ordered. Capture: safe; counts are frozen but for `units.live`. Ownership: the list is
/// read before the call returns, the tensors until the stream has passed.
/// Errors: those of `validate(std::span<const pad_tensor>)`, nothing written; `native_error`.
template <class Stream>
[[nodiscard]] status pad(std::span<const pad_tensor> tensors, Stream stream) noexcept {
  if (const status bad = validate(tensors); !bad) return bad;
  return detail::run_checked_list(tensors, stream);
}

/// Gathers the real units of every tensor of the list densely into its destination, on a stream;
/// as `pad`. Errors: those of `validate(std::span<const trim_tensor>)`; `native_error`.
template <class Stream>
[[nodiscard]] status trim(std::span<const trim_tensor> tensors, Stream stream) noexcept {
  if (const status bad = validate(tensors); !bad) return bad;
  return detail::run_checked_list(tensors, stream);
}

/// Moves the real rows of every slot to their packed place, on a stream, in one launch. Counts and
/// offsets are read when the job runs and clamped, so they need not be known now and are not
/// checked here. Capture: safe. Errors: `native_error`.
template <class Stream>
[[nodiscard]] status compact(const compact_rows& rows, Stream stream) noexcept {
  if (rows.ranks <= 0 || rows.slot_rows <= 0 || rows.row_bytes == 0) return {};
  return executor<Stream>::run(detail::compact_job{rows}, 0, stream);
}

} // namespace dpgather::inline v0
