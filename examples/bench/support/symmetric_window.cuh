#pragma once

/// @file
/// Memory that is registered with NCCL as a symmetric window.

#include "check_nccl.cuh"
#include "team.hpp"

#include <nccl.h>
#include <nccl_device.h>

#include <cstddef>
#include <cstring>
#include <utility>

namespace bench {

/// Collective to construct and to close; no multicast object is made while `NCCL_NVLS_ENABLE=0`.
/// Empty on all ranks when it is empty on one.
class symmetric_window {
public:
  symmetric_window(ncclComm_t comm, std::size_t bytes, team& others)
      : comm_{comm}, others_{others} {
    if (!all(same_release())) {
      why_none_ = "NCCL's headers and library differ";
    } else if (!all(has_symmetric_memory())) {
      why_none_ = "NCCL has no symmetric memory here";
    } else {
      allocate(bytes);
      if (all(window_ != nullptr)) return;
      close();
      why_none_ = "NCCL made no window";
    }
  }
  symmetric_window(const symmetric_window&) = delete;
  symmetric_window& operator=(const symmetric_window&) = delete;
  ~symmetric_window() { close(); }

  /// Null where there is none.
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] const char* why_none() const { return why_none_; }

  /// Collective, when no graph uses it any more, and before the communicator goes.
  void close() {
    if (data_ == nullptr) return;
    if (window_ != nullptr)
      must(ncclCommWindowDeregister(comm_, std::exchange(window_, nullptr)),
           "ncclCommWindowDeregister");
    others_.meet(); // nobody has it mapped
    must(ncclMemFree(std::exchange(data_, nullptr)), "ncclMemFree");
  }

private:
  [[nodiscard]] bool all(bool here) const { return others_.sum(here ? 0 : 1) == 0; }
  void allocate(std::size_t bytes) {
    void* memory = nullptr;
    must(ncclMemAlloc(&memory, bytes), "ncclMemAlloc");
    data_ = static_cast<std::byte*>(memory);
    must(ncclCommWindowRegister(comm_, data_, bytes, &window_, NCCL_WIN_COLL_SYMMETRIC),
         "ncclCommWindowRegister");
  }

  /// The question below passes a structure of the headers.
  [[nodiscard]] static bool same_release() {
    int version = 0;
    must(ncclGetVersion(&version), "ncclGetVersion");
    return version / 100 == NCCL_VERSION_CODE / 100;
  }
  /// Registering answers success where there is no symmetric memory; this fails.
  [[nodiscard]] bool has_symmetric_memory() {
#ifdef NCCL_DEV_COMM_REQUIREMENTS_INITIALIZER
    ncclDevCommRequirements needs = NCCL_DEV_COMM_REQUIREMENTS_INITIALIZER;
#else
    ncclDevCommRequirements needs;
    std::memset(&needs, 0, sizeof needs);
#endif
    needs.lsaBarrierCount = 1;
    needs.lsaMultimem = false;
    ncclDevComm made;
    std::memset(&made, 0, sizeof made);
    if (ncclDevCommCreate(comm_, &needs, &made) != ncclSuccess) return false;
    const bool reaches_all = made.lsaSize == made.nRanks;
    must(ncclDevCommDestroy(comm_, &made), "ncclDevCommDestroy");
    return reaches_all;
  }

  ncclComm_t comm_;
  team& others_;
  std::byte* data_ = nullptr;
  ncclWindow_t window_ = nullptr;
  const char* why_none_ = "";
};

} // namespace bench
