#pragma once

/// @file
/// The communicator over peer memory: kernels that load and store over NVLink, exact row counts
/// inside captured graphs. Needs nvcc.

#include <dpgather/comm/communicator.hpp>
#include <dpgather/comm/peer_options.hpp>
#include <dpgather/comm/peer_world.cuh>
#include <dpgather/config.hpp>
#include <dpgather/device/executor.cuh>
#include <dpgather/device/peer_combine.hpp>
#include <dpgather/device/peer_executor.cuh>
#include <dpgather/device/peer_gather.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/element.hpp>
#include <dpgather/hash.hpp>
#include <dpgather/options.hpp>
#include <dpgather/protocol/in_use.hpp>
#include <dpgather/status.hpp>
#include <dpgather/step_plan.hpp>
#include <dpgather/tensor.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// One rank's handle on a `peer_world`. Cheap to copy. `Elements`: those that it can sum, each of
/// them some kernels; others are `unsupported_type`.
///
/// It moves the rows of a call itself, in one launch, by counts that the kernel reads: real rows
/// only, in every mode; the mode decides the shape. Plans are compared by the kernels, in every
/// call: the record of a mismatch names both sides (`peer_world::check`).
/// Stream: calls return at once and run in stream order. Capture: safe; one graph serves all
/// counts. Order of sums: rank order, fp32 for f16, bf16 and f32: bit-equal to `host_communicator`.
/// All ranks of a call must be able to run at once: calls of several channels that wait for each
/// other need room on the GPU together (128 blocks of at most 512 threads each).
/// Errors of every call: `poisoned`, `busy`, `native_error` from the launch.
template <element... Elements>
class basic_peer_communicator {
public:
  using tag = comm::peer;
  using stream_type = cudaStream_t;
  static constexpr bool compares_plans = false; // by an announcement: kernels do it themselves
  static constexpr bool freezes_counts = false;
  static constexpr bool moves_rows = true;

  explicit basic_peer_communicator(peer_world& world) noexcept
      : world_{&world}, rank_{world.place_.world_rank()}, size_{world.place_.world_size()} {}

  [[nodiscard]] std::int32_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::int32_t size() const noexcept { return size_; }
  [[nodiscard]] peer_world& world() const noexcept { return *world_; }
  [[nodiscard]] dpgather::v0::topology topology() const noexcept { return world_->place_; }
  /// The A ranks of this data-parallel rank: a name only, their kernels are the world's.
  [[nodiscard]] basic_peer_communicator subgroup(subgroup_kind) const noexcept {
    basic_peer_communicator out = *this;
    out.rank_ = world_->place_.tp_rank;
    out.size_ = world_->place_.tp_size;
    return out;
  }

  /// Ok while calls can be made; hears of what kernels have found. No CUDA call.
  [[nodiscard]] status standing() noexcept { return world_->poll(); }
  /// Ends the world with `why` on this rank; the others run into their deadline.
  void fail(const status& why) noexcept { (void)world_->fail(why); }

  /// Rows that the arena has room for, and tensors.
  [[nodiscard]] const peer_layout& layout() const noexcept { return world_->lane_.layout; }
  /// Tensor `t`'s gathered rows.
  [[nodiscard]] std::byte* view(std::int32_t t = 0) const noexcept {
    return world_->lane_.mine(layout().views[t]);
  }
  /// Combine input `i`.
  [[nodiscard]] std::byte* input(std::int32_t i) const noexcept {
    return world_->lane_.mine(layout().inputs[i]);
  }
  /// Which input lies at `data`; -1 for other memory.
  [[nodiscard]] std::int32_t input_at(const std::byte* data) const noexcept {
    for (std::int32_t i = 0; i < layout().input_count; ++i)
      if (data == input(i)) return i;
    return -1;
  }

  /// Loads the kernels of gathers, and of combines of `type`, now and not when another rank's may
  /// already wait for them. An element without a sum can be gathered. Errors: `native_error`.
  [[nodiscard]] status prepare(element type) noexcept {
    status done = load_kinds<peer_gather<no_sum>>(
        []<class Rules>(Rules) { return peer_gather<no_sum, Rules::ranks>{}; });
    with_sum(type, [&]<class Sum>(Sum) {
      if (done.ok())
        done = load_kinds<peer_combine<Sum>>(
            []<class Rules>(Rules) { return peer_combine<Sum, Rules::ranks>{}; });
      if (done.ok() && layout().tp_size > 1) done = load<peer_gather<Sum>, direct_rules>();
    });
    return done;
  }

  /// One call of this rank, whatever it moves.
  struct call_shape {
    placement places{};
    count_set* live = nullptr;
    counts_kind counts = counts_kind::agreed;
    std::int64_t local_rows = 0;
    std::int32_t blocks = 0; ///< at most; 0: the communicator's choice
    bool dependent = true;
  };

  /// Gathers the real rows of `tensors` into the views. `fills`: one for each.
  [[nodiscard]] status gather(const call_shape& call, const step_plan& plan,
                              std::span<const const_token_rows<replicated>> tensors,
                              std::span<const fill_word> fills, const row_masks* masks,
                              cudaStream_t stream) noexcept {
    const peer_launch how = launch_of(false, call, plan);
    digest_builder shape = digest_of(plan, how);
    for (const auto& tensor : tensors) shape.add(tensor.row_bytes());
    const std::uint32_t said = peer_shape::of(false, plan, shape.value());
    status done;
    with_rules<peer_gather<no_sum>>(
        tensors.size() == 1 ? kind_of(call, tensors[0]) : call_kind::any,
        [&]<class Rules>(Rules rules) {
          peer_gather<no_sum, Rules::ranks> job;
          job.tensors = static_cast<std::int32_t>(tensors.size());
          for (std::size_t t = 0; t < tensors.size(); ++t) {
            job.local[t] = detail::row_places<const std::byte>::of(tensors[t]);
            job.fill[t] = fills[t];
          }
          if (masks != nullptr) {
            job.masks = *masks;
            job.writes_masks = true;
          }
          job.rows = rows_of_call<Rules::ranks>(call, said);
          done = launch(job, rules, how, stream);
        });
    return done;
  }
  /// The same for rows that owe a sum to the attention-TP peers.
  [[nodiscard]] status gather(const call_shape& call, const step_plan& plan,
                              const const_token_rows<partial>& local, const fill_word& fill,
                              cudaStream_t stream) noexcept {
    status done = unsupported(local.element());
    with_sum(local.element(), [&]<class Sum>(Sum) {
      peer_gather<Sum> job;
      const peer_launch how = launch_of(false, call, plan);
      job.local[0] = detail::row_places<const std::byte>::of(local);
      job.fill[0] = fill;
      job.rows = rows_of_call<0>(
          call, peer_shape::of(false, plan, digest_of(plan, how).add(0x5a).value()));
      done = launch(job, direct_rules{}, how, stream);
    });
    return done;
  }
  /// Sums this rank's rows of input `input` (-1: the one that the last call did not read) of all
  /// ranks into `local`.
  [[nodiscard]] status combine(const call_shape& call, const step_plan& plan, std::int32_t input,
                               const token_rows<replicated>& local, const fill_word& fill,
                               cudaStream_t stream) noexcept {
    status done = unsupported(local.element());
    with_sum(local.element(), [&]<class Sum>(Sum) {
      const peer_launch how = launch_of(true, call, plan);
      // The input is each rank's own matter: what must agree is whether it was the last call's.
      const std::uint32_t said = peer_shape::of(true, plan, digest_of(plan, how).value());
      with_rules<peer_combine<Sum>>(kind_of(call, local), [&]<class Rules>(Rules rules) {
        peer_combine<Sum, Rules::ranks> job;
        job.local = detail::row_places<std::byte>::of(local);
        job.fill = fill;
        job.input = input;
        job.rows = rows_of_call<Rules::ranks>(call, said);
        done = launch(job, rules, how, stream);
      });
    });
    return done;
  }

private:
  /// Calls `visit` with the sum type of `type`, where that is one of `Elements`.
  template <class Visit>
  static void with_sum(element type, Visit&& visit) noexcept {
    (void)((type == Elements && (visit(detail::sum_of<Elements>{}), true)) || ...);
  }

  [[nodiscard]] status unsupported(element type) const noexcept {
    return {.code = errc::unsupported_type,
            .about = subject::element,
            .rank = world_->place_.world_rank(),
            .value = static_cast<std::int64_t>(type),
            .value_name = name_of(type),
            .where = "peer_communicator"};
  }
  template <class Job, class Rules>
  [[nodiscard]] static status load() noexcept {
    cudaFuncAttributes unused{};
    return cuda_status(cudaFuncGetAttributes(&unused, detail::run_peer_job<Job, Rules>), "prepare");
  }
  /// The kernels of all kinds of calls.
  template <class Job, class Visit>
  [[nodiscard]] status load_kinds(Visit job_of) const noexcept {
    status out;
    for (const call_kind kind : {call_kind::any, call_kind::plain, call_kind::exchanging})
      with_rules<Job>(kind, [&]<class Rules>(Rules rules) {
        if (out.ok()) out = load<decltype(job_of(rules)), Rules>();
      });
    return out;
  }
  /// What a kernel may know of a call, see `plain_rules`.
  enum class call_kind { any, plain, exchanging };

  /// Calls `visit` with the rules of this world's kernels: with relays only where a rank may have
  /// more rows than lines and enough peers.
  template <class Job, class Visit>
  void with_rules(call_kind kind, Visit visit) const noexcept {
    if constexpr (Job::may_relay) {
      if (layout().ranks > least_relay_copies && layout().rank_rows > layout().line_rows)
        return visit(peer_rules{});
    }
    if (!with_plain_rules<Job>(kind, visit, plain_worlds{})) visit(direct_rules{});
  }
  template <class Job, class Visit, std::int32_t... Ranks>
  bool with_plain_rules(call_kind kind, Visit& visit,
                        std::integer_sequence<std::int32_t, Ranks...>) const noexcept {
    if constexpr (Job::may_exchange) {
      if (kind == call_kind::exchanging)
        return ((layout().ranks == Ranks && (visit(exchanging_rules<Ranks>{}), true)) || ...);
    }
    if (kind == call_kind::any) return false;
    return ((layout().ranks == Ranks && (visit(plain_rules<Ranks>{}), true)) || ...);
  }
  /// Of a call on these local rows, and on nothing else.
  template <class Rows>
  [[nodiscard]] call_kind kind_of(const call_shape& call, const Rows& local) const noexcept {
    const auto place = reinterpret_cast<std::uintptr_t>(local.data());
    const std::size_t row = local.row_bytes();
    if (layout().tp_size > 1 || local.row_stride() != row || (place | row) % 8 != 0)
      return call_kind::any;
    return call.counts == counts_kind::exchanged ? call_kind::exchanging : call_kind::plain;
  }

  [[nodiscard]] static digest_builder digest_of(const step_plan& plan,
                                                const peer_launch& how) noexcept {
    digest_builder out;
    out.add(plan.digest).add_signed(how.blocks).add_signed(how.threads);
    return out;
  }
  template <std::int32_t Ranks>
  [[nodiscard]] basic_peer_rows<Ranks> rows_of_call(const call_shape& call,
                                                    std::uint32_t shape) const noexcept {
    auto out = basic_peer_rows<Ranks>::of(world_->lane_, call.places);
    out.live = call.live;
    out.source = call.counts;
    out.shape = shape;
    out.local_rows = static_cast<std::int32_t>(std::min<std::int64_t>(call.local_rows, INT32_MAX));
    return out;
  }

  /// Blocks and threads from the shape, so equal on all ranks. In lines: four warps for what one
  /// sends while there are enough, in small blocks, then two (see `warp_roles`), then as many as
  /// there can be. Without: as measured on two H100 and H200, where more loads at once only queue.
  [[nodiscard]] peer_launch launch_of(bool combines, const call_shape& call,
                                      const step_plan& plan) const noexcept {
    const std::int64_t rows = (plan.global_rows + plan.dp_size - 1) / plan.dp_size;
    const std::uint64_t bytes = static_cast<std::uint64_t>(rows) * layout().row_bytes[0];
    const auto warps = static_cast<std::int64_t>(bytes / (line_words * 8) / 4 + 1);
    const std::int64_t most =
        call.blocks > 0 ? std::min(call.blocks, max_peer_blocks) : max_peer_blocks;
    std::int64_t blocks = most;
    peer_launch out;
    out.dependent = call.dependent;
    if (rows > layout().line_rows) {
      const bool many = most >= 48;
      out.threads = many && (combines || bytes < (std::uint64_t{12} << 20)) ? 256 : 512;
    } else if (warps <= most) {
      out.threads = 128;
      blocks = warps;
    } else {
      out.threads = warps * 3 / 2 <= most * 4 ? 128 : warps <= most * 8 ? 256 : 512;
      blocks = (2 * warps + out.threads / 32 - 1) / (out.threads / 32);
    }
    out.blocks = static_cast<std::int32_t>(std::clamp<std::int64_t>(blocks, 1, most));
    return out;
  }

  template <class Job, class Rules>
  [[nodiscard]] status launch(const Job& job, const Rules& rules, const peer_launch& how,
                              cudaStream_t stream) noexcept {
    const in_use guard{world_->busy_};
    if (!guard)
      return {.code = errc::busy,
              .about = subject::call,
              .rank = world_->place_.world_rank(),
              .value = 1,
              .where = "peer_communicator"};
    if (status bad = world_->poll(); !bad) return bad;
    if (status bad = world_->graphs_.hold(stream); !bad) return bad;
    return launch_peer_job(job, how, stream, rules);
  }

  peer_world* world_;
  std::int32_t rank_;
  std::int32_t size_;
};

/// Sums what attention and FFN of today hand over.
using peer_communicator = basic_peer_communicator<element::bf16, element::f16, element::f32>;

template <>
struct communicator_of<comm::peer> {
  using type = peer_communicator;
};

} // namespace dpgather::inline v0
