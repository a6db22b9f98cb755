// Memory of the fake: allocation, copies, and what pointers are.
#include "memory.hpp"
#include "stream.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fake_cuda::detail {
namespace {

constexpr std::size_t red_zone = 256; // and CUDA's alignment
constexpr std::byte red{0xa5};
constexpr std::byte fresh{0xff}; // NaN in every floating type
constexpr std::byte dead{0xdd};
constexpr std::size_t most_freed_bytes = std::size_t{32} << 20;

bool filled_with(const std::byte* from, const std::byte* to, std::byte value) {
  return std::all_of(from, to, [value](std::byte b) { return b == value; });
}

} // namespace

memory_block::memory_block(memory_kind k, int d, std::size_t s)
    : kind{k}, device{d}, size{s}, room_{(s + red_zone - 1) / red_zone * red_zone + 2 * red_zone},
      base_{static_cast<std::byte*>(std::aligned_alloc(red_zone, room_))} {
  if (base_ == nullptr) std::abort();
  data = base_ + red_zone;
  std::fill(base_, data, red);
  std::fill(data, data + size, fresh);
  std::fill(data + size, base_ + room_, red);
  forbid(true);
}

memory_block::~memory_block() {
  forbid(false);
  std::free(base_);
}

void memory_block::retire() {
  std::fill(data, data + size, dead);
  retired_ = true;
  forbid(true);
}

bool memory_block::intact() {
  forbid(false);
  const bool good = filled_with(base_, data, red) && filled_with(data + size, base_ + room_, red) &&
                    (!retired_ || filled_with(data, data + size, dead));
  forbid(true);
  return good;
}

/// Under AddressSanitizer the red zones may not even be read.
void memory_block::forbid([[maybe_unused]] bool on) const {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(base_, room_);
  if (!on) return;
  __asan_poison_memory_region(base_, red_zone);
  __asan_poison_memory_region(data + size, static_cast<std::size_t>(base_ + room_ - data) - size);
  if (retired_) __asan_poison_memory_region(base_, room_);
#endif
}

memory_range range_of(const world& w, const void* at, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  auto above = w.blocks.upper_bound(address);
  if (above == w.blocks.begin()) return {};
  const memory_block& block = *std::prev(above)->second;
  const std::size_t offset = address - reinterpret_cast<std::uintptr_t>(block.data);
  if (offset >= block.size) return {};
  return {block.kind, block.device, bytes <= block.size - offset};
}

namespace {

std::string broken(const memory_block& block) {
  return "write beside an allocation of " + std::to_string(block.size) + " bytes on device " +
         std::to_string(block.device) + ", or into it after it was freed";
}

} // namespace

std::vector<std::string> broken_canaries(const world& w) {
  std::vector<std::string> out;
  for (const auto& [address, block] : w.blocks) {
    if (!block->intact()) out.push_back(broken(*block));
  }
  for (const auto& block : w.freed) {
    if (!block->intact()) out.push_back(broken(*block));
  }
  return out;
}

namespace {

cudaError_t allocate(world& w, memory_kind kind, void** out, std::size_t bytes) {
  if (out == nullptr) return cudaErrorInvalidValue;
  *out = nullptr;
  const int device = this_thread(w).device;
  if (device >= w.devices) return cudaErrorNoDevice;
  if (forbidden_by_capture(w)) return cudaErrorStreamCaptureUnsupported;
  if (bytes == 0) return cudaSuccess;
  auto block = std::make_shared<memory_block>(kind, device, bytes);
  *out = block->data;
  w.blocks.emplace(reinterpret_cast<std::uintptr_t>(block->data), std::move(block));
  return cudaSuccess;
}

cudaError_t deallocate(world& w, lock_type& lock, memory_kind kind, const char* caller, void* at) {
  if (at == nullptr) return cudaSuccess;
  if (forbidden_by_capture(w)) return cudaErrorStreamCaptureUnsupported;
  const auto found = w.blocks.find(reinterpret_cast<std::uintptr_t>(at));
  if (found == w.blocks.end() || found->second->kind != kind) {
    w.problems.push_back(std::string{caller} + " of what is not allocated");
    return cudaErrorInvalidValue;
  }
  const auto block = found->second;
  drain_device(w, lock, block->device, caller);
  w.blocks.erase(reinterpret_cast<std::uintptr_t>(at));
  if (!block->intact()) {
    w.problems.push_back(broken(*block)); // once: it is not kept
    return cudaSuccess;
  }
  block->retire();
  w.freed.push_back(block);
  std::size_t kept = 0;
  for (const auto& each : w.freed) kept += each->size;
  for (; kept > most_freed_bytes; w.freed.pop_front()) kept -= w.freed.front()->size;
  return cudaSuccess;
}

/// Whether a copy's addresses are what its kind says, and long enough.
bool copy_is_legal(const world& w, const void* to, const void* from, std::size_t bytes,
                   cudaMemcpyKind kind) {
  const memory_range target = range_of(w, to, bytes);
  const memory_range source = range_of(w, from, bytes);
  if (!target.fits || !source.fits || to == nullptr || from == nullptr) return false;
  const bool into_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool out_of_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return kind == cudaMemcpyDefault ||
         (target.on_device() == into_device && source.on_device() == out_of_device);
}

cudaError_t copy_async(world& w, lock_type& lock, void* to, const void* from, std::size_t bytes,
                       cudaMemcpyKind kind, cudaStream_t stream) {
  const auto on = stream_of(w, stream);
  if (on == nullptr) return cudaErrorInvalidResourceHandle;
  if (bytes == 0) return cudaSuccess;
  if (!copy_is_legal(w, to, from, bytes, kind)) return cudaErrorInvalidValue;
  work body = [=] { std::memmove(to, from, bytes); };
  const bool from_pageable = range_of(w, from, bytes).kind == memory_kind::unregistered;
  const bool to_pageable = range_of(w, to, bytes).kind == memory_kind::unregistered;
  if (from_pageable && on->capturing == nullptr) {
    // Pageable memory is read before the call returns.
    const auto* const first = static_cast<const std::byte*>(from);
    body = [=, staged = std::vector<std::byte>(first, first + bytes)] {
      std::memcpy(to, staged.data(), bytes);
    };
  }
  const cudaError_t code =
      submit(w, on, plain_work(cudaGraphNodeTypeMemcpy, "copy", std::move(body)));
  if (code != cudaSuccess || !to_pageable || on->capturing != nullptr) return code;
  drain(w, lock, on, "cudaMemcpyAsync to pageable memory"); // as CUDA does
  return cudaSuccess;
}

} // namespace
} // namespace fake_cuda::detail

using namespace fake_cuda::detail;

extern "C" {

cudaError_t cudaMalloc(void** out, std::size_t size) {
  return cuda_call({.call = "cudaMalloc", .count = size}, [&](world& w, lock_type&) {
    return allocate(w, memory_kind::device, out, size);
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return cuda_call({.call = "cudaMemGetInfo"}, [&](world& w, lock_type&) {
    *total = std::size_t{1} << 36;
    *free = *total - static_cast<std::size_t>(w.execs.size()) * fake_cuda::bytes_of_exec;
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** out, std::size_t size, unsigned) {
  return cuda_call({.call = "cudaHostAlloc", .count = size}, [&](world& w, lock_type&) {
    return allocate(w, memory_kind::pinned, out, size);
  });
}

cudaError_t cudaMallocHost(void** out, std::size_t size) {
  return cuda_call({.call = "cudaMallocHost", .count = size}, [&](world& w, lock_type&) {
    return allocate(w, memory_kind::pinned, out, size);
  });
}

cudaError_t cudaFree(void* at) {
  return cuda_call({.call = "cudaFree", .output = at}, [&](world& w, lock_type& lock) {
    return deallocate(w, lock, memory_kind::device, "cudaFree", at);
  });
}

cudaError_t cudaFreeHost(void* at) {
  return cuda_call({.call = "cudaFreeHost", .output = at}, [&](world& w, lock_type& lock) {
    return deallocate(w, lock, memory_kind::pinned, "cudaFreeHost", at);
  });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  return cuda_call({.call = "cudaHostGetDevicePointer"}, [&](world& w, lock_type&) {
    if (range_of(w, host, 0).kind != memory_kind::pinned) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  return cuda_call(
      {.call = "cudaPointerGetAttributes", .input = pointer}, [&](world& w, lock_type&) {
        if (out == nullptr) return cudaErrorInvalidValue;
        const memory_range range = range_of(w, pointer, 0);
        void* const here = const_cast<void*>(pointer);
        *out = {};
        out->type = range.on_device()                         ? cudaMemoryTypeDevice
                    : range.kind == memory_kind::unregistered ? cudaMemoryTypeUnregistered
                                                              : cudaMemoryTypeHost;
        const bool known = range.kind != memory_kind::unregistered;
        out->device = known ? range.device : cudaInvalidDeviceId;
        out->devicePointer = known ? here : nullptr;
        out->hostPointer = range.on_device() ? nullptr : here;
        return cudaSuccess;
      });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cuda_call(
      {.call = "cudaMemcpyAsync", .count = bytes, .input = from, .output = to, .stream = stream},
      [&](world& w, lock_type& lock) {
        return copy_async(w, lock, to, from, bytes, kind, stream);
      });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cuda_call({.call = "cudaMemcpy", .count = bytes, .input = from, .output = to},
                   [&](world& w, lock_type& lock) {
                     if (forbidden_by_capture(w)) return cudaErrorStreamCaptureUnsupported;
                     if (bytes != 0 && !copy_is_legal(w, to, from, bytes, kind))
                       return cudaErrorInvalidValue;
                     drain_device(w, lock, this_thread(w).device, "cudaMemcpy", true);
                     if (bytes != 0) std::memmove(to, from, bytes);
                     return cudaSuccess;
                   });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return cuda_call({.call = "cudaMemsetAsync", .count = bytes, .output = to, .stream = stream},
                   [&](world& w, lock_type&) {
                     const auto on = stream_of(w, stream);
                     if (on == nullptr) return cudaErrorInvalidResourceHandle;
                     if (bytes == 0) return cudaSuccess;
                     const memory_range range = range_of(w, to, bytes);
                     if (range.kind == memory_kind::unregistered || !range.fits)
                       return cudaErrorInvalidValue;
                     return submit(w, on, plain_work(cudaGraphNodeTypeMemset, "fill", [=] {
                                     std::memset(to, value, bytes);
                                   }));
                   });
}

} // extern "C"
