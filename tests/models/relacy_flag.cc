// What the flag's memory order must be. Spin's models take for granted that a fence orders stores;
// here relacy runs gather, combine, gather, ... over one view and one input per rank under the C++
// memory model. Rows are plain variables, so whatever no flag orders is a data race: also rewriting
// a buffer while a peer still reads it.
//
// A rank is one block of two threads, as on the GPU: both move rows, block barrier, thread 0
// publishes; thread 0 observes, block barrier, both read. The argument names one of the variants
// below; the exit code says whether it is free of races.
//
// Never add -I/usr/include/relacy: its pthread.h would shadow the system's. Not a *.cpp, because
// each of those under tests/ becomes a doctest.
#include <cstring>
#include <relacy/relacy.hpp>

namespace {

struct variant {
  const char* name;
  bool fence_before_store = false;
  rl::memory_order store = rl::mo_relaxed;
  rl::memory_order load = rl::mo_acquire;
  bool barrier_before_publish = true;
  bool barrier_before_read = true;
  bool gathers_only = false;
};

constexpr variant variants[] = {
    // How the GPU publishes: fence.acq_rel.sys, st.relaxed.sys.
    {.name = "fence_and_relaxed_store", .fence_before_store = true},
    {.name = "release_store", .store = rl::mo_release},
    // Wrong: one side's order alone orders nothing.
    {.name = "relaxed_store"},
    {.name = "relaxed_load", .fence_before_store = true, .load = rl::mo_relaxed},
    // Wrong: a thread's fence covers what other threads stored only if a barrier came before it.
    {.name = "publish_before_barrier", .fence_before_store = true, .barrier_before_publish = false},
    {.name = "read_before_barrier", .fence_before_store = true, .barrier_before_read = false},
    // Wrong: without a handshake the next call's rows meet this one's readers.
    {.name = "gather_after_gather", .fence_before_store = true, .gathers_only = true},
};
variant chosen;

constexpr unsigned ranks = 2;
constexpr unsigned lanes = 2; // threads of a block
constexpr unsigned slots = 2;
constexpr int calls = 4;

struct reuse_of_buffers : rl::test_suite<reuse_of_buffers, ranks * lanes> {
  rl::var<int> view[ranks][ranks][lanes]; // [owner][source][row], written by the source
  rl::var<int> input[ranks][lanes];       // [owner][row], read by all
  rl::atomic<int> flag[ranks][slots][ranks];
  rl::atomic<int> arrived[ranks];

  void before() {
    for (unsigned rank = 0; rank < ranks; ++rank) {
      arrived[rank].store(0, rl::mo_relaxed, $);
      for (unsigned slot = 0; slot < slots; ++slot) {
        for (unsigned from = 0; from < ranks; ++from) {
          flag[rank][slot][from].store(0, rl::mo_relaxed, $);
        }
      }
    }
  }

  void block_barrier(unsigned me, int& barriers) {
    barriers += lanes;
    arrived[me].fetch_add(1, rl::mo_acq_rel, $);
    rl::linear_backoff pause;
    while (arrived[me].load(rl::mo_acquire, $) < barriers) pause.yield($);
  }

  void publish(unsigned me, int epoch) {
    if (chosen.fence_before_store) rl::atomic_thread_fence(rl::mo_acq_rel, $);
    for (unsigned to = 0; to < ranks; ++to) {
      if (to != me) flag[to][epoch % slots][me].store(epoch, chosen.store, $);
    }
  }

  void observe(unsigned me, int epoch) {
    for (unsigned from = 0; from < ranks; ++from) {
      rl::linear_backoff pause;
      while (from != me && flag[me][epoch % slots][from].load(chosen.load, $) < epoch) {
        pause.yield($);
      }
    }
  }

  void thread(unsigned index) {
    const unsigned me = index / lanes;
    const unsigned lane = index % lanes;
    int barriers = 0;
    for (int epoch = 1; epoch <= calls; ++epoch) {
      const bool gathers = chosen.gathers_only || epoch % 2 == 1;
      if (gathers) {
        for (unsigned to = 0; to < ranks; ++to) view[to][me][lane]($) = epoch;
      } else {
        input[me][lane]($) = epoch; // the FFN's last store
      }
      if (chosen.barrier_before_publish) block_barrier(me, barriers);
      if (lane == 0) {
        publish(me, epoch);
        observe(me, epoch);
      }
      if (chosen.barrier_before_read) block_barrier(me, barriers);
      for (unsigned from = 0; from < ranks; ++from) {
        RL_ASSERT((gathers ? view[me][from][lane]($) : input[from][lane]($)) == epoch);
      }
      block_barrier(me, barriers); // one kernel ends before the next begins
    }
  }
};

} // namespace

int main(int argc, char** argv) {
  for (const variant& one : variants) {
    if (argc == 2 && std::strcmp(argv[1], one.name) == 0) chosen = one;
  }
  if (chosen.name == nullptr) return 2;
  rl::test_params parameters;
  parameters.iteration_count = 20000;
  rl::simulate<reuse_of_buffers>(parameters);
  return parameters.test_result == rl::test_result_success ? 0 : 1;
}
