// NCCL collectives of the fake: from the call to the meeting on the streams.
#include "comm.hpp"
#include "memory.hpp"
#include "stream.hpp"

#include <algorithm>

namespace fake_cuda {
namespace detail {
namespace {

std::string place(const comm& c) {
  return "rank " + std::to_string(c.rank) + " of " + std::to_string(c.group->size);
}

/// Whether buffers are where and as long as the operation needs them; else it is a problem.
bool buffers_are_good(world& w, const comm& c, const operation& op) {
  bool out = true;
  const auto look = [&](const byte_span& span, const char* which) {
    if (span.size() == 0) return;
    const auto* const at = reinterpret_cast<const void*>(span.begin);
    const memory_range range = range_of(w, at, span.size());
    const bool reachable =
        range.kind == memory_kind::pinned || (range.on_device() && range.device == c.device);
    if (reachable && range.fits) return;
    out = false;
    w.problems.push_back(std::string{name_of(op.what)} + " of " + place(c) + ": " + which +
                         (reachable ? " buffer is too short" : " buffer is not on its device"));
  };
  look(read_by(op, c.rank, c.group->size), "send");
  look(written_by(op, c.rank, c.group->size), "receive");
  return out;
}

/// NCCL's in-place forms: the input is exactly this rank's part of the output, or the reverse.
bool is_in_place(const operation& op, int rank) {
  const std::size_t part = static_cast<std::size_t>(rank) * op.count * size_of(op.type);
  if (op.what == verb::all_gather) return op.send == op.recv + part;
  if (op.what == verb::reduce_scatter) return op.recv == op.send + part;
  return op.send == op.recv;
}

/// Operations of one group may run at the same time, so none may touch what another writes.
void look_for_overlaps(world& w, const std::vector<issued_operation>& together) {
  for (std::size_t i = 0; i < together.size(); ++i) {
    const comm& c = *together[i].on;
    const auto written = written_by(together[i].what, c.rank, c.group->size);
    for (std::size_t j = 0; j < together.size(); ++j) {
      const operation& other = together[j].what;
      if (together[j].on.get() != &c) continue;
      const bool reads = read_by(other, c.rank, c.group->size).overlaps(written) &&
                         !(i == j && is_in_place(other, c.rank));
      const bool writes = i != j && written_by(other, c.rank, c.group->size).overlaps(written);
      if (reads || writes)
        w.problems.push_back(std::string{name_of(other.what)} + " of " + place(c) +
                             (i == j ? ": send and receive buffers overlap"
                                     : ": touches what another operation of its group writes"));
    }
  }
}

/// All ranks are here.
void complete(world& w, lock_type& lock, clique& q, meeting& m, std::uint64_t number) {
  if (const std::string how = disagreement(m); !how.empty()) {
    w.mismatches.push_back(how + " (collective " + std::to_string(number) + ")");
    for (const auto& each : q.members) {
      if (const auto c = each.lock()) fail(*c, ncclInvalidUsage);
    }
    return;
  }
  std::vector<operation> by_rank;
  bool good = true;
  for (std::size_t r = 0; r < m.present.size(); ++r) {
    by_rank.push_back(*m.present[r]);
    const auto c = q.members[r].lock(); // the rank waits here, so it is alive
    good = buffers_are_good(w, *c, by_rank.back()) && good;
  }
  if (good) {
    m.executing = true;
    lock.unlock();
    perform(by_rank);
    lock.lock();
    m.executing = false;
  }
  m.done = true;
}

/// On the stream's worker: waits for the other ranks; the last one does it all.
void meet(const std::shared_ptr<comm>& c, const operation& op, std::uint64_t number) {
  world& w = the_world();
  lock_type lock{w.mutex};
  clique& q = *c->group;
  ++c->inside;
  meeting& m = q.meetings[number];
  m.present.resize(static_cast<std::size_t>(q.size));
  if (!c->aborted && c->error == ncclSuccess) {
    m.present[static_cast<std::size_t>(c->rank)] = op;
    if (++m.arrived == q.size) complete(w, lock, q, m, number);
  }
  q.changed.notify_all();
  wait_for(
      w, lock, q.changed,
      [&] {
        std::string text = place(*c) + " waits in " + name_of(op.what) + " (collective " +
                           std::to_string(number) + ") for ranks";
        for (std::size_t r = 0; r < m.present.size(); ++r)
          if (!m.present[r]) text += ' ' + std::to_string(r);
        return text;
      },
      [&] { return m.done || (c->aborted && !m.executing); });
  --c->inside;
  --c->pending;
  if (m.done && ++m.left == q.size) q.meetings.erase(number);
  q.changed.notify_all();
}

stream_work work_of(const std::shared_ptr<comm>& c, const operation& op) {
  const auto issue = [c, op](world& w) -> work {
    if (c->destroyed) {
      w.problems.push_back(std::string{name_of(op.what)} + " of " + place(*c) +
                           " replayed after its communicator was destroyed");
      return [] {};
    }
    ++c->pending;
    return [c, op, number = c->next_operation++] { meet(c, op, number); };
  };
  return {cudaGraphNodeTypeKernel, name_of(op.what), issue, c.get()};
}

ncclResult_t refused_operation(world& w, const comm& c, const operation& op) {
  const auto refuse = [&](const char* why) {
    w.problems.push_back(std::string{name_of(op.what)} + " of " + place(c) + ": " + why);
    return ncclInvalidArgument;
  };
  if (op.type < 0 || op.type >= ncclNumTypes) return ncclInvalidArgument;
  if (op.has_root() && (op.root < 0 || op.root >= c.group->size)) return ncclInvalidArgument;
  if (op.sums() && op.reduction != ncclSum) return refuse("the fake knows ncclSum only");
  if (op.sums() && op.type > ncclBfloat16) return refuse("the fake sums no such type");
  if (op.count != 0 && !buffers_are_good(w, c, op)) return ncclInvalidArgument;
  return ncclSuccess;
}

ncclResult_t collective(operation op, ncclComm_t comm, cudaStream_t stream) {
  call_record record{.call = name_of(op.what),
                     .count = op.count,
                     .datatype = op.type,
                     .root = op.has_root() ? op.root : -1,
                     .input = op.send,
                     .output = op.recv,
                     .stream = stream,
                     .comm = comm};
  return nccl_call(
      std::move(record),
      [&](world& w, lock_type&) {
        const auto c = w.comms.find(comm);
        if (const ncclResult_t refused = refused_call(c.get())) return refused;
        if (const ncclResult_t refused = refused_operation(w, *c, op)) return refused;
        const auto s = stream_of(w, stream);
        if (s == nullptr || s->device != c->device) return ncclUnhandledCudaError;
        if (op.count == 0) return ncclSuccess; // NCCL discards it: no rank waits for this one
        group_state& group = this_group(w);
        const issued_operation one{c, s, op};
        if (group.depth == 0) return issue(w, {one});
        group.operations.push_back(one);
        return ncclSuccess;
      },
      true);
}

} // namespace

ncclResult_t issue(world& w, const std::vector<issued_operation>& together) {
  look_for_overlaps(w, together);
  for (const issued_operation& each : together) {
    if (submit(w, each.at, work_of(each.on, each.what)) != cudaSuccess)
      return ncclUnhandledCudaError;
  }
  return ncclSuccess;
}

void withdraw(comm& c) {
  if (c.group == nullptr) return;
  for (auto& [number, m] : c.group->meetings) {
    auto& mine = m.present[static_cast<std::size_t>(c.rank)];
    if (m.executing || m.done || !mine) continue;
    mine.reset();
    --m.arrived;
  }
  c.group->changed.notify_all();
}

void fail(comm& c, ncclResult_t error) {
  if (c.error == ncclSuccess) c.error = error;
  withdraw(c);
}

group_state& this_group(const world& w) {
  thread_local group_state state;
  if (state.generation != w.generation) {
    state = {};
    state.generation = w.generation;
  }
  return state;
}

} // namespace detail

using namespace detail;

void set_async_error(ncclComm_t comm, ncclResult_t error) {
  world& w = the_world();
  const lock_type lock{w.mutex};
  if (const auto c = w.comms.find(comm)) fail(*c, error);
}

void await_waiting(ncclComm_t comm) {
  world& w = the_world();
  lock_type lock{w.mutex};
  const auto c = w.comms.find(comm);
  if (c == nullptr || c->group == nullptr) give_up(w, "await_waiting: no such communicator");
  wait_for(w, lock, c->group->changed, "await_waiting", [&] { return c->inside > 0; });
}

} // namespace fake_cuda

using namespace fake_cuda::detail;

namespace {

const std::byte* bytes(const void* p) { return static_cast<const std::byte*>(p); }
std::byte* bytes(void* p) { return static_cast<std::byte*>(p); }

} // namespace

extern "C" {

ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective({verb::all_gather, bytes(send), bytes(recv), count, type}, comm, stream);
}

ncclResult_t ncclAllReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective({verb::all_reduce, bytes(send), bytes(recv), count, type, op}, comm, stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective({verb::reduce_scatter, bytes(send), bytes(recv), count, type, op}, comm,
                    stream);
}

ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return collective({verb::broadcast, bytes(send), bytes(recv), count, type, ncclSum, root}, comm,
                    stream);
}

ncclResult_t ncclReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
  return collective({verb::reduce, bytes(send), bytes(recv), count, type, op, root}, comm, stream);
}

ncclResult_t ncclGroupStart() {
  return nccl_call({.call = "ncclGroupStart"}, [&](world& w, lock_type&) {
    ++this_group(w).depth;
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupEnd() {
  group_state ended;
  const auto close = [&ended](world& w) {
    if (--this_group(w).depth == 0)
      ended = std::exchange(this_group(w), {.generation = w.generation});
  };
  bool entered = false;
  const ncclResult_t code = nccl_call({.call = "ncclGroupEnd"}, [&](world& w, lock_type& lock) {
    entered = true;
    if (this_group(w).depth == 0) return ncclInvalidUsage;
    close(w);
    ncclResult_t result = ended.error;
    if (result == ncclSuccess) result = issue(w, ended.operations);
    for (const awaited_comm& each : ended.comms) {
      const ncclResult_t one = await(w, lock, each);
      if (result == ncclSuccess) result = one;
    }
    return result;
  });
  if (entered) return code;
  // Failed on demand: the group is over all the same.
  world& w = the_world();
  const lock_type lock{w.mutex};
  if (this_group(w).depth > 0) close(w);
  return code;
}

} // extern "C"
