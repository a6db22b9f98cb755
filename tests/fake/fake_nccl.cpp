// The stand-in for NCCL itself: what the tests of the NCCL path rely on.
#include <support/fake_cuda/as_ranks.hpp>
#include <support/fake_cuda/fake_cuda.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <future>
#include <initializer_list>
#include <thread>
#include <utility>
#include <vector>

using fake_cuda::as_ranks;
using fake_cuda::check_clean;

namespace {

/// Stream, communicator and memory of one rank.
struct rank_kit {
  rank_kit(int ranks, int rank, const ncclUniqueId& id) {
    CHECK(ncclCommInitRank(&comm, ranks, id, rank) == ncclSuccess);
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, 64 * sizeof(std::int32_t)) == cudaSuccess);
    data = static_cast<std::int32_t*>(memory);
  }
  rank_kit(const rank_kit&) = delete;
  rank_kit& operator=(const rank_kit&) = delete;
  ~rank_kit() {
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(cudaFree(data) == cudaSuccess);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    if (comm != nullptr) CHECK(ncclCommDestroy(comm) == ncclSuccess);
  }
  void abort() { CHECK(ncclCommAbort(std::exchange(comm, nullptr)) == ncclSuccess); }
  void synchronize() const { CHECK(cudaStreamSynchronize(stream) == cudaSuccess); }
  void fill(std::initializer_list<std::int32_t> values) const {
    std::copy(values.begin(), values.end(), data);
  }
  [[nodiscard]] bool holds(std::initializer_list<std::int32_t> values) const {
    return std::equal(values.begin(), values.end(), data);
  }

  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::int32_t* data = nullptr;
};

ncclUniqueId start(int devices) {
  fake_cuda::reset(devices);
  ncclUniqueId id{};
  CHECK(ncclGetUniqueId(&id) == ncclSuccess);
  return id;
}

ncclResult_t async_error(ncclComm_t comm) {
  ncclResult_t out = ncclSuccess;
  CHECK(ncclCommGetAsyncError(comm, &out) == ncclSuccess);
  return out;
}

} // namespace

TEST_CASE("collectives move and sum") {
  constexpr int ranks = 3;
  const ncclUniqueId id = start(ranks);
  as_ranks(ranks, [&](int rank) {
    rank_kit kit{ranks, rank, id};
    const auto at = static_cast<std::size_t>(rank);
    kit.data[2 * at] = rank;
    kit.data[2 * at + 1] = 10 * rank;
    CHECK(ncclAllGather(kit.data + 2 * at, kit.data, 2, ncclInt32, kit.comm, kit.stream) ==
          ncclSuccess);
    kit.synchronize();
    CHECK(kit.holds({0, 0, 1, 10, 2, 20}));

    CHECK(ncclAllReduce(kit.data, kit.data, 6, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    kit.synchronize();
    CHECK(kit.holds({0, 0, 3, 30, 6, 60}));

    kit.data[10 + rank] = -1;
    CHECK(ncclReduceScatter(kit.data, kit.data + 10, 2, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    // Broadcast and reduction at once.
    CHECK(ncclGroupStart() == ncclSuccess);
    CHECK(ncclBroadcast(kit.data + 2, kit.data + 20, 2, ncclInt32, 1, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(ncclReduce(kit.data + 4, kit.data + 30, 1, ncclInt32, ncclSum, 2, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(ncclAllReduce(nullptr, nullptr, 0, ncclInt8, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(ncclGroupEnd() == ncclSuccess);
    kit.synchronize();
    CHECK(kit.data[10] == 9 * rank);
    CHECK(kit.data[20] == 3);
    CHECK(kit.data[30] == (rank == 2 ? 18 : -1));

    // 1 + 2^-8 rounds to 1 in bfloat16, but is not lost in the sum.
    const std::uint16_t parts[] = {0x3f80, 0x3b80, 0x3b80};
    std::memcpy(kit.data + 40, &parts[rank], 2);
    CHECK(ncclAllReduce(kit.data + 40, kit.data + 41, 1, ncclBfloat16, ncclSum, kit.comm,
                        kit.stream) == ncclSuccess);
    kit.synchronize();
    CHECK((kit.data[41] & 0xffff) == 0x3f81);
  });
  CHECK(fake_cuda::calls("ncclAllReduce", 1) == 3);
  check_clean();
}

TEST_CASE("captured collectives meet again at each replay") {
  constexpr int ranks = 2;
  const ncclUniqueId id = start(ranks);
  as_ranks(ranks, [&](int rank) {
    rank_kit kit{ranks, rank, id};
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaStreamBeginCapture(kit.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(cudaStreamEndCapture(kit.stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    kit.fill({rank + 1});
    for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(exec, kit.stream) == cudaSuccess);
    CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    kit.synchronize();
    CHECK(kit.holds({24}));
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
  });
  check_clean();
}

TEST_CASE("ranks that disagree are told so, and wait for their abort") {
  constexpr int ranks = 2;
  const ncclUniqueId id = start(ranks);
  as_ranks(ranks, [&](int rank) {
    rank_kit kit{ranks, rank, id};
    kit.fill({0, 0});
    const std::size_t count = rank == 0 ? 1 : 2;
    CHECK(ncclAllReduce(kit.data, kit.data, count, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    while (async_error(kit.comm) == ncclSuccess) std::this_thread::yield();
    CHECK(async_error(kit.comm) == ncclInvalidUsage);
    CHECK(cudaStreamQuery(kit.stream) == cudaErrorNotReady);
    kit.abort();
    kit.synchronize();
  });
  CHECK(fake_cuda::mismatches().size() == 1);
  CHECK(fake_cuda::problems().empty());
}

TEST_CASE("an abort frees its own rank only") {
  constexpr int ranks = 2;
  const ncclUniqueId id = start(ranks);
  std::promise<void> aborted;
  as_ranks(ranks, [&](int rank) {
    rank_kit kit{ranks, rank, id};
    CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    kit.synchronize();
    if (rank == 0) {
      fake_cuda::set_async_error(kit.comm, ncclRemoteError);
      CHECK(async_error(kit.comm) == ncclRemoteError);
      CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
            ncclRemoteError);
      kit.abort();
      aborted.set_value();
    } else {
      CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
            ncclSuccess);
      fake_cuda::await_waiting(kit.comm);
      aborted.get_future().wait();
      CHECK(cudaStreamQuery(kit.stream) == cudaErrorNotReady);
      CHECK(async_error(kit.comm) == ncclSuccess);
      kit.abort();
    }
  });
  check_clean();
}

TEST_CASE("communicators split, fail, and come without blocking") {
  constexpr int ranks = 4;
  const ncclUniqueId id = start(ranks);
  as_ranks(ranks, [&](int rank) {
    rank_kit kit{ranks, rank, id};
    ncclComm_t part = nullptr;
    const int color = rank == 3 ? NCCL_SPLIT_NOCOLOR : 0;
    CHECK(ncclCommSplit(kit.comm, color, -rank, &part, nullptr) == ncclSuccess);
    CHECK((part == nullptr) == (rank == 3));
    int size = 0, place = 0;
    if (rank != 3) {
      CHECK(ncclCommCount(part, &size) == ncclSuccess);
      CHECK(ncclCommUserRank(part, &place) == ncclSuccess);
      CHECK(size == 3);
      CHECK(place == 2 - rank);
      kit.fill({1});
      CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, part, kit.stream) ==
            ncclSuccess);
      kit.synchronize();
      CHECK(kit.holds({3}));
      CHECK(ncclCommFinalize(part) == ncclSuccess);
      CHECK(ncclCommDestroy(part) == ncclSuccess);
    }

    // What fails in a group fails the group, and nothing of it starts.
    if (rank == 0) fake_cuda::fail_nth("ncclBroadcast", 1, ncclSystemError, 0);
    CHECK(ncclGroupStart() == ncclSuccess);
    if (rank == 0) {
      CHECK(ncclAllReduce(kit.data, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
            ncclSuccess);
      CHECK(ncclBroadcast(kit.data, kit.data, 1, ncclInt32, 0, kit.comm, kit.stream) ==
            ncclSystemError);
    }
    CHECK(ncclGroupEnd() == (rank == 0 ? ncclSystemError : ncclSuccess));
  });
  check_clean();

  const ncclUniqueId second = start(ranks);
  as_ranks(ranks, [&](int rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr;
    const ncclResult_t began = ncclCommInitRankConfig(&comm, ranks, second, rank, &config);
    CHECK((began == ncclInProgress || began == ncclSuccess));
    while (async_error(comm) == ncclInProgress) std::this_thread::yield();
    CHECK(async_error(comm) == ncclSuccess);
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
  });
  check_clean();

  // Two ranks on one device.
  const ncclUniqueId third = start(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&third, rank] {
      ncclComm_t comm = nullptr;
      CHECK(ncclCommInitRank(&comm, 2, third, rank) == ncclInvalidUsage);
      CHECK(comm == nullptr);
    });
  }
  for (std::thread& t : threads) t.join();
  check_clean();
}

TEST_CASE("misuse that the real libraries don't notice is a problem") {
  const ncclUniqueId id = start(1);
  as_ranks(1, [&](int rank) {
    rank_kit kit{1, rank, id};
    kit.fill({1, 2, 3});
    std::int32_t local = 0;
    CHECK(ncclAllReduce(&local, kit.data, 1, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclInvalidArgument);
    CHECK(ncclAllReduce(kit.data, kit.data + 63, 2, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclInvalidArgument);
    CHECK(fake_cuda::problems().size() == 2);
    CHECK(ncclAllReduce(kit.data, kit.data + 1, 2, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(fake_cuda::problems().size() == 3);
    CHECK(ncclGroupStart() == ncclSuccess);
    CHECK(ncclAllReduce(kit.data, kit.data + 8, 8, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(ncclAllReduce(kit.data + 8, kit.data + 16, 8, ncclInt32, ncclSum, kit.comm, kit.stream) ==
          ncclSuccess);
    CHECK(ncclGroupEnd() == ncclSuccess);
    CHECK(fake_cuda::problems().size() == 4);
  });
  // Leftovers of all kinds, a stalled stream among them, do not outlive a reset.
  cudaStream_t stream = nullptr;
  void* memory = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaMalloc(&memory, 8) == cudaSuccess);
  fake_cuda::stall(0);
  CHECK(fake_cuda::enqueue(stream, "never", [] { CHECK(false); }) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  fake_cuda::reset(1);
  check_clean();
}
