#pragma once

/// @file
/// A whole step captured once per bucket and replayed for random splits, over NCCL:
/// pad -> gather -> a sharded FFN -> combine -> trim, every byte against a scalar reference.

#include "must.cuh"
#include "nccl_engine.hpp"
#include "payload.hpp"
#include "random_cases.hpp"
#include "step_records.hpp"

#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/device/tensor_lists.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/ladder.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace test_support {

/// This rank's addend: every value times `factor`. NaN in a tail stays NaN: nothing may hide it.
struct scale_rows {
  const float* from = nullptr;
  float* to = nullptr;
  std::uint64_t count = 0;
  float factor = 1;

  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return count; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id worker) const noexcept {
    for (std::uint64_t i = worker.index; i < count; i += worker.count) to[i] = from[i] * factor;
  }
};

/// One rank's captured steps of one policy. `tail` is what the policy puts into tails.
template <class Policy>
class replaying_rank {
public:
  static constexpr std::int64_t hidden = 12; // floats
  static constexpr std::int32_t requests = 20;

  replaying_rank(dg::host_communicator comm, float tail)
      : comm_{comm}, tail_{tail}, config_{config_of(comm.topology())},
        workspace_image_(bytes_of(config_)), dp_{dg::nccl_communicator{nccl_rank::mine().world()},
                                                 config_,
                                                 {workspace_.load(workspace_image_.data(),
                                                                  workspace_image_.size()),
                                                  workspace_image_.size()}} {
    must(dp_.check());
    const std::size_t global = dp_.rules().max_global_bytes();
    local_host_.resize(requests * hidden);
    ids_host_.resize(requests);
    global_host_.resize(global / sizeof(float));
    output_host_.resize(local_host_.size());
    load();
  }

  /// Captures all buckets.
  void capture() {
    const dg::status captured =
        graphs_.capture(dp_.rules().ladder(), stream(), [this](std::int32_t bucket) {
          const auto plan = dp_.capture_plan(bucket);
          return plan.ok() ? step(*plan) : plan.status();
        });
    must(captured);
    REQUIRE(graphs_.count() == static_cast<std::size_t>(dp_.rules().ladder().size()));
  }

  /// `replays` random splits of one bucket. Answers the number of wrong values.
  std::int64_t replay(std::int32_t bucket, int replays, std::uint64_t key) {
    random_source random{mixed(key, static_cast<std::uint64_t>(bucket))};
    std::int64_t wrong = 0;
    for (int i = 0; i < replays; ++i) {
      // The same draw on every rank.
      std::vector<std::int32_t> counts(static_cast<std::size_t>(comm_.topology().dp_size));
      for (auto& n : counts) n = random.chance(25) ? 0 : random.between(0, bucket);
      counts[random.between<std::size_t>(0, counts.size() - 1)] = bucket;
      wrong += one(counts, ++step_number_, random.chance(20));
    }
    return wrong;
  }

  [[nodiscard]] dg::graph_set& graphs() { return graphs_; }

private:
  static dg::gather_config config_of(const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = requests;
    for (const std::int32_t size : {4, 8, 12, requests}) out.ladder.append(size);
    return out;
  }
  static std::size_t bytes_of(const dg::gather_config& config) {
    const auto bytes = dg::DpGather<Policy>::workspace_bytes(config);
    must(bytes.status());
    return *bytes;
  }
  static cudaStream_t stream() { return nccl_rank::mine().stream(); }

  void load() {
    local_ = reinterpret_cast<float*>(
        local_twin_.load(bytes(local_host_), local_host_.size() * sizeof(float)));
    ids_ = reinterpret_cast<std::int64_t*>(
        ids_twin_.load(bytes(ids_host_), ids_host_.size() * sizeof(std::int64_t)));
    global_ = reinterpret_cast<float*>(
        global_twin_.load(bytes(global_host_), global_host_.size() * sizeof(float)));
    shard_ = reinterpret_cast<float*>(
        shard_twin_.load(bytes(global_host_), global_host_.size() * sizeof(float)));
    output_ = reinterpret_cast<float*>(
        output_twin_.load(bytes(output_host_), output_host_.size() * sizeof(float)));
    kept_ = reinterpret_cast<float*>(
        kept_twin_.load(bytes(output_host_), output_host_.size() * sizeof(float)));
  }
  template <class T>
  static const std::byte* bytes(const std::vector<T>& values) {
    return reinterpret_cast<const std::byte*>(values.data());
  }

  /// The step of an engine, captured or not. Local rows are padded to what the plan says.
  dg::status step(const dg::step_plan& plan) {
    const std::int32_t own = comm_.topology().dp_rank;
    const std::int32_t padded = plan.padded[own];
    const dg::unit_counts units{.padded = padded, .capacity = requests, .live = dp_.live_rows()};
    const dg::pad_tensor pads[] = {dg::pad_vector(ids_, units, -1)};
    if (dg::status bad = dg::pad(pads, stream()); !bad) return bad;
    const auto gathered =
        dp_.gather(dg::rows_of<dg::replicated>(static_cast<const float*>(local_), padded, hidden),
                   dg::rows_of<dg::replicated>(global_, plan.global_rows, hidden), plan, stream());
    if (!gathered) return gathered.status();
    const scale_rows ffn{global_, shard_, static_cast<std::uint64_t>(plan.global_rows * hidden),
                         static_cast<float>(comm_.rank() + 1)};
    if (dg::status bad = dg::executor<cudaStream_t>::run(ffn, 0, stream()); !bad) return bad;
    if (dg::status bad = dp_.combine(
            dg::rows_of<dg::partial>(static_cast<const float*>(shard_), plan.global_rows, hidden),
            dg::rows_of<dg::replicated>(output_, padded, hidden), plan, stream());
        !bad)
      return bad;
    const dg::trim_tensor trims[] = {
        dg::trim_rows(output_, hidden,
                      std::span<float>{kept_, static_cast<std::size_t>(requests * hidden)}, units)};
    return dg::trim(trims, stream());
  }

  [[nodiscard]] float value(std::int32_t dp_rank, std::int64_t row, std::int64_t column) const {
    return static_cast<float>(mixed(step_number_, static_cast<std::uint64_t>(dp_rank),
                                    static_cast<std::uint64_t>(row),
                                    static_cast<std::uint64_t>(column)) %
                              4096);
  }

  std::int64_t one(const std::vector<std::int32_t>& counts, std::uint64_t number, bool eagerly) {
    const dg::topology place = comm_.topology();
    const std::int32_t n = counts[static_cast<std::size_t>(place.dp_rank)];
    // 1. Inputs: NaN in what is not real. Outputs: 77, so that what nobody writes shows.
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    local_host_.assign(local_host_.size(), nan);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t c = 0; c < hidden; ++c)
        local_host_[static_cast<std::size_t>(i * hidden + c)] = value(place.dp_rank, i, c);
    }
    for (std::size_t i = 0; i < ids_host_.size(); ++i)
      ids_host_[i] = static_cast<std::int64_t>(number * 1000 + i);
    global_host_.assign(global_host_.size(), 77.0F);
    output_host_.assign(output_host_.size(), 77.0F);
    load();

    // 2. Records, plan, and the graph of its bucket, or the same calls one by one.
    const auto agreed = dp_.agree(comm_, graph_record(dp_, comm_.rank(), n, number));
    must(agreed.status());
    const auto plan = dp_.plan(*agreed);
    must(plan.status());
    REQUIRE(plan->in_graph());
    std::int32_t bucket = 0;
    for (const std::int32_t size : dp_.rules().ladder().span()) {
      if (bucket == 0 && size >= plan->real.max()) bucket = size;
    }
    REQUIRE(plan->shared_bucket == bucket);
    must(dp_.refresh_counts(*plan, stream())); // padding reads the counts before the gather does
    must(eagerly ? step(*plan) : graphs_.launch(bucket, stream()));
    must(nccl_rank::mine().wait());
    return compare(*plan, counts, n);
  }

  std::int64_t compare(const dg::step_plan& plan, const std::vector<std::int32_t>& counts,
                       std::int32_t n) {
    const auto* const global = reinterpret_cast<const float*>(global_twin_.fetch());
    const auto* const output = reinterpret_cast<const float*>(output_twin_.fetch());
    const auto* const kept = reinterpret_cast<const float*>(kept_twin_.fetch());
    const auto* const ids = reinterpret_cast<const std::int64_t*>(ids_twin_.fetch());
    std::int64_t wrong = std::memcmp(local_twin_.fetch(), local_host_.data(),
                                     local_host_.size() * sizeof(float)) != 0;
    (void)shard_twin_.fetch();
    for (const device_twin* twin :
         {&global_twin_, &output_twin_, &kept_twin_, &ids_twin_, &local_twin_, &shard_twin_})
      wrong += !twin->intact();
    std::vector<float> expected(global_host_.size(), 77.0F);
    for (std::int64_t i = 0; i < plan.global_rows * hidden; ++i)
      expected[static_cast<std::size_t>(i)] = tail_;
    for (std::int32_t d = 0; d < plan.dp_size; ++d) {
      for (std::int64_t i = 0; i < counts[static_cast<std::size_t>(d)]; ++i) {
        for (std::int64_t c = 0; c < hidden; ++c)
          expected[static_cast<std::size_t>((plan.offset(d) + i) * hidden + c)] = value(d, i, c);
      }
    }
    for (std::size_t i = 0; i < expected.size(); ++i) wrong += !(global[i] == expected[i]);

    const std::int32_t own = comm_.topology().dp_rank;
    const std::int32_t padded = plan.padded[own];
    const auto factors = static_cast<float>(comm_.size() * (comm_.size() + 1) / 2);
    for (std::int32_t i = 0; i < requests; ++i) {
      for (std::int64_t c = 0; c < hidden; ++c) {
        const auto at = static_cast<std::size_t>(i * hidden + c);
        const float sum = i < n ? value(own, i, c) * factors : 77.0F;
        wrong += !(kept[at] == sum);
        wrong += !(output[at] == (i < n ? sum : i < padded ? tail_ : 77.0F));
      }
      wrong += ids[i] != (i >= n && i < padded ? -1 : ids_host_[static_cast<std::size_t>(i)]);
    }
    return wrong;
  }

  dg::host_communicator comm_;
  float tail_;
  dg::gather_config config_;
  std::vector<std::byte> workspace_image_;
  device_twin workspace_, local_twin_, ids_twin_, global_twin_, shard_twin_, output_twin_,
      kept_twin_;
  dg::DpGather<Policy> dp_;
  dg::graph_set graphs_; // gone before the communicators
  std::vector<float> local_host_, global_host_, output_host_;
  std::vector<std::int64_t> ids_host_;
  float *local_ = nullptr, *global_ = nullptr, *shard_ = nullptr, *output_ = nullptr,
        *kept_ = nullptr;
  std::int64_t* ids_ = nullptr;
  std::uint64_t step_number_ = 0;
};

/// One graph per bucket, each replayed for `replays` random splits, some of them eagerly between.
/// `tail`: what the policy puts into tails.
template <class Policy>
void replay_all_buckets(dg::topology world_shape, int replays, float tail) {
  dg::steady_wait_clock clock;
  dg::host_world world{world_shape, clock, 100'000'000'000};
  std::atomic<std::int64_t> wrong{0}, graphs{0};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    nccl_rank here{comm};
    {
      replaying_rank<Policy> rank{comm, tail};
      rank.capture();
      CHECK(here.world().graphs_alive() == 4);
      CHECK(here.owner().close().code == dg::errc::graphs_alive); // an error, not a hang
      for (const std::int32_t bucket : {20, 4, 12, 8})
        wrong += rank.replay(bucket, replays, seed());
      graphs += static_cast<std::int64_t>(rank.graphs().count());
    }
    // CUDA lets go of a graph's objects a little after its destruction.
    for (int i = 0; i < 2000 && here.world().graphs_alive() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    CHECK(here.world().graphs_alive() == 0);
  });
  CHECK(wrong == 0);
  CHECK(graphs == 4 * world_shape.world_size());
}

} // namespace test_support
