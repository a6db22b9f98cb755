#pragma once

/// @file
/// NCCL in the library's words: results as statuses, element types. Needs the headers of CUDA and
/// NCCL, no nvcc.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>
#include <dpgather/status.hpp>

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace dpgather::inline v0 {

/// The name of a result. Not a switch over all of them: new versions of NCCL bring new ones.
[[nodiscard]] inline const char* nccl_name(ncclResult_t code) noexcept {
  struct named {
    ncclResult_t code;
    const char* name;
  };
  constexpr named known[] = {{ncclSuccess, "ncclSuccess"},
                             {ncclUnhandledCudaError, "ncclUnhandledCudaError"},
                             {ncclSystemError, "ncclSystemError"},
                             {ncclInternalError, "ncclInternalError"},
                             {ncclInvalidArgument, "ncclInvalidArgument"},
                             {ncclInvalidUsage, "ncclInvalidUsage"},
                             {ncclRemoteError, "ncclRemoteError"},
                             {ncclInProgress, "ncclInProgress"}};
  for (const named& each : known) {
    if (each.code == code) return each.name;
  }
  return "an NCCL error newer than this library";
}

/// `native_error` with NCCL's name for anything but success.
[[nodiscard]] inline status nccl_status(ncclResult_t code, const char* where,
                                        std::int32_t rank = -1) noexcept {
  if (code == ncclSuccess) return {};
  return {.code = errc::native_error,
          .rank = rank,
          .native = static_cast<std::int32_t>(code),
          .value_name = nccl_name(code),
          .where = where};
}

/// What came of a call on a communicator. A non-blocking one answers `ncclInProgress` and launches
/// from a thread of its own; work put on the stream before that has ended would overtake it. Waits
/// at most 30 s, then answers `ncclInProgress`.
[[nodiscard]] inline ncclResult_t nccl_settled(ncclComm_t comm, ncclResult_t done) noexcept {
  if (done != ncclInProgress) return done;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{30};
  while (done == ncclInProgress && std::chrono::steady_clock::now() < end) {
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &done);
    if (asked != ncclSuccess) return asked;
    std::this_thread::yield();
  }
  return done;
}

/// The type that NCCL sums as. Integers are unsigned: they wrap, as sums of payloads must.
[[nodiscard]] constexpr ncclDataType_t nccl_type(element e) noexcept {
  switch (e) {
  case element::u8:
    return ncclUint8;
  case element::i32:
    return ncclUint32;
  case element::i64:
    return ncclUint64;
  case element::f16:
    return ncclFloat16;
  case element::bf16:
    return ncclBfloat16;
  case element::f32:
    return ncclFloat32;
  case element::f64:
    return ncclFloat64;
  }
  return ncclUint8;
}

/// `nccl_version{loaded, built}` when the library at run time is older than the header this unit
/// was compiled with, or of another major version. Newer ones keep the host interface.
[[nodiscard]] inline status check_nccl_version() noexcept {
  int loaded = 0;
  if (status bad = nccl_status(ncclGetVersion(&loaded), "check_nccl_version"); !bad) return bad;
  const int built = NCCL_VERSION_CODE;
  if (loaded / 10000 == built / 10000 && loaded / 100 >= built / 100) return {};
  return {.code = errc::nccl_version,
          .value = loaded,
          .limit = built,
          .value_name = "loaded",
          .where = "check_nccl_version"};
}

} // namespace dpgather::inline v0
