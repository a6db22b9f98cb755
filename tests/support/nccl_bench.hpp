#pragma once

/// @file
/// A small world of one policy over NCCL on the fake, for tests about one call. Ranks keep what
/// they were answered; the test looks at it, and at their memory, when all threads have ended.
/// The fake's device memory is host memory, so it is read and written without copies.

#include "fake_cuda/executor.hpp"

#include "fake_cuda/as_ranks.hpp"

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/comm/host_world.hpp>
#include <dpgather/comm/nccl_communicator.cuh>
#include <dpgather/comm/nccl_owner.cuh>
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace test_support {

namespace dg = dpgather;

/// The ready-made policies on NCCL, one for each mode.
struct nccl_max : dg::rebind_comm<dg::max_always, dg::comm::nccl> {};
struct nccl_sum : dg::rebind_comm<dg::sum_always, dg::comm::nccl> {};
struct nccl_exact : dg::rebind_comm<dg::exact_eager, dg::comm::nccl> {};

/// A deadline for what does not fail.
inline constexpr std::int64_t patient_ns = 20'000'000'000;

enum class way : std::uint8_t { gather, combine };
[[nodiscard]] inline const char* name_of(way w) { return w == way::gather ? "gather" : "combine"; }

[[nodiscard]] inline std::string text_of(const dg::status& s) {
  return std::string{s.message().view()};
}
/// True when the text of a status has all parts.
[[nodiscard]] inline bool text_has(const dg::status& said,
                                   std::initializer_list<std::string> parts) {
  const std::string text = text_of(said);
  return std::all_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return text.find(part) != text.npos; });
}

/// False once the fake has forgotten calls.
[[nodiscard]] inline bool log_is_complete() {
  return fake_cuda::log().size() < fake_cuda::most_calls_logged;
}

/// Memory of the current device.
class device_bytes {
public:
  explicit device_bytes(std::size_t size) : size_{size} {
    void* out = nullptr;
    REQUIRE(cudaMalloc(&out, size) == cudaSuccess);
    data_ = static_cast<std::byte*>(out);
  }
  device_bytes(const device_bytes&) = delete;
  device_bytes& operator=(const device_bytes&) = delete;
  ~device_bytes() { CHECK(cudaFree(data_) == cudaSuccess); }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(data_); }
  [[nodiscard]] std::vector<std::byte> snapshot() const { return {data_, data_ + size_}; }
  [[nodiscard]] bool equals(const std::vector<std::byte>& other) const {
    return std::equal(other.begin(), other.end(), data_, data_ + size_);
  }

private:
  std::size_t size_;
  std::byte* data_ = nullptr;
};

/// Communicators as an engine makes them. Not warmed up: that moves megabytes, which on the fake
/// takes longer than a test.
class engine_comms {
public:
  engine_comms(dg::host_communicator& ranks, std::int64_t timeout_ns) {
    const dg::topology place = ranks.topology();
    std::vector<ncclUniqueId> ids(static_cast<std::size_t>(ranks.size()));
    ncclUniqueId id{};
    if (ranks.rank() == 0) REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    REQUIRE(ranks.all_gather(&id, ids.data(), sizeof id).ok());
    REQUIRE(ncclCommInitRank(&all_, ranks.size(), ids[0], ranks.rank()) == ncclSuccess);
    if (place.tp_size > 1)
      REQUIRE(ncclCommSplit(all_, place.dp_rank, place.tp_rank, &peers_, nullptr) == ncclSuccess);
    exchange_.emplace(all_, timeout_ns);
    world_.emplace(place, all_, peers_, &*exchange_);
    REQUIRE_MESSAGE(world_->check().ok(), text_of(world_->check()));
  }
  engine_comms(const engine_comms&) = delete;
  engine_comms& operator=(const engine_comms&) = delete;
  ~engine_comms() {
    if (world_->check().ok()) {
      if (peers_ != nullptr) CHECK(ncclCommDestroy(peers_) == ncclSuccess);
      CHECK(ncclCommDestroy(all_) == ncclSuccess);
    } else {
      world_->abort();
    }
  }
  [[nodiscard]] dg::nccl_world& world() { return *world_; }

private:
  ncclComm_t all_ = nullptr, peers_ = nullptr;
  std::optional<dg::nccl_bootstrap> exchange_;
  std::optional<dg::nccl_world> world_;
};

/// One rank: communicators, a stream, a channel, buffers, and its side of one call. All members but
/// the looks at results belong to its thread.
template <class Policy>
class bench_rank {
public:
  static constexpr std::int64_t hidden = 8; // floats
  static constexpr std::int32_t most_rows = 16;

  bench_rank(dg::host_communicator ranks, std::int64_t timeout_ns)
      : ranks_{ranks}, timeout_ns_{timeout_ns}, local_{most_rows * hidden * sizeof(float)} {
    REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess);
    config_.topology = ranks.topology();
    config_.element = dg::element::f32;
    config_.row_bytes = hidden * sizeof(float);
    config_.max_rows_per_rank = most_rows;
    for (const std::int32_t size : {4, 8, most_rows}) config_.ladder.append(size);
    const auto bytes = dg::DpGather<Policy>::workspace_bytes(config_);
    REQUIRE(bytes.ok());
    workspace_.emplace(*bytes);
    open();
    global_.emplace(dp_->rules().max_global_bytes());
  }
  bench_rank(const bench_rank&) = delete;
  bench_rank& operator=(const bench_rank&) = delete;
  ~bench_rank() {
    close();
    CHECK(cudaStreamDestroy(stream_) == cudaSuccess);
  }

  /// New communicators, the engine's or an `nccl_owner`'s, and a new channel on them.
  void open(bool owned = false) {
    if (owned) {
      owner_.emplace(ranks_, ranks_.topology(), timeout_ns_,
                     dg::executor<cudaStream_t>::warm_up_bytes);
      REQUIRE_MESSAGE(owner_->check().ok(), text_of(owner_->check()));
    } else {
      engine_.emplace(ranks_, timeout_ns_);
    }
    dp_ = std::make_unique<dg::DpGather<Policy>>(comm(), config_, workspace());
    REQUIRE_MESSAGE(dp_->check().ok(), text_of(dp_->check()));
  }
  void close() {
    dp_.reset();
    owner_.reset();
    engine_.reset();
  }

  [[nodiscard]] std::int32_t rank() const { return ranks_.rank(); }
  [[nodiscard]] dg::topology place() const { return ranks_.topology(); }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] dg::nccl_owner& owner() { return *owner_; }
  [[nodiscard]] dg::nccl_world& world() { return owner_ ? owner_->world() : engine_->world(); }
  [[nodiscard]] dg::nccl_communicator comm() { return dg::nccl_communicator{world()}; }
  [[nodiscard]] dg::DpGather<Policy>& dp() { return *dp_; }
  [[nodiscard]] const dg::gather_config& config() const { return config_; }
  [[nodiscard]] std::span<std::byte> workspace() const {
    return {workspace_->data(), workspace_->size()};
  }
  [[nodiscard]] device_bytes& local() { return local_; }
  [[nodiscard]] device_bytes& global() { return *global_; }

  /// The plan of a decode step in which data-parallel rank d holds `rows[d]` rows.
  [[nodiscard]] dg::step_plan plan_for(const std::vector<std::int32_t>& rows, std::uint64_t step,
                                       bool graph = false) const {
    std::vector<dg::step_record> records;
    for (std::int32_t r = 0; r < place().world_size(); ++r) {
      dg::step_record& out = records.emplace_back(dp_->record(step));
      out.world_rank = r;
      out.tokens = out.requests = rows[static_cast<std::size_t>(place().at(r).dp_rank)];
      out.phase = out.tokens == 0 ? dg::phase::idle : dg::phase::decode;
      out.votes = graph ? dg::step_record::graph_vote : std::uint8_t{0};
    }
    const auto planned = dp_->plan(records);
    REQUIRE_MESSAGE(planned.ok(), text_of(planned.status()));
    return *planned;
  }

  /// A correct call: inputs for it, NaN where nothing is real, and outputs that nobody has written.
  void prepare(way what, const dg::step_plan& step_plan) {
    kind = what;
    plan = step_plan;
    local_view = {local_.floats(), plan.real[place().dp_rank]};
    global_view = {global_->floats(), plan.global_rows};
    std::memset(local_.data(), 0xcd, local_.size());
    std::memset(global_->data(), 0xcd, global_->size());
    device_bytes& in = kind == way::gather ? local_ : *global_;
    std::fill_n(in.floats(), in.size() / sizeof(float), std::numeric_limits<float>::quiet_NaN());
    for (std::int32_t d = 0; d < plan.dp_size; ++d) {
      if (kind == way::gather && d != place().dp_rank) continue;
      float* const to = in.floats() + (kind == way::gather ? 0 : plan.offset(d) * hidden);
      const auto factor = static_cast<float>(kind == way::gather ? 1 : rank() + 1);
      for (std::int64_t i = 0; i < plan.real[d] * hidden; ++i) to[i] = factor * value(d, i);
    }
    local_before_ = local_.snapshot();
    global_before_ = global_->snapshot();
  }
  /// Enters what was prepared, with the views as they are now.
  dg::status enter(dg::DpGather<Policy>& channel) {
    const auto local = dg::rows_of<dg::replicated>(local_view.data, local_view.rows, hidden);
    const auto global = dg::rows_of<dg::replicated>(global_view.data, global_view.rows, hidden);
    if (kind == way::gather) return channel.gather(local, global, plan, stream_).status();
    const float* const addend = global_view.data;
    return channel.combine(dg::rows_of<dg::partial>(addend, global_view.rows, hidden), local, plan,
                           stream_);
  }
  void enter() { got = enter(*dp_); }
  void wait(std::int64_t timeout_ns = patient_ns) {
    // The fake itself ends a wait that lasts too long; polling would flood its log.
    if (timeout_ns >= patient_ns) CHECK(cudaStreamSynchronize(stream_) == cudaSuccess);
    waited = world().wait(stream_, timeout_ns);
  }

  /// Every real row of the output is right. `factor`: of the sum of a combine.
  [[nodiscard]] bool is_right() {
    const device_bytes& out = kind == way::gather ? *global_ : local_;
    const std::int32_t ranks = place().world_size();
    const auto factor = static_cast<float>(kind == way::gather ? 1 : ranks * (ranks + 1) / 2);
    for (std::int32_t d = 0; d < plan.dp_size; ++d) {
      if (kind == way::combine && d != place().dp_rank) continue;
      const float* const at = out.floats() + (kind == way::gather ? plan.offset(d) * hidden : 0);
      for (std::int64_t i = 0; i < plan.real[d] * hidden; ++i) {
        if (at[i] != factor * value(d, i)) return false;
      }
    }
    return input_is_unharmed();
  }
  [[nodiscard]] bool input_is_unharmed() {
    return kind == way::gather ? local_.equals(local_before_) : global_->equals(global_before_);
  }
  [[nodiscard]] bool nothing_was_written() {
    return local_.equals(local_before_) && global_->equals(global_before_);
  }

  struct view_numbers {
    float* data = nullptr;
    std::int64_t rows = 0;
  };
  way kind = way::gather;
  dg::step_plan plan;
  view_numbers local_view, global_view; ///< may be broken before `enter`
  dg::status got, waited;               ///< by the call, and by `wait`

private:
  /// Small integers: their sums are exact in any order.
  [[nodiscard]] float value(std::int32_t d, std::int64_t i) const {
    return static_cast<float>(
        (plan.step * 37 + static_cast<std::uint64_t>(d) * 101 + static_cast<std::uint64_t>(i) * 7) %
        509);
  }

  dg::host_communicator ranks_;
  std::int64_t timeout_ns_;
  dg::gather_config config_;
  cudaStream_t stream_ = nullptr;
  std::optional<device_bytes> workspace_;
  device_bytes local_;
  std::optional<device_bytes> global_;
  std::vector<std::byte> local_before_, global_before_;
  std::optional<dg::nccl_owner> owner_; // this, or the next
  std::optional<engine_comms> engine_;
  std::unique_ptr<dg::DpGather<Policy>> dp_; // gone before the communicators
};

/// All ranks of a world. Starts the fake over, with a device for each.
template <class Policy>
class nccl_bench {
public:
  using rank_type = bench_rank<Policy>;

  /// `timeout_ns`: of the exchange of records under `checks::checked`.
  explicit nccl_bench(dg::topology shape, std::int64_t timeout_ns = patient_ns)
      : world_{shape, clock_, patient_ns} {
    fake_cuda::reset(shape.world_size());
    ranks_.resize(static_cast<std::size_t>(shape.world_size()));
    fake_cuda::as_ranks(size(), [&](std::int32_t r) {
      ranks_[static_cast<std::size_t>(r)] =
          std::make_unique<rank_type>(dg::host_communicator{world_, r}, timeout_ns);
    });
  }
  nccl_bench(const nccl_bench&) = delete;
  nccl_bench& operator=(const nccl_bench&) = delete;
  ~nccl_bench() {
    fake_cuda::as_ranks(size(),
                        [&](std::int32_t r) { ranks_[static_cast<std::size_t>(r)].reset(); });
    fake_cuda::check_clean();
  }

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(ranks_.size()); }
  [[nodiscard]] rank_type& operator[](std::int32_t r) {
    return *ranks_[static_cast<std::size_t>(r)];
  }
  [[nodiscard]] auto begin() { return ranks_.begin(); }
  [[nodiscard]] auto end() { return ranks_.end(); }

  /// Runs `body(rank)` on a thread for each rank, to the end.
  template <class Body>
  void run(Body body) {
    fake_cuda::as_ranks(size(), [&](std::int32_t r) { body((*this)[r]); });
  }
  /// A correct call on every rank, of the next step.
  void prepare(way what, const std::vector<std::int32_t>& rows, bool graph = false) {
    ++step_;
    for (auto& each : ranks_) each->prepare(what, each->plan_for(rows, step_, graph));
  }
  void enter_and_wait(std::int64_t timeout_ns = patient_ns) {
    run([&](rank_type& r) {
      r.enter();
      r.wait(timeout_ns);
    });
  }
  /// The call of every rank was done, and is right.
  void check_done() {
    for (auto& each : ranks_) {
      CAPTURE(each->rank());
      CHECK_MESSAGE(each->got.ok(), text_of(each->got));
      CHECK_MESSAGE(each->waited.ok(), text_of(each->waited));
      CHECK(each->is_right());
    }
  }
  void check_works(way what, const std::vector<std::int32_t>& rows) {
    prepare(what, rows);
    enter_and_wait();
    check_done();
  }
  /// What still runs is ended, communicators and channels are new ones.
  void rebuild(bool owned = false) {
    run([owned](rank_type& r) {
      r.close();
      r.open(owned);
    });
    step_ = 0;
  }
  [[nodiscard]] std::uint64_t step() const { return step_; }

private:
  dg::steady_wait_clock clock_;
  dg::host_world world_;
  std::vector<std::unique_ptr<rank_type>> ranks_;
  std::uint64_t step_ = 0;
};

} // namespace test_support
