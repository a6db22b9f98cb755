#pragma once

/// @file
/// One rank's place in a peer channel: its arena made ready, its error record. Needs the toolkit's
/// headers, no nvcc.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/peer_options.hpp>
#include <dpgather/comm/peer_votes.hpp>
#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/device/graph_count.cuh>
#include <dpgather/device/stream_wait.cuh>
#include <dpgather/protocol/failure_cell.hpp>
#include <dpgather/protocol/peer_arena.hpp>
#include <dpgather/protocol/peer_call.hpp>
#include <dpgather/protocol/peer_pointers.hpp>
#include <dpgather/status.hpp>
#include <dpgather/topology.hpp>

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>

namespace dpgather::inline v0 {

template <element... Elements>
class basic_peer_communicator;

/// A channel over memory that all ranks' kernels can load from and store to. One user: a channel
/// for each micro-batch, kind of rows, or other user, over parts of one registration
/// (`peer_pointers::part`).
///
/// Ownership: borrows the arenas, which must outlive it, every graph that its calls were captured
/// into, and every rank's kernels; owns a mapped page for errors. Address-stable. Allocates at
/// construction only.
/// Threads: one at a time makes calls. `check`, `poll`, `wait`, `set_timeout` may be called by
/// another one, a watchdog, meanwhile.
/// After a failure every call answers `poisoned`; kernels in graphs do nothing then but set counts
/// and rows to zero. Make a new world then, over other memory, or over the same once all ranks'
/// streams are idle.
class peer_world {
public:
  /// Collective over `ranks`, the world of the arenas in the same order. Writes this rank's words
  /// once all ranks can, and waits until they have. `timeout_ns`: how long a kernel waits for a
  /// peer.
  /// Errors, as `check()`: those of `peer_layout::of`; `bad_group`; `capacity_exceeded{need, have}`
  /// for an arena that is too small; `null_pointer` and `misaligned` for one that is no arena;
  /// `wrong_memory`; `native_error`; those of the bootstrap; `peer_refused{cause, rank}` for the
  /// ranks that are not at fault.
  template <bootstrap Bootstrap>
  peer_world(Bootstrap& ranks, const dpgather::v0::topology& place, const peer_pointers& arenas,
             const peer_limits& limits, std::int64_t timeout_ns = 30'000'000'000) noexcept
      : place_{place} {
    const status ready = open(ranks, arenas, limits, timeout_ns);
    if (!ready.ok()) (void)failure_.raise(ready);
  }
  peer_world(const peer_world&) = delete;
  peer_world& operator=(const peer_world&) = delete;
  /// Frees the page, unless graphs still hold calls: their kernels write their errors there.
  ~peer_world() { (void)close(); }

  /// Ends the world on this rank: every call answers `peer_left` from now on. Before the arenas go,
  /// and when all ranks' streams are idle. Errors: `graphs_alive{n}`, and nothing has happened.
  [[nodiscard]] status close() noexcept {
    if (graphs_.alive() > 0) return refuse(errc::graphs_alive, subject::call, graphs_.alive(), 0);
    (void)failure_.raise({.code = errc::peer_left,
                          .rank = place_.world_rank(),
                          .peer = place_.world_rank(),
                          .where = where});
    if (control_ != nullptr) (void)cudaFreeHost(control_);
    control_ = nullptr;
    return {};
  }

  /// Ok, or the first failure: of the construction, or of any call of this or another rank since
  /// that this rank has heard of. No CUDA call.
  [[nodiscard]] status check() noexcept {
    hear();
    return failure_.first();
  }
  /// The same as every call answers it.
  [[nodiscard]] status poll() noexcept {
    hear();
    return failure_.failed() ? failure_.poisoned() : status{};
  }
  /// Waits until `stream` is idle, at most `timeout_ns`, and looks whether its calls went well.
  /// Errors: the first failure itself, `timeout`, `native_error`.
  [[nodiscard]] status wait(cudaStream_t stream, std::int64_t timeout_ns) noexcept {
    status done = wait_for(stream, timeout_ns, []() noexcept { return status{}; });
    if (status failed = check(); !failed) return failed;
    if (!done.ok() && done.rank < 0) done.rank = place_.world_rank();
    return done;
  }
  /// How long kernels wait for a peer from now on, those of captured graphs too.
  void set_timeout(std::int64_t timeout_ns) noexcept {
    if (control_ != nullptr)
      std::atomic_ref{control_->budget_ns}.store(static_cast<std::uint64_t>(timeout_ns));
  }

  /// From now on calls tell when this rank has ended them, for `calls_done`; those that are
  /// captured already do not. A store to the host's memory at the end of each call.
  void tell_progress(bool wanted) noexcept { lane_.tells_progress = wanted; }
  /// The number of the last call that this rank's kernels have ended well and told of; 0 at first.
  /// No CUDA call: a watchdog compares ranks by it, in a replayed graph too. Another rank's failure
  /// names a call by the same numbers.
  [[nodiscard]] std::uint64_t calls_done() const noexcept {
    if (control_ == nullptr) return 0;
    const std::uint64_t done = std::atomic_ref{control_->done}.load();
    return done == 0 ? 0 : done - start_;
  }

  [[nodiscard]] const dpgather::v0::topology& topology() const noexcept { return place_; }
  [[nodiscard]] const peer_lane& lane() const noexcept { return lane_; }
  /// Graphs that still hold calls of this world; they must be destroyed before it.
  [[nodiscard]] std::int32_t graphs_alive() const noexcept { return graphs_.alive(); }

private:
  template <element... Elements>
  friend class basic_peer_communicator;
  static constexpr const char* where = "peer_world";

  template <bootstrap Bootstrap>
  [[nodiscard]] status open(Bootstrap& ranks, const peer_pointers& arenas,
                            const peer_limits& limits, std::int64_t timeout_ns) noexcept {
    if (status bad = detail::check_peer_ranks(ranks, where); !bad) return bad;
    status ready = make_ready(ranks.rank(), ranks.size(), arenas, limits);
    if (!ready.ok()) ready.rank = ranks.rank(); // whatever place it was told
    set_timeout(timeout_ns);
    // A number of calls that no other world over this memory is in: rank 0's choice.
    std::uint64_t start =
        static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    start = (start * 0x9e3779b97f4a7c15u) >> 2;
    std::uint64_t starts[max_peer_ranks];
    if (status bad = detail::vote(ranks, ready, where, start, starts); !bad) return bad;
    const status written = write_words(starts[0]);
    return detail::vote(ranks, written, where);
  }

  [[nodiscard]] status refuse(errc code, subject about, std::int64_t value,
                              std::int64_t limit) const noexcept {
    return {.code = code,
            .about = about,
            .rank = place_.world_rank(),
            .value = value,
            .limit = limit,
            .where = where};
  }

  [[nodiscard]] status make_ready(std::int32_t rank, std::int32_t size, const peer_pointers& arenas,
                                  const peer_limits& limits) noexcept {
    if (status bad = place_.validate(); !bad) return bad;
    const result<peer_layout> layout = peer_layout::of(limits);
    if (!layout) return layout.status();
    if (place_.world_size() != size)
      return refuse(errc::bad_group, subject::world, size, place_.world_size());
    if (place_.world_rank() != rank)
      return refuse(errc::bad_group, subject::rank, rank, place_.world_rank());
    if (arenas.size != size) return refuse(errc::bad_group, subject::world, arenas.size, size);
    if (arenas.rank != rank) return refuse(errc::bad_group, subject::rank, arenas.rank, rank);
    if (limits.ranks != size || limits.tp_size != place_.tp_size)
      return refuse(errc::bad_group, subject::world, limits.ranks, size);
    if (arenas.bytes < layout->bytes)
      return refuse(errc::capacity_exceeded, subject::workspace,
                    static_cast<std::int64_t>(layout->bytes),
                    static_cast<std::int64_t>(arenas.bytes));
    for (std::int32_t r = 0; r < size; ++r) {
      const auto address = reinterpret_cast<std::uintptr_t>(arenas.base[r]);
      if (address == 0) return refuse(errc::null_pointer, subject::workspace, r, 0);
      if (address % 256 != 0)
        return refuse(errc::misaligned, subject::workspace,
                      static_cast<std::int64_t>(address % 256), 256);
    }
    if (status bad = check_device_memory(arenas.base[rank]); !bad) {
      bad.about = subject::workspace;
      bad.rank = rank;
      return bad;
    }
    void* page = nullptr;
    if (status bad =
            cuda_status(cudaHostAlloc(&page, sizeof(peer_control), cudaHostAllocMapped), where);
        !bad)
      return bad;
    control_ = new (page) peer_control{};
    void* mapped = nullptr;
    if (status bad = cuda_status(cudaHostGetDevicePointer(&mapped, page, 0), where); !bad)
      return bad;
    lane_ = peer_lane::of(arenas, *layout, static_cast<peer_control*>(mapped));
    return {};
  }

  /// Epochs begin at `start`; all other words and lines hold zeros, an epoch that never comes.
  [[nodiscard]] status write_words(std::uint64_t start) noexcept {
    start_ = start;
    const peer_state state = first_state(start);
    cudaStream_t stream = nullptr;
    if (status bad = cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), where);
        !bad)
      return bad;
    status done = cuda_status(
        cudaMemsetAsync(lane_.own, 0, static_cast<std::size_t>(lane_.layout.words_end()), stream),
        where);
    if (done.ok())
      done = cuda_status(cudaMemcpyAsync(lane_.own + lane_.layout.state, &state, sizeof state,
                                         cudaMemcpyHostToDevice, stream),
                         where);
    const status waited = cuda_status(cudaStreamSynchronize(stream), where);
    (void)cudaStreamDestroy(stream);
    return done.ok() ? waited : done;
  }

  /// Takes over what a kernel has recorded.
  void hear() noexcept {
    if (control_ == nullptr || std::atomic_ref{control_->first.written}.load() == 0) return;
    if (failure_.failed()) return;
    const peer_record& seen = control_->first;
    status out{.code = static_cast<errc>(seen.code),
               .about = static_cast<subject>(seen.about),
               .rank = seen.rank,
               .peer = seen.peer,
               .value = seen.value,
               .limit = seen.limit,
               .call = seen.epoch - start_};
    out.where = peer_shape::combines(seen.shape) ? "combine" : "gather";
    if (out.code == errc::plan_mismatch && out.rank != place_.world_rank()) {
      // Who only hears of it is told between whom, not what.
      out.value_name = "not told here";
      out.limit_name = "another one";
    } else if (out.code == errc::plan_mismatch && out.about == subject::operation) {
      const bool operations =
          peer_shape::combines(seen.shape) != peer_shape::combines(seen.peer_shape);
      out.about = operations ? subject::operation : subject::mode;
      out.value_name = operations ? out.where : name_of(peer_shape::mode(seen.shape));
      out.limit_name = operations ? (peer_shape::combines(seen.peer_shape) ? "combine" : "gather")
                                  : name_of(peer_shape::mode(seen.peer_shape));
      out.value = peer_shape::bucket(seen.shape);
      out.limit = peer_shape::bucket(seen.peer_shape);
      if (out.about == subject::mode && out.value == out.limit &&
          peer_shape::mode(seen.shape) == peer_shape::mode(seen.peer_shape)) {
        // Alike in all that has a name here: rows of the tensor, row bytes, launch.
        out.about = subject::config;
        out.value_name = out.limit_name = nullptr;
        out.value = peer_shape::digest(seen.shape);
        out.limit = peer_shape::digest(seen.peer_shape);
      }
    }
    (void)failure_.raise(out);
  }

  status fail(const status& why) noexcept {
    (void)failure_.raise(why);
    return why;
  }

  dpgather::v0::topology place_;
  peer_lane lane_{};
  peer_control* control_ = nullptr; // the host's address
  std::uint64_t start_ = 0;
  failure_cell failure_;
  graph_count graphs_;
  std::atomic<bool> busy_{false};
};

} // namespace dpgather::inline v0
