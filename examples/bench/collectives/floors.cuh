#pragma once

/// @file
/// The floors on one rank, measured like everything else.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/device_rows.cuh"
#include "../support/method.hpp"
#include "../support/run_group.cuh"
#include "../support/watchdog.hpp"
#include "collective_case.hpp"
#include "floor_kernels.cuh"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// Memory that all ranks' kernels reach by raw pointers, and the methods that measure with it.
/// Collective to construct and to destroy. Lives until nothing runs any more: to free memory that
/// others have mapped may wait for them.
class peer_floors {
public:
  static constexpr std::size_t store_bytes = std::size_t{32} << 20;
  static constexpr std::array<std::int32_t, 2> barrier_blocks{1, 32};

  peer_floors(dg::host_communicator ranks, const bench_place& place, std::int32_t multiprocessors)
      : place_{place}, blocks_{4, 8, 16, 32, 64, multiprocessors}, source_{store_bytes},
        landing_{store_bytes}, flags_{flag_bytes}, epochs_{epoch_bytes} {
    reach_peers(ranks);
    stores_.rank = barrier_.rank = place.rank;
    stores_.ranks = barrier_.ranks = ranks.size();
    stores_.source = source_.data();
    stores_.chunks = store_bytes / store_targets::chunk_bytes;
    barrier_.epochs = reinterpret_cast<std::uint64_t*>(epochs_.data());
    const std::array<std::byte*, 2> mine{landing_.data(), flags_.data()};
    std::array<std::byte*, 2> all[most_ranks]{};
    must(ranks.all_gather(&mine, all, sizeof mine), "peer pointers");
    for (std::int32_t r = 0; r < ranks.size(); ++r) {
      stores_.landing[r] = all[r][0];
      barrier_.of[r] = reinterpret_cast<std::uint64_t*>(all[r][1]);
    }
    write_rows(source_.data(), stores_.chunks, store_targets::chunk_elements,
               stored_chunks{place.rank}, place.stream);
    must(cudaMemsetAsync(flags_.data(), 0, flags_.size(), place.stream), "flags");
    must(cudaMemsetAsync(epochs_.data(), 0, epochs_.size(), place.stream), "epochs");
    place.wait("floors");
    place.meet();
  }
  peer_floors(const peer_floors&) = delete;
  peer_floors& operator=(const peer_floors&) = delete;
  ~peer_floors() { place_.meet(); }

  /// The empty kernel, then a barrier for each of `barrier_blocks`.
  [[nodiscard]] group latencies() {
    group out{"floors: latency", {}};
    const std::int32_t empty = out.add({.name = "empty kernel", .call = [this](int) {
                                          launch(empty_kernel<int>, 1, 32, place_.stream, 0);
                                        }});
    for (const std::int32_t blocks : barrier_blocks)
      out.add({.name = "flag barrier" + in_blocks(blocks),
               .baseline = empty,
               .call = [this, blocks](int) { barrier(blocks); },
               .prepare = [this, blocks] { reached_ = epochs(blocks)[0]; },
               .wrong = [this, blocks](int calls) { return wrong_epochs(blocks, calls); }});
    out.add_again(empty);
    return out;
  }
  /// Every rank stores at once.
  [[nodiscard]] group stores() {
    group out{"floors: stores to peers, all ranks at once", {}};
    for (const std::int32_t blocks : blocks_)
      out.add({.name = "stores to peers" + in_blocks(blocks),
               .call =
                   [this, blocks](int) {
                     launch(store_to_peers<store_targets>, blocks, 512, place_.stream, stores_);
                   },
               .prepare = [this] { poison_bytes(landing_.data(), store_bytes, place_.stream); },
               .wrong =
                   [this](int) {
                     place_.meet(); // the others' stores are done too
                     return checker_.wrong(landing_.data(), stores_.chunks,
                                           store_targets::chunk_elements, landed_chunks{stores_},
                                           place_.stream);
                   },
               .written = static_cast<double>(store_bytes)});
    return out;
  }

private:
  static constexpr std::size_t epoch_bytes = barrier_blocks.back() * sizeof(std::uint64_t);
  static constexpr std::size_t flag_bytes = most_ranks * epoch_bytes;

  [[nodiscard]] static std::string in_blocks(std::int32_t blocks) {
    return ", blocks: " + std::to_string(blocks);
  }
  /// Memory that has been allocated becomes reachable too. Kernels are loaded here: not while
  /// others wait in theirs.
  static void reach_peers(const dg::host_communicator& ranks) {
    watchdog::step("peer access");
    for (std::int32_t r = 0; r < ranks.size(); ++r) {
      if (r == ranks.rank()) continue;
      const cudaError_t done = cudaDeviceEnablePeerAccess(r, 0);
      if (done == cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError();
      } else {
        must(done, "cudaDeviceEnablePeerAccess");
      }
    }
    cudaFuncAttributes loaded{};
    must(cudaFuncGetAttributes(&loaded, flag_barrier<barrier_flags>), "flag_barrier");
    must(cudaFuncGetAttributes(&loaded, store_to_peers<store_targets>), "store_to_peers");
  }

  /// In a domain of its own, as a collective would be: its fence does not wait for what an engine's
  /// kernels store.
  void barrier(std::int32_t blocks) const {
    cudaLaunchAttribute domain{};
    domain.id = cudaLaunchAttributeMemSyncDomain;
    domain.val.memSyncDomain = cudaLaunchMemSyncDomainRemote;
    cudaLaunchConfig_t how{};
    how.gridDim = dim3{static_cast<unsigned>(blocks)};
    how.blockDim = dim3{512};
    how.stream = place_.stream;
    how.attrs = &domain;
    how.numAttrs = 1;
    must(cudaLaunchKernelEx(&how, flag_barrier<barrier_flags>, barrier_), "flag_barrier");
  }
  [[nodiscard]] std::vector<std::uint64_t> epochs(std::int32_t blocks) const {
    std::vector<std::uint64_t> out(static_cast<std::size_t>(blocks));
    download(out.data(), epochs_.data(), out.size() * sizeof(std::uint64_t), place_.stream);
    return out;
  }
  /// Blocks that did not meet `calls` times, and flags that say so.
  [[nodiscard]] std::int64_t wrong_epochs(std::int32_t blocks, int calls) const {
    const auto count = static_cast<std::size_t>(blocks);
    const std::vector<std::uint64_t> own = epochs(blocks);
    std::vector<std::uint64_t> flags(count * most_ranks);
    download(flags.data(), flags_.data(), flags.size() * sizeof(std::uint64_t), place_.stream);
    std::int64_t wrong = own[0] != reached_ + static_cast<std::uint64_t>(calls);
    for (std::size_t b = 0; b < count; ++b) {
      for (std::size_t r = 0; r < static_cast<std::size_t>(barrier_.ranks); ++r) {
        if (static_cast<std::int32_t>(r) == barrier_.rank) continue;
        wrong += flags[b * most_ranks + r] != own[b];
      }
    }
    return wrong;
  }

  const bench_place& place_;
  std::vector<std::int32_t> blocks_;
  device_memory source_, landing_, flags_, epochs_;
  row_checker checker_;
  store_targets stores_;
  barrier_flags barrier_;
  std::uint64_t reached_ = 0; // by block 0, before what is verified
};

} // namespace bench
