#pragma once

/// @file
/// What the engine owns and had before it met the library: errors, communicators, streams, memory.

#include "dp_unit.hpp"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace engine {

/// The engine's own way with errors. Codes of three libraries come together here.
[[noreturn]] inline void fail(const std::string& what, const char* why) {
  throw std::runtime_error{what + ": " + why};
}
inline void must(cudaError_t code, const char* what) {
  if (code != cudaSuccess) fail(what, cudaGetErrorString(code));
}
inline void must(ncclResult_t code, const char* what) {
  if (code != ncclSuccess) fail(what, ncclGetErrorString(code));
}
inline void must(const dp_unit::outcome& done, const char* what) {
  if (done.code != 0) fail(what, done.text);
}

/// The engine's communicators, one for each GPU of the process.
class communicators {
public:
  explicit communicators(int gpus) : all_(static_cast<std::size_t>(gpus)) {
    must(ncclCommInitAll(all_.data(), gpus, nullptr), "ncclCommInitAll");
  }
  communicators(const communicators&) = delete;
  communicators& operator=(const communicators&) = delete;
  ~communicators() { abort(); }
  ncclComm_t operator[](int rank) const { return all_[static_cast<std::size_t>(rank)]; }

  void destroy() {
    for (ncclComm_t& each : all_) must(ncclCommDestroy(std::exchange(each, nullptr)), "destroy");
  }
  /// Ends what still runs on them, and them.
  void abort() noexcept {
    for (ncclComm_t& each : all_) {
      if (each != nullptr) (void)ncclCommAbort(std::exchange(each, nullptr));
    }
  }

private:
  std::vector<ncclComm_t> all_;
};

struct stream_end {
  void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
};
using stream_pointer = std::unique_ptr<CUstream_st, stream_end>;

/// Bytes of the GPU that is current, or pinned ones of the host: copies wait for others.
class memory {
public:
  enum kind { device, pinned };
  memory(kind where, std::size_t bytes) : where_{where}, bytes_{bytes} {
    must(where == device ? cudaMalloc(&data_, bytes)
                         : cudaHostAlloc(&data_, bytes, cudaHostAllocDefault),
         "allocation");
  }
  memory(const memory&) = delete;
  memory& operator=(const memory&) = delete;
  ~memory() { (void)(where_ == device ? cudaFree(data_) : cudaFreeHost(data_)); }
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  float* rows() const { return static_cast<float*>(data_); }

private:
  kind where_;
  std::size_t bytes_;
  void* data_ = nullptr;
};

inline std::size_t bytes_of(std::int64_t rows, const dp_unit::shape& of) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(of.hidden) * sizeof(float);
}

/// A rank's stream and memory, on its GPU, which becomes the current one.
struct rank_memory {
  rank_memory(const dp_unit::shape& of, std::size_t workspace)
      : stream{stream_on(of.rank)}, local{memory::device, bytes_of(of.max_rows, of)},
        global{memory::device, bytes_of(of.max_rows * of.ranks, of)},
        addend{memory::device, global.bytes()}, lent{memory::device, workspace},
        host_local{memory::pinned, local.bytes()}, host_global{memory::pinned, global.bytes()} {}

  static stream_pointer stream_on(int gpu) {
    cudaStream_t made = nullptr;
    must(cudaSetDevice(gpu), "cudaSetDevice");
    must(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream_pointer{made};
  }

  stream_pointer stream;
  memory local, global, addend;
  memory lent; ///< to the library, for as long as it is used
  memory host_local, host_global;
};

} // namespace engine
