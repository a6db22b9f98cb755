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
/// takes its rings: `bytes` of each rank. `to` holds those of all.
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

/// The first use of every collective of a world and of its attention-TP groups.
///
/// Ownership: borrows the world; owns device memory, as much as its largest collective moves, and a
/// stream. Collective, with the rank's device current. After a failure something may still run on
/// what it owns, and freeing would wait for that: then it is left alone, unless `free` is called
/// after the world's abort.
class nccl_warm_up {
public:
  /// Large enough for NCCL to take its rings.
  static constexpr std::size_t default_bytes = std::size_t{16} << 20;
  /// No rank's part of the largest collective is smaller.
  static constexpr std::size_t least_bytes_per_rank = 4096;

  /// `bytes`: what the largest collective moves, the parts of all ranks together; rounded down to
  /// 64 for each rank, and up to `least_bytes_per_rank`. The same on all ranks. With less than the
  /// default NCCL may leave algorithms unconnected until a step first takes them.
  explicit nccl_warm_up(nccl_world& world, std::size_t bytes = default_bytes) noexcept
      : all_{world}, bytes_{std::max(bytes / static_cast<std::size_t>(all_.size()) / 64 * 64,
                                     least_bytes_per_rank)} {
    const std::size_t room = static_cast<std::size_t>(all_.size()) * bytes_;
    failure_ = cuda_status(cudaMalloc(reinterpret_cast<void**>(&scratch_), room), "warm_up");
    if (failure_.ok())
      failure_ = cuda_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "warm_up");
  }
  nccl_warm_up(const nccl_warm_up&) = delete;
  nccl_warm_up& operator=(const nccl_warm_up&) = delete;
  ~nccl_warm_up() {
    if (!running_) free();
  }

  /// Ok, or why it cannot run.
  [[nodiscard]] status check() const noexcept { return failure_; }
  /// Runs everything once, and waits. Errors: `timeout`, `native_error`; sticky in the world.
  [[nodiscard]] status run(std::int64_t timeout_ns) {
    running_ = true;
    status done;
    if (all_.size() > 1) done = detail::use_all_collectives(all_, scratch_, bytes_, stream_);
    nccl_communicator peers = all_.subgroup(subgroup_kind::attention_tp);
    if (done.ok() && peers.size() > 1)
      done = detail::use_all_collectives(peers, scratch_, bytes_, stream_);
    if (done.ok()) done = all_.world().wait(stream_, timeout_ns);
    running_ = !done.ok();
    return done;
  }
  /// Waits for what still runs.
  void free() noexcept {
    if (scratch_ != nullptr) (void)cudaFree(scratch_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
    scratch_ = nullptr;
    stream_ = nullptr;
    running_ = false;
  }

private:
  nccl_communicator all_;
  std::size_t bytes_; // of a rank
  std::byte* scratch_ = nullptr;
  cudaStream_t stream_ = nullptr;
  bool running_ = false;
  status failure_{};
};

/// Runs every collective of a world, and of its attention-TP groups, once, and waits. Collective;
/// once, before the first capture, with the rank's device current. `nccl_owner` has done it;
/// engines that bring communicators which have not worked yet call it. `bytes`: of the largest
/// collective, see `nccl_warm_up`. Allocates as much device memory and frees it, but for what may
/// still be in use after a failure. Errors: `timeout`, `native_error`; sticky in the world.
[[nodiscard]] inline status warm_up(nccl_world& world, std::int64_t timeout_ns,
                                    std::size_t bytes = nccl_warm_up::default_bytes) {
  nccl_warm_up first{world, bytes};
  return first.check().ok() ? first.run(timeout_ns) : first.check();
}

} // namespace dpgather::inline v0
