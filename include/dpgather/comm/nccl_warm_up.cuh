#pragma once

/// @file
/// NCCL connects ranks when an algorithm is first used, which allocates and exchanges handles. That
/// has no place on the step path, and inside a capture it fails (NCCL 2.28.3: `ncclInternalError`).

#include <dpgather/comm/communicator.hpp>
#include <dpgather/comm/nccl_communicator.cuh>
#include <dpgather/comm/nccl_world.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/element.hpp>
#include <dpgather/status.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dpgather::inline v0 {

namespace detail {

/// Every collective of one group once: small, where NCCL may take its trees, and large, where it
/// takes its rings. `to` holds `size * bytes`.
[[nodiscard]] inline status use_all_collectives(nccl_communicator& group, std::byte* to,
                                                std::size_t bytes, cudaStream_t stream) {
  const auto size = static_cast<std::size_t>(group.size());
  const auto rank = static_cast<std::size_t>(group.rank());
  for (const std::size_t now : {std::size_t{64}, bytes}) {
    std::byte* const mine = to + rank * now;
    const std::size_t floats = now / sizeof(float);
    if (status bad = group.all_gather(mine, to, now, stream); !bad) return bad;
    if (status bad = group.reduce_scatter(to, mine, floats, element::f32, stream); !bad) return bad;
    if (status bad = group.all_reduce(to, to, size * floats, element::f32, stream); !bad)
      return bad;
    // Unequal pieces: broadcasts and reduces.
    std::vector<piece> pieces(size);
    for (std::size_t r = 0; r < size; ++r)
      pieces[r] = {static_cast<std::int64_t>(r * now), static_cast<std::int64_t>(now - r % 2)};
    if (status bad = group.all_gather_v(mine, to, pieces, stream); !bad) return bad;
    for (std::size_t r = 0; r < size; ++r)
      pieces[r] = {static_cast<std::int64_t>(r * floats),
                   static_cast<std::int64_t>(floats - r % 2)};
    if (status bad = group.reduce_scatter_v(to, mine, pieces, element::f32, stream); !bad)
      return bad;
  }
  return {};
}

} // namespace detail

/// Runs every collective of a world, and of its attention-TP groups, once, and waits. Collective;
/// once, before the first capture, with the rank's device current. `nccl_owner` has done it;
/// engines that bring communicators which have not worked yet call it. Allocates up to 64 MiB of
/// device memory and frees it. Errors: `timeout`, `native_error`; sticky in the world.
[[nodiscard]] inline status warm_up(nccl_world& world, std::int64_t timeout_ns) {
  constexpr const char* where = "warm_up";
  nccl_communicator all{world};
  const auto size = static_cast<std::size_t>(all.size());
  const std::size_t bytes = std::max<std::size_t>((std::size_t{16} << 20) / size / 64 * 64, 4096);
  std::byte* scratch = nullptr;
  cudaStream_t stream = nullptr;
  status done = cuda_status(cudaMalloc(reinterpret_cast<void**>(&scratch), size * bytes), where);
  if (done.ok())
    done = cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), where);
  if (done.ok() && size > 1) done = detail::use_all_collectives(all, scratch, bytes, stream);
  nccl_communicator peers = all.subgroup(subgroup_kind::attention_tp);
  if (done.ok() && peers.size() > 1)
    done = detail::use_all_collectives(peers, scratch, bytes, stream);
  if (done.ok()) done = world.wait(stream, timeout_ns);
  // After a failure something may still run on it, and freeing would wait for that.
  if (done.ok()) {
    (void)cudaFree(scratch);
    (void)cudaStreamDestroy(stream);
  }
  return done;
}

} // namespace dpgather::inline v0
