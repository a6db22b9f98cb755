/// @file
/// Tutorial 5: one captured graph per bucket, replayed over a request trace. Needs a GPU.
///
/// Launching a decode step kernel by kernel can take longer than its kernels do. So engines capture
/// it once for each of a ladder of sizes and replay the smallest that fits; PR #8278 picks that by
/// the longest rank and all-gathers slots of its size. A capture freezes shapes. Counts it must not
/// freeze: kernels read them as they run, from `live_counts()`, and `refresh_counts` renews them
/// there before each replay.
///
/// A thread and its GPU are a rank. `graph_rank` is the tutorial; see `05_graphs --help`.

#include "serve/cuda_resources.cuh"
#include "serve/decode_buffers.cuh"
#include "serve/decode_check.hpp"
#include "serve/device_model.hpp"
#include "serve/graph_options.hpp"
#include "serve/graph_run.cuh"
#include "serve/nccl_link.cuh"
#include "serve/scheduler.hpp"

#include <dpgather/dpgather.cuh>
#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace dg = dpgather;

namespace {

using serve::hidden;

/// PR #8278 on another communicator. Zero tails are the default, and what the checks rely on.
struct decode_policy : dg::pr8278 {
  using comm_type = dg::comm::nccl;
  using tail_type = dg::tail::zero;
};

/// "Attention": a token becomes a row, one thread per element. `real` points to a count that is
/// another one at every replay; rows from there on become NaN, which must reach no real row.
__global__ void embed_rows(const std::int32_t* tokens, const std::int32_t* positions,
                           const std::int32_t* real, std::int32_t rows, float* out) {
  const auto i = static_cast<std::int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const std::int32_t row = i / hidden;
  if (row >= rows) return;
  out[i] =
      row < *real ? serve::embed(tokens[row], positions[row], i % hidden) : serve::pad_row_value;
}

/// This rank's addend of the FFN of all ranks' rows, one thread per row.
__global__ void ffn_rows(serve::ffn_slice slice, const float* in, std::int64_t rows, float* out) {
  const auto row = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < rows) serve::ffn_row(slice, in + row * hidden, out + row * hidden);
}

/// One rank: members end in the order that NCCL and CUDA demand, from the last to the first, also
/// when an exception ends them.
class graph_rank {
public:
  graph_rank(const dg::host_communicator& ranks, const dg::gather_config& config)
      : ranks_{serve::on_own_gpu(ranks)}, me_{config.topology.dp_rank},
        rules_{dg::value_or_throw(dg::planner<decode_policy>::make(config))},
        buffers_{{.rows = rules_.max_padded_rows(),
                  .global_rows = rules_.max_global_rows(),
                  .rank = me_,
                  .ranks = ranks_.size(),
                  .workspace_bytes =
                      dg::value_or_throw(dg::DpGather<decode_policy>::workspace_bytes(config))}},
        link_{ranks_}, dp_{link_.communicator(), config, buffers_.workspace.span()} {
    dg::throw_if_failed(dp_.check());
  }

  // 1. The step, enqueued: pad, attention, gather, FFN, combine, trim. No real count is looked at
  // here, only where it will be; all ranks enqueue the same shapes.
  [[nodiscard]] dg::status enqueue(const dg::step_plan& plan) noexcept {
    const cudaStream_t stream = link_.stream();
    const std::int32_t rows = plan.shared_bucket; // in decode a request is a row
    // Pointer arithmetic only: this is device memory.
    const std::int32_t* const real = &dp_.live_counts()->rows[me_];
    const dg::unit_counts units{
        .padded = rows,
        .capacity = static_cast<std::int32_t>(buffers_.tokens.size()),
        .live = real,
    };
    const dg::pad_tensor batch[] = {dg::pad_vector(buffers_.tokens.data(), units),
                                    dg::pad_vector(buffers_.positions.data(), units)};
    if (dg::status bad = dg::pad(batch, stream); !bad) return bad;

    const auto local = dg::rows_of<dg::replicated>(buffers_.local.data(), rows, hidden);
    if (dg::status bad =
            serve::launch(embed_rows, std::int64_t{rows} * hidden, stream, buffers_.tokens.data(),
                          buffers_.positions.data(), real, rows, buffers_.local.data());
        !bad)
      return bad;
    const auto gathered = dp_.gather(
        local,
        dg::rows_of<dg::replicated>(buffers_.global.data(), rules_.max_global_rows(), hidden), plan,
        stream);
    if (!gathered) return gathered.status();

    if (dg::status bad =
            serve::launch(ffn_rows, plan.global_rows, stream, buffers_.slice,
                          buffers_.global.data(), plan.global_rows, buffers_.shard.data());
        !bad)
      return bad;
    const auto sums = dg::rows_of<dg::partial>(buffers_.shard.data(), plan.global_rows, hidden);
    const auto output = dg::rows_of<dg::replicated>(buffers_.output.data(), rows, hidden);
    if (dg::status bad = dp_.combine(sums, output, plan, stream); !bad) return bad;

    const dg::trim_tensor back[] = {
        dg::trim_rows(buffers_.output.data(), hidden, buffers_.trimmed.span(), units)};
    return dg::trim(back, stream);
  }

  // 2. Once: captured for every size of the ladder. It runs as it is before that, because CUDA
  // loads a kernel and NCCL connects its peers when they are first used.
  [[nodiscard]] dg::status capture() noexcept {
    const cudaStream_t stream = link_.stream();
    if (dg::status bad = buffers_.upload_weights(stream); !bad) return bad;
    const auto largest = dp_.capture_plan(ladder().largest());
    if (!largest) return largest.status();
    // NCCL connects without a deadline: nobody begins before all ranks have come this far.
    if (dg::status bad = ranks_.barrier(); !bad) return bad;
    if (dg::status bad = dp_.refresh_counts(*largest, stream); !bad) return bad;
    if (dg::status bad = enqueue(*largest); !bad) return bad;
    if (dg::status bad = buffers_.poison(stream); !bad) return bad;
    if (dg::status bad = link_.wait(); !bad) return bad;

    return graphs_.capture(ladder(), stream, [&](std::int32_t size) noexcept {
      const auto plan = dp_.capture_plan(size);
      return plan ? enqueue(*plan) : plan.status();
    });
  }

  // 3. Every step: the host agrees and plans, counts and inputs go to the GPU, one launch runs all
  // of it. `no_bucket`, on all ranks alike, for a step that no captured size holds.
  [[nodiscard]] dg::result<dg::step_plan> run(const serve::rank_step& mine,
                                              std::uint64_t number) noexcept {
    const cudaStream_t stream = link_.stream();
    const auto agreed = dp_.agree(ranks_, record(number, me_, mine.tokens));
    if (!agreed) return agreed.status();
    const auto plan = dp_.plan(*agreed);
    if (!plan) return plan;
    if (dg::status bad = dp_.refresh_counts(*plan, stream); !bad) return bad;
    if (dg::status bad = buffers_.upload_inputs(mine, plan->shared_bucket, stream); !bad)
      return bad;
    if (dg::status bad = graphs_.launch(plan->shared_bucket, stream); !bad) return bad;
    // An engine would go on and read the results later. Whoever waits, waits with a deadline.
    if (dg::status bad = link_.wait(); !bad) return bad;
    return plan;
  }

  // 4. What the replay left, to be compared with the scalar reference.
  [[nodiscard]] dg::result<serve::decode_outcome> fetch(const dg::step_plan& plan) noexcept {
    const cudaStream_t stream = link_.stream();
    if (dg::status bad = buffers_.download(plan.shared_bucket, stream); !bad) return bad;
    if (dg::status bad = buffers_.poison(stream); !bad) return bad;
    if (dg::status bad = link_.wait(); !bad) return bad;
    return buffers_.outcome(plan.shared_bucket);
  }

  // 5. Once: graphs go before the communicators whose calls they hold.
  [[nodiscard]] dg::status close() noexcept {
    graphs_.clear();
    return link_.close();
  }

  [[nodiscard]] const dg::bucket_list& ladder() const noexcept { return rules_.ladder(); }
  [[nodiscard]] const serve::decode_buffers& buffers() const noexcept { return buffers_; }
  [[nodiscard]] dg::graph_set& graphs() noexcept { return graphs_; }

private:
  [[nodiscard]] dg::step_record record(std::uint64_t step, std::int32_t rank,
                                       std::int32_t rows) const noexcept {
    dg::step_record out = dp_.record(step);
    out.world_rank = rank;
    out.tokens = out.logits_tokens = out.requests = rows;
    out.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
    out.votes = dg::step_record::graph_vote;
    return out;
  }
  /// The shapes of the bucket `size`: the plan of a step in which every rank has that many rows.

  dg::host_communicator ranks_; // agrees on the host, and brings NCCL's ranks together
  std::int32_t me_;
  dg::planner<decode_policy> rules_;
  serve::decode_buffers buffers_;
  serve::nccl_link link_;
  dg::DpGather<decode_policy> dp_;
  dg::graph_set graphs_;
};

} // namespace

int main(int argc, char** argv) {
  try {
    const serve::graph_options asked = serve::parse_graph_options(argc, argv);
    int gpus = 0;
    if (const dg::status bad = dg::cuda_status(cudaGetDeviceCount(&gpus), "cudaGetDeviceCount");
        !bad || gpus == 0) {
      std::printf("skipped: no GPU (%s)\n", bad ? "none is visible" : bad.message().c_str());
      return 77;
    }
    if (asked.ranks > gpus)
      throw serve::usage_error{"--ranks " + std::to_string(asked.ranks) + " needs as many GPUs, " +
                               std::to_string(gpus) + " are visible: NCCL has no two ranks on one"};
    const std::int32_t ranks = asked.ranks == 0 ? std::min(gpus, serve::most_ranks) : asked.ranks;
    return serve::run_in_graphs<graph_rank>(asked, ranks) ? 0 : 1;
  } catch (const serve::usage_error& error) {
    std::fprintf(stderr, "05_graphs: %s\n(see 05_graphs --help)\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "05_graphs: %s\n", error.what());
    return 2;
  }
}
