#pragma once

/// @file
/// A captured step over peers that writes its own counts and inputs, checks its own outputs and
/// goes on: the host only launches it, and no rank waits for another but in the calls themselves.

#include "must.cuh"
#include "payload.hpp"
#include "peer_stage.cuh"
#include "random_cases.hpp"
#include "step_records.hpp"

#include <dpgather/comm/peer_access_memory.cuh>
#include <dpgather/comm/peer_communicator.cuh>
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/device/side_stream.cuh>
#include <dpgather/dp_gather.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace test_support {

/// What the jobs of a step share. Floats, so that every sum is exact.
struct peer_step {
  std::uint64_t* step = nullptr;  ///< number of the step, in device memory
  dg::count_set* live = nullptr;  ///< what the library reads
  std::int32_t* wanted = nullptr; ///< [dp ranks]: the counts of the step
  unsigned long long* wrong = nullptr;
  std::int32_t dp_rank = 0, dp_size = 1, tp_size = 1, world_rank = 0;
  std::int32_t layer = 0;    ///< rows of each layer are others
  std::int32_t capacity = 1; ///< rows of a rank
  std::int32_t hidden = 1;
  bool slots = false;
  std::int64_t stride = 0, global_rows = 0;

  /// Steps of `plan` on the rank at `place`. `numbers`: 4 KiB of zeros.
  template <class Dp>
  [[nodiscard]] static peer_step of(const device_bytes& numbers, const Dp& dp,
                                    const dg::topology& place, std::int32_t capacity,
                                    std::int32_t hidden, const dg::step_plan& plan) {
    peer_step out;
    out.step = numbers.as<std::uint64_t>();
    out.wrong = reinterpret_cast<unsigned long long*>(out.step + 1);
    out.wanted = reinterpret_cast<std::int32_t*>(out.step + 2);
    out.live = const_cast<dg::count_set*>(dp.live_counts());
    out.dp_rank = place.dp_rank;
    out.dp_size = place.dp_size;
    out.tp_size = place.tp_size;
    out.world_rank = place.world_rank();
    out.capacity = capacity;
    out.hidden = hidden;
    out.slots = plan.layout == dg::layout_kind::slots;
    out.stride = plan.stride;
    out.global_rows = plan.global_rows;
    return out;
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t offset(std::int32_t d) const {
    if (slots) return d * stride;
    std::int64_t sum = 0;
    for (std::int32_t i = 0; i < d; ++i) sum += wanted[i];
    return sum;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t owner(std::int64_t row) const {
    for (std::int32_t d = 0; d < dp_size; ++d)
      if (row >= offset(d) && row < offset(d) + wanted[d]) return d;
    return -1;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE float value(std::int32_t who, std::int64_t row,
                                                 std::int64_t column) const {
    return static_cast<float>(mixed(*step, static_cast<std::uint64_t>(who + 4096 * layer),
                                    static_cast<std::uint64_t>(row),
                                    static_cast<std::uint64_t>(column)) %
                              4096);
  }
  /// Calls `visit(row, column, index)` for this worker's of the first `elements`.
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each(std::uint64_t elements, dg::worker_id worker,
                                     Visit visit) const {
    const auto columns = static_cast<std::uint64_t>(hidden);
    for (std::uint64_t i = worker.index; i < elements; i += worker.count)
      visit(static_cast<std::int64_t>(i / columns), static_cast<std::int64_t>(i % columns), i);
  }
  DPGATHER_HOST_DEVICE void count(bool is_wrong) const {
#if defined(__CUDA_ARCH__)
    if (is_wrong) atomicAdd(wrong, 1ull);
#else
    (void)is_wrong;
#endif
  }
};

/// The next step: its number, its counts, and those that the library is to know beforehand.
struct begin_step {
  peer_step of;
  std::int32_t most_total = 0; ///< rows of all ranks
  dg::counts_kind source = dg::counts_kind::agreed;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    if (worker.index != 0) return;
    ++*of.step;
    std::int32_t left = most_total;
    for (std::int32_t d = 0; d < of.dp_size; ++d) {
      of.wanted[d] = counts_of(*of.step, d, of.capacity, left);
      left -= of.wanted[d];
    }
    for (std::int32_t d = 0; d < of.dp_size; ++d) {
      if (source == dg::counts_kind::device ||
          (source == dg::counts_kind::exchanged && d == of.dp_rank))
        of.live->rows[d] = of.wanted[d];
      else if (source == dg::counts_kind::exchanged)
        of.live->rows[d] = -5;
    }
  }
  /// A quarter of the ranks idle, a quarter full.
  DPGATHER_HOST_DEVICE static std::int32_t counts_of(std::uint64_t step, std::int32_t d,
                                                     std::int32_t capacity, std::int32_t left) {
    const std::uint64_t draw = mixed(step, static_cast<std::uint64_t>(d), 99, 7);
    std::int32_t n =
        draw % 4 == 0 ? 0
        : draw % 4 == 1
            ? capacity
            : static_cast<std::int32_t>(draw / 4 % (static_cast<std::uint64_t>(capacity) + 1));
    return n < left ? n : left;
  }
};

/// Local rows; NaN behind the real ones. Partial rows are each attention-TP rank's own.
struct write_local {
  peer_step of;
  float* to = nullptr;
  bool partial = false;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(of.capacity) * static_cast<std::uint64_t>(of.hidden);
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    of.for_each(words(), worker, [this](std::int64_t row, std::int64_t column, std::uint64_t i) {
      const std::int32_t who = partial ? 100 + of.world_rank : of.dp_rank;
      to[i] = row < of.wanted[of.dp_rank] ? of.value(who, row, column) : __builtin_nanf("");
    });
  }
};

/// Every element of the gathered rows, tails included.
struct check_global {
  peer_step of;
  const float* from = nullptr;
  bool partial = false;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(of.global_rows) * static_cast<std::uint64_t>(of.hidden);
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    of.for_each(words(), worker, [this](std::int64_t row, std::int64_t column, std::uint64_t i) {
      const std::int32_t d = of.owner(row);
      float expected = 0;
      if (d >= 0 && !partial) expected = of.value(d, row - of.offset(d), column);
      for (std::int32_t t = 0; d >= 0 && partial && t < of.tp_size; ++t)
        expected += of.value(100 + d * of.tp_size + t, row - of.offset(d), column);
      of.count(!(from[i] == expected));
    });
    if (worker.index == 0) {
      std::int64_t sum = 0;
      for (std::int32_t d = 0; d < of.dp_size; ++d) {
        of.count(of.live->rows[d] != of.wanted[d] || of.live->offset[d] != sum);
        sum += of.wanted[d];
      }
      of.count(of.live->total != sum);
    }
  }
};

/// This rank's addends, where the combine reads them; NaN in tails.
struct write_addends {
  peer_step of;
  float* to = nullptr;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(of.global_rows) * static_cast<std::uint64_t>(of.hidden);
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    of.for_each(words(), worker, [this](std::int64_t row, std::int64_t column, std::uint64_t i) {
      to[i] = of.owner(row) >= 0 ? of.value(200 + of.world_rank, row, column) : __builtin_nanf("");
    });
  }
};

/// The sums of this rank's rows, and zeros behind them.
struct check_output {
  peer_step of;
  const float* from = nullptr;
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::uint64_t words() const noexcept {
    return static_cast<std::uint64_t>(of.capacity) * static_cast<std::uint64_t>(of.hidden);
  }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    of.for_each(words(), worker, [this](std::int64_t row, std::int64_t column, std::uint64_t i) {
      float expected = 0;
      for (std::int32_t r = 0; row < of.wanted[of.dp_rank] && r < of.dp_size * of.tp_size; ++r)
        expected += of.value(200 + r, of.offset(of.dp_rank) + row, column);
      of.count(!(from[i] == expected));
    });
  }
};

using f32_communicator = dg::basic_peer_communicator<dg::element::f32>;
template <class Policy>
using peer_dp = dg::DpGather<Policy, f32_communicator>;

template <class Policy>
[[nodiscard]] std::size_t workspace_for(const dg::gather_config& config) {
  const auto out = peer_dp<Policy>::workspace_bytes(config);
  must(out.status(), "workspace");
  return *out;
}
template <class Policy>
[[nodiscard]] dg::peer_limits limits_for(const dg::gather_config& config,
                                         std::size_t most_line_bytes) {
  const auto out = dg::peer_limits_of<Policy>(config, {.most_line_bytes = most_line_bytes});
  must(out.status(), "limits");
  return *out;
}
[[nodiscard]] inline std::size_t arena_bytes(const dg::peer_limits& limits) {
  const auto out = dg::peer_layout::of(limits);
  must(out.status(), "layout");
  return static_cast<std::size_t>(out->bytes);
}
/// The shape of one plan with the counts of another.
[[nodiscard]] inline dg::step_plan with_counts_of(dg::step_plan shape, const dg::step_plan& of) {
  shape.real = of.real;
  shape.packed_offset = of.packed_offset;
  shape.total_rows = of.total_rows;
  shape.counts_digest = of.counts_digest;
  return shape;
}

/// What a step does with the channel.
enum class step_kind : std::uint8_t { both, gathers, combines, own_memory, partial_rows };

/// One rank's graph of one policy.
template <class Policy>
class peer_rank {
public:
  static constexpr std::int32_t capacity = 40;
  static constexpr std::int32_t hidden = 60;
  static constexpr dg::counts_kind source = Policy::counts_type::kind;

  /// On a stream of its own, or on `borrowed`.
  peer_rank(dg::host_communicator comm, std::size_t most_line_bytes, int gpus,
            cudaStream_t borrowed = nullptr)
      : comm_{comm}, own_stream_{borrowed == nullptr ? stream_on(comm.rank() % gpus) : nullptr},
        stream_{borrowed == nullptr ? own_stream_ : borrowed}, config_{config_of(comm.topology())},
        limits_{limits_for<Policy>(config_, most_line_bytes)}, memory_{comm_, arena_bytes(limits_)},
        world_{comm_, comm.topology(), memory_.pointers(), limits_, 5'000'000'000},
        workspace_{std::max<std::size_t>(workspace_for<Policy>(config_), 256)},
        dp_{f32_communicator{world_}, config_, {workspace_.get(), workspace_for<Policy>(config_)}},
        local_{capacity * hidden * sizeof(float)}, output_{capacity * hidden * sizeof(float)},
        numbers_{4096, 0} {
    must(memory_.check(), "memory");
    must(world_.check(), "world");
    must(dp_.check(), "DpGather");
    const dg::step_plan plan = shape();
    global_ = device_bytes{static_cast<std::size_t>(plan.global_rows) * hidden * sizeof(float)};
    part_ = peer_step::of(numbers_, dp_, comm_.topology(), capacity, hidden, plan);
  }
  peer_rank(const peer_rank&) = delete;
  peer_rank& operator=(const peer_rank&) = delete;
  ~peer_rank() {
    graphs_.clear();
    (void)cudaStreamSynchronize(stream_);
    if (own_stream_ != nullptr) (void)cudaStreamDestroy(own_stream_);
  }

  /// Captures a graph of some steps, before any count is known, and replays it. No waiting between
  /// replays; some steps are launched call by call. Answers what was wrong.
  std::uint64_t replay(step_kind kind, int steps_in_graph, int replays, std::uint64_t key) {
    launch(kind, steps_in_graph, replays, key);
    return wrong();
  }
  /// The same without waiting for the end.
  void launch(step_kind kind, int steps_in_graph, int replays, std::uint64_t key) {
    const dg::step_plan plan = shape();
    dg::bucket_list one;
    one.append(1);
    must(graphs_.capture(one, stream_,
                         [&](std::int32_t) {
                           for (int i = 0; i < steps_in_graph; ++i)
                             if (dg::status bad = step(plan, kind, i); !bad) return bad;
                           return dg::status{};
                         }),
         "capture");
    random_source random{key};
    for (int i = 0; i < replays; ++i) {
      if (source == dg::counts_kind::agreed) {
        // One count set for a graph: the host knows what the step's first kernel will draw.
        must(dp_.refresh_counts(real_plan(next_step_ + 1), stream_), "refresh");
      }
      if (random.chance(20) && source != dg::counts_kind::exchanged) {
        for (int s = 0; s < steps_in_graph; ++s)
          must(step(source == dg::counts_kind::agreed ? real_plan(next_step_ + 1) : plan, kind, s),
               "eager step");
      } else {
        must(graphs_.launch(1, stream_), "launch");
      }
      next_step_ +=
          source == dg::counts_kind::agreed ? 1 : static_cast<std::uint64_t>(steps_in_graph);
    }
  }
  /// The same for steps of this rank and, beside each of them on a side stream, steps of another
  /// channel: one graph for both.
  std::uint64_t replay_beside(peer_rank& other, dg::side_stream& side, int steps_in_graph,
                              int replays) requires(source != dg::counts_kind::agreed) {
    const dg::step_plan plan = shape();
    dg::bucket_list one;
    one.append(1);
    must(graphs_.capture(one, stream_,
                         [&](std::int32_t) {
                           for (int i = 0; i < steps_in_graph; ++i) {
                             if (dg::status bad = side.start(stream_); !bad) return bad;
                             if (dg::status bad = other.step(plan, step_kind::both, i); !bad)
                               return bad;
                             if (dg::status bad = step(plan, step_kind::both, i); !bad) return bad;
                             if (dg::status bad = side.wait(stream_); !bad) return bad;
                           }
                           return dg::status{};
                         }),
         "capture");
    for (int i = 0; i < replays; ++i) must(graphs_.launch(1, stream_), "launch");
    return wrong() + other.wrong();
  }
  /// What was wrong in all that has been launched; waits for it.
  std::uint64_t wrong() {
    must(world_.wait(stream_, 60'000'000'000), "wait");
    unsigned long long out = 0;
    cuda_must(cudaMemcpy(&out, part_.wrong, sizeof out, cudaMemcpyDeviceToHost), "wrong");
    return out;
  }
  /// One gather of whatever rows, on any stream.
  dg::status gather_on(cudaStream_t stream) {
    const dg::step_plan plan = shape();
    return dp_
        .gather(dg::rows_of<dg::replicated>(local_.as<const float>(), capacity, hidden),
                dp_.view(plan), plan, stream)
        .status();
  }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] dg::peer_world& world() { return world_; }
  [[nodiscard]] peer_dp<Policy>& dp() { return dp_; }

private:
  static dg::gather_config config_of(const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = capacity;
    out.ladder.append(capacity);
    return out;
  }

  /// A plan that every split fits: the largest bucket.
  [[nodiscard]] dg::step_plan shape() const {
    if constexpr (source == dg::counts_kind::agreed) {
      const auto sizes = dp_.rules().captured_sizes();
      const auto plan = dp_.capture_plan(sizes[sizes.size() - 1]);
      must(plan.status(), "capture plan");
      return *plan;
    } else {
      const auto plan = dp_.plan(graph_record(dp_, comm_.rank(), 0));
      must(plan.status(), "plan");
      return *plan;
    }
  }
  [[nodiscard]] std::int32_t most_total() const {
    const dg::step_plan plan = shape();
    return static_cast<std::int32_t>(
        plan.layout == dg::layout_kind::slots ? plan.stride * plan.dp_size : plan.global_rows);
  }
  /// The plan of the counts that a step will draw. One is full, so that all steps have one shape.
  [[nodiscard]] dg::step_plan real_plan([[maybe_unused]] std::uint64_t number) const {
    if constexpr (source != dg::counts_kind::agreed) {
      return shape();
    } else {
      std::vector<dg::step_record> records;
      std::int32_t left = most_total();
      for (std::int32_t d = 0; d < comm_.topology().dp_size; ++d) {
        const std::int32_t n = begin_step::counts_of(number, d, capacity, left);
        left -= n;
        for (std::int32_t t = 0; t < comm_.topology().tp_size; ++t)
          records.push_back(graph_record(dp_, d * comm_.topology().tp_size + t, n));
      }
      const auto plan = dp_.plan(records);
      must(plan.status(), "real plan");
      return with_counts_of(shape(), *plan); // of the graph, of the step
    }
  }

  template <class Job>
  dg::status run(const Job& job) {
    return dg::executor<cudaStream_t>::run(job, 0, stream_);
  }
  /// One step of an engine. With agreed counts all steps of a graph have the same ones.
  dg::status step(const dg::step_plan& plan, step_kind kind, int index) {
    if (source != dg::counts_kind::agreed || index == 0) {
      if (dg::status bad = run(begin_step{part_, most_total(), source}); !bad) return bad;
    }
    auto* const local = local_.as<float>();
    auto* const output = output_.as<float>();
    const bool partial = kind == step_kind::partial_rows;
    const bool own = kind == step_kind::own_memory;
    if (kind != step_kind::combines || source != dg::counts_kind::agreed) {
      if (dg::status bad = run(write_local{part_, local, partial}); !bad) return bad;
      const auto into =
          own ? dg::rows_of<dg::replicated>(global_.as<float>(), plan.global_rows, hidden)
              : dp_.view(plan);
      dg::result<dg::token_rows<dg::replicated>> gathered{dg::status{}};
      if (partial) {
        gathered =
            dp_.gather(dg::rows_of<dg::partial>(static_cast<const float*>(local), capacity, hidden),
                       into, plan, stream_);
      } else {
        gathered = dp_.gather(
            dg::rows_of<dg::replicated>(static_cast<const float*>(local), capacity, hidden), into,
            plan, stream_);
      }
      if (!gathered) return gathered.status();
      if (dg::status bad =
              run(check_global{part_, reinterpret_cast<const float*>(gathered->data()), partial});
          !bad)
        return bad;
    }
    if (kind == step_kind::gathers || partial) return {};
    const auto addends =
        own ? dg::rows_of<dg::partial>(global_.as<float>(), plan.global_rows, hidden)
            : dp_.combine_input(plan, index % 2);
    if (dg::status bad = run(write_addends{part_, reinterpret_cast<float*>(addends.data())}); !bad)
      return bad;
    if (dg::status bad = dp_.combine(addends, dg::rows_of<dg::replicated>(output, capacity, hidden),
                                     plan, stream_);
        !bad)
      return bad;
    return run(check_output{part_, output});
  }

  dg::host_communicator comm_;
  cudaStream_t own_stream_, stream_;
  dg::gather_config config_;
  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_bytes workspace_;
  peer_dp<Policy> dp_;
  device_bytes local_, output_, global_, numbers_;
  peer_step part_{};
  dg::graph_set graphs_;
  std::uint64_t next_step_ = 0;
};

/// All kinds of steps over one policy, `splits` random splits each.
template <class Policy>
void replay_peer_graphs(const dg::topology& shape, int splits, int gpus) {
  dg::steady_wait_clock clock;
  for (const std::size_t most_line_bytes :
       {std::size_t{1} << 20, std::size_t{0}, std::size_t{20 * 240}}) {
    dg::host_world world{shape, clock, 100'000'000'000};
    dg::run_ranks(world, [&](dg::host_communicator comm) {
      std::uint64_t wrong = 0;
      {
        peer_rank<Policy> rank{comm, most_line_bytes, gpus};
        for (const int steps : {1, 2, 3}) {
          for (const step_kind kind : {step_kind::both, step_kind::gathers, step_kind::combines,
                                       step_kind::own_memory, step_kind::partial_rows}) {
            if (kind == step_kind::partial_rows && shape.tp_size == 1) continue;
            // A combine after a combine takes the other input; an odd number of them in a graph
            // would meet its own first one.
            if (kind == step_kind::combines && steps % 2 != 0 &&
                peer_rank<Policy>::source == dg::counts_kind::agreed)
              continue;
            wrong += rank.replay(kind, steps, splits, seed() + static_cast<std::uint64_t>(steps));
          }
        }
        must(comm.barrier(), "end");
      }
      CHECK(wrong == 0);
    });
  }
}

} // namespace test_support
