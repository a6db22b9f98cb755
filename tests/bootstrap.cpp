#include <dpgather/bootstrap.hpp>

#include <dpgather/agreement.hpp>
#include <dpgather/comm/host_communicator.hpp>

#include <doctest/doctest.h>

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

namespace dg = dpgather;
using dg::errc;

static_assert(dg::bootstrap<dg::callback_bootstrap>);
static_assert(dg::bootstrap<dg::host_communicator>);
static_assert(!dg::bootstrap<int>);

namespace {

/// What an engine has: memory that all ranks see, and a way to wait for each other.
class shared_exchange {
public:
  explicit shared_exchange(std::size_t ranks) : ranks_{ranks} {}

  void wait() {
    std::unique_lock lock{mutex_};
    const std::uint64_t mine = round_;
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round_ != mine; });
    }
  }
  void gather(std::size_t rank, const void* mine, void* all, std::size_t bytes) {
    {
      const std::lock_guard lock{mutex_};
      memory_.resize(ranks_ * bytes);
    }
    wait();
    std::memcpy(memory_.data() + rank * bytes, mine, bytes);
    wait();
    std::memcpy(all, memory_.data(), ranks_ * bytes);
    wait();
  }

private:
  std::size_t ranks_;
  std::size_t arrived_ = 0;
  std::uint64_t round_ = 0;
  std::vector<std::byte> memory_;
  std::mutex mutex_;
  std::condition_variable all_;
};

/// One rank's side of it, as the callbacks get it.
struct rank_context {
  shared_exchange* exchange;
  std::size_t rank;
  int answer = 0; // of both callbacks
  int gathers = 0;
  int barriers = 0;
  std::size_t last_bytes = 0;
};

int gather_call(void* context, const void* mine, void* all, std::size_t bytes) {
  auto& self = *static_cast<rank_context*>(context);
  ++self.gathers;
  self.last_bytes = bytes;
  if (self.exchange != nullptr) self.exchange->gather(self.rank, mine, all, bytes);
  return self.answer;
}
int barrier_call(void* context) {
  auto& self = *static_cast<rank_context*>(context);
  ++self.barriers;
  if (self.exchange != nullptr) self.exchange->wait();
  return self.answer;
}

void run(std::size_t ranks, const std::function<void(std::size_t)>& body) {
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

} // namespace

TEST_CASE("records go through the engine's exchange, in world-rank order, and merge alike") {
  constexpr std::size_t ranks = 4;
  const dg::topology world{.dp_size = 2, .tp_size = 2};
  shared_exchange exchange{ranks};
  std::array<dg::result<dg::agreement>, ranks> merged{dg::status{}, dg::status{}, dg::status{},
                                                      dg::status{}};
  std::array<dg::status, ranks> exchanged{};
  std::array<rank_context, ranks> contexts{};
  run(ranks, [&](std::size_t rank) {
    contexts[rank] = {.exchange = &exchange, .rank = rank};
    dg::callback_bootstrap bootstrap{static_cast<std::int32_t>(rank),
                                     static_cast<std::int32_t>(ranks), &contexts[rank], gather_call,
                                     barrier_call};
    dg::step_record mine;
    mine.step = 7;
    mine.world_rank = bootstrap.rank();
    mine.tokens = mine.requests = rank < 2 ? 5 : 0; // both peers of a rank hold the same
    mine.phase = mine.tokens == 0 ? dg::phase::idle : dg::phase::decode;
    mine.votes = dg::step_record::graph_vote;
    std::vector<dg::step_record> all(ranks);
    exchanged[rank] = dg::exchange_records(bootstrap, mine, all);
    if (exchanged[rank].ok()) exchanged[rank] = bootstrap.barrier();
    merged[rank] = dg::merge(all, world);
  });
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    CAPTURE(rank);
    CHECK(exchanged[rank].ok());
    CHECK(contexts[rank].gathers == 1);
    CHECK(contexts[rank].barriers == 1);
    CHECK(contexts[rank].last_bytes == 64); // constant-size
    REQUIRE(merged[rank].ok());
    CHECK(merged[rank]->step == 7);
    CHECK(merged[rank]->tokens[0] == 5);
    CHECK(merged[rank]->tokens[1] == 0);
    CHECK(merged[rank]->can_run_graph);
    CHECK(merged[rank]->any_idle);
    CHECK(*merged[rank] == *merged[0]);
  }
}

TEST_CASE("a world of one exchanges too") {
  shared_exchange exchange{1};
  rank_context context{.exchange = &exchange, .rank = 0};
  dg::callback_bootstrap bootstrap{0, 1, &context, gather_call, barrier_call};
  dg::step_record mine;
  mine.tokens = 3;
  std::vector<dg::step_record> all(1);
  REQUIRE(dg::exchange_records(bootstrap, mine, all).ok());
  CHECK(context.gathers == 1);
  CHECK(all[0] == mine);
}

TEST_CASE("a rank that cannot run the step takes part and says so") {
  constexpr std::size_t ranks = 3;
  shared_exchange exchange{ranks};
  std::array<rank_context, ranks> contexts{};
  std::array<dg::status, ranks> verdict{};
  run(ranks, [&](std::size_t rank) {
    contexts[rank] = {.exchange = &exchange, .rank = rank};
    dg::callback_bootstrap bootstrap{static_cast<std::int32_t>(rank),
                                     static_cast<std::int32_t>(ranks), &contexts[rank], gather_call,
                                     barrier_call};
    dg::step_record mine;
    mine.step = 2;
    mine.world_rank = bootstrap.rank();
    if (rank == 1) mine.cannot_run = static_cast<std::int32_t>(errc::graph_missing);
    std::vector<dg::step_record> all(ranks);
    verdict[rank] = dg::exchange_records(bootstrap, mine, all);
    if (verdict[rank].ok()) verdict[rank] = dg::merge(all, {.dp_size = 3}).status();
  });
  for (const dg::status& said : verdict) {
    CHECK(said.code == errc::rank_cannot_run);
    CHECK(said.cause == errc::graph_missing);
    CHECK(said.rank == 1);
    CHECK(said.message().view() == verdict[0].message().view());
  }
}

TEST_CASE("a callback that fails is a native error with its code, rank and place") {
  rank_context context{.exchange = nullptr, .rank = 3, .answer = -117};
  dg::callback_bootstrap bootstrap{3, 4, &context, gather_call, barrier_call};
  std::vector<dg::step_record> all(4);
  const auto check = [](const dg::status& said, std::string_view place) {
    CHECK(said.code == errc::native_error);
    CHECK(said.native == -117);
    CHECK(said.rank == 3);
    CHECK(std::string_view{said.where}.find(place) != std::string_view::npos);
    const dg::status_message message = said.message();
    CHECK(message.view().find("rank 3") != std::string_view::npos);
    CHECK(message.view().find("native_error") != std::string_view::npos);
    CHECK(message.view().find("-117") != std::string_view::npos);
  };
  check(dg::exchange_records(bootstrap, {}, all), "all_gather");
  check(bootstrap.barrier(), "barrier");
  // The bootstrap keeps no state: the next call asks the engine again.
  context.answer = 0;
  CHECK(bootstrap.barrier().ok());
  CHECK(context.barriers == 2);
}

TEST_CASE("a list that is not the world is refused before anything is exchanged") {
  rank_context context{.exchange = nullptr, .rank = 0};
  dg::callback_bootstrap bootstrap{0, 4, &context, gather_call, barrier_call};
  for (const std::size_t size : {std::size_t{0}, std::size_t{3}, std::size_t{5}}) {
    std::vector<dg::step_record> all(size);
    const dg::status said = dg::exchange_records(bootstrap, {}, all);
    CHECK(said.code == errc::bad_group);
    CHECK(said.value == static_cast<std::int64_t>(size));
    CHECK(said.limit == 4);
  }
  CHECK(context.gathers == 0);
}
