// Streams and events of the fake: what they do when nothing is captured.
#include "stream.hpp"

#include <algorithm>

namespace fake_cuda {
namespace detail {
namespace {

void serve(std::shared_ptr<stream> s) {
  world& w = the_world();
  lock_type lock{w.mutex};
  for (;;) {
    {
      const waiting_at here{w, s->filled};
      s->filled.wait(lock, [&] {
        return w.ending || (s->queue.empty() ? s->stopping : !w.stalled.contains(s->device));
      });
    }
    if (w.ending || s->queue.empty()) break;
    work next = std::move(s->queue.front());
    s->queue.pop_front();
    lock.unlock();
    try {
      next();
    } catch (...) {
      lock.lock();
      give_up(w, "an exception left the body of a kernel");
    }
    next = nullptr; // what it owns goes before anybody sees it completed
    lock.lock();
    ++s->completed;
    s->progress.notify_all();
  }
  --w.workers;
  w.changed.notify_all();
}

/// Why a stream may not be waited for, or success.
cudaError_t refused_wait(const world& w, const stream* s) {
  if (s == nullptr) return cudaErrorInvalidResourceHandle;
  if (s->capturing != nullptr) {
    s->capturing->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  return forbidden_by_capture(w) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t refused_wait(const world& w, const event* e) {
  if (e == nullptr) return cudaErrorInvalidResourceHandle;
  if (e->captured != nullptr) {
    e->captured->invalid = true;
    return cudaErrorCapturedEvent;
  }
  return forbidden_by_capture(w) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

bool is_done(const event& e) { return e.source == nullptr || e.source->completed >= e.ticket; }

/// A capturing stream, or one that waits for a capturing one.
cudaError_t wait_in_capture(const std::shared_ptr<stream>& s, const event& e) {
  if (e.captured == nullptr) {
    if (e.source == nullptr) return cudaSuccess;
    s->capturing->invalid = true;
    return cudaErrorStreamCaptureIsolation;
  }
  if (s->capturing != nullptr && s->capturing != e.captured) {
    s->capturing->invalid = true;
    e.captured->invalid = true;
    return cudaErrorStreamCaptureMerge;
  }
  if (e.captured->recorded == nullptr) return cudaErrorCapturedEvent; // has ended
  const bool joins = s->capturing == nullptr;
  s->capturing = e.captured;
  capture::lane& lane = e.captured->lanes[s];
  if (joins) ++lane.nodes; // it has to be waited for, even without nodes of its own
  for (const auto& [from, nodes] : e.seen) lane.seen[from] = std::max(lane.seen[from], nodes);
  lane.frontier.insert(lane.frontier.end(), e.frontier.begin(), e.frontier.end());
  return cudaSuccess;
}

} // namespace

std::shared_ptr<stream> stream_of(const world& w, cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
    give_up(w, "the null stream is not supported: create a stream");
  return w.streams.find(handle);
}

cudaError_t submit(world& w, const std::shared_ptr<stream>& to, stream_work what) {
  if (to->capturing != nullptr) {
    if (to->capturing->invalid) return cudaErrorStreamCaptureInvalidated;
    record(w, to, std::move(what));
    return cudaSuccess;
  }
  to->queue.push_back(what.issue(w));
  ++to->issued;
  to->filled.notify_all();
  return cudaSuccess;
}

void drain(world& w, lock_type& lock, const std::shared_ptr<stream>& of, const char* caller) {
  wait_for(
      w, lock, of->progress,
      [&] {
        return std::string{caller} + ": a stream of device " + std::to_string(of->device) +
               " does not get done";
      },
      [&, ticket = of->issued] { return of->completed >= ticket; });
}

void drain_device(world& w, lock_type& lock, int device, const char* caller, bool blocking_only) {
  std::vector<std::shared_ptr<stream>> waited;
  for (const auto& [handle, s] : w.streams) {
    const bool skipped = blocking_only && (s->flags & cudaStreamNonBlocking) != 0;
    if (s->device == device && !skipped) waited.push_back(s);
  }
  for (const auto& s : waited) drain(w, lock, s, caller);
}

} // namespace detail

using namespace detail;

cudaError_t enqueue(cudaStream_t stream, std::string name, std::function<void()> body) {
  return cuda_call(
      {.call = "enqueue", .detail = name, .stream = stream}, [&](world& w, lock_type&) {
        const auto on = stream_of(w, stream);
        if (on == nullptr || on->device != this_thread(w).device)
          return cudaErrorInvalidResourceHandle;
        return submit(w, on, plain_work(cudaGraphNodeTypeKernel, name, std::move(body)));
      });
}

} // namespace fake_cuda

using namespace fake_cuda::detail;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return cuda_call({.call = "cudaStreamCreateWithFlags"}, [&](world& w, lock_type&) {
    if (out == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    if (this_thread(w).device >= w.devices) return cudaErrorNoDevice;
    const auto s = std::make_shared<stream>();
    s->device = this_thread(w).device;
    s->flags = flags;
    s->handle = *out = w.streams.add(s, w.next_handle());
    ++w.workers;
    // Not joined: a destroyed stream still works off its queue. `reset` waits for all.
    std::thread{serve, s}.detach();
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return cuda_call({.call = "cudaDeviceGetStreamPriorityRange"}, [&](world& w, lock_type&) {
    if (this_thread(w).device >= w.devices) return cudaErrorNoDevice;
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
  });
}

// Priorities make no difference: every stream has a thread of its own.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
  return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::shared_ptr<graph> abandoned; // destroyed with the mutex free
  return cuda_call({.call = "cudaStreamDestroy", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    if (s == nullptr) return cudaErrorInvalidResourceHandle;
    if (const auto c = s->capturing) {
      c->invalid = true;
      c->lanes.erase(s);
      s->capturing = nullptr;
      if (c->origin == s.get()) abandoned = end_capture(w, c);
    }
    w.streams.take(stream);
    s->stopping = true;
    s->filled.notify_all();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return cuda_call({.call = "cudaStreamSynchronize", .stream = stream},
                   [&](world& w, lock_type& lock) {
                     const auto s = stream_of(w, stream);
                     const cudaError_t refused = refused_wait(w, s.get());
                     if (refused == cudaSuccess) drain(w, lock, s, "cudaStreamSynchronize");
                     return refused;
                   });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return cuda_call({.call = "cudaStreamQuery", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    const cudaError_t refused = refused_wait(w, s.get());
    if (refused != cudaSuccess) return refused;
    return s->completed < s->issued ? cudaErrorNotReady : cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return cuda_call({.call = "cudaLaunchHostFunc", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    if (s == nullptr) return cudaErrorInvalidResourceHandle;
    return submit(w, s,
                  plain_work(cudaGraphNodeTypeHost, "host function", [=] { function(data); }));
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return cuda_call({.call = "cudaStreamWaitEvent", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    const auto e = w.events.find(event);
    if (s == nullptr || e == nullptr) return cudaErrorInvalidResourceHandle;
    if (s->capturing != nullptr || e->captured != nullptr) return wait_in_capture(s, *e);
    if (is_done(*e)) return cudaSuccess;
    return submit(w, s, plain_work(cudaGraphNodeTypeWaitEvent, "wait", [at = *e] {
                    world& all = the_world();
                    lock_type lock{all.mutex};
                    wait_for(all, lock, at.source->progress, "a stream waits for an event",
                             [&] { return is_done(at); });
                  }));
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  return cuda_call({.call = "cudaEventCreateWithFlags"}, [&](world& w, lock_type&) {
    if (out == nullptr) return cudaErrorInvalidValue;
    if (this_thread(w).device >= w.devices) return cudaErrorNoDevice;
    const auto e = std::make_shared<event>();
    e->device = this_thread(w).device;
    *out = w.events.add(e, w.next_handle());
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return cuda_call({.call = "cudaEventDestroy"}, [&](world& w, lock_type&) {
    return w.events.take(event) == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cuda_call({.call = "cudaEventRecord", .stream = stream}, [&](world& w, lock_type&) {
    const auto s = stream_of(w, stream);
    const auto e = w.events.find(event);
    if (s == nullptr || e == nullptr || s->device != e->device)
      return cudaErrorInvalidResourceHandle;
    e->source = s;
    e->ticket = s->issued;
    e->captured = s->capturing;
    if (s->capturing == nullptr) return cudaSuccess;
    const capture::lane& lane = s->capturing->lanes[s];
    e->seen = lane.seen;
    e->seen[s.get()] = lane.nodes;
    e->frontier = lane.frontier;
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return cuda_call({.call = "cudaEventSynchronize"}, [&](world& w, lock_type& lock) {
    const auto e = w.events.find(event);
    const cudaError_t refused = refused_wait(w, e.get());
    if (refused != cudaSuccess || is_done(*e)) return refused;
    // As it is now: it may be recorded again meanwhile.
    wait_for(w, lock, e->source->progress, "cudaEventSynchronize",
             [at = *e] { return is_done(at); });
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return cuda_call({.call = "cudaEventQuery"}, [&](world& w, lock_type&) {
    const auto e = w.events.find(event);
    const cudaError_t refused = refused_wait(w, e.get());
    if (refused != cudaSuccess) return refused;
    return is_done(*e) ? cudaSuccess : cudaErrorNotReady;
  });
}

} // extern "C"
