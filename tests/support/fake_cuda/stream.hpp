#pragma once

/// @file
/// Streams, events, captures and graphs of the fake.

#include "world.hpp"

#include <thread>

namespace fake_cuda::detail {

/// Something to be done in stream order.
struct stream_work {
  cudaGraphNodeType type = cudaGraphNodeTypeKernel;
  std::string name;
  /// Called whenever it is put on a stream, which for a captured one is at each replay; the mutex
  /// is held. Answers what the worker runs, with the mutex free.
  std::function<work(world&)> issue;
  const comm* owner = nullptr; ///< whose operation it is
};
/// Work that is the same at every replay.
inline stream_work plain_work(cudaGraphNodeType type, std::string name, work body) {
  return {type, std::move(name), [body = std::move(body)](world&) { return body; }};
}

struct stream {
  cudaStream_t handle = nullptr;
  int device = 0;
  unsigned flags = 0;
  std::deque<work> queue;
  std::uint64_t issued = 0, completed = 0;
  bool stopping = false;
  std::condition_variable filled;   ///< something for the worker
  std::condition_variable progress; ///< `completed` grew
  std::shared_ptr<capture> capturing;
};

/// Nodes seen, by stream: who has waited for whom in a capture.
using stream_clock = std::map<const stream*, std::size_t>;

struct event {
  int device = 0;
  std::shared_ptr<stream> source; ///< null: never recorded
  std::uint64_t ticket = 0;       ///< done when the source has completed as many
  std::shared_ptr<capture> captured;
  stream_clock seen;
  std::vector<cudaGraphNode_t> frontier;
};

/// References of a graph to user objects.
struct held_objects {
  held_objects() = default;
  held_objects(const held_objects& other);
  held_objects& operator=(const held_objects&) = delete;
  ~held_objects();

  std::map<std::shared_ptr<user_object>, unsigned> counts;
};

struct user_object {
  cudaUserObject_t handle = nullptr;
  void* pointer = nullptr;
  cudaHostFn_t destroy = nullptr;
  unsigned references = 0;
};

struct graph_node {
  cudaGraphNode_t handle = nullptr;
  stream_work what;
  std::vector<cudaGraph_t> bodies; ///< of a conditional node
};
using node_list = std::vector<std::shared_ptr<graph_node>>;

struct graph {
  node_list nodes; ///< in an order in which they may run
  held_objects objects;
  bool is_body = false;            ///< of a conditional node, whose graph it goes with
  std::vector<cudaGraph_t> bodies; ///< of this graph's conditional nodes
};

struct exec {
  node_list nodes;
  std::shared_ptr<held_objects> objects;
};

struct capture {
  struct lane {
    std::size_t nodes = 0; ///< recorded on this stream, its joining included
    stream_clock seen;
    std::vector<cudaGraphNode_t> frontier; ///< what the next node depends on
  };

  unsigned long long id = 0;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  const stream* origin = nullptr;
  bool invalid = false;
  cudaGraph_t handle = nullptr;
  std::shared_ptr<graph> recorded; ///< null once it has ended
  std::map<std::shared_ptr<stream>, lane> lanes;
  std::vector<cudaGraphEdgeData> edges; ///< what `cudaStreamGetCaptureInfo` points to
};

/// The stream of a handle, null if there is none. Aborts for the null stream.
std::shared_ptr<stream> stream_of(const world& w, cudaStream_t handle);
/// Puts work on a stream, or into the graph that it captures.
cudaError_t submit(world& w, const std::shared_ptr<stream>& to, stream_work what);
/// Waits until a stream has completed what was issued so far.
void drain(world& w, lock_type& lock, const std::shared_ptr<stream>& of, const char* caller);
/// Drains all streams of a device; a synchronous copy is in order with blocking ones only.
void drain_device(world& w, lock_type& lock, int device, const char* caller,
                  bool blocking_only = false);

/// Records a node in the capture of a stream.
void record(world& w, const std::shared_ptr<stream>& on, stream_work what);
/// Frees all streams of a capture, and answers its graph, which has no handle any more.
std::shared_ptr<graph> end_capture(world& w, const std::shared_ptr<capture>& ended);
/// Whether captures forbid a call that may wait or allocate; then they are invalid now.
bool forbidden_by_capture(const world& w);
/// How many graphs and graph executions hold operations of a communicator.
int graphs_of(const world& w, const comm& owner);

} // namespace fake_cuda::detail
