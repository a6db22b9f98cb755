#pragma once

/// @file
/// A thread block as one block of a peer call: the words of the protocol in PTX. Needs nvcc.

#include <dpgather/config.hpp>
#include <dpgather/device/byte_runs.hpp>
#include <dpgather/device/peer_lines.hpp>
#include <dpgather/device/peer_rows.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_block.hpp>
#include <dpgather/tensor.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {

/// Loads and stores that C++ has no words for.
namespace ptx {

/// 16 bytes in registers.
struct words4 {
  std::uint32_t x, y, z, w;
};

/// 16 bytes that arrive together, for everybody to see.
__device__ __forceinline__ void store_relaxed(void* to, std::uint64_t a, std::uint64_t b) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};"
               :
               : "l"(__cvta_generic_to_global(to)), "l"(a), "l"(b)
               : "memory");
}
/// 16 bytes as they were at one time.
__device__ __forceinline__ void load_relaxed(const void* from, std::uint64_t& a, std::uint64_t& b) {
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(a), "=l"(b)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
}
/// A word that others may write.
__device__ __forceinline__ std::uint64_t load_relaxed(const std::uint64_t* from) {
  std::uint64_t out;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];"
               : "=l"(out)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return out;
}
/// The same; what follows sees what went before the word's publication.
__device__ __forceinline__ std::uint64_t load_acquire(const std::uint64_t* from) {
  std::uint64_t out;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];"
               : "=l"(out)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return out;
}
/// A word for others.
__device__ __forceinline__ void store_relaxed(std::uint64_t* to, std::uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;"
               :
               : "l"(__cvta_generic_to_global(to)), "l"(value)
               : "memory");
}
/// Memory that peers write: never through a cache that does not hear of it.
__device__ __forceinline__ words4 load_peer(const std::byte* from) {
  words4 out;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return out;
}
/// Input, read once. Not by way of the read-only cache: an engine's kernel may be writing it still
/// when this one is launched as its dependent.
__device__ __forceinline__ words4 load_once(const std::byte* from) {
  words4 out;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return out;
}
/// 16 bytes, published by a later flag or not at all.
__device__ __forceinline__ void store(std::byte* to, const words4& value) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
               : "memory");
}

} // namespace ptx

/// Shared by the threads of a block.
struct gpu_block_memory {
  peer_table table;
};

/// See `peer_block`. Blocks have a multiple of 32 threads.
template <class Rules>
class gpu_block {
public:
  using rules_type = Rules;
  static constexpr std::uint32_t looks_between = 256;
  static constexpr int part_words = 2;     ///< 8-byte words of a line that a lane holds
  static constexpr int lines_per_warp = 4; ///< 8 lanes each
  static constexpr int lines_at_once = 2;
  static constexpr std::uint32_t lanes = 32;

  __device__ gpu_block(std::uint32_t index, std::uint32_t count, const Rules& rules,
                       gpu_block_memory& memory) noexcept
      : index_{index}, count_{count}, rules_{rules}, memory_{memory} {}

  [[nodiscard]] __device__ std::uint32_t thread() const noexcept { return threadIdx.x; }
  [[nodiscard]] __device__ static std::uint32_t threads() noexcept { return blockDim.x; }
  [[nodiscard]] __device__ std::uint32_t block() const noexcept { return index_; }
  [[nodiscard]] __device__ std::uint32_t blocks() const noexcept { return count_; }
  [[nodiscard]] __device__ const Rules& rules() const noexcept { return rules_; }
  [[nodiscard]] __device__ peer_table& table() noexcept { return memory_.table; }

  /// The same threads among the first `count` blocks only.
  [[nodiscard]] __device__ gpu_block narrowed(std::uint32_t count) const noexcept {
    return {index_, count, rules_, memory_};
  }

  __device__ void sync() noexcept { __syncthreads(); }
  __device__ void sync_warp() noexcept { __syncwarp(); }
  [[nodiscard]] __device__ bool sync_or(bool mine) noexcept { return __syncthreads_or(mine) != 0; }
  [[nodiscard]] __device__ bool all(bool mine) const noexcept {
    return __all_sync(0xffffffffu, mine) != 0;
  }
  [[nodiscard]] __device__ bool any(bool mine) const noexcept {
    return __any_sync(0xffffffffu, mine) != 0;
  }
  [[nodiscard]] __device__ std::uint32_t warp() const noexcept {
    return threadIdx.x / 32 * count_ + index_;
  }
  [[nodiscard]] __device__ std::uint32_t warps() const noexcept { return blockDim.x / 32 * count_; }
  [[nodiscard]] __device__ warp_group all_warps() const noexcept { return {warp(), warps()}; }
  [[nodiscard]] __device__ std::uint32_t line_in_warp() const noexcept {
    return threadIdx.x / 8 % lines_per_warp;
  }
  [[nodiscard]] __device__ std::uint32_t first_part() const noexcept {
    return threadIdx.x % 8 * part_words;
  }

  __device__ void post(peer_flag* to, const peer_flag& flag) noexcept {
    ptx::store_relaxed(to, flag.epoch, packed(flag));
  }
  __device__ void publish(peer_flag* to, const peer_flag& flag) noexcept {
    __threadfence_system();
    post(to, flag);
  }
  [[nodiscard]] __device__ peer_flag observe(const peer_flag* from) noexcept {
    std::uint64_t epoch, rest;
    ptx::load_relaxed(from, epoch, rest);
    return unpacked(epoch, rest);
  }
  [[nodiscard]] __device__ peer_flag acquire(const peer_flag* from) noexcept {
    const auto* const words = reinterpret_cast<const std::uint64_t*>(from);
    const std::uint64_t epoch = ptx::load_acquire(words);
    return unpacked(epoch, ptx::load_relaxed(words + 1));
  }

  [[nodiscard]] __device__ std::uint64_t word(const std::uint64_t* from) const noexcept {
    return ptx::load_relaxed(from);
  }
  [[nodiscard]] __device__ std::int32_t word(const std::int32_t* from) const noexcept {
    return *static_cast<const volatile std::int32_t*>(from);
  }
  __device__ void set(std::uint64_t* to, std::uint64_t value) noexcept { *to = value; }
  __device__ void set(std::int32_t* to, std::int32_t value) noexcept { *to = value; }
  __device__ void set(std::int64_t* to, std::int64_t value) noexcept { *to = value; }
  [[nodiscard]] __device__ bool take(std::uint32_t* lock) noexcept {
    return atomicExch(lock, 1u) == 0;
  }
  [[nodiscard]] __device__ static std::uint64_t increment(std::uint64_t* word) noexcept {
    return atomicAdd(reinterpret_cast<unsigned long long*>(word), 1ull);
  }
  __device__ void publish_word(std::uint32_t* to, std::uint32_t value) noexcept {
    __threadfence_system();
    *static_cast<volatile std::uint32_t*>(to) = value;
  }
  __device__ void poison(std::uint64_t* to, std::uint64_t value) noexcept {
    ptx::store_relaxed(to, value);
    __threadfence_system();
  }
  [[nodiscard]] __device__ std::uint64_t now() const noexcept {
    std::uint64_t out;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(out));
    return out;
  }
  __device__ void pause() const noexcept {}
  /// Brings 128 bytes near that are about to be read.
  __device__ static void prefetch(const std::byte* from) noexcept {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
  }

  /// This lane's part of a line: 8 lanes make one, which leaves and comes as one store and load
  /// where they move in step. Nothing obliges them to (`__syncwarp` brings lanes that have parted
  /// together for its own time only), and in two stores the epoch may come before the data: seen
  /// over NVLink, and inside one GPU. So whoever moves lines asks whether the warp has `parted`,
  /// and takes the slow way then.
  __device__ static void store_line(std::byte* line, const std::uint64_t (&part)[part_words],
                                    bool has) noexcept {
    if (has) ptx::store_relaxed(line + threadIdx.x % 8 * 16, part[0], part[1]);
  }
  __device__ static void load_line(const std::byte* line, std::uint64_t (&part)[part_words],
                                   bool has) noexcept {
    if (has) ptx::load_relaxed(line + threadIdx.x % 8 * 16, part[0], part[1]);
  }
  /// Whether the lanes of this warp are not all here together; no lane finds that they are then.
  [[nodiscard]] __device__ static bool parted() noexcept {
    std::uint32_t lanes_here;
    asm volatile("activemask.b32 %0;" : "=r"(lanes_here)::"memory");
    return lanes_here != 0xffffffffu;
  }
  /// All lanes of a warp, each when it comes. The lane with the epoch goes last when it stores,
  /// first when it loads.
  __device__ static void store_line_parted(std::byte* line, const std::uint64_t (&part)[part_words],
                                           bool has) noexcept {
    store_parted(line + threadIdx.x % 8 * 16, part[0], part[1], has);
  }
  __device__ static void load_line_parted(const std::byte* line, std::uint64_t (&part)[part_words],
                                          bool has) noexcept {
    const ulonglong2 both = load_parted(line + threadIdx.x % 8 * 16, has);
    part[0] = both.x;
    part[1] = both.y;
  }

  /// Rows to the same place at `receivers` peers; `publish` after a `sync` speaks of them.
  __device__ static void push(const detail::row_places<const std::byte>& from, row_range which,
                              std::byte* const* to, std::int32_t receivers,
                              warp_group by) noexcept {
    move<false>(from, which, to, receivers, by);
  }
  /// The same for rows that peers may have brought. Out of line: relayed calls only.
  __device__ __noinline__ static void forward(const detail::row_places<const std::byte>& from,
                                              row_range which, std::byte* const* to,
                                              std::int32_t receivers, warp_group by) noexcept {
    move<true>(from, which, to, receivers, by);
  }

  /// Sums rows that peers hold; false when they are not aligned for it, and nothing was done.
  template <class Sum>
  [[nodiscard]] __device__ bool pull(const std::byte* const* from, std::int32_t sources,
                                     const detail::row_places<std::byte>& to,
                                     row_range which) noexcept {
    std::byte* const start = to.data + static_cast<std::uint64_t>(which.first) * to.stride;
    const std::uint64_t bytes = static_cast<std::uint64_t>(which.count) * to.row_bytes;
    const auto addresses =
        reinterpret_cast<std::uintptr_t>(start) | reinterpret_cast<std::uintptr_t>(from[0]) | bytes;
    if (to.stride != to.row_bytes || addresses % 16 != 0) return false;
    const std::uint64_t words = bytes / 16;
    if (sources <= 2 && count_ <= 32) { // few blocks need more in flight
      pull_few<Sum, 2, 8>(from, sources, start, words);
    } else if (sources <= 2) {
      pull_few<Sum, 2, 4>(from, sources, start, words);
    } else if (sources <= 4) {
      pull_few<Sum, 4, 2>(from, sources, start, words);
    } else {
      pull_many<Sum, 8>(from, sources, start, words);
    }
    return true;
  }

private:
  [[nodiscard]] __device__ static bool has_epoch() noexcept { return threadIdx.x % 8 == 7; }
  __device__ __noinline__ static void store_parted(std::byte* to, std::uint64_t a, std::uint64_t b,
                                                   bool has) noexcept {
    if (has && !has_epoch()) ptx::store_relaxed(to, a, b);
    __syncwarp();
    if (!has || !has_epoch()) return;
    __threadfence_system();
    ptx::store_relaxed(to, a, b);
  }
  /// By value: a reference would keep the parts in memory.
  [[nodiscard]] __device__ __noinline__ static ulonglong2 load_parted(const std::byte* from,
                                                                      bool has) noexcept {
    std::uint64_t a = 0, b = 0;
    if (has && has_epoch()) ptx::load_relaxed(from, a, b);
    __threadfence_system();
    __syncwarp();
    if (has && !has_epoch()) ptx::load_relaxed(from, a, b);
    return {a, b};
  }
  [[nodiscard]] __device__ static std::uint64_t packed(const peer_flag& flag) noexcept {
    return std::uint64_t{flag.rows} | (std::uint64_t{flag.shape} << 32);
  }
  [[nodiscard]] __device__ static peer_flag unpacked(std::uint64_t epoch,
                                                     std::uint64_t rest) noexcept {
    return {epoch, static_cast<std::uint32_t>(rest), static_cast<std::uint32_t>(rest >> 32)};
  }

  template <bool Brought>
  __device__ static void move(const detail::row_places<const std::byte>& from, row_range which,
                              std::byte* const* to, std::int32_t receivers,
                              const warp_group& by) noexcept {
    if (which.count <= 0 || receivers == 0) return;
    const std::byte* const start =
        from.data + static_cast<std::uint64_t>(which.first) * from.stride;
    const std::uint64_t bytes = static_cast<std::uint64_t>(which.count) * from.row_bytes;
    const auto addresses =
        reinterpret_cast<std::uintptr_t>(start) | reinterpret_cast<std::uintptr_t>(to[0]) | bytes;
    if (from.stride == from.row_bytes && addresses % 16 == 0) {
      const std::uint64_t words = bytes / 16;
      if (words >= std::uint64_t{by.count} * lanes * 4) {
        move_words<Brought, 8>(start, words, to, receivers, by);
      } else {
        move_words<Brought, 1>(start, words, to, receivers, by);
      }
      return;
    }
    DPGATHER_ROLLED
    for (std::int32_t r = 0; r < receivers; ++r)
      detail::move_rows_apart(start, from.stride, to[r], from.row_bytes, which.count,
                              peer_rows::worker_of<gpu_block>(threadIdx.x, by));
  }
  template <bool Brought, int AtOnce>
  __device__ static void move_words(const std::byte* from, std::uint64_t words,
                                    std::byte* const* to, std::int32_t receivers,
                                    const warp_group& by) noexcept {
    const std::uint64_t lane = threadIdx.x % lanes;
    DPGATHER_ROLLED
    for (std::uint64_t base = std::uint64_t{by.index} * lanes * AtOnce; base < words;
         base += std::uint64_t{by.count} * lanes * AtOnce) {
      ptx::words4 held[AtOnce];
#pragma unroll
      for (int u = 0; u < AtOnce; ++u) {
        const std::uint64_t w = base + lane + static_cast<std::uint64_t>(u) * 32;
        if (w >= words) continue;
        held[u] = Brought ? ptx::load_peer(from + w * 16) : ptx::load_once(from + w * 16);
      }
      for (std::int32_t r = 0; r < receivers; ++r) {
#pragma unroll
        for (int u = 0; u < AtOnce; ++u) {
          const std::uint64_t w = base + lane + static_cast<std::uint64_t>(u) * 32;
          if (w < words) ptx::store(to[r] + w * 16, held[u]);
        }
      }
    }
  }

  /// Up to `Sources` sources: all words in hand, a sum lives no longer than its word.
  template <class Sum, int Sources, int AtOnce>
  __device__ void pull_few(const std::byte* const* from, std::int32_t sources, std::byte* to,
                           std::uint64_t words) noexcept {
    const std::uint64_t stride = std::uint64_t{warps()} * 32;
    const std::byte* near[Sources]; // in registers: a list would be read again after every store
#pragma unroll
    for (int k = 0; k < Sources; ++k) near[k] = from[k < sources ? k : 0];
    for (std::uint64_t base = std::uint64_t{warp()} * 32 + threadIdx.x % 32; base < words;
         base += stride * AtOnce) {
      ptx::words4 held[Sources][AtOnce];
#pragma unroll
      for (int k = 0; k < Sources; ++k) {
#pragma unroll
        for (int u = 0; u < AtOnce; ++u) {
          const std::uint64_t w = base + static_cast<std::uint64_t>(u) * stride;
          if (k < sources && w < words) held[k][u] = ptx::load_peer(near[k] + w * 16);
        }
      }
#pragma unroll
      for (int u = 0; u < AtOnce; ++u) {
        const std::uint64_t w = base + static_cast<std::uint64_t>(u) * stride;
        if (w >= words) break;
        word_sum<Sum> low, high;
        low.start(low_of(held[0][u]));
        high.start(high_of(held[0][u]));
#pragma unroll
        for (int k = 1; k < Sources; ++k) {
          if (k >= sources) continue;
          low.add(low_of(held[k][u]));
          high.add(high_of(held[k][u]));
        }
        store_sums(to + w * 16, low, high);
      }
    }
  }
  /// Any number of sources, `Sources` at a time.
  template <class Sum, int Sources>
  __device__ void pull_many(const std::byte* const* from, std::int32_t sources, std::byte* to,
                            std::uint64_t words) noexcept {
    const std::uint64_t stride = std::uint64_t{warps()} * 32;
    for (std::uint64_t w = std::uint64_t{warp()} * 32 + threadIdx.x % 32; w < words; w += stride) {
      word_sum<Sum> low, high;
      for (std::int32_t first = 0; first < sources; first += Sources) {
        ptx::words4 held[Sources];
#pragma unroll
        for (int k = 0; k < Sources; ++k)
          if (first + k < sources) held[k] = ptx::load_peer(from[first + k] + w * 16);
#pragma unroll
        for (int k = 0; k < Sources; ++k) {
          if (first + k >= sources) continue;
          if (first + k == 0) {
            low.start(low_of(held[k]));
            high.start(high_of(held[k]));
          } else {
            low.add(low_of(held[k]));
            high.add(high_of(held[k]));
          }
        }
      }
      store_sums(to + w * 16, low, high);
    }
  }
  [[nodiscard]] __device__ static std::uint64_t low_of(const ptx::words4& words) noexcept {
    return words.x | (std::uint64_t{words.y} << 32);
  }
  [[nodiscard]] __device__ static std::uint64_t high_of(const ptx::words4& words) noexcept {
    return words.z | (std::uint64_t{words.w} << 32);
  }
  template <class Sum>
  __device__ static void store_sums(std::byte* to, const word_sum<Sum>& low_sum,
                                    const word_sum<Sum>& high_sum) noexcept {
    const std::uint64_t low = low_sum.get();
    const std::uint64_t high = high_sum.get();
    ptx::store(
        to, ptx::words4{static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                        static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)});
  }

  std::uint32_t index_, count_;
  const Rules& rules_;
  gpu_block_memory& memory_;
};

} // namespace dpgather::inline v0
