#pragma once

/// @file
/// What a step costs the host besides the forward: pad, plan, refresh, replay, trim.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/statistics.hpp"

#include <dpgather/dpgather.cuh>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

namespace dg = dpgather;

struct host_policy : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {
  using ladder_type = dg::ladder::sglang<256>;
};

/// Medians, microseconds. The replayed step gathers and combines, once.
struct host_times {
  static constexpr std::array<const char*, 6> names{"plan",   "refresh", "pad",
                                                    "replay", "trim",    "all"};
  std::array<double, 6> us{};
  std::array<double, 6> p99_us{};
};

/// One rank's channel, batch and graphs.
class host_step {
public:
  using peer = dg::basic_peer_communicator<dg::element::bf16>;
  static constexpr std::int32_t rows = 256;

  host_step(dg::host_communicator ranks, std::int32_t hidden)
      : ranks_{ranks}, config_{config_of(ranks.topology(), hidden)},
        memory_{ranks, must(dg::peer_arena_bytes<host_policy>(config_), "arena")},
        world_{ranks, ranks.topology(), memory_.pointers(),
               must(dg::peer_limits_of<host_policy>(config_), "limits")},
        workspace_{must(dg::DpGather<host_policy, peer>::workspace_bytes(config_), "workspace")},
        dp_{peer{world_}, config_, workspace_.span()}, local_{rows * config_.row_bytes},
        output_{rows * config_.row_bytes}, ids_{rows * 8}, positions_{rows * 8}, lengths_{rows * 4},
        locations_{rows * 8}, logits_{rows * 4}, saved_{1 << 16} {
    must(memory_.check(), "memory");
    must(world_.check(), "world");
    must(dp_.check(), "DpGather");
    must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  host_step(const host_step&) = delete;
  host_step& operator=(const host_step&) = delete;
  ~host_step() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }

  // What step_graphs asks for: one layer; the batch's rows may be padded and cut in the graph.
  [[nodiscard]] static std::int32_t layers() { return 1; }
  [[nodiscard]] dg::status local(std::int32_t, std::int32_t own, cudaStream_t stream) {
    if (!pads_inside_) return {};
    auto padded =
        batch_->pad(dg::batch_step::decode({.padded = own, .live = dp_.live_rows()}), stream);
    if (!padded) return padded.status();
    (void)(padded_ = *std::move(padded));
    return {};
  }
  [[nodiscard]] dg::status shared(std::int32_t, std::int32_t size, cudaStream_t stream) {
    const auto plan = must(dp_.capture_plan(size), "capture plan");
    const dg::const_token_rows<dg::replicated> from{local_.data(), rows, config_.element,
                                                    config_.row_bytes};
    const dg::token_rows<dg::replicated> to{output_.data(), rows, config_.element,
                                            config_.row_bytes};
    const auto gathered = dp_.gather(from, plan, stream);
    if (!gathered) return gathered.status();
    return dp_.combine(dp_.combine_input(plan), to, plan, stream);
  }
  [[nodiscard]] dg::status finish(std::int32_t, cudaStream_t) {
    return pads_inside_ ? padded_.finish() : dg::status{};
  }

  /// Collective; counts are drawn anew in every step, alike on all ranks. `inside`: padding and
  /// trimming are nodes of the graph, by counts in device memory.
  [[nodiscard]] host_times measure(std::int32_t steps, bool inside) {
    std::int64_t token_rows = rows, logits_rows = 0, sum = 0;
    const auto entry = [](dg::batch_tensor tensor, const device_memory& data, dg::element type) {
      return dg::batch_entry{.tensor = tensor, .data = data.data(), .type = type, .capacity = rows};
    };
    dg::batch_entry tensors[] = {
        entry(dg::batch_tensor::input_ids, ids_, dg::element::i64),
        entry(dg::batch_tensor::positions, positions_, dg::element::i64),
        entry(dg::batch_tensor::sequence_lengths, lengths_, dg::element::i32),
        entry(dg::batch_tensor::out_cache_locations, locations_, dg::element::i64),
    };
    dg::batch_result results[] = {
        {.data = logits_.data(), .type = dg::element::f32, .capacity = rows}};
    dg::batch_declaration declaration{.tensors = tensors, .results = results};
    if (!inside) { // the host's numbers; in a graph nobody would set them
      tensors[0].rows = &token_rows;
      results[0].rows = &logits_rows;
      declaration.sequence_sum = &sum;
    }
    dg::batch<cudaStream_t> batch{declaration, saved_.span()};
    must(batch.check(), "batch");
    batch_ = &batch;
    pads_inside_ = inside;
    dg::step_graphs<dg::graph_way::pairs> graphs{dg::graph_ladders::of(dp_.rules())};

    std::vector<dg::step_record> records(static_cast<std::size_t>(ranks_.size()));
    std::array<std::vector<double>, 6> all;
    must(ranks_.barrier(), "barrier");
    for (std::int32_t i = 0; i < steps + warm_up; ++i) {
      const std::int32_t number = i < warm_up ? i : i - warm_up;
      for (std::int32_t r = 0; r < ranks_.size(); ++r) {
        dg::step_record& record = records[static_cast<std::size_t>(r)];
        record = dp_.record(static_cast<std::uint64_t>(i) + 1);
        record.world_rank = r;
        record.tokens = record.logits_tokens = record.requests = 1 + (number * 37 + r * 101) % rows;
        record.phase = dg::phase::decode;
        record.votes = dg::step_record::graph_vote;
      }
      const std::int32_t mine = records[static_cast<std::size_t>(ranks_.rank())].tokens;
      token_rows = mine;
      using clock = std::chrono::steady_clock;
      std::array<clock::time_point, 6> at{};
      at[0] = clock::now();
      const auto plan = must(dp_.plan(records), "plan");
      at[1] = clock::now();
      must(dp_.refresh_counts(plan, stream_), "refresh");
      at[2] = clock::now();
      const auto sizes = dg::graph_sizes::of(plan, ranks_.rank());
      dg::padded_batch<cudaStream_t> padded;
      if (!inside)
        (void)(padded = must(
                   batch.pad(dg::batch_step::decode({.real = mine, .padded = sizes.own}), stream_),
                   "pad"));
      at[3] = clock::now();
      must(graphs.launch(sizes, *this, stream_), "launch");
      at[4] = clock::now();
      must(padded.finish(), "trim");
      at[5] = clock::now();
      // Never so far ahead that a launch would wait for the GPU.
      if (i % 8 == 7) must(world_.wait(stream_, 30'000'000'000), "wait");
      if (i < warm_up) continue; // all pairs are captured then
      const auto us = [](auto from, auto to) {
        return std::chrono::duration<double, std::micro>(to - from).count();
      };
      for (std::size_t part = 0; part < 5; ++part) all[part].push_back(us(at[part], at[part + 1]));
      all[5].push_back(us(at[0], at[5]));
    }
    must(world_.wait(stream_, 30'000'000'000), "wait");
    must(ranks_.barrier(), "barrier");
    host_times out;
    for (std::size_t part = 0; part < all.size(); ++part) {
      std::sort(all[part].begin(), all[part].end());
      out.us[part] = all[part][all[part].size() / 2];
      out.p99_us[part] = all[part][all[part].size() * 99 / 100];
    }
    return out;
  }

private:
  /// Counts come again after so many steps.
  static constexpr std::int32_t warm_up = rows;

  static dg::gather_config config_of(const dg::topology& place, std::int32_t hidden) {
    dg::gather_config out;
    out.topology = place;
    out.row_bytes = static_cast<std::size_t>(hidden) * 2;
    out.max_rows_per_rank = rows;
    return out;
  }

  dg::host_communicator ranks_;
  dg::gather_config config_;
  dg::peer_access_memory memory_;
  dg::peer_world world_;
  device_memory workspace_;
  dg::DpGather<host_policy, peer> dp_;
  device_memory local_, output_, ids_, positions_, lengths_, locations_, logits_, saved_;
  cudaStream_t stream_ = nullptr;
  dg::batch<cudaStream_t>* batch_ = nullptr; // of the measurement under way
  dg::padded_batch<cudaStream_t> padded_;    // of the capture under way
  bool pads_inside_ = false;
};

} // namespace bench
