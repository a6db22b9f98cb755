/// @file
/// Tutorial 6: an engine in C++17 with communicators, streams and memory of its own embeds the
/// library through one C++20 unit. Needs a GPU.
///
/// dpgather is C++20, and its device code needs nvcc. An engine that is neither does not have to
/// move: it compiles dp_unit.cu beside itself and sees dp_unit.hpp. Nothing of the library is
/// included here, and nothing of the engine's is owned there: the engine makes and ends its
/// communicators, lends memory, and brings its streams.

#include "dp_unit.hpp"
#include "engine_resources.hpp"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

static_assert(__cplusplus < 202002L, "the point of this engine is that it is not C++20");

namespace {

using engine::must;
using engine::rank_memory;

constexpr int hidden = 16;
constexpr int max_rows = 8;
constexpr int steps = 3;
constexpr int patience = 20; // seconds for one wait

/// Other counts in every step: rank 0 has 3 rows, none, 5.
int rows_in(int step, int rank) { return (3 + 5 * step + 7 * rank) % max_rows; }
float value_at(int step, int rank, int row, int column) {
  return static_cast<float>(1000 * (rank + 1) + 200 * step + 20 * row + column);
}

struct unit_end {
  void operator()(dp_unit::rank_state* state) const { dp_unit::destroy(state); }
};
using unit_pointer = std::unique_ptr<dp_unit::rank_state, unit_end>;

unit_pointer make_unit(const dp_unit::shape& of, ncclComm_t comm, const rank_memory& memory) {
  dp_unit::rank_state* made = nullptr;
  must(cudaSetDevice(of.rank), "cudaSetDevice");
  must(dp_unit::create(of, comm, memory.lent.data(), memory.lent.bytes(), &made), "create");
  return unit_pointer{made};
}

/// One step of one rank: gather, an FFN, combine. Answers the number of wrong values.
int run_step(int step, const dp_unit::shape& of, dp_unit::rank_state& dp, const rank_memory& m) {
  const int rows = rows_in(step, of.rank);
  const cudaStream_t stream = m.stream.get();
  const auto copy = [&](const engine::memory& to, const engine::memory& from, std::int64_t count) {
    must(cudaMemcpyAsync(to.data(), from.data(), engine::bytes_of(count, of), cudaMemcpyDefault,
                         stream),
         "copy");
  };
  dp_unit::agreed_step agreed;
  must(dp_unit::agree(dp, static_cast<std::uint64_t>(step) + 1, rows, agreed), "agree");

  for (int i = 0; i < rows * hidden; ++i)
    m.host_local.rows()[i] = value_at(step, of.rank, i / hidden, i % hidden);
  copy(m.local, m.host_local, rows);
  must(dp_unit::gather(dp, m.local.rows(), m.global.rows(), stream), "gather");
  // Where an engine has its FFN, this one copies: every rank adds the rows as they are.
  copy(m.addend, m.global, agreed.global_rows);
  must(dp_unit::combine(dp, m.addend.rows(), m.local.rows(), stream), "combine");
  copy(m.host_global, m.global, agreed.global_rows);
  copy(m.host_local, m.local, rows);
  must(dp_unit::wait(dp, stream, patience), "wait");

  int wrong = 0;
  std::int64_t first = 0; // of a rank's rows among the gathered ones, which follow each other
  for (int r = 0; r < of.ranks; ++r) {
    if (r == of.rank) wrong += agreed.first_row != first;
    for (int i = 0; i < rows_in(step, r) * hidden; ++i)
      wrong +=
          m.host_global.rows()[first * hidden + i] != value_at(step, r, i / hidden, i % hidden);
    first += rows_in(step, r);
  }
  wrong += agreed.global_rows != first;
  for (int i = 0; i < rows * hidden; ++i)
    wrong += m.host_local.rows()[i] !=
             static_cast<float>(of.ranks) * value_at(step, of.rank, i / hidden, i % hidden);
  if (of.rank == 0)
    std::printf(
        "step %d: rank 0 brings %d rows, gathers %lld of all ranks, gets its sums back: %s\n",
        step + 1, rows, static_cast<long long>(first), wrong == 0 ? "right" : "WRONG");
  return wrong;
}

/// What went wrong on each rank; empty texts where nothing did.
std::vector<std::string> run(int gpus) {
  const auto shape_of = [gpus](int rank) { return dp_unit::shape{rank, gpus, hidden, max_rows}; };
  const auto at = [](int rank) { return static_cast<std::size_t>(rank); };
  std::size_t workspace = 0;
  must(dp_unit::workspace_bytes(shape_of(0), workspace), "workspace_bytes");
  std::printf("%d rank%s of a GPU each, %zu bytes lent to the library on each\n", gpus,
              gpus == 1 ? "" : "s", workspace);

  // Memory ends after communicators, and what borrows both ends before them. All of it is made
  // before the first thread starts: nobody waits in NCCL for a rank that never came to be.
  std::vector<std::unique_ptr<rank_memory>> memory;
  for (int r = 0; r < gpus; ++r)
    memory.push_back(std::make_unique<rank_memory>(shape_of(r), workspace));
  engine::communicators comms{gpus};
  std::vector<unit_pointer> units;
  for (int r = 0; r < gpus; ++r) units.push_back(make_unit(shape_of(r), comms[r], *memory[at(r)]));

  std::vector<std::string> errors(at(gpus));
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  for (int r = 0; r < gpus; ++r) {
    threads.emplace_back([&, r] {
      try {
        must(cudaSetDevice(r), "cudaSetDevice");
        int wrong = 0;
        for (int step = 0; step < steps; ++step)
          wrong += run_step(step, shape_of(r), *units[at(r)], *memory[at(r)]);
        if (wrong != 0) errors[at(r)] = std::to_string(wrong) + " wrong values";
      } catch (const std::exception& error) {
        errors[at(r)] = error.what();
        failed = true;
      }
    });
  }
  for (std::thread& each : threads) each.join();
  // First of all: whatever frees memory waits for kernels, and those may wait for a rank.
  if (failed) comms.abort();
  units.clear();
  if (!failed) comms.destroy();
  return errors;
}

} // namespace

int main() {
  int gpus = 0;
  const cudaError_t counted = cudaGetDeviceCount(&gpus);
  if (counted != cudaSuccess || gpus == 0) {
    std::printf("skipped: no GPU (%s)\n", cudaGetErrorString(counted));
    return 77;
  }
  bool right = true;
  try {
    const std::vector<std::string> errors = run(gpus);
    for (std::size_t r = 0; r < errors.size(); ++r) {
      if (errors[r].empty()) continue;
      right = false;
      std::fprintf(stderr, "06_embed_engine: rank %zu: %s\n", r, errors[r].c_str());
    }
  } catch (const std::exception& error) {
    right = false;
    std::fprintf(stderr, "06_embed_engine: %s\n", error.what());
  }
  std::printf("%s\n", right ? "all values are right" : "FAILED");
  return right ? 0 : 1;
}
