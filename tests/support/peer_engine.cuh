#pragma once

/// @file
/// A captured step over peers that writes its own counts and inputs, checks its own outputs and
/// goes on: the host only launches it, and no rank waits for another but in the calls themselves.

#include "payload.hpp"
#include "peer_stage.cuh"
#include "random_cases.hpp"

#include <dpgather/comm/peer_access_memory.cuh>
#include <dpgather/comm/peer_communicator.cuh>
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/dp_gather.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace test_support {

inline void must_be(const dg::status& s, const char* what) {
  if (!s) throw std::runtime_error{std::string{what} + ": " + s.message().c_str()};
}

/// What the jobs of a step share. Floats, so that every sum is exact.
struct peer_step {
  std::uint64_t* step = nullptr;  ///< number of the step, in device memory
  dg::count_set* live = nullptr;  ///< what the library reads
  std::int32_t* wanted = nullptr; ///< [dp ranks]: the counts of the step
  unsigned long long* wrong = nullptr;
  std::int32_t dp_rank = 0, dp_size = 1, tp_size = 1, world_rank = 0;
  std::int32_t capacity = 1; ///< rows of a rank
  std::int32_t hidden = 1;
  bool slots = false;
  std::int64_t stride = 0, global_rows = 0;

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
    return static_cast<float>(story_bytes::mixed(*step, static_cast<std::uint64_t>(who),
                                                 static_cast<std::uint64_t>(row),
                                                 static_cast<std::uint64_t>(column)) %
                              4096);
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
    const std::uint64_t draw = story_bytes::mixed(step, static_cast<std::uint64_t>(d), 99, 7);
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
    for (std::uint64_t i = worker.index; i < words(); i += worker.count) {
      const auto row = static_cast<std::int64_t>(i / static_cast<std::uint64_t>(of.hidden));
      const auto column = static_cast<std::int64_t>(i % static_cast<std::uint64_t>(of.hidden));
      const std::int32_t who = partial ? 100 + of.world_rank : of.dp_rank;
      to[i] = row < of.wanted[of.dp_rank] ? of.value(who, row, column) : __builtin_nanf("");
    }
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
    for (std::uint64_t i = worker.index; i < words(); i += worker.count) {
      const auto row = static_cast<std::int64_t>(i / static_cast<std::uint64_t>(of.hidden));
      const auto column = static_cast<std::int64_t>(i % static_cast<std::uint64_t>(of.hidden));
      const std::int32_t d = of.owner(row);
      float expected = 0;
      if (d >= 0 && !partial) expected = of.value(d, row - of.offset(d), column);
      for (std::int32_t t = 0; d >= 0 && partial && t < of.tp_size; ++t)
        expected += of.value(100 + d * of.tp_size + t, row - of.offset(d), column);
      of.count(!(from[i] == expected));
    }
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
    for (std::uint64_t i = worker.index; i < words(); i += worker.count) {
      const auto row = static_cast<std::int64_t>(i / static_cast<std::uint64_t>(of.hidden));
      const auto column = static_cast<std::int64_t>(i % static_cast<std::uint64_t>(of.hidden));
      to[i] = of.owner(row) >= 0 ? of.value(200 + of.world_rank, row, column) : __builtin_nanf("");
    }
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
    for (std::uint64_t i = worker.index; i < words(); i += worker.count) {
      const auto row = static_cast<std::int64_t>(i / static_cast<std::uint64_t>(of.hidden));
      const auto column = static_cast<std::int64_t>(i % static_cast<std::uint64_t>(of.hidden));
      float expected = 0;
      for (std::int32_t r = 0; row < of.wanted[of.dp_rank] && r < of.dp_size * of.tp_size; ++r)
        expected += of.value(200 + r, of.offset(of.dp_rank) + row, column);
      of.count(!(from[i] == expected));
    }
  }
};

/// What a step does with the channel.
enum class step_kind : std::uint8_t { both, gathers, combines, own_memory, partial_rows };

/// One rank's graph of one policy.
template <class Policy>
class peer_rank {
public:
  using communicator = dg::basic_peer_communicator<dg::element::f32>;
  static constexpr std::int32_t capacity = 40;
  static constexpr std::int32_t hidden = 60;
  static constexpr dg::counts_kind source = Policy::counts_type::kind;

  peer_rank(dg::host_communicator comm, std::size_t most_line_bytes, int gpus)
      : comm_{comm}, stream_{on_gpu(comm.rank() % gpus)}, config_{config_of(comm.topology())},
        limits_{limits(config_, most_line_bytes)}, memory_{comm_, bytes(limits_)},
        world_{comm_, comm.topology(), memory_.pointers(), limits_, 5'000'000'000},
        workspace_{std::max<std::size_t>(workspace_bytes(config_), 256)},
        dp_{communicator{world_}, config_, {workspace_.get(), workspace_bytes(config_)}},
        local_{capacity * hidden * sizeof(float)}, output_{capacity * hidden * sizeof(float)},
        numbers_{4096, 0} {
    must_be(memory_.check(), "memory");
    must_be(world_.check(), "world");
    must_be(dp_.check(), "DpGather");
    const dg::step_plan plan = shape();
    global_ = device_bytes{static_cast<std::size_t>(plan.global_rows) * hidden * sizeof(float)};
    part_ = describe(plan);
  }
  peer_rank(const peer_rank&) = delete;
  peer_rank& operator=(const peer_rank&) = delete;
  ~peer_rank() {
    graphs_.clear();
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }

  /// Captures a graph of some steps, before any count is known, and replays it. No waiting between
  /// replays; some steps are launched call by call. Answers what was wrong.
  std::uint64_t replay(step_kind kind, int steps_in_graph, int replays, std::uint64_t key) {
    const dg::step_plan plan = shape();
    dg::bucket_list one;
    one.append(1);
    must_be(graphs_.capture(one, stream_,
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
        must_be(dp_.refresh_counts(real_plan(next_step_ + 1), stream_), "refresh");
      }
      if (random.chance(20) && source != dg::counts_kind::exchanged) {
        for (int s = 0; s < steps_in_graph; ++s)
          must_be(
              step(source == dg::counts_kind::agreed ? real_plan(next_step_ + 1) : plan, kind, s),
              "eager step");
      } else {
        must_be(graphs_.launch(1, stream_), "launch");
      }
      next_step_ +=
          source == dg::counts_kind::agreed ? 1 : static_cast<std::uint64_t>(steps_in_graph);
    }
    must_be(world_.wait(stream_, 60'000'000'000), "wait");
    unsigned long long wrong = 0;
    must_cuda(cudaMemcpy(&wrong, part_.wrong, sizeof wrong, cudaMemcpyDeviceToHost), "wrong");
    return wrong;
  }
  [[nodiscard]] dg::peer_world& world() { return world_; }
  [[nodiscard]] dg::DpGather<Policy, communicator>& dp() { return dp_; }

private:
  static cudaStream_t on_gpu(int gpu) {
    must_cuda(cudaSetDevice(gpu), "device");
    cudaStream_t out = nullptr;
    must_cuda(cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking), "stream");
    return out;
  }
  static dg::gather_config config_of(const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = capacity;
    out.ladder.append(capacity);
    return out;
  }
  static dg::peer_limits limits(const dg::gather_config& config, std::size_t most_line_bytes) {
    const auto out = dg::peer_limits_of<Policy>(config, {.most_line_bytes = most_line_bytes});
    must_be(out.status(), "limits");
    return *out;
  }
  static std::size_t bytes(const dg::peer_limits& of) {
    const auto out = dg::peer_layout::of(of);
    must_be(out.status(), "layout");
    return static_cast<std::size_t>(out->bytes);
  }
  static std::size_t workspace_bytes(const dg::gather_config& config) {
    const auto out = dg::DpGather<Policy, communicator>::workspace_bytes(config);
    must_be(out.status(), "workspace");
    return *out;
  }

  [[nodiscard]] dg::step_record record(std::int32_t world_rank, std::int32_t tokens) const {
    dg::step_record out = dp_.record(1);
    out.world_rank = world_rank;
    out.tokens = out.requests = tokens;
    out.phase = tokens == 0 ? dg::phase::idle : dg::phase::decode;
    out.votes = dg::step_record::graph_vote;
    return out;
  }
  /// A plan that every split fits: the largest bucket.
  [[nodiscard]] dg::step_plan shape() const {
    if constexpr (source == dg::counts_kind::agreed) {
      const auto sizes = dp_.rules().captured_sizes();
      const auto plan = dp_.capture_plan(sizes[sizes.size() - 1]);
      must_be(plan.status(), "capture plan");
      return *plan;
    } else {
      const auto plan = dp_.plan(record(comm_.rank(), 0));
      must_be(plan.status(), "plan");
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
          records.push_back(record(d * comm_.topology().tp_size + t, n));
      }
      const auto plan = dp_.plan(records);
      must_be(plan.status(), "real plan");
      // Counts of the step, shape of the graph.
      dg::step_plan out = shape();
      out.real = plan->real;
      out.packed_offset = plan->packed_offset;
      out.total_rows = plan->total_rows;
      out.counts_digest = plan->counts_digest;
      return out;
    }
  }
  [[nodiscard]] peer_step describe(const dg::step_plan& plan) const {
    peer_step out;
    out.step = numbers_.template as<std::uint64_t>();
    out.wrong = reinterpret_cast<unsigned long long*>(out.step + 1);
    out.wanted = reinterpret_cast<std::int32_t*>(out.step + 2);
    out.live = const_cast<dg::count_set*>(dp_.live_counts());
    out.dp_rank = comm_.topology().dp_rank;
    out.dp_size = comm_.topology().dp_size;
    out.tp_size = comm_.topology().tp_size;
    out.world_rank = comm_.rank();
    out.capacity = capacity;
    out.hidden = hidden;
    out.slots = plan.layout == dg::layout_kind::slots;
    out.stride = plan.stride;
    out.global_rows = plan.global_rows;
    return out;
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
  cudaStream_t stream_;
  dg::gather_config config_;
  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_bytes workspace_;
  dg::DpGather<Policy, communicator> dp_;
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
        must_be(comm.barrier(), "end");
      }
      CHECK(wrong == 0);
    });
  }
}

} // namespace test_support
