// The fake's log, its failures on demand, and how it starts over.
#include "comm.hpp"
#include "memory.hpp"
#include "stream.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fake_cuda {
namespace detail {

world& the_world() {
  static world& one = *new world;
  return one;
}

thread_state& this_thread(const world& w) {
  thread_local thread_state state;
  if (state.generation != w.generation) {
    state = {};
    state.generation = w.generation;
  }
  return state;
}

bool& in_destructor() {
  thread_local bool inside = false;
  return inside;
}

void give_up(const world& w, const std::string& why) {
  std::fprintf(stderr, "fake_cuda: %s\n", why.c_str());
  for (const std::string& text : w.mismatches) std::fprintf(stderr, "  %s\n", text.c_str());
  for (const std::string& text : w.problems) std::fprintf(stderr, "  %s\n", text.c_str());
  for (const auto& [handle, c] : w.comms) std::fprintf(stderr, "  %s\n", standing_of(*c).c_str());
  const std::size_t first = w.log.size() - std::min<std::size_t>(w.log.size(), 32);
  for (std::size_t i = first; i < w.log.size(); ++i) {
    const call_record& r = w.log[i];
    std::fprintf(stderr, "  device %d: %s %s(%zu)%s = %d\n", r.device, r.call.c_str(),
                 r.detail.c_str(), r.count, r.captured ? " captured" : "", r.result);
  }
  std::fflush(stderr);
  std::abort();
}

void wake_all(const world& w) {
  for (std::condition_variable* const each : w.waited) each->notify_all();
}

entered enter(world& w, call_record record, int forbidden) {
  record.device = this_thread(w).device;
  if (record.comm != nullptr) {
    if (const auto c = w.comms.find(record.comm)) {
      record.device = c->device;
      record.rank = c->rank;
    }
  }
  if (record.stream != nullptr) {
    const auto s = w.streams.find(record.stream);
    record.captured = s != nullptr && s->capturing != nullptr;
  }
  entered out{w.log_start + w.log.size(), {}};
  if (in_destructor()) {
    w.problems.push_back(record.call + " called from the destructor of a user object");
    out.refused = forbidden;
  }
  // All rules count every call; of two that are due, the older decides.
  for (auto rule = w.failures.begin(); rule != w.failures.end();) {
    const bool counts = (rule->function == record.call || rule->function == record.detail) &&
                        (rule->device == any_device || rule->device == record.device);
    if (!counts || --rule->left > 0) {
      ++rule;
      continue;
    }
    if (!out.refused) out.refused = rule->code;
    rule = w.failures.erase(rule);
  }
  w.log.push_back(std::move(record));
  if (w.log.size() > most_calls_logged) {
    w.log.pop_front();
    ++w.log_start;
  }
  return out;
}

void leave(world& w, const entered& call, int result) {
  if (call.number >= w.log_start)
    w.log[static_cast<std::size_t>(call.number - w.log_start)].result = result;
}

} // namespace detail

using namespace detail;

void reset(int devices) {
  world& w = the_world();
  tables old;
  {
    lock_type lock{w.mutex};
    w.ending = true;
    w.stalled.clear();
    wake_all(w);
    // Streams and captures own each other.
    for (const auto& [handle, s] : w.streams) s->capturing = nullptr;
    for (const auto& [handle, object] : w.user_objects) object->destroy = nullptr;
    if (!w.changed.wait_for(lock, w.patience, [&] { return w.workers == 0; }))
      give_up(w, "reset: a stream is still busy, perhaps in the body of a kernel");
    old = std::exchange(static_cast<tables&>(w), {});
    static_cast<settings&>(w) = {};
    w.devices = devices;
    ++w.generation;
    w.log_start += w.log.size();
    w.log.clear();
    w.mismatches.clear();
    w.problems.clear();
    w.ending = false;
  }
}

std::vector<call_record> log() {
  world& w = the_world();
  const lock_type lock{w.mutex};
  return {w.log.begin(), w.log.end()};
}

void clear_log() {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.log_start += w.log.size();
  w.log.clear();
}

int calls(std::string_view function, int device) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  return static_cast<int>(std::count_if(w.log.begin(), w.log.end(), [&](const call_record& r) {
    return (r.call == function || r.detail == function) &&
           (device == any_device || r.device == device);
  }));
}

std::vector<std::string> mismatches() {
  world& w = the_world();
  const lock_type lock{w.mutex};
  return w.mismatches;
}

std::vector<std::string> problems() {
  world& w = the_world();
  const lock_type lock{w.mutex};
  std::vector<std::string> out = w.problems;
  for (std::string& text : broken_canaries(w)) out.push_back(std::move(text));
  return out;
}

live_counts live() {
  world& w = the_world();
  const lock_type lock{w.mutex};
  live_counts out;
  for (const auto& [address, block] : w.blocks)
    ++(block->kind == memory_kind::device ? out.device_blocks : out.pinned_blocks);
  out.streams = w.streams.size();
  out.events = w.events.size();
  out.graphs = w.graphs.size();
  out.execs = w.execs.size();
  out.user_objects = w.user_objects.size();
  out.comms = w.comms.size();
  return out;
}

void fail_nth(std::string function, int n, int code, int device) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.failures.push_back({std::move(function), n, code, device});
}

void stall(int device) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.stalled.insert(device);
}

void release(int device) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.stalled.erase(device);
  wake_all(w);
}

void set_nccl_version(int version) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.nccl_version = version;
}

void set_patience(std::chrono::milliseconds patience) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  w.patience = patience;
}

} // namespace fake_cuda
