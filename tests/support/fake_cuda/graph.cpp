// Captures, graphs and user objects of the fake.
#include "stream.hpp"

#include <algorithm>

namespace fake_cuda::detail {
namespace {

/// A destructor to run once the mutex is free.
using destructor_call = std::pair<cudaHostFn_t, void*>;

void drop(world& w, const std::shared_ptr<user_object>& object, unsigned count,
          std::vector<destructor_call>& dying) {
  object->references -= std::min(count, object->references);
  if (object->references != 0) return;
  w.user_objects.take(object->handle);
  if (object->destroy != nullptr) dying.emplace_back(object->destroy, object->pointer);
}

void run(const std::vector<destructor_call>& dying) {
  for (const auto& [function, pointer] : dying) {
    in_destructor() = true;
    function(pointer);
    in_destructor() = false;
  }
}

bool is_being_captured(const world& w, cudaGraph_t handle) {
  return std::any_of(w.captures.begin(), w.captures.end(),
                     [&](const auto& c) { return c->handle == handle; });
}

/// Some stream's nodes have not been waited for by the stream where the capture began.
bool has_unjoined(const capture& c) {
  const stream_clock* seen = nullptr;
  for (const auto& [s, lane] : c.lanes) {
    if (s.get() == c.origin) seen = &lane.seen;
  }
  return std::any_of(c.lanes.begin(), c.lanes.end(), [&](const auto& each) {
    const auto& [s, lane] = each;
    if (s.get() == c.origin) return false;
    const auto known = seen->find(s.get());
    return known == seen->end() || known->second < lane.nodes;
  });
}

/// Into a new graph, or into `into`, which has a handle.
cudaError_t begin_capture(world& w, cudaStream_t stream, cudaStreamCaptureMode mode,
                          const std::shared_ptr<graph>& into, cudaGraph_t handle) {
  const auto s = stream_of(w, stream);
  if (s == nullptr) return cudaErrorInvalidResourceHandle;
  if (s->capturing != nullptr) return cudaErrorIllegalState;
  const auto c = std::make_shared<capture>();
  c->id = ++w.last_id;
  c->mode = mode;
  c->thread = std::this_thread::get_id();
  c->origin = s.get();
  c->recorded = into;
  c->handle = handle != nullptr ? handle : w.graphs.add(into, w.next_handle());
  c->lanes[s] = {};
  s->capturing = c;
  w.captures.push_back(c);
  return cudaSuccess;
}

/// What a SWITCH node does: the nodes of the body that the value names, none for one too large.
stream_work switch_work(cudaGraphConditionalHandle handle,
                        std::vector<std::shared_ptr<graph>> bodies) {
  return plain_work(cudaGraphNodeTypeConditional, "switch", [handle, bodies = std::move(bodies)] {
    std::vector<work> all;
    {
      world& w = the_world();
      const lock_type lock{w.mutex};
      const std::size_t index = w.conditionals.at(handle);
      if (index >= bodies.size()) return;
      for (const auto& node : bodies[index]->nodes) all.push_back(node->what.issue(w));
    }
    for (const work& each : all) each();
  });
}

} // namespace

held_objects::held_objects(const held_objects& other) : counts{other.counts} {
  for (const auto& [object, count] : counts) object->references += count;
}

held_objects::~held_objects() {
  if (counts.empty()) return;
  std::vector<destructor_call> dying;
  {
    const lock_type lock{the_world().mutex};
    for (const auto& [object, count] : counts) drop(the_world(), object, count, dying);
  }
  run(dying);
}

void record(world& w, const std::shared_ptr<stream>& on, stream_work what) {
  capture& c = *on->capturing;
  const auto node = std::make_shared<graph_node>();
  node->handle = reinterpret_cast<cudaGraphNode_t>(w.next_handle());
  node->what = std::move(what);
  c.recorded->nodes.push_back(node);
  capture::lane& lane = c.lanes[on];
  ++lane.nodes;
  lane.frontier = {node->handle};
}

std::shared_ptr<graph> end_capture(world& w, const std::shared_ptr<capture>& ended) {
  for (auto& [s, lane] : ended->lanes) s->capturing = nullptr;
  ended->lanes.clear();
  std::erase(w.captures, ended);
  w.graphs.take(ended->handle);
  return std::move(ended->recorded);
}

void drop_bodies(world& w, const graph& of, std::vector<std::shared_ptr<graph>>& dying) {
  for (cudaGraph_t body : of.bodies) {
    if (auto taken = w.graphs.take(body)) {
      drop_bodies(w, *taken, dying);
      dying.push_back(std::move(taken));
    }
  }
}

bool forbidden_by_capture(const world& w) {
  const cudaStreamCaptureMode mode = this_thread(w).capture_mode;
  if (mode == cudaStreamCaptureModeRelaxed) return false;
  bool out = false;
  for (const auto& c : w.captures) {
    if (c->mode == cudaStreamCaptureModeRelaxed) continue;
    const bool everybody =
        c->mode == cudaStreamCaptureModeGlobal && mode == cudaStreamCaptureModeGlobal;
    if (!everybody && c->thread != std::this_thread::get_id()) continue;
    c->invalid = true;
    out = true;
  }
  return out;
}

int graphs_of(const world& w, const comm& owner) {
  const auto holds = [&](const auto& each) {
    return std::any_of(each.second->nodes.begin(), each.second->nodes.end(),
                       [&](const auto& node) { return node->what.owner == &owner; });
  };
  return static_cast<int>(std::count_if(w.graphs.begin(), w.graphs.end(), holds) +
                          std::count_if(w.execs.begin(), w.execs.end(), holds));
}

} // namespace fake_cuda::detail

void fake_cuda::set_conditional(cudaGraphConditionalHandle handle, unsigned value) {
  detail::world& w = detail::the_world();
  const detail::lock_type lock{w.mutex};
  w.conditionals.at(handle) = value;
}

using namespace fake_cuda::detail;

extern "C" {

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return cuda_call({.call = "cudaThreadExchangeStreamCaptureMode"}, [&](world& w, lock_type&) {
    std::swap(this_thread(w).capture_mode, *mode);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return cuda_call({.call = "cudaStreamBeginCapture", .stream = stream}, [&](world& w, lock_type&) {
    const auto recorded = std::make_shared<graph>();
    return begin_capture(w, stream, mode, recorded, nullptr);
  });
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t*, const cudaGraphEdgeData*,
                                          std::size_t count, cudaStreamCaptureMode mode) {
  return cuda_call(
      {.call = "cudaStreamBeginCaptureToGraph", .stream = stream}, [&](world& w, lock_type&) {
        const auto into = w.graphs.find(graph);
        if (into == nullptr || !into->nodes.empty() || count != 0 || is_being_captured(w, graph))
          return cudaErrorInvalidValue;
        return begin_capture(w, stream, mode, into, graph);
      });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  std::shared_ptr<graph> recorded; // destroyed with the mutex free
  std::vector<std::shared_ptr<graph>> bodies;
  return cuda_call({.call = "cudaStreamEndCapture", .stream = stream}, [&](world& w, lock_type&) {
    if (out == nullptr) return cudaErrorInvalidValue;
    *out = nullptr;
    const auto s = stream_of(w, stream);
    if (s == nullptr) return cudaErrorInvalidResourceHandle;
    const auto c = s->capturing;
    if (c == nullptr) return cudaErrorIllegalState;
    if (c->origin != s.get()) return cudaErrorStreamCaptureUnmatched;
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
      return cudaErrorStreamCaptureWrongThread;
    const bool unjoined = has_unjoined(*c);
    recorded = end_capture(w, c);
    if (c->invalid || unjoined) {
      drop_bodies(w, *recorded, bodies);
      return c->invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined;
    }
    *out = w.graphs.add(recorded, reinterpret_cast<std::uintptr_t>(c->handle));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* out) {
  return cuda_call({.call = "cudaStreamIsCapturing", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    if (s == nullptr) return cudaErrorInvalidResourceHandle;
    *out = s->capturing == nullptr ? cudaStreamCaptureStatusNone
           : s->capturing->invalid ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, std::size_t* count) {
  return cuda_call({.call = "cudaStreamGetCaptureInfo", .stream = stream},
                   [&](world& w, lock_type&) {
                     const auto s = stream_of(w, stream);
                     if (s == nullptr) return cudaErrorInvalidResourceHandle;
                     if (s->capturing == nullptr || s->capturing->invalid) {
                       *status = s->capturing == nullptr ? cudaStreamCaptureStatusNone
                                                         : cudaStreamCaptureStatusInvalidated;
                       return cudaSuccess;
                     }
                     capture& c = *s->capturing;
                     const capture::lane& lane = c.lanes[s];
                     c.edges.assign(lane.frontier.size(), cudaGraphEdgeData{});
                     *status = cudaStreamCaptureStatusActive;
                     if (id != nullptr) *id = c.id;
                     if (graph != nullptr) *graph = c.handle;
                     if (dependencies != nullptr) *dependencies = lane.frontier.data();
                     if (edges != nullptr) *edges = c.edges.data();
                     if (count != nullptr) *count = lane.frontier.size();
                     return cudaSuccess;
                   });
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* dependencies,
                                                const cudaGraphEdgeData*, std::size_t count,
                                                unsigned flags) {
  return cuda_call({.call = "cudaStreamUpdateCaptureDependencies", .stream = stream},
                   [&](world& w, lock_type&) {
                     const auto s = stream_of(w, stream);
                     if (s == nullptr || s->capturing == nullptr) return cudaErrorIllegalState;
                     if (flags != cudaStreamSetCaptureDependencies) return cudaErrorNotSupported;
                     s->capturing->lanes[s].frontier.assign(dependencies, dependencies + count);
                     return cudaSuccess;
                   });
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* out, cudaGraph_t graph,
                                             unsigned value, unsigned) {
  return cuda_call({.call = "cudaGraphConditionalHandleCreate"}, [&](world& w, lock_type&) {
    if (w.graphs.find(graph) == nullptr) return cudaErrorInvalidValue;
    *out = w.next_handle();
    w.conditionals[*out] = value;
    return cudaSuccess;
  });
}

/// SWITCH nodes only.
cudaError_t cudaGraphAddNode(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t*,
                             const cudaGraphEdgeData*, std::size_t, cudaGraphNodeParams* params) {
  return cuda_call({.call = "cudaGraphAddNode"}, [&](world& w, lock_type&) {
    const auto g = w.graphs.find(graph);
    cudaConditionalNodeParams& is = params->conditional;
    if (g == nullptr || params->type != cudaGraphNodeTypeConditional ||
        is.type != cudaGraphCondTypeSwitch || is.size == 0 || !w.conditionals.contains(is.handle))
      return cudaErrorInvalidValue;
    const std::size_t first = g->bodies.size();
    std::vector<std::shared_ptr<::graph>> bodies;
    for (unsigned i = 0; i < is.size; ++i) {
      bodies.push_back(std::make_shared<::graph>());
      bodies.back()->is_body = true;
      g->bodies.push_back(w.graphs.add(bodies.back(), w.next_handle()));
    }
    const auto node = std::make_shared<graph_node>();
    node->handle = *out = reinterpret_cast<cudaGraphNode_t>(w.next_handle());
    node->bodies.assign(g->bodies.begin() + static_cast<std::ptrdiff_t>(first), g->bodies.end());
    is.phGraph_out = node->bodies.data();
    node->what = switch_work(is.handle, std::move(bodies));
    g->nodes.push_back(node);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  return cuda_call({.call = "cudaGraphInstantiate"}, [&](world& w, lock_type&) {
    const auto g = w.graphs.find(graph);
    if (out == nullptr || g == nullptr || is_being_captured(w, graph)) return cudaErrorInvalidValue;
    const auto e = std::make_shared<exec>();
    e->nodes = g->nodes;
    e->objects = std::make_shared<held_objects>(g->objects);
    *out = w.execs.add(e, w.next_handle());
    return cudaSuccess;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream) {
  return cuda_call({.call = "cudaGraphUpload", .stream = stream}, [&](world& w, lock_type&) {
    return w.execs.find(graph) == nullptr || stream_of(w, stream) == nullptr ? cudaErrorInvalidValue
                                                                             : cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return cuda_call({.call = "cudaGraphLaunch", .stream = stream}, [&](world& w, lock_type&) {
    const auto e = w.execs.find(graph);
    const auto s = stream_of(w, stream);
    if (e == nullptr || s == nullptr) return cudaErrorInvalidValue;
    for (const auto& node : e->nodes) {
      if (const cudaError_t code = submit(w, s, node->what)) return code;
    }
    // Keeps the user objects until all is done, or as long as the graph that captures this one.
    return submit(w, s, plain_work(cudaGraphNodeTypeEmpty, "end of graph", [held = e->objects] {}));
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  std::shared_ptr<::graph> taken; // destroyed with the mutex free
  std::vector<std::shared_ptr<::graph>> bodies;
  return cuda_call({.call = "cudaGraphDestroy"}, [&](world& w, lock_type&) {
    const auto found = w.graphs.find(graph);
    if (found == nullptr || found->is_body || is_being_captured(w, graph))
      return cudaErrorInvalidValue;
    taken = w.graphs.take(graph);
    drop_bodies(w, *taken, bodies);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  std::shared_ptr<exec> taken; // destroyed with the mutex free
  return cuda_call({.call = "cudaGraphExecDestroy"}, [&](world& w, lock_type&) {
    taken = w.execs.take(graph);
    return taken == nullptr ? cudaErrorInvalidValue : cudaSuccess;
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return cuda_call({.call = "cudaGraphGetNodes"}, [&](world& w, lock_type&) {
    const auto g = w.graphs.find(graph);
    if (g == nullptr || count == nullptr) return cudaErrorInvalidValue;
    if (nodes == nullptr) {
      *count = g->nodes.size();
      return cudaSuccess;
    }
    for (std::size_t i = 0; i < *count; ++i)
      nodes[i] = i < g->nodes.size() ? g->nodes[i]->handle : nullptr;
    *count = std::min(*count, g->nodes.size());
    return cudaSuccess;
  });
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* out) {
  return cuda_call({.call = "cudaGraphNodeGetType"}, [&](world& w, lock_type&) {
    for (const auto& [handle, g] : w.graphs) {
      for (const auto& each : g->nodes) {
        if (each->handle != node) continue;
        *out = each->what.type;
        return cudaSuccess;
      }
    }
    return cudaErrorInvalidValue;
  });
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* out, void* pointer, cudaHostFn_t destroy,
                                 unsigned count, unsigned flags) {
  return cuda_call({.call = "cudaUserObjectCreate", .count = count}, [&](world& w, lock_type&) {
    // The flag is the only one, and must be there.
    if (out == nullptr || destroy == nullptr || count == 0 ||
        flags != cudaUserObjectNoDestructorSync)
      return cudaErrorInvalidValue;
    const auto object = std::make_shared<user_object>();
    object->pointer = pointer;
    object->destroy = destroy;
    object->references = count;
    object->handle = *out = w.user_objects.add(object, w.next_handle());
    return cudaSuccess;
  });
}

cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned count) {
  return cuda_call({.call = "cudaUserObjectRetain", .count = count}, [&](world& w, lock_type&) {
    const auto found = w.user_objects.find(object);
    if (found == nullptr) return cudaErrorInvalidValue;
    found->references += count;
    return cudaSuccess;
  });
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
  return cuda_call({.call = "cudaUserObjectRelease", .count = count},
                   [&](world& w, lock_type& lock) {
                     const auto found = w.user_objects.find(object);
                     if (found == nullptr) return cudaErrorInvalidValue;
                     std::vector<destructor_call> dying;
                     drop(w, found, count, dying);
                     lock.unlock();
                     run(dying);
                     lock.lock();
                     return cudaSuccess;
                   });
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                      unsigned flags) {
  return cuda_call({.call = "cudaGraphRetainUserObject", .count = count},
                   [&](world& w, lock_type&) {
                     const auto g = w.graphs.find(graph);
                     const auto found = w.user_objects.find(object);
                     if (g == nullptr || found == nullptr || count == 0)
                       return cudaErrorInvalidValue;
                     if ((flags & cudaGraphUserObjectMove) == 0) found->references += count;
                     g->objects.counts[found] += count;
                     return cudaSuccess;
                   });
}

cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count) {
  return cuda_call({.call = "cudaGraphReleaseUserObject", .count = count},
                   [&](world& w, lock_type& lock) {
                     const auto g = w.graphs.find(graph);
                     const auto found = w.user_objects.find(object);
                     if (g == nullptr || found == nullptr) return cudaErrorInvalidValue;
                     const auto held = g->objects.counts.find(found);
                     if (held == g->objects.counts.end() || held->second < count)
                       return cudaErrorInvalidValue;
                     if ((held->second -= count) == 0) g->objects.counts.erase(held);
                     std::vector<destructor_call> dying;
                     drop(w, found, count, dying);
                     lock.unlock();
                     run(dying);
                     lock.lock();
                     return cudaSuccess;
                   });
}

} // extern "C"
