/// @file
/// The unit of the library's kernels: gather and combine of one rank. Compiled by nvcc, knows
/// nothing of PyTorch.

#include "library_words.cuh"
#include "unit.hpp"

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/peer_communicator.cuh>
#include <dpgather/comm/vmm_memory.cuh>
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>
#include <dpgather/throw.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

namespace dg = dpgather;

namespace {

using dp_torch::arena_rows, dp_torch::exchange, dp_torch::settings, dp_torch::step;
using dp_torch::config_of, dp_torch::element_of, dp_torch::narrow, dp_torch::on_device;

/// Only real rows, in graphs too; attention at the size of the own rows, the FFN at that of the
/// sum.
struct clean_rows : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {};
/// The same, with whatever was there before in the rows that are not real.
struct left_rows : clean_rows {
  using tail_type = dg::tail::leave;
};
/// Sums bf16: one combine kernel. Other elements are gathered only.
using peer = dg::basic_peer_communicator<dg::element::bf16>;

/// A combine may follow a combine.
constexpr dg::peer_options arena_options{.inputs = 2};

template <class Policy>
class channel_of final : public dp_torch::channel {
public:
  using gather_type = dg::DpGather<Policy, peer>;

  channel_of(const exchange& ranks, const settings& asked, std::span<std::byte> workspace)
      : device_{asked.device}, ranks_{ranks.rank, ranks.size, ranks.context, ranks.all_gather,
                                      ranks.barrier},
        config_{config_of(ranks, asked)}, here_{std::in_place, asked.device},
        memory_{ranks_, dg::value_or_throw(dg::peer_arena_bytes<Policy>(config_, arena_options))},
        world_{ranks_, config_.topology, checked(memory_).pointers(),
               dg::value_or_throw(dg::peer_limits_of<Policy>(config_, arena_options)),
               asked.timeout_ns},
        dp_{peer{checked(world_)}, config_, workspace} {
    dg::throw_if_failed(dp_.check());
    // Loads the kernel of `begin`, which must not happen while another rank's kernels wait.
    const dg::step_plan shape = plan_of_size(dp_.rules().captured_sizes().largest());
    dg::throw_if_failed(dp_.refresh_counts(shape, cudaStreamPerThread));
    dg::throw_if_failed(
        dg::cuda_status(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize"));
    dg::throw_if_failed(ranks_.barrier());
    here_.reset();
  }

  /// Kernels of this rank that use the arenas end by themselves.
  ~channel_of() override {
    try {
      here_.emplace(device_); // until the memory is gone; then the caller's device again
    } catch (const dg::error&) {
    }
    (void)cudaDeviceSynchronize();
  }

  step begin(std::int64_t rows, bool graph, cudaStream_t stream) override {
    const on_device here{device_};
    const dg::step_record mine = record_of(rank(), rows, graph);
    const dg::agreement agreed = dg::value_or_throw(dp_.agree(ranks_, mine));
    return started(dg::value_or_throw(dp_.plan(agreed)), stream);
  }
  step begin(const std::vector<std::int64_t>& rows, bool graph, cudaStream_t stream) override {
    const on_device here{device_};
    if (static_cast<std::int32_t>(rows.size()) != config_.topology.dp_size)
      throw dg::error{{.code = dg::errc::bad_group,
                       .about = dg::subject::world,
                       .rank = rank(),
                       .value = static_cast<std::int64_t>(rows.size()),
                       .limit = config_.topology.dp_size,
                       .where = "begin_step"}};
    records_.clear();
    for (std::size_t r = 0; r < rows.size(); ++r)
      records_.push_back(record_of(static_cast<std::int32_t>(r), rows[r], graph));
    return started(dg::value_or_throw(dp_.plan(records_)), stream);
  }

  arena_rows gather(const dp_torch::tensor& local, std::int64_t size,
                    cudaStream_t stream) override {
    const on_device here{device_};
    const dg::step_plan& plan = plan_for(size, stream);
    const auto rows = dg::value_or_throw(
        dp_.gather(rows_of<const std::byte, dg::replicated>(local, dg::subject::local, "gather"),
                   plan, stream));
    return {rows.data(), rows.rows()};
  }
  arena_rows combine_input(std::int64_t size, int which, cudaStream_t stream) override {
    const on_device here{device_};
    if (which < 0 || which >= arena_options.inputs)
      throw dg::error{{.code = dg::errc::count_out_of_range,
                       .about = dg::subject::config,
                       .rank = rank(),
                       .value = which,
                       .limit = arena_options.inputs - 1,
                       .value_name = "which",
                       .where = "combine_input"}};
    const auto rows = dp_.combine_input(plan_for(size, stream), which);
    return {rows.data(), rows.rows()};
  }
  void combine(const dp_torch::tensor& addends, const dp_torch::tensor& out, std::int64_t size,
               cudaStream_t stream) override {
    const on_device here{device_};
    const dg::step_plan& plan = plan_for(size, stream);
    dg::throw_if_failed(dp_.combine(
        rows_of<const std::byte, dg::partial>(addends, dg::subject::global, "combine"),
        rows_of<std::byte, dg::replicated>(out, dg::subject::local, "combine"), plan, stream));
  }

  [[nodiscard]] dp_torch::live_counts counts() const override {
    // The library's own kernels write them; the engine's read them.
    auto* const live = const_cast<dg::count_set*>(dp_.live_counts());
    return {live->rows, live->offset, &live->total};
  }
  [[nodiscard]] std::vector<std::int64_t> sizes() const override {
    const std::span<const std::int32_t> all = dp_.rules().captured_sizes().span();
    return {all.begin(), all.end()};
  }
  void check() override {
    dg::throw_if_failed(world_.check());
    dg::throw_if_failed(dp_.check());
  }
  void wait(cudaStream_t stream, std::int64_t timeout_ns) override {
    const on_device here{device_};
    dg::throw_if_failed(world_.wait(stream, timeout_ns));
  }
  void set_timeout(std::int64_t timeout_ns) override { world_.set_timeout(timeout_ns); }
  void close() override {
    const on_device here{device_};
    dg::throw_if_failed(dg::cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
    // Graphs let go a moment after they are destroyed.
    for (int i = 0; i < 1000 && world_.graphs_alive() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    const dg::status closed = world_.close();
    const dg::status met = ranks_.barrier();
    dg::throw_if_failed(closed);
    dg::throw_if_failed(met);
  }

private:
  template <class Part>
  static Part& checked(Part& part) {
    dg::throw_if_failed(part.check());
    return part;
  }
  [[nodiscard]] std::int32_t rank() const { return config_.topology.dp_rank; }

  [[nodiscard]] dg::step_record record_of(std::int32_t rank, std::int64_t rows, bool graph) {
    dg::step_record out = dp_.record(steps_ + 1);
    out.world_rank = rank;
    out.tokens = out.logits_tokens = out.requests = narrow(rows);
    out.phase = rows == 0 ? dg::phase::idle : dg::phase::decode;
    out.votes = graph ? dg::step_record::graph_vote : std::uint8_t{0};
    return out;
  }
  step started(const dg::step_plan& plan, cudaStream_t stream) {
    dg::throw_if_failed(dp_.refresh_counts(plan, stream));
    ++steps_;
    plan_ = plan;
    has_plan_ = true;
    return {plan.in_graph(),     plan.total_rows,    plan.global_rows,
            plan.offset(rank()), plan.shared_bucket, plan.own_bucket(rank())};
  }

  [[nodiscard]] dg::step_plan plan_of_size(std::int64_t size) {
    return dg::value_or_throw(dp_.capture_plan(narrow(size)));
  }
  /// The shape of a call: of a captured size under capture, of the step otherwise.
  const dg::step_plan& plan_for(std::int64_t size, cudaStream_t stream) {
    if (dg::value_or_throw(dg::is_capturing(stream))) {
      if (size == 0) size = dp_.rules().captured_sizes().largest();
      if (shape_.shared_bucket != size) shape_ = plan_of_size(size);
      return shape_;
    }
    if (!has_plan_)
      throw std::runtime_error{"DpGather: call begin_step before the first gather or combine"};
    return plan_;
  }

  /// What PyTorch hands over, as the library's view, unless the library would take it for something
  /// else.
  template <class Byte, class State>
  [[nodiscard]] dg::token_rows<State, Byte> rows_of(const dp_torch::tensor& from, dg::subject about,
                                                    const char* where) const {
    const auto refuse = [&](dg::errc code, std::int64_t value, std::int64_t limit,
                            const char* name) {
      throw dg::error{{.code = code,
                       .about = about,
                       .rank = rank(),
                       .value = value,
                       .limit = limit,
                       .value_name = name,
                       .where = where}};
    };
    if (from.device != device_)
      refuse(dg::errc::wrong_memory, from.device, device_,
             from.device < 0 ? "host memory" : "memory of device");
    const dg::element type = element_of(from.type, where);
    if (type != config_.element)
      refuse(dg::errc::unsupported_type, static_cast<std::int64_t>(type),
             static_cast<std::int64_t>(config_.element), dg::name_of(type));
    const auto bytes = static_cast<std::int64_t>(dg::size_of(type));
    const auto hidden = static_cast<std::int64_t>(config_.row_bytes) / bytes;
    if (from.dimensions != 2) refuse(dg::errc::shape_mismatch, from.dimensions, 2, "dimensions");
    if (from.columns != hidden) refuse(dg::errc::shape_mismatch, from.columns, hidden, "columns");
    if (from.column_stride != 1)
      refuse(dg::errc::shape_mismatch, from.column_stride, 1, "column stride");
    if (from.rows > 1 && from.row_stride < hidden)
      refuse(dg::errc::shape_mismatch, from.row_stride, hidden, "row stride");
    const std::int64_t stride = from.rows > 1 ? from.row_stride : hidden;
    return {static_cast<Byte*>(from.data), from.rows, type, config_.row_bytes,
            static_cast<std::size_t>(stride * bytes)};
  }

  int device_;
  dg::callback_bootstrap ranks_;
  dg::gather_config config_;
  std::optional<on_device> here_; // while the members below are made
  // Ends in this order: what is borrowed goes last.
  dg::vmm_memory memory_;
  dg::peer_world world_;
  gather_type dp_;
  std::vector<dg::step_record> records_;
  std::uint64_t steps_ = 0;
  dg::step_plan plan_;  // of the current step
  dg::step_plan shape_; // of the captured size that was asked for last
  bool has_plan_ = false;
};

} // namespace

namespace dp_torch {

std::size_t channel::workspace_bytes(const exchange& ranks, const settings& asked) {
  return dg::value_or_throw(
      dg::DpGather<clean_rows, peer>::workspace_bytes(config_of(ranks, asked)));
}

std::unique_ptr<channel> channel::make(const exchange& ranks, const settings& asked,
                                       void* workspace, std::size_t bytes) {
  const std::span<std::byte> lent{static_cast<std::byte*>(workspace), bytes};
  if (asked.clean_tails) return std::make_unique<channel_of<clean_rows>>(ranks, asked, lent);
  return std::make_unique<channel_of<left_rows>>(ranks, asked, lent);
}

} // namespace dp_torch
