// The providers of peer memory on GPUs: kernels of every rank write into the arenas of all, votes
// end all ranks alike, and nothing is left behind. Ranks are threads, and processes for vmm_memory.
#include <dpgather/device/executor.cuh>

#include "support/must.cuh"
#include "support/nccl_engine.hpp"
#include "support/socket_ranks.hpp"

#include <dpgather/comm/nccl_window_memory.cuh>
#include <dpgather/comm/peer_access_memory.cuh>
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/comm/vmm_memory.cuh>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <unistd.h>

namespace dg = dpgather;
namespace ts = test_support;

namespace {

constexpr std::size_t arena_bytes = (3U << 20) + 5; // no multiple of anything
constexpr std::size_t margin = 16;                  // words that nobody writes, around each slice

/// What word `at` of the arena of `to` holds once rank `from` has written it; never zero.
__host__ __device__ constexpr std::uint32_t pattern(std::int32_t from, std::int32_t to,
                                                    std::size_t at) {
  const std::uint32_t mixed =
      (static_cast<std::uint32_t>(at) * 16 + static_cast<std::uint32_t>(from)) * 2654435761U +
      static_cast<std::uint32_t>(to);
  return mixed | 1U;
}
/// The rank that writes a word, -1 for none. There is one slice more than there are ranks.
__host__ __device__ constexpr std::int32_t writer_of(std::size_t at, std::size_t words,
                                                     std::int32_t size) {
  const std::size_t slice = words / static_cast<std::size_t>(size + 1);
  const std::size_t in = at % slice;
  if (at / slice >= static_cast<std::size_t>(size) || in < margin || in >= slice - margin)
    return -1;
  return static_cast<std::int32_t>(at / slice);
}

/// This rank's slice of every arena. In an unnamed namespace: no template.
__global__ void write_slices(const __grid_constant__ dg::peer_pointers all) {
  const std::size_t words = all.bytes / sizeof(std::uint32_t);
  for (std::int32_t to = 0; to < all.size; ++to) {
    auto* const arena = reinterpret_cast<std::uint32_t*>(all.base[to]);
    for (std::size_t at = blockIdx.x * blockDim.x + threadIdx.x; at < words;
         at += gridDim.x * blockDim.x)
      if (writer_of(at, words, all.size) == all.rank) arena[at] = pattern(all.rank, to, at);
  }
}

std::vector<std::uint32_t> contents(const dg::peer_pointers& all) {
  std::vector<std::uint32_t> out(all.bytes / sizeof(std::uint32_t));
  ts::cuda_must(cudaMemcpy(out.data(), all.base[all.rank], all.bytes, cudaMemcpyDeviceToHost),
                "contents");
  return out;
}

/// What goes through the memory of one construction: zeros first, then everybody's slices.
/// Collective. Answers what is wrong.
template <class Memory, class Bootstrap>
std::string wrong_with(const Memory& memory, Bootstrap& ranks) {
  ts::must(memory.check());
  const dg::peer_pointers all = memory.pointers();
  if (all.rank != ranks.rank() || all.size != ranks.size()) return "another world";
  if (all.bytes < arena_bytes || all.bytes % sizeof(std::uint32_t) != 0) return "too short";
  for (std::int32_t r = 0; r < all.size; ++r)
    if (all.base[r] == nullptr || reinterpret_cast<std::uintptr_t>(all.base[r]) % 256 != 0)
      return "an address of rank " + std::to_string(r);
  for (const std::uint32_t word : contents(all))
    if (word != 0) return "not zeroed";
  ts::must(ranks.barrier()); // all have looked
  cudaStream_t stream = nullptr;
  ts::cuda_must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  write_slices<<<64, 256, 0, stream>>>(all);
  ts::cuda_must(cudaGetLastError(), "launch");
  ts::cuda_must(cudaStreamSynchronize(stream), "kernel");
  ts::cuda_must(cudaStreamDestroy(stream), "stream");
  ts::must(ranks.barrier()); // all have written
  const std::vector<std::uint32_t> words = contents(all);
  for (std::size_t at = 0; at < words.size(); ++at) {
    const std::int32_t from = writer_of(at, words.size(), all.size);
    if (words[at] != (from < 0 ? 0U : pattern(from, all.rank, at)))
      return "word " + std::to_string(at) + " of rank " + std::to_string(from);
  }
  return {};
}

/// Of this rank's device, while nobody makes or frees anything. Collective.
template <class Bootstrap>
std::size_t free_bytes(Bootstrap& ranks) {
  std::size_t out = 0;
  std::size_t total = 0;
  ts::must(ranks.barrier());
  ts::cuda_must(cudaMemGetInfo(&out, &total), "memory");
  ts::must(ranks.barrier());
  return out;
}
constexpr std::size_t slack = 4U << 20; // 20 leaked arenas are 60 MiB

/// The whole test of one provider. `make(bytes, use)` constructs one and calls `use(memory)`.
/// Collective. Throws, so that the other ranks need not wait.
template <class Bootstrap, class Make>
void check_provider(Bootstrap& ranks, Make make) {
  const auto expect = [&](bool is, const std::string& what) {
    if (!is) throw std::runtime_error{"rank " + std::to_string(ranks.rank()) + ": " + what};
  };
  const std::int32_t me = ranks.rank();
  const auto once = [&] {
    make(arena_bytes, [&](auto& memory) {
      const std::string wrong = wrong_with(memory, ranks);
      expect(wrong.empty(), wrong);
      ts::must(memory.close(ranks));
      expect(memory.check().code == dg::errc::peer_left, "open after close");
      expect(memory.pointers().base[me] == nullptr, "addresses after close");
      ts::must(memory.close(ranks)); // nothing
    });
  };
  once(); // what is kept for the life of the process or the communicator

  const std::size_t before = free_bytes(ranks);
  for (int again = 0; again < 20; ++again) once();
  std::size_t after = free_bytes(ranks);
  expect(after + slack >= before,
         std::to_string(before - after) + " bytes less than before 20 times open and close");

  const auto asked = [](std::int32_t rank) { return arena_bytes + (rank == 1 ? 4096U : 0U); };
  make(asked(me), [&](auto& memory) {
    const dg::status differs = memory.check();
    expect(differs.code == dg::errc::config_mismatch && differs.rank == me &&
               differs.peer == 1 - me && static_cast<std::size_t>(differs.value) == asked(me) &&
               static_cast<std::size_t>(differs.limit) == asked(1 - me),
           differs.message().c_str());
    expect(memory.pointers().base[me] == nullptr, "addresses after a failure");
    ts::must(memory.close(ranks)); // nothing
  });
  make(me == 0 ? 0 : arena_bytes, [&](auto& memory) { // refused by one, before it allocates
    const dg::status refused = memory.check();
    expect(me == 0 ? refused.code == dg::errc::bad_config
                   : refused.code == dg::errc::peer_refused &&
                         refused.cause == dg::errc::bad_config && refused.rank == 0,
           refused.message().c_str());
  });
  make(std::size_t{1} << 50, [&](auto& memory) { // more than any device has
    const dg::status full = memory.check();
    expect(full.code == dg::errc::native_error && full.rank == me, full.message().c_str());
  });
  after = free_bytes(ranks);
  expect(after + slack >= before, "memory of arenas that were refused");
  once(); // what failed has left no trace
  ts::must(ranks.barrier());
}

void run_two(void (*body)(dg::host_communicator&)) {
  const ts::hang_guard guard;
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = 2}, clock};
  dg::run_ranks(world, [body](dg::host_communicator ranks) { body(ranks); });
}

static_assert(dg::peer_memory<dg::peer_access_memory>);
static_assert(dg::peer_memory<dg::vmm_memory>);
static_assert(dg::peer_memory<dg::nccl_window_memory>);
static_assert(!std::is_move_constructible_v<dg::peer_access_memory>);
static_assert(!std::is_move_constructible_v<dg::vmm_memory>);
static_assert(!std::is_move_constructible_v<dg::nccl_window_memory>);

void peer_access_rank(dg::host_communicator& ranks) {
  check_provider(ranks, [&](std::size_t bytes, auto use) {
    dg::peer_access_memory memory{ranks, bytes};
    use(memory);
  });
}
void vmm_rank(dg::host_communicator& ranks) {
  check_provider(ranks, [&](std::size_t bytes, auto use) {
    dg::vmm_memory memory{ranks, bytes};
    use(memory);
  });
}

} // namespace

TEST_CASE("peer access: threads with a device each") {
  run_two([](dg::host_communicator& ranks) {
    ts::cuda_must(cudaSetDevice(ranks.rank()), "device");
    peer_access_rank(ranks);
  });
}

TEST_CASE("peer access: threads that share a device") {
  run_two([](dg::host_communicator& ranks) {
    ts::cuda_must(cudaSetDevice(1), "device");
    peer_access_rank(ranks);
  });
}

TEST_CASE("a rank alone has an arena as well") {
  dg::steady_wait_clock clock;
  dg::host_world world{{.dp_size = 1}, clock};
  dg::run_ranks(world, [](dg::host_communicator ranks) {
    dg::peer_access_memory simple{ranks, arena_bytes};
    CHECK(wrong_with(simple, ranks).empty());
    CHECK(simple.close(ranks).ok());
    dg::vmm_memory mapped{ranks, arena_bytes};
    CHECK(wrong_with(mapped, ranks).empty());
    CHECK(mapped.close(ranks).ok());
  });
}

TEST_CASE("virtual memory: threads with a device each") {
  run_two([](dg::host_communicator& ranks) {
    ts::cuda_must(cudaSetDevice(ranks.rank()), "device");
    vmm_rank(ranks);
  });
}

TEST_CASE("virtual memory: threads that share a device") {
  run_two([](dg::host_communicator& ranks) {
    ts::cuda_must(cudaSetDevice(0), "device");
    vmm_rank(ranks);
  });
}

TEST_CASE("NCCL windows: threads with a device each") {
  run_two([](dg::host_communicator& ranks) {
    ts::nccl_rank here{ranks};
    const ncclComm_t comm = dg::nccl_communicator{here.world()}.native_handle();
    check_provider(ranks, [&](std::size_t bytes, auto use) {
      dg::nccl_window_memory memory{ranks, comm, bytes};
      use(memory);
    });
  });
}

TEST_CASE("NCCL windows: a communicator that is not this world's is refused by all") {
  run_two([](dg::host_communicator& ranks) {
    ts::nccl_rank here{ranks};
    const ncclComm_t comm = dg::nccl_communicator{here.world()}.native_handle();
    dg::nccl_window_memory memory{ranks, ranks.rank() == 1 ? nullptr : comm, arena_bytes};
    const dg::status refused = memory.check();
    CHECK(refused.rank == 1);
    CHECK((ranks.rank() == 1 ? refused.code : refused.cause) == dg::errc::null_pointer);
  });
}

namespace {

constexpr const char* rank_variable = "DPGATHER_TEST_RANK";
constexpr const char* socket_variable = "DPGATHER_TEST_SOCKET";

/// One rank that is a process: virtual memory works, and peer access is refused.
void run_process(std::int32_t rank, const char* socket) {
  ts::cuda_must(cudaSetDevice(rank), "device");
  auto joined = dg::unix_socket_bootstrap::connect(rank, 2, socket);
  ts::must(joined.status());
  dg::unix_socket_bootstrap& ranks = *joined;
  check_provider(ranks, [&](std::size_t bytes, auto use) {
    dg::vmm_memory memory{ranks, bytes};
    use(memory);
  });
  dg::peer_access_memory apart{ranks, arena_bytes};
  const dg::status refused = apart.check();
  CHECK_MESSAGE(refused.code == dg::errc::bad_group, std::string{refused.message().view()});
  CHECK(refused.rank == rank);
  CHECK(refused.peer == 1 - rank);
  CHECK(refused.limit == ::getpid());
}

} // namespace

TEST_CASE("virtual memory: processes with a device each") {
  const ts::hang_guard guard;
  if (const char* const rank = std::getenv(rank_variable); rank != nullptr) {
    run_process(std::atoi(rank), std::getenv(socket_variable));
    return;
  }
  MESSAGE("ranks are this program again, not forks: counting GPUs has initialised CUDA in this "
          "process, and a fork cannot use what it inherits of that");
  const ts::fresh_path path;
  std::vector<ts::child_process> processes;
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    // All made before the fork, in which only what is async-signal-safe may be called.
    std::vector<std::string> variables{std::string{rank_variable} + "=" + std::to_string(rank),
                                       std::string{socket_variable} + "=" + path.text()};
    std::vector<char*> environment;
    for (char** each = environ; *each != nullptr; ++each) environment.push_back(*each);
    for (std::string& each : variables) environment.push_back(each.data());
    environment.push_back(nullptr);
    std::string program{"peer_memory"};
    std::string filter{"--test-case=virtual memory: processes with a device each"};
    char* const arguments[]{program.data(), filter.data(), nullptr};
    processes.emplace_back([&] {
      (void)::execve("/proc/self/exe", arguments, environment.data());
      return 127;
    });
  }
  for (ts::child_process& each : processes) CHECK(each.exit_code() == 0);
}
