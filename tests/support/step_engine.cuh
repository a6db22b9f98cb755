#pragma once

/// @file
/// A step of several layers as `step_graphs` takes it, over peers: it draws its own counts, looks
/// at every byte and at the sizes that it runs at, in the graph itself. What it expects comes from
/// the step's number alone.

#include "peer_engine.cuh"

#include <dpgather/graph_sizes.hpp>
#include <dpgather/step_graphs.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace test_support {

/// Counts it as wrong when a part runs at another size than the step's counts ask for, by a linear
/// search. What ran is counted, per size.
struct check_size {
  peer_step of;
  std::int32_t size = 0;
  bool shared = false;
  bool largest = false; ///< must be the largest size, whatever the counts
  std::int32_t count = 0;
  std::int32_t sizes[64]{};
  unsigned long long* ran = nullptr; ///< [64]

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    if (worker.index != 0) return;
    std::int32_t rows = of.wanted[of.dp_rank];
    for (std::int32_t d = 0; shared && d < of.dp_size; ++d)
      rows += d == of.dp_rank ? 0 : of.wanted[d];
    std::int32_t at = largest ? count - 1 : 0;
    while (at < count - 1 && sizes[at] < rows) ++at;
    of.count(sizes[at] != size || sizes[at] < rows);
    ++ran[at];
  }
};

/// One rank. `Policy`: agreed counts, or exchanged ones, where the gather is local work.
template <class Policy>
class step_engine {
public:
  static constexpr std::int32_t capacity = 40;
  static constexpr std::int32_t hidden = 60;
  static constexpr dg::counts_kind source = Policy::counts_type::kind;
  static constexpr bool knows_sum = source == dg::counts_kind::agreed;

  step_engine(dg::host_communicator comm, std::int32_t layers)
      : comm_{comm}, layers_{layers}, stream_{stream_on(comm.rank())},
        config_{config_of(comm.topology())}, limits_{limits_for<Policy>(config_, 20 * 240)},
        memory_{comm_, arena_bytes(limits_)}, world_{comm_, comm.topology(), memory_.pointers(),
                                                     limits_, 20'000'000'000},
        workspace_{std::max<std::size_t>(workspace_for<Policy>(config_), 256)},
        dp_{f32_communicator{world_}, config_, {workspace_.get(), workspace_for<Policy>(config_)}},
        ladders_{dg::graph_ladders::of(dp_.rules())}, local_{capacity * hidden * sizeof(float)},
        output_{capacity * hidden * sizeof(float)}, numbers_{4096, 0},
        ran_{2 * 64 * sizeof(unsigned long long), 0} {
    must(memory_.check(), "memory");
    must(world_.check(), "world");
    must(dp_.check(), "DpGather");
    part_ = peer_step::of(numbers_, dp_, comm_.topology(), capacity, hidden,
                          shape(ladders_.shared.largest()));
  }
  step_engine(const step_engine&) = delete;
  step_engine& operator=(const step_engine&) = delete;
  ~step_engine() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }

  // --- what step_graphs asks for ---

  [[nodiscard]] std::int32_t layers() const { return layers_; }
  dg::status local(std::int32_t layer, std::int32_t own, cudaStream_t stream) {
    const peer_step at = in(layer, 0);
    if (layer == 0) {
      if (dg::status bad = run(begin_step{at, most_total(), source}, stream); !bad) return bad;
    }
    if (!coupled) {
      if (dg::status bad = run(size_check(at, ladders_.own, own, false), stream); !bad) return bad;
    }
    if (dg::status bad = run(write_local{at, local_.as<float>(), false}, stream); !bad) return bad;
    return knows_sum ? dg::status{} : gather(at, shape(0), stream);
  }
  dg::status shared(std::int32_t layer, std::int32_t size, cudaStream_t stream) {
    const dg::step_plan plan = shape(size);
    const peer_step at = in(layer, plan.global_rows);
    if (dg::status bad = run(size_check(at, ladders_.shared, size, true), stream); !bad) return bad;
    if (knows_sum) {
      if (dg::status bad = gather(at, plan, stream); !bad) return bad;
    }
    const auto addends = dp_.combine_input(plan);
    if (dg::status bad = run(write_addends{at, reinterpret_cast<float*>(addends.data())}, stream);
        !bad)
      return bad;
    if (dg::status bad =
            dp_.combine(addends, dg::rows_of<dg::replicated>(output_.as<float>(), capacity, hidden),
                        plan, stream);
        !bad)
      return bad;
    return run(check_output{at, output_.as<const float>()}, stream);
  }
  dg::status finish(std::int32_t own, cudaStream_t stream) {
    if (coupled) return {};
    return run(size_check(in(0, 0), ladders_.own, own, false), stream);
  }

  // --- what the host does in a step ---

  /// What every host works out by itself: counts of all ranks, the plan, and this rank's sizes.
  dg::graph_sizes begin(std::uint64_t number) {
    std::int32_t left = most_total();
    records_.clear();
    for (std::int32_t d = 0; d < comm_.size(); ++d) {
      const std::int32_t n = begin_step::counts_of(number, d, capacity, left);
      left -= n;
      records_.push_back(graph_record(dp_, d, n));
    }
    if constexpr (knows_sum) {
      const auto plan = dp_.plan(records_);
      must(plan.status(), "plan");
      must(dp_.refresh_counts(*plan, stream_), "refresh");
      now_ = *plan;
      differ_ += plan->own_bucket(0) != plan->own_bucket(1);
      const auto sizes = dg::graph_sizes::of(*plan, comm_.rank());
      return coupled ? dg::graph_sizes{sizes.shared, sizes.shared} : sizes;
    } else {
      std::int32_t buckets[2]{};
      for (std::int32_t d = 0; d < 2; ++d)
        buckets[d] =
            dp_.rules().ladder().smallest_at_least(records_[static_cast<std::size_t>(d)].tokens);
      differ_ += buckets[0] != buckets[1];
      const auto plan = dp_.plan(records_[static_cast<std::size_t>(comm_.rank())]);
      must(plan.status(), "plan");
      return dg::graph_sizes::of(*plan, comm_.rank());
    }
  }
  /// Values and sizes that were wrong; waits for all that was launched.
  std::uint64_t wrong() {
    must(world_.wait(stream_, 120'000'000'000), "wait");
    unsigned long long out = 0;
    cuda_must(cudaMemcpy(&out, part_.wrong, sizeof out, cudaMemcpyDeviceToHost), "wrong");
    return out;
  }
  /// Parts run so far, own and shared, all sizes.
  std::pair<std::uint64_t, std::uint64_t> parts_run() {
    unsigned long long all[2][64];
    cuda_must(cudaMemcpy(all, ran_.get(), sizeof all, cudaMemcpyDeviceToHost), "ran");
    std::pair<std::uint64_t, std::uint64_t> out{};
    for (int i = 0; i < 64; ++i) {
      out.first += all[0][i];
      out.second += all[1][i];
    }
    return out;
  }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] dg::peer_world& world() { return world_; }
  [[nodiscard]] peer_dp<Policy>& dp() { return dp_; }
  [[nodiscard]] const dg::graph_ladders& ladders() const { return ladders_; }
  [[nodiscard]] std::uint64_t different() const { return differ_; }

  bool coupled = false;        ///< local parts at the shared size
  bool shared_largest = false; ///< shared parts at the largest

private:
  static dg::gather_config config_of(const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = capacity;
    for (const std::int32_t size : {1, 4, 8, 16, 24, 40}) out.ladder.append(size);
    return out;
  }
  [[nodiscard]] dg::step_plan shape([[maybe_unused]] std::int32_t size) const {
    if constexpr (knows_sum) {
      const auto plan = dp_.capture_plan(size);
      must(plan.status(), "capture plan");
      return now_.step > 0 ? plan->with_counts_of(now_) : *plan;
    } else {
      const auto plan = dp_.plan(graph_record(dp_, comm_.rank(), 0));
      must(plan.status(), "plan");
      return *plan;
    }
  }
  [[nodiscard]] std::int32_t most_total() const { return capacity * comm_.size(); }
  [[nodiscard]] peer_step in(std::int32_t layer, std::int64_t global_rows) const {
    peer_step out = part_;
    out.layer = layer;
    if (global_rows > 0) out.global_rows = global_rows;
    return out;
  }
  [[nodiscard]] check_size size_check(const peer_step& at, const dg::bucket_list& sizes,
                                      std::int32_t size, bool of_sum) const {
    check_size out;
    out.of = at;
    out.size = size;
    out.shared = of_sum;
    out.largest = of_sum && shared_largest;
    out.count = sizes.size();
    for (std::int32_t i = 0; i < sizes.size(); ++i) out.sizes[i] = sizes[i];
    out.ran = ran_.as<unsigned long long>() + (of_sum ? 64 : 0);
    return out;
  }
  template <class Job>
  dg::status run(const Job& job, cudaStream_t stream) {
    return dg::executor<cudaStream_t>::run(job, 0, stream);
  }
  dg::status gather(const peer_step& at, const dg::step_plan& plan, cudaStream_t stream) {
    const auto rows = dp_.gather(
        dg::rows_of<dg::replicated>(local_.as<const float>(), capacity, hidden), plan, stream);
    if (!rows) return rows.status();
    return run(check_global{at, reinterpret_cast<const float*>(rows->data()), false}, stream);
  }

  dg::host_communicator comm_;
  std::int32_t layers_;
  cudaStream_t stream_;
  dg::gather_config config_;
  dg::peer_limits limits_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_bytes workspace_;
  peer_dp<Policy> dp_;
  dg::graph_ladders ladders_;
  device_bytes local_, output_, numbers_, ran_;
  peer_step part_{};
  std::vector<dg::step_record> records_;
  dg::step_plan now_; // of the step under way
  std::uint64_t differ_ = 0;
};

} // namespace test_support
