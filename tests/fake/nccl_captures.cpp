// What a capture is and is not: nothing has run, and what is recorded serves other counts.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"
#include "support/nccl_engine.hpp"
#include "support/step_records.hpp"

#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/policies.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

constexpr std::int64_t hidden = 4; // floats
constexpr std::int32_t most = 8;   // rows of a rank
constexpr float untouched = 77.0F;

struct checked_max : dg::rebind_comm<dg::max_always, dg::comm::nccl> {
  using checks_type = dg::checks::checked;
};
struct eager_sentinel : dg::policy<dg::mode::all_gather, dg::padding::max_len,
                                   dg::tail::sentinel<-3>, dg::comm::nccl> {};
struct summed : dg::rebind_comm<dg::sum_always, dg::comm::nccl> {};

/// One rank's channel and its tensors. The fake's device memory is read and written as it is.
template <class Policy>
class small_rank {
public:
  explicit small_rank(dg::host_communicator& comm)
      : config_{config_of(comm.topology())},
        image_(*dg::DpGather<Policy>::workspace_bytes(config_)),
        dp_{dg::nccl_communicator{ts::nccl_rank::mine().world()},
            config_,
            {workspace_.load(image_.data(), image_.size()), image_.size()}},
        me_{comm.rank()} {
    const std::vector<float> room(static_cast<std::size_t>(4 * most * hidden), untouched);
    const auto* const bytes = reinterpret_cast<const std::byte*>(room.data());
    local = reinterpret_cast<float*>(local_.load(bytes, room.size() * sizeof(float)));
    global = reinterpret_cast<float*>(global_.load(bytes, room.size() * sizeof(float)));
    output = reinterpret_cast<float*>(output_.load(bytes, room.size() * sizeof(float)));
  }

  dg::DpGather<Policy>& dp() { return dp_; }
  static cudaStream_t stream() { return ts::nccl_rank::mine().stream(); }

  /// The plan of all ranks' rows, without an exchange.
  dg::step_plan plan(const std::vector<std::int32_t>& rows) const {
    std::vector<dg::step_record> all;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      dg::step_record one = ts::graph_record(dp_, static_cast<std::int32_t>(r), rows[r]);
      one.last_plan = 0;
      all.push_back(one);
    }
    const auto made = dp_.plan(all);
    REQUIRE_MESSAGE(made.ok(), made.status().message().c_str());
    return *made;
  }
  static float value(std::int32_t rank, std::int64_t row, std::int64_t column) {
    return static_cast<float>(100 * rank + 10 * row + column + 1);
  }
  /// Real rows, NaN behind them; outputs as if never written.
  void prepare(std::int32_t rows) {
    for (std::int64_t i = 0; i < most * hidden; ++i)
      local[i] = i / hidden < rows ? value(me_, i / hidden, i % hidden)
                                   : std::numeric_limits<float>::quiet_NaN();
    std::fill_n(global, 4 * most * hidden, untouched);
    std::fill_n(output, 4 * most * hidden, untouched);
  }
  dg::status gather(const dg::step_plan& plan, std::int32_t view_rows) {
    return dp_
        .gather(dg::rows_of<dg::replicated>(static_cast<const float*>(local), view_rows, hidden),
                dg::rows_of<dg::replicated>(global, plan.global_rows, hidden), plan, stream())
        .status();
  }
  /// Every rank hands in what it gathered, so that the sum is the rows times the ranks.
  dg::status combine(const dg::step_plan& plan, std::int32_t view_rows) {
    return dp_.combine(
        dg::rows_of<dg::partial>(static_cast<const float*>(global), plan.global_rows, hidden),
        dg::rows_of<dg::replicated>(output, view_rows, hidden), plan, stream());
  }
  /// Wrong values after a step whose local views had `view_rows` rows.
  int wrong(const dg::step_plan& shape, const std::vector<std::int32_t>& rows,
            std::int32_t view_rows, float tail) const {
    int out = 0;
    std::int64_t offset = 0;
    std::vector<float> expected(static_cast<std::size_t>(shape.global_rows * hidden), tail);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const std::int64_t first = shape.layout == dg::layout_kind::slots
                                     ? static_cast<std::int64_t>(r) * shape.stride
                                     : offset;
      for (std::int64_t i = 0; i < rows[r] * hidden; ++i)
        expected[static_cast<std::size_t>(first * hidden + i)] =
            value(static_cast<std::int32_t>(r), i / hidden, i % hidden);
      offset += rows[r];
    }
    for (std::size_t i = 0; i < expected.size(); ++i) out += !(global[i] == expected[i]);
    const std::int32_t n = rows[static_cast<std::size_t>(me_)];
    for (std::int64_t i = 0; i < view_rows * hidden; ++i) {
      const float sum = value(me_, i / hidden, i % hidden) * static_cast<float>(rows.size());
      out += !(output[i] == (i / hidden < n ? sum : tail));
    }
    out += !(output[view_rows * hidden] == untouched);
    return out;
  }
  void wait() {
    const dg::status done = ts::nccl_rank::mine().wait();
    CHECK_MESSAGE(done.ok(), done.message().c_str());
  }

  float *local = nullptr, *global = nullptr, *output = nullptr;

private:
  static dg::gather_config config_of(const dg::topology& place) {
    dg::gather_config out;
    out.topology = place;
    out.element = dg::element::f32;
    out.row_bytes = hidden * sizeof(float);
    out.max_rows_per_rank = most + 4; // outside graphs only: the largest bucket has `most`
    for (const std::int32_t size : {4, 8}) out.ladder.append(size);
    return out;
  }

  dg::gather_config config_;
  std::vector<std::byte> image_;
  ts::device_twin workspace_, local_, global_, output_;
  dg::DpGather<Policy> dp_;
  std::int32_t me_;
};

/// `body(rank, comm)` as two ranks.
template <class Policy, class Body>
void as_two(Body body) {
  fake_cuda::reset(2);
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = 2}, clock, 100'000'000'000};
  dg::run_ranks(world, [&](dg::host_communicator comm) {
    ts::nccl_rank here{comm};
    small_rank<Policy> rank{comm};
    body(rank, comm);
  });
  CHECK(fake_cuda::mismatches().empty());
}

} // namespace

TEST_CASE("a capture executes nothing: a rank that captures more often has not gone ahead") {
  as_two<checked_max>([](auto& rank, dg::host_communicator& comm) {
    const dg::step_plan plan = rank.plan({3, 2});
    for (int i = 0; i < (comm.rank() == 1 ? 3 : 1); ++i) {
      dg::graph_set graphs;
      const dg::status captured =
          graphs.capture(rank.dp().rules().captured_sizes(), rank.stream(), [&](std::int32_t size) {
            return rank.gather(*rank.dp().capture_plan(size), most);
          });
      CHECK_MESSAGE(captured.ok(), captured.message().c_str());
    }
    // The next step's records, and its calls, are those of ranks that have done nothing yet.
    dg::step_record mine = rank.dp().record(1);
    mine.tokens = mine.requests = comm.rank() == 0 ? 3 : 2;
    mine.phase = dg::phase::decode;
    const auto agreed = rank.dp().agree(comm, mine);
    CHECK_MESSAGE(agreed.ok(), agreed.status().message().c_str());
    rank.prepare(comm.rank() == 0 ? 3 : 2);
    const dg::status gathered = rank.gather(plan, most);
    CHECK_MESSAGE(gathered.ok(), gathered.message().c_str());
    const dg::status combined = rank.combine(plan, most);
    CHECK_MESSAGE(combined.ok(), combined.message().c_str());
    rank.wait();
    CHECK(rank.wrong(plan, {3, 2}, most, 0.0F) == 0);
  });
}

TEST_CASE("an eager plan captured with full ranks: tails are filled when a replay has some") {
  as_two<eager_sentinel>([](auto& rank, dg::host_communicator& comm) {
    const dg::step_plan full = rank.plan({most, most});
    dg::bucket_list one;
    one.append(most);
    dg::graph_set graphs;
    const dg::status captured = graphs.capture(one, rank.stream(), [&](std::int32_t) {
      if (dg::status bad = rank.gather(full, most); !bad) return bad;
      return rank.combine(full, most);
    });
    REQUIRE_MESSAGE(captured.ok(), captured.message().c_str());
    for (const std::vector<std::int32_t>& rows :
         {std::vector<std::int32_t>{5, 3}, {0, 8}, {8, 8}, {1, 0}, {0, 0}}) {
      rank.prepare(rows[static_cast<std::size_t>(comm.rank())]);
      dg::step_plan counts = rank.plan(rows);
      CHECK(rank.dp().refresh_counts(counts, rank.stream()).ok());
      CHECK(graphs.launch(most, rank.stream()).ok());
      rank.wait();
      CHECK(rank.wrong(full, rows, most, -3.0F) == 0);
    }
    CHECK(comm.barrier().ok());
  });
}

TEST_CASE("buckets of the sum: local views must hold every replay, and then they do") {
  as_two<summed>([](auto& rank, dg::host_communicator& comm) {
    const auto& sizes = rank.dp().rules().captured_sizes();
    CHECK(sizes == rank.dp().rules().shared_ladder());
    dg::graph_set graphs;
    const auto step = [&](std::int32_t size, std::int32_t view_rows) {
      const auto plan = rank.dp().capture_plan(size);
      if (!plan) return plan.status();
      CHECK(plan->shared_bucket == size);
      if (dg::status bad = rank.gather(*plan, view_rows); !bad) return bad;
      return rank.combine(*plan, view_rows);
    };
    // Enough for the plan that is captured, too little for ranks that hold all of the sum.
    const dg::status refused = graphs.capture(sizes, rank.stream(), [&](std::int32_t size) {
      return step(size, size <= most ? (size + 1) / 2 : most);
    });
    CHECK(refused.code == dg::errc::capacity_exceeded);
    CHECK(refused.about == dg::subject::local);
    CHECK(graphs.count() == 0);

    const dg::status captured =
        graphs.capture(sizes, rank.stream(), [&](std::int32_t size) { return step(size, most); });
    REQUIRE_MESSAGE(captured.ok(), captured.message().c_str());
    for (const std::vector<std::int32_t>& rows :
         {std::vector<std::int32_t>{7, 1}, {1, 2}, {0, 4}, {8, 8}, {8, 0}, {0, 0}, {5, 6}}) {
      const dg::step_plan plan = rank.plan(rows);
      rank.prepare(rows[static_cast<std::size_t>(comm.rank())]);
      CHECK(rank.dp().refresh_counts(plan, rank.stream()).ok());
      CHECK(graphs.launch(plan.shared_bucket, rank.stream()).ok());
      rank.wait();
      CHECK(rank.wrong(plan, rows, most, 0.0F) == 0);
    }
    CHECK(comm.barrier().ok());
  });
}

TEST_CASE(
    "counts that did not reach the kernels end the world: the others replay without this rank") {
  as_two<summed>([](auto& rank, dg::host_communicator& comm) {
    const dg::step_plan plan = rank.plan({3, 2});
    if (comm.rank() == 1) {
      fake_cuda::fail_nth("enqueue", 1, cudaErrorLaunchOutOfResources, 1);
      const dg::status refreshed = rank.dp().refresh_counts(plan, rank.stream());
      CHECK(refreshed.code == dg::errc::native_error);
      CHECK(refreshed.native == cudaErrorLaunchOutOfResources);
      const dg::status next = rank.gather(plan, most);
      CHECK(next.code == dg::errc::poisoned);
      CHECK(next.cause == dg::errc::native_error);
    }
    CHECK(comm.barrier().ok());
    ts::nccl_rank::mine().world().abort();
  });
}

TEST_CASE("a deadline as far away as there is is not a deadline in the past") {
  as_two<summed>([](auto& rank, dg::host_communicator&) {
    CHECK(ts::nccl_rank::mine().world().wait(rank.stream(), INT64_MAX).ok());
  });
}

TEST_CASE("a body that throws in the middle of a capture leaves a usable stream and no graphs") {
  as_two<summed>([](auto& rank, dg::host_communicator& comm) {
    dg::graph_set graphs;
    CHECK_THROWS_AS((void)graphs.capture(rank.dp().rules().captured_sizes(), rank.stream(),
                                         [&](std::int32_t size) -> dg::status {
                                           if (size == 4) throw 4;
                                           return {};
                                         }),
                    int);
    const dg::step_plan plan = rank.plan({1, 2});
    rank.prepare(comm.rank() + 1);
    CHECK(rank.gather(plan, most).ok());
    CHECK(rank.combine(plan, most).ok());
    rank.wait();
    CHECK(rank.wrong(plan, {1, 2}, most, 0.0F) == 0);
  });
}
