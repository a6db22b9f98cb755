#pragma once

/// @file
/// What the parts of the fake share: one mutex, tables of objects, and the frame of an API call.

#include "fake_cuda.hpp"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

namespace fake_cuda::detail {

using lock_type = std::unique_lock<std::mutex>;
using work = std::function<void()>;

struct memory_block;
struct stream;
struct event;
struct graph;
struct exec;
struct user_object;
struct capture;
struct comm;
struct clique;

/// Objects by handle. Handles are numbers, not addresses: new ones never equal old ones.
template <class Handle, class Object>
class handle_table {
public:
  Handle add(std::shared_ptr<Object> object, std::uintptr_t number) {
    const auto handle = reinterpret_cast<Handle>(number);
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  [[nodiscard]] std::shared_ptr<Object> find(Handle handle) const {
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<Object> take(Handle handle) {
    auto out = find(handle);
    objects_.erase(handle);
    return out;
  }
  [[nodiscard]] int size() const { return static_cast<int>(objects_.size()); }
  [[nodiscard]] auto begin() const { return objects_.begin(); }
  [[nodiscard]] auto end() const { return objects_.end(); }

private:
  std::map<Handle, std::shared_ptr<Object>> objects_;
};

struct failure_rule {
  std::string function;
  int left = 0;
  int code = 0;
  int device = any_device;
};

/// All objects. Graphs, graph executions and queued work may own user objects, whose destructors
/// take the mutex: destroy them with the mutex free.
struct tables {
  handle_table<cudaStream_t, stream> streams;
  handle_table<cudaEvent_t, event> events;
  handle_table<cudaGraph_t, graph> graphs;
  handle_table<cudaGraphExec_t, exec> execs;
  handle_table<cudaUserObject_t, user_object> user_objects;
  handle_table<ncclComm_t, comm> comms;
  std::map<cudaGraphConditionalHandle, unsigned> conditionals; ///< values by handle
  std::vector<std::shared_ptr<capture>> captures;
  std::map<std::uint64_t, std::shared_ptr<clique>> forming; ///< by unique id
  std::map<std::uintptr_t, std::shared_ptr<memory_block>> blocks;
  std::deque<std::shared_ptr<memory_block>> freed; ///< kept, to see who still writes there
};

struct settings {
  int devices = 0;
  int nccl_version = NCCL_VERSION_CODE;
  std::chrono::milliseconds patience{60'000};
  std::set<int> stalled;
  std::vector<failure_rule> failures;
};

struct world : tables, settings {
  std::mutex mutex;
  std::condition_variable changed;               ///< the number of workers
  std::uint64_t generation = 0;                  ///< counts resets
  std::uintptr_t last_handle = 0xdead'0000'0000; // no address: dereferencing it traps
  std::uint64_t last_id = 0;
  bool ending = false; ///< in `reset`: every wait returns
  int workers = 0;
  std::multiset<std::condition_variable*> waited; ///< by a worker or a call

  std::deque<call_record> log;
  std::uint64_t log_start = 0; ///< number of the log's first call
  std::vector<std::string> mismatches;
  std::vector<std::string> problems;

  [[nodiscard]] std::uintptr_t next_handle() { return last_handle += 16; }
};

/// The one world. Never destroyed: workers may outlive main.
world& the_world();

/// What CUDA keeps per host thread.
struct thread_state {
  std::uint64_t generation = 0;
  int device = 0;
  cudaError_t last_error = cudaSuccess;
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
};
thread_state& this_thread(const world& w);
/// Whether this thread runs the destructor of a user object, which may not call CUDA.
bool& in_destructor();

/// Ends the process: the fake cannot go on. The mutex is held.
[[noreturn]] void give_up(const world& w, const std::string& why);

/// Notes who waits, so that `wake_all` reaches also those whose objects have no handle any more.
class waiting_at {
public:
  waiting_at(world& w, std::condition_variable& changed)
      : world_{w}, place_{w.waited.insert(&changed)} {}
  waiting_at(const waiting_at&) = delete;
  waiting_at& operator=(const waiting_at&) = delete;
  ~waiting_at() { world_.waited.erase(place_); }

private:
  world& world_;
  std::multiset<std::condition_variable*>::iterator place_;
};
void wake_all(const world& w);

/// Waits for `ready` no longer than the fake's patience; a `reset` ends it too. `what` is a text,
/// or makes one.
template <class What, class Ready>
void wait_for(world& w, lock_type& lock, std::condition_variable& changed, const What& what,
              Ready ready) {
  const waiting_at here{w, changed};
  if (changed.wait_for(lock, w.patience, [&] { return ready() || w.ending; })) return;
  if constexpr (std::is_invocable_v<What>) {
    give_up(w, what());
  } else {
    give_up(w, what);
  }
}

/// A call that has begun.
struct entered {
  std::uint64_t number = 0;
  std::optional<int> refused; ///< the code to return at once
};
entered enter(world& w, call_record record, int forbidden);
void leave(world& w, const entered& call, int result);

/// The frame of a CUDA call: `body(world, lock)` runs with the mutex held.
template <class Body>
cudaError_t cuda_call(call_record record, Body&& body) {
  world& w = the_world();
  lock_type lock{w.mutex};
  const entered call = enter(w, std::move(record), cudaErrorNotPermitted);
  const cudaError_t code = call.refused ? static_cast<cudaError_t>(*call.refused) : body(w, lock);
  leave(w, call, code);
  if (code != cudaSuccess) this_thread(w).last_error = code;
  return code;
}

} // namespace fake_cuda::detail
