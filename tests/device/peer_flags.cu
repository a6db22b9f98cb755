// Flags follow the rows they speak of: pairs of blocks store words to each other and flag them,
// call after call, while all other blocks load the memory system with atomics in between those
// words.
//
// What happens when flags are not released is counted and reported, not demanded. Such a flag may
// overtake the stores before it, but on one GPU nothing makes it: they leave a processor in order,
// and only the ways through the L2's two halves differ. So the words are spread over many lines
// (both halves, all slices), their writes are many, and the reader looks at them at once, as a
// story's does not: it looks after a barrier of its rank. ThreadSanitizer sees the broken rule for
// certain: scenarios/peer_controls.cpp.
#include <support/must.cuh>
#include <support/peer_control_story.hpp>
#include <support/peer_stage.cuh>

#include <dpgather/device/gpu_block.cuh>
#include <dpgather/protocol/peer_call.hpp>

#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace test_support;

constexpr std::uint32_t threads = 512, words_each = 4;
constexpr std::uint32_t lines = threads * words_each; ///< of a pair's words, 128 bytes each
constexpr std::uint32_t line_words_32 = 32;

/// Two ranks and the words that their blocks store to each other.
struct flag_world {
  dg::peer_lane lane[2]{};
  std::uint32_t* words[2]{}; ///< of a rank: [slot][pair][line][32], the first of each line is used
  std::uint32_t pairs = 1;
  std::uint32_t rounds = 1;
  std::uint32_t* done = nullptr;       ///< blocks of pairs that have ended
  unsigned long long* stale = nullptr; ///< words that were older than their flag
  unsigned long long* calls = nullptr; ///< that went through
  [[nodiscard]] __device__ std::uint32_t* part(std::uint32_t rank, std::uint64_t slot,
                                               std::uint32_t pair) const {
    return words[rank] + (slot * pairs + pair) * lines * line_words_32;
  }
};

/// Atomics next to the words, until all pairs have ended: every wait of theirs has a deadline.
__device__ void load_memory(const flag_world& world) {
  std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x + 1;
  const std::uint64_t all = std::uint64_t{2} * world.pairs * lines; // of a rank
  while (*static_cast<volatile std::uint32_t*>(world.done) < 2 * world.pairs) {
    for (int i = 0; i < 16; ++i) {
      at = at * 6364136223846793005u + 1442695040888963407u;
      const std::uint64_t line = (at >> 24) % all;
      atomicAdd(world.words[at >> 63] + line * line_words_32 + 16 + (at >> 20) % 16, 1u);
    }
  }
}

template <class Rules>
__global__ void __launch_bounds__(threads, 1) pass_flags(flag_world world, Rules rules) {
  // For the block to refer to; nothing here has a table of rows.
  __shared__ alignas(dg::gpu_block_memory) std::byte memory_bytes[sizeof(dg::gpu_block_memory)];
  auto& memory = reinterpret_cast<dg::gpu_block_memory&>(memory_bytes);
  if (blockIdx.x >= 2 * world.pairs) {
    load_memory(world);
    return;
  }
  const std::uint32_t rank = blockIdx.x % 2, pair = blockIdx.x / 2;
  using block_type = dg::gpu_block<Rules>;
  block_type block{pair, world.pairs, rules, memory};
  std::uint32_t stale = 0, calls = 0;
  for (; calls < world.rounds; ++calls) {
    dg::peer_call<block_type> call{block, world.lane[rank], 7};
    const auto number = static_cast<std::uint32_t>(call.epoch());
    std::uint32_t* const to = world.part(1 - rank, call.slot(), pair);
    for (std::uint32_t line = threadIdx.x; line < lines; line += threads)
      to[line * line_words_32] = number;
    block.sync();
    call.publish_flags();
    call.wait_flags([](std::int32_t) { return true; });
    if (block.sync_or(call.failed())) break;
    // The peer may be a call ahead, in the other slot, and no further.
    const std::uint32_t* const from = world.part(rank, call.slot(), pair);
    for (std::uint32_t line = threadIdx.x; line < lines; line += threads) {
      const auto got = static_cast<const volatile std::uint32_t*>(from)[line * line_words_32];
      stale += got != number ? 1 : 0;
    }
    if (!call.end(false)) break;
    block.sync(); // the next call begins with the epoch that this one has left
  }
  if (stale != 0) atomicAdd(world.stale, static_cast<unsigned long long>(stale));
  block.sync();
  if (threadIdx.x != 0) return;
  atomicAdd(world.calls, static_cast<unsigned long long>(calls));
  atomicAdd(world.done, 1u);
}

struct flag_outcome {
  unsigned long long stale = 0, calls = 0, wanted = 0;
  dg::errc errors[2]{};
};

template <class Rules>
flag_outcome run_flags(std::uint32_t rounds) {
  int processors = 0, on_each = 0;
  cuda_must(cudaSetDevice(0), "device");
  cuda_must(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), "processors");
  cuda_must(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&on_each, pass_flags<Rules>,
                                                          static_cast<int>(threads), 0),
            "occupancy");
  const auto blocks = static_cast<std::uint32_t>(processors * std::min(on_each, 1));
  REQUIRE(blocks >= 2);
  flag_world world;
  world.pairs = std::max(1u, std::min(16u, blocks / 4));
  world.rounds = rounds;

  dg::peer_limits limits;
  limits.ranks = 2;
  limits.rank_rows = 1;
  limits.view_rows = 2;
  limits.row_bytes[0] = 16;
  const auto layout = dg::peer_layout::of(limits);
  REQUIRE(layout.ok());
  void* mapped = nullptr;
  cuda_must(cudaHostAlloc(&mapped, 2 * sizeof(dg::peer_control), cudaHostAllocMapped), "control");
  auto* const controls = static_cast<dg::peer_control*>(mapped);
  std::vector<device_bytes> memory;
  dg::peer_pointers pointers;
  pointers.size = 2;
  pointers.bytes = layout->bytes;
  const dg::peer_state first = dg::first_state(0);
  const std::size_t word_bytes =
      std::size_t{2} * world.pairs * lines * line_words_32 * sizeof(std::uint32_t);
  for (int r = 0; r < 2; ++r) {
    memory.emplace_back(layout->bytes, 0);
    pointers.base[r] = memory.back().get();
    cuda_must(
        cudaMemcpy(pointers.base[r] + layout->state, &first, sizeof first, cudaMemcpyHostToDevice),
        "state");
    memory.emplace_back(word_bytes, 0);
    world.words[r] = memory.back().as<std::uint32_t>();
    controls[r] = dg::peer_control{};
    controls[r].budget_ns = 10'000'000'000;
  }
  for (int r = 0; r < 2; ++r) {
    pointers.rank = r;
    world.lane[r] = dg::peer_lane::of(pointers, *layout, controls + r);
  }
  memory.emplace_back(3 * sizeof(unsigned long long), 0);
  world.stale = memory.back().as<unsigned long long>();
  world.calls = world.stale + 1;
  world.done = reinterpret_cast<std::uint32_t*>(world.stale + 2);

  Rules rules{};
  void* arguments[] = {&world, &rules};
  cuda_must(cudaLaunchCooperativeKernel(pass_flags<Rules>, dim3{blocks}, dim3{threads}, arguments,
                                        0, nullptr),
            "launch");
  cuda_must(cudaDeviceSynchronize(), "flags");
  unsigned long long found[2];
  cuda_must(cudaMemcpy(found, world.stale, sizeof found, cudaMemcpyDeviceToHost), "found");
  flag_outcome out{found[0], found[1], 2ull * world.pairs * rounds, {}};
  for (int r = 0; r < 2; ++r) {
    const dg::peer_record& error = controls[r].first;
    out.errors[r] = error.written != 0 ? static_cast<dg::errc>(error.code) : dg::errc::ok;
  }
  (void)cudaFreeHost(mapped);
  return out;
}

} // namespace

TEST_CASE("a released flag never comes before what it speaks of") {
  const auto rounds = static_cast<std::uint32_t>(case_count(5'000));
  const flag_outcome kept = run_flags<dg::peer_rules>(rounds);
  MESSAGE("released: ", kept.stale, " old words in ", kept.calls, " calls of ", kept.wanted,
          ", errors ", dg::name_of(kept.errors[0]), " ", dg::name_of(kept.errors[1]));
  REQUIRE(kept.errors[0] == dg::errc::ok);
  REQUIRE(kept.errors[1] == dg::errc::ok);
  REQUIRE(kept.calls == kept.wanted);
  REQUIRE(kept.stale == 0);
  const flag_outcome broken = run_flags<relaxed_flags>(rounds);
  MESSAGE("not released: ", broken.stale, " old words in ", broken.calls, " calls of ",
          broken.wanted, " (seen, not demanded)");
  CHECK(broken.calls == broken.wanted); // it ends, whatever it read
}
