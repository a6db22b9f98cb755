// The guard on CUDA streams, without a GPU: order, captures, replays, launches that fail, memory of
// the wrong kind.
#include "support/fake_cuda/executor.hpp"

#include "support/fake_cuda/as_ranks.hpp"

#include <dpgather/batch.hpp>
#include <dpgather/graphs.cuh>
#include <dpgather/throw.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <vector>

namespace {

using namespace dpgather;

struct thrown {};

/// Tensors on a device, a count where kernels read it, and a stream.
struct engine {
  cudaStream_t stream = nullptr;
  std::int32_t* ids = nullptr; ///< [8]
  float* hidden = nullptr;     ///< [8, 2], comes back whole
  float* logits = nullptr;     ///< [8, 2]
  std::int32_t* live = nullptr;
  std::byte* workspace = nullptr;
  leak_record* leak = nullptr;
  std::int64_t id_rows = 3, logits_rows = 0;
  std::vector<batch_entry> entries;
  std::vector<batch_result> results;

  engine() {
    fake_cuda::reset(2);
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    allocate(ids, 8 * 4);
    allocate(hidden, 16 * 4);
    allocate(logits, 16 * 4);
    allocate(live, 4);
    allocate(workspace, 1024);
    void* pinned = nullptr;
    REQUIRE(cudaHostAlloc(&pinned, sizeof *leak, cudaHostAllocMapped) == cudaSuccess);
    leak = new (pinned) leak_record{};
    for (int i = 0; i < 8; ++i) ids[i] = 10 + i;
    for (int i = 0; i < 16; ++i) hidden[i] = logits[i] = 0.5f;
    *live = 3;
    entries = {{.data = ids, .type = element::i32, .capacity = 8, .rows = &id_rows},
               {.tensor = batch_tensor::speculative_hidden,
                .data = hidden,
                .type = element::f32,
                .width = 2,
                .capacity = 8}};
    results = {
        {.data = logits, .type = element::f32, .width = 2, .capacity = 8, .rows = &logits_rows}};
  }
  ~engine() {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    for (void* p : std::initializer_list<void*>{ids, hidden, logits, live, workspace}) cudaFree(p);
    cudaFreeHost(leak);
    fake_cuda::check_clean();
  }
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;

  batch_declaration declaration(bool poison = false) {
    return {.tensors = entries, .results = results, .poison = poison, .leak = leak, .rank = 1};
  }
  std::span<std::byte> memory() { return {workspace, 1024}; }
  void wait() { REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess); }
  /// After `wait`: as in the beginning.
  bool is_untouched() {
    for (int i = 0; i < 8; ++i) {
      if (ids[i] != 10 + i) return false;
    }
    for (int i = 0; i < 16; ++i) {
      if (hidden[i] != 0.5f) return false;
    }
    return id_rows == 3;
  }
  /// Logits of a row are its hidden state; then the draft's states take its place.
  cudaError_t forward() {
    logits_rows = 4;
    return fake_cuda::enqueue(stream, "forward", [this] {
      std::memcpy(logits, hidden, 4 * 2 * sizeof *hidden);
      for (int i = 0; i < 8; ++i) hidden[i] = 9;
    });
  }

private:
  template <class T>
  static void allocate(T*& out, std::size_t bytes) {
    void* p = nullptr;
    REQUIRE(cudaMalloc(&p, bytes) == cudaSuccess);
    out = static_cast<T*>(p);
  }
};

constexpr unit_counts three_of_four{.real = 3, .padded = 4};

} // namespace

TEST_CASE("everything is in the order of the stream, one launch each way, and nobody waits") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(), e.memory()};
  REQUIRE(padding.check().ok());
  fake_cuda::clear_log();
  fake_cuda::stall(0);
  for (int way = 0; way < 3; ++way) {
    try {
      auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
      REQUIRE(padded);
      CHECK(e.id_rows == 4);
      CHECK(e.forward() == cudaSuccess);
      if (way == 0) throw thrown{};
      if (way == 1) CHECK(padded->finish().ok());
    } catch (const thrown&) {
    }
    CHECK(e.id_rows == 3);
    CHECK(e.logits_rows == 3);
  }
  CHECK(e.ids[3] == 13); // nothing has run
  CHECK(fake_cuda::calls("enqueue") == 3 * 3);
  CHECK(fake_cuda::calls("cudaStreamSynchronize") == 0);
  fake_cuda::release(0);
  e.wait();
  CHECK(e.is_untouched());
  CHECK(e.logits[5] == 0.5f);
  CHECK(e.logits[6] == 0.0f); // the pad row that the forward saw
  CHECK(padding.check().ok());
}

TEST_CASE("captured once, replayed for any counts, restored in every replay") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(), e.memory()};
  bucket_list sizes;
  sizes.append(4);
  graph_set graphs;
  const status captured = graphs.capture(sizes, e.stream, [&](std::int32_t size) -> status {
    CHECK(padding.pad(batch_step::draft(three_of_four), e.stream).code() == errc::not_capturable);
    auto padded = padding.pad(batch_step::draft({.padded = size, .live = e.live}), e.stream);
    if (!padded) return padded.status();
    CHECK(e.id_rows == 4);
    if (e.forward() != cudaSuccess) return {.code = errc::native_error};
    return padded->finish();
  });
  REQUIRE_MESSAGE(captured.ok(), captured.message().c_str());
  CHECK(e.is_untouched()); // the host's part was for the capture only
  for (const std::int32_t real : {0, 1, 4, 3, 100, 2}) {
    CAPTURE(real);
    *e.live = real;
    REQUIRE(graphs.launch(4, e.stream).ok());
    e.wait();
    CHECK(e.is_untouched());
    for (int row = 0; row < 4; ++row) CHECK(e.logits[2 * row] == (row < real ? 0.5f : 0.0f));
  }
  CHECK(graphs.nodes(4) == 3);
}

TEST_CASE("a capture that is spoilt leaves nothing padded, and the next one works") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(), e.memory()};
  bucket_list sizes;
  sizes.append(4);
  graph_set graphs;
  const status spoilt = graphs.capture(sizes, e.stream, [&](std::int32_t size) -> status {
    auto padded = padding.pad(batch_step::draft({.padded = size, .live = e.live}), e.stream);
    if (!padded) return padded.status();
    CHECK(cudaStreamSynchronize(e.stream) != cudaSuccess); // as a careless engine does
    const status told = padded->finish();
    CHECK(told.code == errc::not_capturable);
    return told;
  });
  CHECK(spoilt.code == errc::not_capturable);
  CHECK(padding.check().ok());
  CHECK(e.is_untouched());
  {
    auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
    REQUIRE(padded);
    CHECK(e.forward() == cudaSuccess);
    CHECK(padded->finish().ok());
  }
  e.wait();
  CHECK(e.is_untouched());
}

TEST_CASE("a guard that outlives the beginning of a capture restores behind it") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(), e.memory()};
  auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
  REQUIRE(padded);
  e.logits_rows = 4;
  REQUIRE(cudaStreamBeginCapture(e.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(padded->finish().code == errc::not_capturable);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(e.stream, &graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(padded->finish().ok());
  e.wait();
  CHECK(e.is_untouched());
}

TEST_CASE("launches that fail are named, and the batch stays whole or says that it is not") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(), e.memory()};
  fake_cuda::fail_nth("enqueue", 1, cudaErrorLaunchFailure);
  const auto none = padding.pad(batch_step::draft(three_of_four), e.stream);
  CHECK(none.code() == errc::native_error);
  CHECK(none.status().native == cudaErrorLaunchFailure);
  CHECK(none.status().rank == 1);
  CHECK(e.is_untouched());
  {
    auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
    REQUIRE(padded);
    CHECK(e.forward() == cudaSuccess);
    fake_cuda::fail_nth("enqueue", 1, cudaErrorLaunchOutOfResources);
    CHECK(padded->finish().native == cudaErrorLaunchOutOfResources);
    CHECK(padded->active());
  } // tried again
  e.wait();
  CHECK(e.is_untouched());
  CHECK(padding.check().ok());
  {
    const auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
    REQUIRE(padded);
    fake_cuda::fail_nth("enqueue", 1, cudaErrorLaunchFailure);
  }
  CHECK(padding.check().cause == errc::native_error);
  CHECK(padding.check().rank == 1);
  CHECK(e.id_rows == 3);
  e.wait();
  CHECK(e.ids[3] == 0);
}

TEST_CASE("poison on a device: one more launch, and the leak lies where the host reads it") {
  engine e;
  batch<cudaStream_t> padding{e.declaration(true), e.memory()};
  REQUIRE(padding.check().ok());
  for (const bool leaks : {false, true}) {
    fake_cuda::clear_log();
    auto padded = padding.pad(batch_step::draft(three_of_four), e.stream);
    REQUIRE(padded);
    CHECK(e.forward() == cudaSuccess);
    if (leaks) {
      CHECK(fake_cuda::enqueue(e.stream, "off by one", [&] {
              e.logits[4] = e.logits[6] + 1; // row 2 reads row 3
            }) == cudaSuccess);
    }
    CHECK(padded->finish().ok());
    CHECK(fake_cuda::calls("enqueue") == 4 + leaks);
    e.wait();
    CHECK(padding.leak().ok() == !leaks);
  }
  CHECK(padding.leak().code == errc::tail_leak);
  CHECK(padding.leak().value == 2);
  CHECK(padding.leak().rank == 1);
  CHECK(padding.leak().call == 2);
  CHECK(e.is_untouched());
}

TEST_CASE("memory that kernels cannot use is refused when the batch is made") {
  engine e;
  std::int32_t on_host[8]{};
  alignas(16) std::byte host_workspace[1024];
  CHECK(batch<cudaStream_t>{e.declaration(), host_workspace}.check().code == errc::wrong_memory);
  e.entries[0].data = on_host;
  const status s = batch<cudaStream_t>{e.declaration(), e.memory()}.check();
  CHECK(s.code == errc::wrong_memory);
  CHECK(s.about == subject::tensor);
  CHECK(s.peer == 0);
  CHECK(s.rank == 1);
  e.entries[0].on_host = true; // a host copy it may be
  CHECK(batch<cudaStream_t>{e.declaration(), e.memory()}.check().ok());
  e.results[0].data = on_host;
  CHECK(batch<cudaStream_t>{e.declaration(), e.memory()}.check().code == errc::wrong_memory);
}
