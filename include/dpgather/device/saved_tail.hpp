#pragma once

/// @file
/// Padding that can be taken back: what a fill is about to overwrite is saved in the same launch,
/// and another launch puts it back. One text for the CPU and for kernels.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/device/tensor_lists.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// One tensor to pad, and where what it held is kept. Trivially copyable.
/// Ownership: borrows all memory; `saved` belongs to this tensor alone until it is put back.
struct saved_tensor {
  pad_tensor tensor{};
  std::byte* saved = nullptr; ///< `saved_bytes(tensor)` bytes, aligned to 16; null: nothing is kept
  std::int32_t* counted = nullptr; ///< where the real units of a live count are kept; else not read
  bool whole = false;              ///< real units come back too, not only the tail
};

/// A multiple of the widest word, so that saved bytes can be moved as wide as any tail.
[[nodiscard]] DPGATHER_HOST_DEVICE constexpr std::size_t round_up_16(std::size_t bytes) noexcept {
  return (bytes + 15) / 16 * 16;
}

/// Room that any counts of this tensor need. Precondition: `validate` has let the tensor through.
[[nodiscard]] constexpr std::size_t saved_bytes(const pad_tensor& t) noexcept {
  if (t.outer <= 0 || t.units.capacity <= 0) return 0;
  return 16 + round_up_16(static_cast<std::size_t>(t.outer) *
                          static_cast<std::size_t>(t.units.capacity) * t.unit_bytes);
}

namespace detail {

/// Saves a tail and fills it: a word is saved by the worker that overwrites it.
template <class Word>
DPGATHER_HOST_DEVICE void save_and_fill_words(const byte_runs& tail, const byte_runs& saved,
                                              std::uint64_t bits, std::uint64_t worker,
                                              std::uint64_t workers) noexcept {
  const Word value = repeated<Word>(bits);
  share_walk at{tail.runs, tail.run_bytes / sizeof(Word), worker, workers};
  for (; at.slice < tail.slices; at.next()) {
    const std::uint64_t word = at.word * sizeof(Word);
    auto* const here = reinterpret_cast<std::byte*>(tail.start + at.slice * tail.slice_stride +
                                                    at.run * tail.run_stride + word);
    auto* const kept = reinterpret_cast<std::byte*>(saved.start + at.slice * saved.slice_stride +
                                                    at.run * saved.run_stride + word);
    copy_word<Word>(kept, here);
    store_word(here, value);
  }
}

/// The real units and the tail of a tensor, and where they are kept.
struct saved_parts {
  byte_runs head, saved_head, tail, saved_tail;

  DPGATHER_HOST_DEVICE saved_parts(const saved_tensor& t, std::int32_t real) noexcept
      : head{byte_runs::of(reinterpret_cast<std::uintptr_t>(t.tensor.data), t.tensor.outer,
                           t.tensor.outer_stride, t.whole ? real : 0, t.tensor.unit_stride,
                           t.tensor.unit_bytes)},
        saved_head{dense_like(head, reinterpret_cast<std::uintptr_t>(t.saved))}, tail{units_from(
                                                                                     t.tensor,
                                                                                     real)} {
    const std::uint64_t behind = round_up_16(head.slices * head.runs * head.run_bytes);
    saved_tail = dense_like(tail, saved_head.start + behind);
  }
};

} // namespace detail

/// One worker's share of saving and filling; see `pad_share`.
/// Capture: safe; a live count is read when the job runs, and kept for the way back.
DPGATHER_HOST_DEVICE inline void save_share(const saved_tensor& t, std::uint64_t worker,
                                            std::uint64_t workers) noexcept {
  const pad_tensor& tensor = t.tensor;
  if (t.saved == nullptr) return pad_share(tensor, worker, workers);
  const std::int32_t real = tensor.units.real_now();
  if (tensor.units.live != nullptr && worker == 0) *t.counted = real;
  const detail::saved_parts parts{t, real};
  if (!parts.head.empty()) detail::copy_runs(parts.saved_head, parts.head, worker, workers);
  if (parts.tail.empty()) return;
  if (tensor.fill.leave) return detail::copy_runs(parts.saved_tail, parts.tail, worker, workers);
  const std::uint64_t word =
      detail::lowest_bit(parts.tail.word_bytes() | parts.saved_tail.word_bytes());
  detail::with_word(word, [&](auto w) noexcept {
    detail::save_and_fill_words<decltype(w)>(parts.tail, parts.saved_tail, tensor.fill.bits, worker,
                                             workers);
  });
}

/// One worker's share of the way back: what `save_share` has saved, byte for byte.
DPGATHER_HOST_DEVICE inline void restore_share(const saved_tensor& t, std::uint64_t worker,
                                               std::uint64_t workers) noexcept {
  if (t.saved == nullptr) return;
  const detail::saved_parts parts{t, t.tensor.units.live == nullptr ? t.tensor.units.real
                                                                    : *t.counted};
  if (!parts.head.empty()) detail::copy_runs(parts.head, parts.saved_head, worker, workers);
  if (!parts.tail.empty()) detail::copy_runs(parts.tail, parts.saved_tail, worker, workers);
}

/// Tensors that one launch saves and fills, or puts back.
inline constexpr std::size_t most_saved_tensors = 32;

namespace detail {

/// The two ways as elements of a list of jobs.
struct tail_to_save : saved_tensor {};
struct tail_to_restore : saved_tensor {};

[[nodiscard]] inline std::uint64_t words_of(const tail_to_restore& t) noexcept {
  if (t.saved == nullptr) return 0;
  return words_of(units_from(t.tensor, t.whole ? 0 : least_real(t.tensor.units)));
}
[[nodiscard]] inline std::uint64_t words_of(const tail_to_save& t) noexcept {
  return t.saved == nullptr ? words_of(t.tensor) : words_of(tail_to_restore{t});
}
DPGATHER_HOST_DEVICE inline void do_share(const tail_to_save& t, worker_id worker) noexcept {
  save_share(t, worker.index, worker.count);
}
DPGATHER_HOST_DEVICE inline void do_share(const tail_to_restore& t, worker_id worker) noexcept {
  restore_share(t, worker.index, worker.count);
}

template <class Way, std::uint32_t Capacity, class Stream>
[[nodiscard]] status run_saved(std::span<const saved_tensor> tensors, Stream stream) noexcept {
  tensor_list<Way, Capacity> list;
  for (const saved_tensor& tensor : tensors) list.add(Way{tensor});
  return executor<Stream>::run(list, 0, stream);
}
/// A launch that carries half as much starts sooner.
template <class Way, class Stream>
[[nodiscard]] status run_saved(std::span<const saved_tensor> tensors, Stream stream) noexcept {
  if (tensors.empty()) return {};
  if (tensors.size() <= most_saved_tensors / 2)
    return run_saved<Way, most_saved_tensors / 2>(tensors, stream);
  return run_saved<Way, most_saved_tensors>(tensors, stream);
}

} // namespace detail

/// Saves and pads every tensor of a list that `validate(std::span<const pad_tensor>)` would let
/// through, in one launch. Precondition: at most `most_saved_tensors` of them.
/// Stream: ordered. Capture: safe, see `save_share`. Errors: `native_error`, nothing was done.
template <class Stream>
[[nodiscard]] status save_and_pad(std::span<const saved_tensor> tensors, Stream stream) noexcept {
  return detail::run_saved<detail::tail_to_save>(tensors, stream);
}

/// Puts back what `save_and_pad` has saved of the same list, in one launch, likewise.
template <class Stream>
[[nodiscard]] status restore(std::span<const saved_tensor> tensors, Stream stream) noexcept {
  return detail::run_saved<detail::tail_to_restore>(tensors, stream);
}

} // namespace dpgather::inline v0
