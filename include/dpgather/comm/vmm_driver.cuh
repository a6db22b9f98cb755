#pragma once

/// @file
/// CUDA's virtual memory: the driver's functions for it, and one mapping. Needs the toolkit's
/// headers; no nvcc, and no libcuda to link.

#include <dpgather/config.hpp>
#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/status.hpp>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace dpgather::inline v0 {
namespace detail {

/// The driver's functions for virtual memory, asked of the runtime.
struct vmm_driver {
  decltype(&cuGetErrorName) error_name = nullptr;
  decltype(&cuDeviceGet) device = nullptr;
  decltype(&cuDeviceGetAttribute) attribute = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) unreserve = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;

  /// Errors: `symmetric_unavailable` with the function that the driver lacks, `native_error`.
  [[nodiscard]] status load() noexcept {
    status bad;
    find(bad, "cuGetErrorName", error_name);
    find(bad, "cuDeviceGet", device);
    find(bad, "cuDeviceGetAttribute", attribute);
    find(bad, "cuMemGetAllocationGranularity", granularity);
    find(bad, "cuMemCreate", create);
    find(bad, "cuMemRelease", release);
    find(bad, "cuMemExportToShareableHandle", export_handle);
    find(bad, "cuMemImportFromShareableHandle", import_handle);
    find(bad, "cuMemAddressReserve", reserve);
    find(bad, "cuMemAddressFree", unreserve);
    find(bad, "cuMemMap", map);
    find(bad, "cuMemUnmap", unmap);
    find(bad, "cuMemSetAccess", set_access);
    return bad;
  }

  /// `native_error` with the driver's own name for anything but success.
  [[nodiscard]] status check(CUresult code) const noexcept {
    if (code == CUDA_SUCCESS) return {};
    const char* name = nullptr;
    (void)error_name(code, &name);
    return {.code = errc::native_error,
            .native = static_cast<std::int32_t>(code),
            .value_name = name,
            .where = where};
  }

  /// `symmetric_unavailable` unless the device has it.
  [[nodiscard]] status needs(CUdevice of, CUdevice_attribute what,
                             const char* name) const noexcept {
    int has = 0;
    if (status bad = check(attribute(&has, what, of)); !bad || has != 0) return bad;
    return lacks(name);
  }

  static constexpr const char* where = "vmm_memory";

private:
  [[nodiscard]] static status lacks(const char* name) noexcept {
    return {.code = errc::symmetric_unavailable, .limit = 1, .value_name = name, .where = where};
  }
  template <class Function>
  static void find(status& bad, const char* name, Function& out) noexcept {
    if (!bad.ok()) return;
    void* found = nullptr;
    cudaDriverEntryPointQueryResult answer{};
#if CUDART_VERSION >= 12050
    // The functions as they were in CUDA 10.2, which brought the first of them.
    const cudaError_t asked =
        cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &answer);
#else
    const cudaError_t asked = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &answer);
#endif
    bad = cuda_status(asked, where);
    if (bad.ok() && (answer != cudaDriverEntryPointSuccess || found == nullptr)) bad = lacks(name);
    out = reinterpret_cast<Function>(found);
  }
};

/// Memory of any process, mapped for kernels on one device. Owns the mapping, which keeps the
/// memory alive, and nothing else.
class vmm_mapping {
public:
  vmm_mapping() noexcept = default;
  vmm_mapping(const vmm_mapping&) = delete;
  vmm_mapping& operator=(const vmm_mapping&) = delete;

  /// Takes `handle`, whatever comes of it. Errors: `native_error`.
  [[nodiscard]] status open(const vmm_driver& driver, CUmemGenericAllocationHandle handle,
                            std::size_t bytes, CUdevice device) noexcept {
    status bad = driver.check(driver.reserve(&at_, bytes, 0, 0, 0));
    if (bad.ok()) {
      reserved_ = bytes;
      bad = driver.check(driver.map(at_, bytes, 0, handle, 0));
    }
    if (bad.ok()) {
      mapped_ = bytes;
      CUmemAccessDesc access{};
      access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
      access.location.id = device;
      access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      bad = driver.check(driver.set_access(at_, bytes, &access, 1));
    }
    const status released = driver.check(driver.release(handle));
    return bad.ok() ? released : bad;
  }
  /// The first error of several.
  status close(const vmm_driver& driver) noexcept {
    status bad;
    if (mapped_ > 0) bad = driver.check(driver.unmap(at_, mapped_));
    mapped_ = 0;
    if (reserved_ > 0) {
      const status freed = driver.check(driver.unreserve(at_, reserved_));
      if (bad.ok()) bad = freed;
    }
    reserved_ = 0;
    return bad;
  }
  [[nodiscard]] std::byte* data() const noexcept {
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(at_));
  }

private:
  CUdeviceptr at_ = 0;
  std::size_t reserved_ = 0;
  std::size_t mapped_ = 0;
};

} // namespace detail
} // namespace dpgather::inline v0
