#pragma once

/// @file
/// NCCL communicators of the fake, and where their ranks meet.

#include "world.hpp"

namespace fake_cuda::detail {

enum class verb : std::uint8_t { all_gather, all_reduce, reduce_scatter, broadcast, reduce };
[[nodiscard]] const char* name_of(verb v);

/// One rank's side of a collective.
struct operation {
  verb what = verb::all_gather;
  const std::byte* send = nullptr;
  std::byte* recv = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t reduction = ncclSum;
  int root = 0;

  [[nodiscard]] bool sums() const { return what != verb::all_gather && what != verb::broadcast; }
  [[nodiscard]] bool has_root() const { return what == verb::broadcast || what == verb::reduce; }
};

/// Bytes [begin, end) that an operation touches.
struct byte_span {
  std::uintptr_t begin = 0, end = 0;

  [[nodiscard]] std::size_t size() const { return end - begin; }
  [[nodiscard]] bool overlaps(const byte_span& other) const {
    return begin < other.end && other.begin < end;
  }
};
byte_span read_by(const operation& op, int rank, int ranks);
byte_span written_by(const operation& op, int rank, int ranks);

/// The collective of one number.
struct meeting {
  std::vector<std::optional<operation>> present; ///< by rank
  int arrived = 0, left = 0;
  bool executing = false, done = false;
};

struct split_entry {
  int color = 0, key = 0;
  std::shared_ptr<comm> child; ///< null without a colour
};
struct split_meeting {
  std::vector<std::optional<split_entry>> present; ///< by rank
  int arrived = 0;
  bool done = false;
};

/// All ranks of a communicator.
struct clique {
  explicit clique(int ranks = 0) { resize(ranks); }
  void resize(int ranks) {
    size = ranks;
    members.resize(static_cast<std::size_t>(ranks));
  }

  int size = 0; ///< 0: no rank has come yet
  int joined = 0;
  bool ready = false;
  ncclResult_t refused = ncclSuccess; ///< why it will never be ready
  std::vector<std::weak_ptr<comm>> members;
  std::map<std::uint64_t, meeting> meetings;
  std::map<std::uint64_t, split_meeting> splits;
  std::condition_variable changed;
};

/// One rank of a communicator.
struct comm {
  ncclComm_t handle = nullptr;
  int rank = 0, device = 0;
  bool blocking = true;
  std::shared_ptr<clique> group; ///< null while the split that makes it goes on
  ncclResult_t error = ncclSuccess;
  bool aborted = false, destroyed = false, finalized = false;
  std::uint64_t next_operation = 0, next_split = 0;
  int pending = 0; ///< operations issued and not done
  int inside = 0;  ///< of them, in a meeting

  [[nodiscard]] bool ready() const { return group != nullptr && group->ready; }
};

/// Which meeting of a communicator the rank is in, for a report.
std::string standing_of(const comm& c);

/// Why a communicator takes no calls, or success.
ncclResult_t refused_call(const comm* c);
/// Takes a rank out of the meetings where it waits.
void withdraw(comm& c);
/// Makes the rank wait for its abort.
void fail(comm& c, ncclResult_t error);
/// Puts operations of one group on their streams.
struct issued_operation {
  std::shared_ptr<comm> on;
  std::shared_ptr<stream> at;
  operation what;
};
ncclResult_t issue(world& w, const std::vector<issued_operation>& together);
/// Moves the data of a meeting in which all ranks are.
void perform(const std::vector<operation>& by_rank);
/// How the ranks differ; empty if they don't.
std::string disagreement(const meeting& m);
[[nodiscard]] std::size_t size_of(ncclDataType_t type);

/// A rank that waits for its new communicator.
struct awaited_comm {
  std::shared_ptr<comm> who;     ///< null: a rank without colour
  std::shared_ptr<clique> where; ///< where news of it comes
  std::shared_ptr<comm> parent;  ///< of a split
  std::uint64_t split = 0;
  bool blocking = true;
  ncclComm_t* out = nullptr;
};
ncclResult_t await(world& w, lock_type& lock, const awaited_comm& what);

/// What a thread has collected since `ncclGroupStart`.
struct group_state {
  std::uint64_t generation = 0;
  int depth = 0;
  ncclResult_t error = ncclSuccess; ///< the first
  std::vector<issued_operation> operations = {};
  std::vector<awaited_comm> comms = {};
};
group_state& this_group(const world& w);

/// The frame of an NCCL call: `body(world, lock)` runs with the mutex held. What a call that
/// `may_be_grouped` returns is also the result of its group.
template <class Body>
ncclResult_t nccl_call(call_record record, Body&& body, bool may_be_grouped = false) {
  world& w = the_world();
  lock_type lock{w.mutex};
  const entered call = enter(w, std::move(record), ncclUnhandledCudaError);
  const ncclResult_t code = call.refused ? static_cast<ncclResult_t>(*call.refused) : body(w, lock);
  leave(w, call, code);
  group_state& group = this_group(w);
  if (may_be_grouped && group.depth > 0 && group.error == ncclSuccess) group.error = code;
  return code;
}

} // namespace fake_cuda::detail
