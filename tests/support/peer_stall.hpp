#pragma once

/// @file
/// Rules of the peer protocol that hold blocks up at named points, on CPU threads and in kernels.

#include <dpgather/protocol/peer_block.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace test_support {

namespace dg = dpgather;

inline constexpr std::size_t peer_points = 5;
inline constexpr const char* peer_point_names[peer_points] = {"entered", "sent", "published",
                                                              "waiting", "received"};

/// Whom to hold up, for how long.
struct stall {
  std::int32_t rank = -1;
  std::int32_t block = -1; ///< -1: every one of the rank
  std::uint64_t ns = 0;
};

/// `Rules` of one rank, whose blocks are held up at some points of every call. A kernel's stage and
/// the host's set `rank`.
template <class Rules>
struct stalled : Rules {
  stall held[peer_points]{};          ///< by point
  unsigned long long* hits = nullptr; ///< [peer_points], if they are to be counted
  std::int32_t rank = -1;

  [[nodiscard]] stall& at_point(dg::peer_point point) {
    return held[static_cast<std::size_t>(point)];
  }

  template <class Block>
  DPGATHER_HOST_DEVICE void at(dg::peer_point point, const Block& block) const noexcept {
    const stall& here = held[static_cast<std::size_t>(point)];
    if (here.ns == 0 || rank != here.rank) return;
    if (here.block >= 0 && static_cast<std::uint32_t>(here.block) != block.block()) return;
    unsigned long long* const hit =
        hits != nullptr && block.thread() == 0 ? hits + static_cast<std::size_t>(point) : nullptr;
#if defined(__CUDA_ARCH__)
    if (hit != nullptr) atomicAdd(hit, 1ull);
    const std::uint64_t start = block.now();
    while (block.now() - start < here.ns) {
    }
#else
    if (hit != nullptr) std::atomic_ref{*hit}.fetch_add(1);
    std::this_thread::sleep_for(std::chrono::nanoseconds{here.ns});
#endif
  }
};

} // namespace test_support
