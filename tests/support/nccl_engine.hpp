#pragma once

/// @file
/// The end-to-end cases over NCCL: a `gather_engine` whose buffers are twins of the host's in
/// device memory. Include an executor for CUDA streams first: device/executor.cuh for GPUs,
/// support/fake_cuda/executor.hpp for the fake.

#include "gather_cases.hpp"
#include "gather_engine.hpp"
#include "must.cuh"

#include <dpgather/comm/nccl_communicator.cuh>
#include <dpgather/comm/nccl_owner.cuh>
#include <dpgather/comm/nccl_warm_up.cuh>
#include <dpgather/device/executor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace test_support {

/// What communicators warm up with: the default, or less where the executor says that less will do.
template <class Executor>
inline constexpr std::size_t warm_up_bytes_on = dg::nccl_warm_up::default_bytes;
template <class Executor>
requires requires { Executor::warm_up_bytes; }
inline constexpr std::size_t warm_up_bytes_on<Executor> = Executor::warm_up_bytes;

/// A rank's device, communicators and stream. The thread that made it is the rank.
class nccl_rank {
public:
  explicit nccl_rank(dg::host_communicator& ranks, std::int64_t timeout_ns = 90'000'000'000)
      : owner_{at_device(ranks), ranks.topology(), timeout_ns,
               warm_up_bytes_on<dg::executor<cudaStream_t>>} {
    if (!owner_.check()) throw std::runtime_error{owner_.check().message().c_str()};
    cuda_must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    mine_ = this;
  }
  nccl_rank(const nccl_rank&) = delete;
  nccl_rank& operator=(const nccl_rank&) = delete;
  ~nccl_rank() {
    mine_ = nullptr;
    (void)cudaStreamDestroy(stream_);
  }
  [[nodiscard]] static nccl_rank& mine() { return *mine_; }
  [[nodiscard]] dg::nccl_world& world() { return owner_.world(); }
  [[nodiscard]] dg::nccl_owner& owner() { return owner_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// Waits for the stream; what it finds, or a failure of the rank.
  [[nodiscard]] dg::status wait() { return world().wait(stream_, 60'000'000'000); }

private:
  static dg::host_communicator& at_device(dg::host_communicator& ranks) {
    cuda_must(cudaSetDevice(ranks.rank()), "device");
    return ranks;
  }
  inline static thread_local nccl_rank* mine_ = nullptr;

  dg::nccl_owner owner_;
  cudaStream_t stream_ = nullptr;
};

/// Device memory with canaries on both sides; grows, never shrinks.
class device_twin {
public:
  static constexpr std::size_t canary_bytes = 256;

  device_twin() = default;
  device_twin(const device_twin&) = delete;
  device_twin& operator=(const device_twin&) = delete;
  ~device_twin() {
    if (memory_ != nullptr) (void)cudaFree(memory_);
  }

  /// The twin of `bytes` bytes, with their contents.
  std::byte* load(const std::byte* host, std::size_t bytes) {
    const std::size_t needed = bytes + 2 * canary_bytes;
    if (needed > room_) {
      if (memory_ != nullptr) cuda_must(cudaFree(memory_), "free");
      room_ = needed + needed / 2;
      cuda_must(cudaMalloc(reinterpret_cast<void**>(&memory_), room_), "malloc");
    }
    image_.assign(needed, std::byte{0x5a});
    size_ = bytes;
    if (bytes > 0) std::memcpy(image_.data() + canary_bytes, host, bytes);
    copy(memory_, image_.data(), cudaMemcpyHostToDevice);
    return memory_ + canary_bytes;
  }
  /// What the device has now.
  const std::byte* fetch() {
    copy(image_.data(), memory_, cudaMemcpyDeviceToHost);
    return image_.data() + canary_bytes;
  }
  /// True if nobody wrote beside it; after `fetch`.
  [[nodiscard]] bool intact() const {
    const auto is_canary = [](std::byte b) { return b == std::byte{0x5a}; };
    return std::all_of(image_.begin(), image_.begin() + canary_bytes, is_canary) &&
           std::all_of(image_.end() - canary_bytes, image_.end(), is_canary);
  }

private:
  void copy(void* to, const void* from, cudaMemcpyKind kind) {
    const cudaStream_t stream = nccl_rank::mine().stream();
    cuda_must(cudaMemcpyAsync(to, from, size_ + 2 * canary_bytes, kind, stream), "copy");
    const dg::status done = nccl_rank::mine().wait();
    if (!done) throw std::runtime_error{done.message().c_str()};
  }

  std::byte* memory_ = nullptr;
  std::size_t room_ = 0;
  std::size_t size_ = 0;
  std::vector<std::byte> image_;
};

/// One rank's `DpGather` over NCCL. Every call copies the host views to their twins, runs, waits
/// and copies back; null stays null.
template <class Policy>
class nccl_engine_of final : public gather_engine {
public:
  nccl_engine_of(dg::host_communicator, const dg::gather_config& config, std::span<std::byte> like)
      : workspace_bytes_{like.size()}, dp_{dg::nccl_communicator{nccl_rank::mine().world()},
                                           config,
                                           {workspace_.load(like.data(), like.size()),
                                            like.size()}} {}

  dg::status check() override { return dp_.check(); }
  dg::step_record record(std::uint64_t step) override { return dp_.record(step); }
  dg::result<dg::agreement> agree(dg::host_communicator& ranks,
                                  const dg::step_record& mine) override {
    return dp_.agree(ranks, mine);
  }
  dg::result<dg::step_plan> plan(const dg::agreement& agreed, const dg::step_record&,
                                 dg::row_kind kind) override {
    return dp_.plan(agreed, kind);
  }
  dg::result<output_rows> gather(const replicated_rows& local, const output_rows& global,
                                 const dg::step_plan& plan) override {
    return gather_any(local, global, plan);
  }
  dg::result<output_rows> gather(const partial_rows& local, const output_rows& global,
                                 const dg::step_plan& plan) override {
    return gather_any(local, global, plan);
  }
  dg::status combine(const partial_rows& global, const output_rows& local,
                     const dg::step_plan& plan) override {
    return back(global, local, [&](const partial_rows& from, const output_rows& to) {
      return dp_.combine(from, to, plan, stream());
    });
  }
  dg::status scatter(const replicated_rows& global, const output_rows& local,
                     const dg::step_plan& plan) override {
    return back(global, local, [&](const replicated_rows& from, const output_rows& to) {
      return dp_.scatter(from, to, plan, stream());
    });
  }
  const dg::count_set& counts() override { return std::as_const(dp_).counts(); }
  void write_counts(std::span<const std::int32_t>) override {}
  const dg::bucket_list& sum_ladder() override { return dp_.rules().shared_ladder(); }
  std::uint64_t bytes_received() override { return nccl_rank::mine().world().bytes_received(); }

private:
  static cudaStream_t stream() { return nccl_rank::mine().stream(); }
  template <class State, class Byte>
  static dg::token_rows<State, Byte> moved(const dg::token_rows<State, Byte>& like, Byte* to) {
    return {like.data() == nullptr ? nullptr : to, like.rows(), like.element(), like.row_bytes(),
            like.row_stride()};
  }
  static dg::status broken(const char* what) {
    return {.code = dg::errc::native_error, .value_name = what, .where = "nccl_engine_of"};
  }

  template <class State>
  dg::result<output_rows> gather_any(const dg::token_rows<State, const std::byte>& local,
                                     const output_rows& global, const dg::step_plan& plan) {
    std::byte* const to = global_.load(global.data(), global.extent());
    // In place: the local rows are a part of the global ones, there as here.
    const bool inside = local.data() != nullptr && local.data() >= global.data() &&
                        local.data() < global.data() + global.extent();
    const std::byte* const from =
        inside ? to + (local.data() - global.data()) : local_.load(local.data(), local.extent());
    const auto done = dp_.gather(moved(local, from), moved(global, to), plan, stream());
    if (dg::status bad = nccl_rank::mine().wait(); !bad) return bad;
    const std::byte* const got = global_.fetch();
    if (!inside && !std::equal(local.data(), local.data() + local.extent(), local_.fetch()))
      return broken("the input changed");
    if (!global_.intact() || (!inside && !local_.intact())) return broken("a byte beside a tensor");
    if (global.extent() > 0) std::memcpy(global.data(), got, global.extent());
    if (!done.ok()) return done.status();
    if (done->data() != moved(global, to).data()) return broken("another view came back");
    if (dg::status bad = live_counts_are_counts(); !bad) return bad;
    return output_rows{global.data(), done->rows(), global.element(), global.row_bytes()};
  }

  template <class From, class Call>
  dg::status back(const From& global, const output_rows& local, Call call) {
    const std::byte* const from = global_.load(global.data(), global.extent());
    std::byte* const to = local_.load(local.data(), local.extent());
    const dg::status done = call(moved(global, from), moved(local, to));
    if (dg::status bad = nccl_rank::mine().wait(); !bad) return bad;
    if (global.extent() > 0 && std::memcmp(global_.fetch(), global.data(), global.extent()) != 0)
      return broken("the input changed");
    const std::byte* const got = local_.fetch();
    (void)global_.fetch();
    if (!global_.intact() || !local_.intact()) return broken("a byte beside a tensor");
    if (local.extent() > 0) std::memcpy(local.data(), got, local.extent());
    return done;
  }

  /// Kernels read what the host knows.
  dg::status live_counts_are_counts() {
    dg::count_set live;
    cuda_must(
        cudaMemcpyAsync(&live, dp_.live_counts(), sizeof live, cudaMemcpyDeviceToHost, stream()),
        "counts");
    if (dg::status bad = nccl_rank::mine().wait(); !bad) return bad;
    const dg::count_set& host = std::as_const(dp_).counts();
    const std::int32_t ranks = dp_.config().topology.dp_size;
    const bool same = std::equal(live.rows, live.rows + ranks, host.rows) &&
                      std::equal(live.padded, live.padded + ranks, host.padded) &&
                      std::equal(live.offset, live.offset + ranks + 1, host.offset) &&
                      live.total == host.total;
    return same ? dg::status{} : broken("live counts");
  }

  std::size_t workspace_bytes_;
  device_twin workspace_, local_, global_;
  dg::DpGather<Policy> dp_;
};

/// The variants of the legal NCCL cells that `Wanted` takes.
template <auto Wanted>
std::vector<gather_variant> nccl_variants_of_cells() {
  return variants_of_cells<Wanted, dg::comm_kind::nccl, nccl_engine_of, dg::nccl_communicator>();
}

/// Random cases over NCCL: `cases` of them for each world.
inline void run_nccl_cases(const std::vector<gather_variant>& variants,
                           const std::vector<dg::topology>& worlds, std::uint64_t cases) {
  run_gather_sessions(variants, worlds, cases, [](dg::host_communicator& comm, auto&& sessions) {
    nccl_rank here{comm};
    sessions();
  });
}

} // namespace test_support
