// The guard on a GPU: what kernels save, fill, put back and find is what the CPU does of the same
// bytes, eagerly and in a captured graph.
#include <dpgather/batch.hpp>
#include <dpgather/device/executor.cuh>
#include <dpgather/graphs.cuh>
#include <dpgather/throw.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

void check(cudaError_t result) { REQUIRE_MESSAGE(result == cudaSuccess, cudaGetErrorName(result)); }

/// Device memory with the bytes of a host twin.
class twin_bytes {
public:
  explicit twin_bytes(std::size_t bytes) : host(bytes) { check(cudaMalloc(&device_, bytes)); }
  twin_bytes(const twin_bytes&) = delete;
  twin_bytes& operator=(const twin_bytes&) = delete;
  ~twin_bytes() { cudaFree(device_); }
  [[nodiscard]] std::byte* device() const { return static_cast<std::byte*>(device_); }
  void randomize(random_source& random) {
    for (std::byte& b : host) b = static_cast<std::byte>(random.between(0, 255));
    check(cudaMemcpy(device_, host.data(), host.size(), cudaMemcpyHostToDevice));
  }
  /// Index of the first byte that differs, or -1.
  [[nodiscard]] std::int64_t first_difference() const {
    std::vector<std::byte> back(host.size());
    check(cudaMemcpy(back.data(), device_, back.size(), cudaMemcpyDeviceToHost));
    for (std::size_t i = 0; i < back.size(); ++i) {
      if (back[i] != host[i]) return static_cast<std::int64_t>(i);
    }
    return -1;
  }

  std::vector<std::byte> host;

private:
  void* device_ = nullptr;
};

/// Entries with places in an arena of 1 MiB; `at` makes them point into either twin.
struct layout {
  std::vector<batch_entry> entries;
  std::vector<std::size_t> places;

  explicit layout(random_source& random, std::int32_t capacity) {
    std::size_t next = 0;
    const int count = random.between(1, 15);
    for (int i = 0; i < count; ++i) {
      batch_entry e;
      e.type = random.pick({element::u8, element::i32, element::i64, element::bf16, element::f32});
      const std::size_t size = size_of(e.type);
      e.width = random.pick({1, 1, 3, 7, 64});
      e.outer = random.pick({1, 1, 3});
      e.capacity = capacity;
      const std::size_t unit = size * static_cast<std::size_t>(e.width);
      e.unit_stride = unit + (random.chance(30) ? size * random.between<std::size_t>(1, 3) : 0);
      e.outer_stride = static_cast<std::size_t>(capacity) * e.unit_stride +
                       size * random.between<std::size_t>(0, 3);
      e.tail = batch_tail{random.pick({batch_unit::token, batch_unit::request}),
                          random.between<std::int64_t>(-1, 1)};
      e.saving = random.pick({batch_saving::tail, batch_saving::whole, batch_saving::nothing});
      next = (next + size - 1) / size * size;
      places.push_back(next);
      next += 3 * e.outer_stride + random.between<std::size_t>(1, 40);
      entries.push_back(e);
    }
    REQUIRE(next <= arena_bytes);
  }
  [[nodiscard]] std::vector<batch_entry> at(std::byte* base) const {
    std::vector<batch_entry> out = entries;
    for (std::size_t i = 0; i < out.size(); ++i) out[i].data = base + places[i];
    return out;
  }
  static constexpr std::size_t arena_bytes = 1 << 20;
};

} // namespace

TEST_CASE("kernels save, fill and put back what the CPU does, canaries and gaps included") {
  twin_bytes arena{layout::arena_bytes}, workspace{2 * layout::arena_bytes};
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  test_support::for_random_cases(
      [&](random_source& random) {
        const layout tensors{random, 24};
        arena.randomize(random);
        workspace.randomize(random);
        const std::vector<std::byte> before = arena.host;
        const auto on_cpu = tensors.at(arena.host.data());
        const auto on_gpu = tensors.at(arena.device());
        const std::size_t room =
            value_or_throw(batch_workspace_bytes({.tensors = on_cpu, .depth = 2}));
        REQUIRE(room <= workspace.host.size());
        batch<host_stream> cpu{{.tensors = on_cpu, .depth = 2}, workspace.host};
        batch<cudaStream_t> gpu{{.tensors = on_gpu, .depth = 2}, {workspace.device(), room}};
        REQUIRE_MESSAGE(cpu.check().ok(), cpu.check().message().c_str());
        REQUIRE_MESSAGE(gpu.check().ok(), gpu.check().message().c_str());
        const std::int32_t real = random.between(0, 8);
        const std::int32_t k = random.between(1, 3);
        const auto same = [&](const char* when) {
          check(cudaStreamSynchronize(stream));
          INFO(when);
          REQUIRE(arena.first_difference() == -1);
          REQUIRE(workspace.first_difference() == -1);
        };
        {
          const auto step =
              batch_step::verify({.real = real, .padded = random.between(real, 8)}, k);
          auto cpu_outer = value_or_throw(cpu.pad(step, {}));
          auto gpu_outer = value_or_throw(gpu.pad(step, stream));
          same("padded");
          const auto more =
              batch_step::verify({.real = real, .padded = random.between(real, 8)}, k);
          auto cpu_inner = value_or_throw(cpu.pad(more, {}));
          auto gpu_inner = value_or_throw(gpu.pad(more, stream));
          same("padded inside");
          if (random.chance(50)) {
            REQUIRE(cpu_inner.finish().ok());
            REQUIRE(gpu_inner.finish().ok());
            same("restored inside");
          }
        }
        same("restored");
        REQUIRE(gpu.check().ok());
        for (std::size_t i = 0; i < tensors.entries.size(); ++i) {
          const batch_entry& e = tensors.entries[i];
          if (e.saving == batch_saving::nothing) continue;
          const std::size_t bytes = static_cast<std::size_t>(e.outer) * e.outer_stride;
          REQUIRE(std::memcmp(arena.host.data() + tensors.places[i],
                              before.data() + tensors.places[i], bytes) == 0);
        }
      },
      test_support::case_count(60));
  check(cudaStreamDestroy(stream));
}

TEST_CASE("one captured graph pads, runs and restores for any live count") {
  twin_bytes arena{layout::arena_bytes}, workspace{layout::arena_bytes};
  random_source random{test_support::seed()};
  const layout tensors{random, 24};
  std::vector<batch_entry> on_cpu = tensors.at(arena.host.data());
  std::vector<batch_entry> on_gpu = tensors.at(arena.device());
  for (std::size_t i = 0; i < on_cpu.size(); ++i)
    on_cpu[i].saving = on_gpu[i].saving = batch_saving::whole;
  std::int32_t* live = nullptr;
  std::byte* seen = nullptr; // what the forward saw
  check(cudaMalloc(&live, sizeof *live));
  check(cudaMalloc(&seen, layout::arena_bytes));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  arena.randomize(random);
  workspace.randomize(random);
  const std::size_t room = value_or_throw(batch_workspace_bytes({.tensors = on_gpu}));
  REQUIRE(room <= workspace.host.size());
  batch<cudaStream_t> gpu{{.tensors = on_gpu}, {workspace.device(), room}};
  REQUIRE_MESSAGE(gpu.check().ok(), gpu.check().message().c_str());
  bucket_list sizes;
  sizes.append(8);
  graph_set graphs;
  const status captured = graphs.capture(sizes, stream, [&](std::int32_t size) -> status {
    auto padded =
        gpu.pad(batch_step::verify({.padded = size, .live = live, .rows_per_unit = 3}, 3), stream);
    if (!padded) return padded.status();
    const cudaError_t copied = cudaMemcpyAsync(seen, arena.device(), layout::arena_bytes,
                                               cudaMemcpyDeviceToDevice, stream);
    if (copied != cudaSuccess) return cuda_status(copied, "copy");
    return padded->finish();
  });
  REQUIRE_MESSAGE(captured.ok(), captured.message().c_str());
  std::vector<std::byte> found(layout::arena_bytes);
  for (const std::int32_t rows : {0, 3, 12, 24, 100, 21}) {
    CAPTURE(rows);
    check(cudaMemcpy(live, &rows, sizeof rows, cudaMemcpyHostToDevice));
    REQUIRE(graphs.launch(8, stream).ok());
    check(cudaStreamSynchronize(stream));
    CHECK(arena.first_difference() == -1); // restored
    const std::int32_t real = rows > 24 ? 8 : rows / 3;
    std::vector<std::byte> place(room + 16);
    const auto skew = reinterpret_cast<std::uintptr_t>(place.data()) % 16;
    batch<host_stream> cpu{{.tensors = on_cpu}, {place.data() + (16 - skew), room}};
    const auto padded = cpu.pad(batch_step::verify({.real = real, .padded = 8}, 3), {});
    REQUIRE(padded);
    check(cudaMemcpy(found.data(), seen, found.size(), cudaMemcpyDeviceToHost));
    CHECK(std::memcmp(found.data(), arena.host.data(), found.size()) == 0);
  }
  check(cudaStreamDestroy(stream));
  check(cudaFree(live));
  check(cudaFree(seen));
}

TEST_CASE("the first leak is found among many, in mapped memory") {
  constexpr std::int32_t rows = 64;
  constexpr std::int32_t width = 4097; // odd rows: narrow words
  float* logits = nullptr;
  void* pinned = nullptr;
  check(cudaMalloc(&logits, sizeof(float) * rows * width));
  check(cudaHostAlloc(&pinned, sizeof(leak_record), cudaHostAllocMapped));
  auto* const leak = new (pinned) leak_record{};
  std::byte* workspace = nullptr;
  check(cudaMalloc(&workspace, 4096));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const batch_result results[] = {
      {.data = logits, .type = element::f32, .width = width, .capacity = rows}};
  batch<cudaStream_t> padding{{.results = results, .poison = true, .leak = leak, .rank = 2},
                              {workspace, 4096}};
  REQUIRE_MESSAGE(padding.check().ok(), padding.check().message().c_str());
  std::vector<float> values(static_cast<std::size_t>(rows) * width, 1.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t i = 50 * width; i < values.size(); ++i) values[i] = nan; // pad rows
  const auto step = [&] {
    auto padded = padding.pad(batch_step::decode({.real = 50, .padded = rows}), stream);
    REQUIRE(padded);
    check(cudaMemcpy(logits, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
    REQUIRE(padded->finish().ok());
    check(cudaStreamSynchronize(stream));
  };
  step();
  CHECK(padding.leak().ok());
  for (const std::size_t row : {49, 13, 48, 30}) values[row * width + row] = nan;
  step();
  CHECK(padding.leak().code == errc::tail_leak);
  CHECK(padding.leak().value == 13);
  CHECK(padding.leak().call == 2);
  values[5] = nan; // a later step's row 0
  step();
  CHECK(padding.leak().value == 13);
  check(cudaStreamDestroy(stream));
  check(cudaFree(logits));
  check(cudaFree(workspace));
  check(cudaFreeHost(pinned));
}
