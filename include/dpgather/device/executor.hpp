#pragma once

/// @file
/// Where jobs run. A job is a value whose call operator does one worker's share of the work, the
/// same text on the CPU and in kernels; an executor runs jobs in the order of one kind of stream.

#include <dpgather/config.hpp>
#include <dpgather/status.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dpgather::inline v0 {

/// The stream of the CPU: work is done when the call returns.
struct host_stream {};

/// One worker's number among all that share a part of a job.
struct worker_id {
  std::uint64_t index = 0;
  std::uint64_t count = 1;
};

/// A job of `parts()` independent parts. `job(part, worker)` does the share of one worker in one
/// part; called for all of them, in any order or at once, it does the job, each byte once.
/// `words()` says how many workers the largest part keeps busy: a hint from the shape, never from
/// counts, since a captured launch is frozen. Trivially copyable: kernels take it by value. A type
/// with linkage, so not in an unnamed namespace: kernels are templates on it.
template <class Job>
concept device_job = std::is_trivially_copyable_v<Job> &&
    requires(const Job& job, std::uint32_t part, worker_id worker) {
  { job.parts() }
  noexcept->std::same_as<std::uint32_t>;
  { job.words() }
  noexcept->std::same_as<std::uint64_t>;
  { job(part, worker) }
  noexcept;
};

/// Runs jobs on one kind of stream. Specialised for `host_stream` here, for CUDA streams in
/// `executor.cuh`.
///
/// - `run(job, blocks, stream)`: one launch, nothing for a job without parts or words. `blocks`: at
///   most so many, or one for each part, 0 for the executor's choice. Stream: ordered. Capture:
///   safe. Errors: `native_error` when the launch fails.
/// - `is_capturing(stream)`: whether what is launched now goes into a graph.
/// - `check_memory(pointer)`: `wrong_memory` unless kernels on the current device may use it.
/// - `set_conditional(handle, value)`: from a job, on CUDA streams only: what a conditional node of
///   the graph that the job is in goes by.
/// - `has_own_memory`: whether jobs read counts elsewhere than in the host's memory.
template <class Stream>
struct executor;

template <>
struct executor<host_stream> {
  static constexpr bool has_own_memory = false;

  template <device_job Job>
  [[nodiscard]] static status run(const Job& job, std::int32_t, host_stream) noexcept {
    for (std::uint32_t part = 0; part < job.parts(); ++part) job(part, worker_id{});
    return {};
  }
  [[nodiscard]] static result<bool> is_capturing(host_stream) noexcept { return false; }
  [[nodiscard]] static status check_memory(const void*) noexcept { return {}; }
};

} // namespace dpgather::inline v0
