#pragma once

/// @file
/// The arenas of all ranks as kernels of one rank see them, and what a provider of them is.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Ranks that one peer communicator holds.
inline constexpr std::int32_t max_peer_ranks = 16;

/// One arena of `bytes` bytes for each rank, at the addresses where kernels of *this* rank load and
/// store: its own memory at `base[rank]`, mapped memory of the others elsewhere.
///
/// Every arena is aligned to 256 bytes. Ownership: borrows. An engine that maps memory itself fills
/// this in by hand; nothing of NCCL is needed. Trivially copyable: kernels take it by value.
struct peer_pointers {
  std::byte* base[max_peer_ranks]{};
  std::int32_t rank = 0;
  std::int32_t size = 1;
  std::size_t bytes = 0;

  /// `length` bytes of every arena from `offset`, a multiple of 256 that lies inside: memory of one
  /// registration, shared by several channels.
  [[nodiscard]] constexpr peer_pointers part(std::size_t offset,
                                             std::size_t length) const noexcept {
    peer_pointers out = *this;
    for (std::int32_t r = 0; r < size; ++r) out.base[r] += offset;
    out.bytes = length;
    return out;
  }
};

/// Something that has mapped an arena of every rank. `check()` says why it could not; `pointers()`
/// is valid while the provider lives. Constructing and destroying are collective: memory may go
/// only when no rank's kernels can touch it any more.
template <class M>
concept peer_memory = requires(const M& memory) {
  { memory.check() }
  noexcept->std::same_as<status>;
  { memory.pointers() }
  noexcept->std::same_as<peer_pointers>;
};

} // namespace dpgather::inline v0
