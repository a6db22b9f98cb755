// NCCL communicators of the fake: how they come and go.
#include "comm.hpp"
#include "stream.hpp"

#include <algorithm>
#include <cstring>

namespace fake_cuda::detail {
namespace {

std::shared_ptr<comm> new_comm(world& w, int rank, int device, bool blocking) {
  const auto c = std::make_shared<comm>();
  c->rank = rank;
  c->device = device;
  c->blocking = blocking;
  c->handle = w.comms.add(c, w.next_handle());
  return c;
}

bool is_blocking(const ncclConfig_t* config, bool otherwise) {
  if (config == nullptr || config->blocking == NCCL_CONFIG_UNDEF_INT) return otherwise;
  return config->blocking != 0;
}

bool is_config(const ncclConfig_t* config) {
  const ncclConfig_t good = NCCL_CONFIG_INITIALIZER;
  return config == nullptr || config->magic == good.magic;
}

/// The last rank has come.
void found(const std::shared_ptr<clique>& q) {
  std::set<int> devices;
  for (const auto& each : q->members) {
    if (const auto c = each.lock()) devices.insert(c->device);
  }
  const bool distinct = devices.size() == q->members.size();
  if (!distinct) q->refused = ncclInvalidUsage; // "duplicate GPU detected"
  q->ready = distinct;
  q->changed.notify_all();
}

std::uint64_t number_of(const ncclUniqueId& id) {
  std::uint64_t out = 0;
  std::memcpy(&out, id.internal, sizeof out);
  return out;
}

/// The rest of a call that makes a communicator: waits, or leaves that to the end of the group.
ncclResult_t finish(world& w, lock_type& lock, awaited_comm what) {
  group_state& group = this_group(w);
  if (group.depth == 0) return await(w, lock, what);
  group.comms.push_back(std::move(what));
  return ncclSuccess;
}

ncclResult_t join(world& w, lock_type& lock, ncclComm_t* out, int ranks, const ncclUniqueId& id,
                  int rank, const ncclConfig_t* config) {
  if (out == nullptr || ranks < 1 || rank < 0 || rank >= ranks || !is_config(config))
    return ncclInvalidArgument;
  *out = nullptr;
  if (this_thread(w).device >= w.devices) return ncclUnhandledCudaError;
  const auto entry = w.forming.find(number_of(id));
  if (entry == w.forming.end()) {
    w.problems.push_back("ncclCommInitRank with an id that is used up, or none");
    return ncclInvalidArgument;
  }
  const auto q = entry->second;
  if (q->size == 0) q->resize(ranks);
  const auto place = static_cast<std::size_t>(rank);
  if (q->size != ranks || q->members[place].lock() != nullptr) {
    w.problems.push_back("ncclCommInitRank: ranks differ on their number, or two are the same");
    q->refused = ncclInvalidUsage;
    q->changed.notify_all();
    return ncclInvalidUsage;
  }
  const auto c = new_comm(w, rank, this_thread(w).device, is_blocking(config, true));
  c->group = q;
  q->members[place] = c;
  *out = c->handle;
  if (++q->joined == ranks) {
    w.forming.erase(entry);
    found(q);
  }
  return finish(w, lock, {c, q, nullptr, 0, c->blocking, out});
}

/// All ranks of the parent have said their colour.
void split_up(split_meeting& m) {
  std::map<int, std::vector<std::pair<int, std::shared_ptr<comm>>>> by_color;
  for (const auto& entry : m.present) {
    if (entry->child != nullptr) by_color[entry->color].emplace_back(entry->key, entry->child);
  }
  for (auto& [color, children] : by_color) {
    // Equal keys stay in the parent's order.
    std::stable_sort(children.begin(), children.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto q = std::make_shared<clique>(static_cast<int>(children.size()));
    for (std::size_t r = 0; r < children.size(); ++r) {
      q->members[r] = children[r].second;
      children[r].second->rank = static_cast<int>(r);
      children[r].second->group = q;
    }
    q->joined = q->size;
    q->ready = true;
  }
  m.present.clear();
  m.done = true;
}

ncclResult_t split(world& w, lock_type& lock, const std::shared_ptr<comm>& parent, int color,
                   int key, ncclComm_t* out, const ncclConfig_t* config) {
  if (out == nullptr || !is_config(config) || (color < 0 && color != NCCL_SPLIT_NOCOLOR))
    return ncclInvalidArgument;
  *out = nullptr;
  const auto q = parent->group;
  split_entry mine{color, key, nullptr};
  const bool blocking = is_blocking(config, parent->blocking);
  if (color != NCCL_SPLIT_NOCOLOR) mine.child = new_comm(w, -1, parent->device, blocking);
  if (mine.child != nullptr) *out = mine.child->handle;

  const std::uint64_t number = parent->next_split++;
  split_meeting& m = q->splits[number];
  m.present.resize(static_cast<std::size_t>(q->size));
  m.present[static_cast<std::size_t>(parent->rank)] = mine;
  if (++m.arrived == q->size) split_up(m);
  q->changed.notify_all();
  return finish(w, lock, {mine.child, q, parent, number, blocking, out});
}

/// What destroying and aborting have in common: nobody may need the communicator any more.
void bury(world& w, const std::shared_ptr<comm>& c, const char* caller) {
  if (const int graphs = graphs_of(w, *c); graphs > 0)
    w.problems.push_back(std::string{caller} + ": " + std::to_string(graphs) +
                         " graphs still hold its operations; NCCL would wait for their end");
  c->destroyed = true;
  w.comms.take(c->handle);
}

} // namespace

ncclResult_t refused_call(const comm* c) {
  if (c == nullptr) return ncclInvalidArgument;
  if (c->error != ncclSuccess) return c->error;
  if (!c->ready()) return ncclInvalidArgument;
  return c->finalized ? ncclInvalidUsage : ncclSuccess;
}

ncclResult_t await(world& w, lock_type& lock, const awaited_comm& what) {
  clique& at = *what.where;
  const auto made = [&] { return what.parent == nullptr ? at.ready : at.splits[what.split].done; };
  const auto failed = [&] {
    return what.parent == nullptr ? at.refused != ncclSuccess : what.parent->aborted;
  };
  if (what.blocking)
    wait_for(w, lock, at.changed, "a rank waits for others to make a communicator",
             [&] { return made() || failed(); });
  if (made()) return ncclSuccess;
  if (!what.blocking && !failed()) return ncclInProgress;
  if (what.who != nullptr) w.comms.take(what.who->handle);
  *what.out = nullptr;
  return at.refused != ncclSuccess ? at.refused : ncclInternalError;
}

std::string standing_of(const comm& c) {
  return "device " + std::to_string(c.device) + ", rank " + std::to_string(c.rank) + " of " +
         std::to_string(c.group == nullptr ? -1 : c.group->size) + ": " +
         std::to_string(c.next_operation) + " operations issued, " + std::to_string(c.pending) +
         " pending, error " + std::to_string(c.error);
}

} // namespace fake_cuda::detail

using namespace fake_cuda::detail;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  return nccl_call({.call = "ncclGetVersion"}, [&](world& w, lock_type&) {
    if (version == nullptr) return ncclInvalidArgument;
    *version = w.nccl_version;
    return ncclSuccess;
  });
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* out) {
  return nccl_call({.call = "ncclGetUniqueId"}, [&](world& w, lock_type&) {
    if (out == nullptr) return ncclInvalidArgument;
    const std::uint64_t number = ++w.last_id;
    *out = {};
    std::memcpy(out->internal, &number, sizeof number);
    w.forming[number] = std::make_shared<clique>();
    return ncclSuccess;
  });
}

ncclResult_t ncclCommInitRank(ncclComm_t* out, int ranks, ncclUniqueId id, int rank) {
  return nccl_call(
      {.call = "ncclCommInitRank", .rank = rank},
      [&](world& w, lock_type& lock) { return join(w, lock, out, ranks, id, rank, nullptr); },
      true);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return nccl_call(
      {.call = "ncclCommInitRankConfig", .rank = rank},
      [&](world& w, lock_type& lock) { return join(w, lock, out, ranks, id, rank, config); }, true);
}

ncclResult_t ncclCommInitAll(ncclComm_t* out, int count, const int* devices) {
  return nccl_call({.call = "ncclCommInitAll"}, [&](world& w, lock_type&) {
    if (out == nullptr || count < 1) return ncclInvalidArgument;
    const auto q = std::make_shared<clique>(count);
    std::vector<std::shared_ptr<comm>> made;
    for (int r = 0; r < count; ++r) {
      made.push_back(new_comm(w, r, devices == nullptr ? r : devices[r], true));
      made.back()->group = q;
      q->members[static_cast<std::size_t>(r)] = made.back();
    }
    q->joined = count;
    found(q);
    const bool exist = std::all_of(made.begin(), made.end(), [&](const auto& c) {
      return c->device >= 0 && c->device < w.devices;
    });
    for (int r = 0; r < count; ++r) {
      const ncclComm_t handle = made[static_cast<std::size_t>(r)]->handle;
      out[r] = exist && q->ready ? handle : nullptr;
      if (out[r] == nullptr) w.comms.take(handle);
    }
    return exist ? q->refused : ncclInvalidArgument;
  });
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* out,
                           ncclConfig_t* config) {
  return nccl_call(
      {.call = "ncclCommSplit", .comm = comm},
      [&](world& w, lock_type& lock) {
        const auto parent = w.comms.find(comm);
        if (const ncclResult_t refused = refused_call(parent.get())) return refused;
        return split(w, lock, parent, color, key, out, config);
      },
      true);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return nccl_call({.call = "ncclCommFinalize", .comm = comm}, [&](world& w, lock_type& lock) {
    const auto c = w.comms.find(comm);
    if (const ncclResult_t refused = refused_call(c.get())) return refused;
    c->finalized = true;
    wait_for(w, lock, c->group->changed, "ncclCommFinalize: operations don't get done",
             [&] { return c->pending == 0 || c->aborted; });
    return ncclSuccess;
  });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  return nccl_call({.call = "ncclCommDestroy", .comm = comm}, [&](world& w, lock_type&) {
    const auto c = w.comms.find(comm);
    if (c == nullptr) return ncclInvalidArgument;
    if (c->pending > 0) w.problems.push_back("ncclCommDestroy: operations are pending");
    bury(w, c, "ncclCommDestroy");
    return ncclSuccess;
  });
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  return nccl_call({.call = "ncclCommAbort", .comm = comm}, [&](world& w, lock_type& lock) {
    const auto c = w.comms.find(comm);
    if (c == nullptr) return ncclInvalidArgument;
    c->aborted = true;
    withdraw(*c);
    bury(w, c, "ncclCommAbort");
    if (c->group != nullptr)
      wait_for(w, lock, c->group->changed, "ncclCommAbort: a stream does not leave its operation",
               [&] { return c->inside == 0; });
    return ncclSuccess;
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* out) {
  return nccl_call({.call = "ncclCommGetAsyncError", .comm = comm}, [&](world& w, lock_type&) {
    const auto c = w.comms.find(comm);
    if (c == nullptr || out == nullptr) return ncclInvalidArgument;
    *out = c->error;
    if (c->error == ncclSuccess && !c->ready()) *out = ncclInProgress;
    if (c->group != nullptr && c->group->refused != ncclSuccess) *out = c->group->refused;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* out) {
  return nccl_call({.call = "ncclCommCount", .comm = comm}, [&](world& w, lock_type&) {
    const auto c = w.comms.find(comm);
    if (c == nullptr || !c->ready()) return ncclInvalidArgument;
    *out = c->group->size;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* out) {
  return nccl_call({.call = "ncclCommUserRank", .comm = comm}, [&](world& w, lock_type&) {
    const auto c = w.comms.find(comm);
    if (c == nullptr || !c->ready()) return ncclInvalidArgument;
    *out = c->rank;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* out) {
  return nccl_call({.call = "ncclCommCuDevice", .comm = comm}, [&](world& w, lock_type&) {
    const auto c = w.comms.find(comm);
    if (c == nullptr || !c->ready()) return ncclInvalidArgument;
    *out = c->device;
    return ncclSuccess;
  });
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
  case ncclSuccess:
    return "no error";
  case ncclUnhandledCudaError:
    return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
  case ncclSystemError:
    return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
  case ncclInternalError:
    return "internal error - please report this issue to the NCCL developers";
  case ncclInvalidArgument:
    return "invalid argument (run with NCCL_DEBUG=WARN for details)";
  case ncclInvalidUsage:
    return "invalid usage (run with NCCL_DEBUG=WARN for details)";
  case ncclRemoteError:
    return "remote process exited or there was a network error";
  case ncclInProgress:
    return "NCCL operation in progress";
  default:
    return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  thread_local std::string text;
  text = w.mismatches.empty() ? w.problems.empty() ? "" : w.problems.back() : w.mismatches.back();
  return text.c_str();
}

} // extern "C"
