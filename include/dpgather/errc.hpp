#pragma once

/// @file
/// The names of everything that can go wrong, and of the things an error can be about.

#include <dpgather/config.hpp>

#include <cstdint>

namespace dpgather::inline v0 {

/// What went wrong. Refused input leaves the communicator usable; a divergence, a timeout and a
/// lost peer are sticky: every later call answers `poisoned` with the first cause.
enum class errc : std::uint8_t {
  ok,

  // Refused input: nothing was written, the next correct call works.
  count_out_of_range,    ///< a rank's count is negative or above the configured capacity
  count_changed,         ///< the rows handed in are not the ones this rank announced
  count_not_divisible,   ///< rows are not a multiple of the tokens per request
  capacity_exceeded,     ///< a buffer, workspace or arena is smaller than the plan needs
  bad_group,             ///< number of records is not the world, or a rank is outside or twice
  bad_record,            ///< a step record with a foreign magic or version
  bad_config,            ///< a configuration field has a value that means nothing
  bad_buckets,           ///< a ladder is empty, unsorted, out of range or misaligned
  no_bucket,             ///< no captured size fits the count
  graph_missing,         ///< the bucket exists, its graph was never captured
  over_budget,           ///< capturing a graph would pass what graphs may cost
  size_overflow,         ///< rows or bytes do not fit 64-bit arithmetic
  shape_mismatch,        ///< two views of one call differ in element or row bytes
  misaligned,            ///< a pointer or stride is not a multiple of what is needed
  aliasing,              ///< two buffers overlap in a way that is not documented
  null_pointer,          ///< null with more than zero rows
  wrong_memory,          ///< host pointer where a device pointer is needed, or another device's
  unsupported_type,      ///< no sum is defined for this element
  bad_fill,              ///< a fill pattern that does not divide the unit, or is too long
  not_capturable,        ///< the call cannot be part of a captured graph
  busy,                  ///< another thread or stream is inside this channel
  too_many_ranks,        ///< more ranks than a plan or a communicator holds
  graphs_alive,          ///< a captured graph still refers to the communicator
  not_coresident,        ///< virtual ranks would not all be resident on the device
  nccl_version,          ///< NCCL library and header do not match
  symmetric_unavailable, ///< symmetric memory was refused

  // Found when the work was done.
  tail_leak, ///< what a pad row was filled with has reached a real row

  // Answered alike on every rank; nothing was moved, the next correct call works.
  config_mismatch, ///< ranks were configured differently
  rank_cannot_run, ///< a rank announced that it cannot run this step
  peer_refused,    ///< another rank refused its input, so nobody moved anything

  // Sticky.
  plan_mismatch, ///< ranks entered one call with different plans
  timeout,       ///< a rank did not arrive before the deadline
  peer_left,     ///< a rank destroyed its communicator while others were waiting for it
  native_error,  ///< NCCL, CUDA or the operating system failed; see `status::native`
  poisoned,      ///< an earlier error is still standing; `status::cause` names it
};

/// What a status speaks of: the field that differs, the buffer that is too small, and so on.
enum class subject : std::uint8_t {
  none,
  operation,
  mode,
  layout,
  bucket,
  element,
  row_bytes,
  step,
  counts,
  last_plan,
  config,
  width,
  tokens,
  logits_tokens,
  draft_tokens,
  requests,
  prefix,
  phase,
  votes,
  world,
  rank,
  dp_size,
  tp_size,
  max_rows,
  max_global_rows,
  max_requests,
  waste_limit,
  ladder,
  sum_ladder,
  local,
  global,
  workspace,
  tensor,
  record,
  call,
};

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(errc e) noexcept {
  switch (e) {
  case errc::ok:
    return "ok";
  case errc::count_out_of_range:
    return "count_out_of_range";
  case errc::count_changed:
    return "count_changed";
  case errc::count_not_divisible:
    return "count_not_divisible";
  case errc::capacity_exceeded:
    return "capacity_exceeded";
  case errc::bad_group:
    return "bad_group";
  case errc::bad_record:
    return "bad_record";
  case errc::bad_config:
    return "bad_config";
  case errc::bad_buckets:
    return "bad_buckets";
  case errc::no_bucket:
    return "no_bucket";
  case errc::graph_missing:
    return "graph_missing";
  case errc::over_budget:
    return "over_budget";
  case errc::size_overflow:
    return "size_overflow";
  case errc::shape_mismatch:
    return "shape_mismatch";
  case errc::misaligned:
    return "misaligned";
  case errc::aliasing:
    return "aliasing";
  case errc::null_pointer:
    return "null_pointer";
  case errc::wrong_memory:
    return "wrong_memory";
  case errc::unsupported_type:
    return "unsupported_type";
  case errc::bad_fill:
    return "bad_fill";
  case errc::not_capturable:
    return "not_capturable";
  case errc::busy:
    return "busy";
  case errc::too_many_ranks:
    return "too_many_ranks";
  case errc::graphs_alive:
    return "graphs_alive";
  case errc::not_coresident:
    return "not_coresident";
  case errc::nccl_version:
    return "nccl_version";
  case errc::symmetric_unavailable:
    return "symmetric_unavailable";
  case errc::tail_leak:
    return "tail_leak";
  case errc::config_mismatch:
    return "config_mismatch";
  case errc::rank_cannot_run:
    return "rank_cannot_run";
  case errc::peer_refused:
    return "peer_refused";
  case errc::plan_mismatch:
    return "plan_mismatch";
  case errc::timeout:
    return "timeout";
  case errc::peer_left:
    return "peer_left";
  case errc::native_error:
    return "native_error";
  case errc::poisoned:
    return "poisoned";
  }
  return "unknown";
}

/// The name, for messages and tables.
[[nodiscard]] constexpr const char* name_of(subject s) noexcept {
  switch (s) {
  case subject::none:
    return "";
  case subject::operation:
    return "operation";
  case subject::mode:
    return "mode";
  case subject::layout:
    return "layout";
  case subject::bucket:
    return "bucket";
  case subject::element:
    return "element";
  case subject::row_bytes:
    return "row_bytes";
  case subject::step:
    return "step";
  case subject::counts:
    return "counts";
  case subject::last_plan:
    return "last_plan";
  case subject::config:
    return "config";
  case subject::width:
    return "width";
  case subject::tokens:
    return "tokens";
  case subject::logits_tokens:
    return "logits_tokens";
  case subject::draft_tokens:
    return "draft_tokens";
  case subject::requests:
    return "requests";
  case subject::prefix:
    return "prefix";
  case subject::phase:
    return "phase";
  case subject::votes:
    return "votes";
  case subject::world:
    return "world";
  case subject::rank:
    return "rank";
  case subject::dp_size:
    return "dp_size";
  case subject::tp_size:
    return "tp_size";
  case subject::max_rows:
    return "max_rows_per_rank";
  case subject::max_global_rows:
    return "max_global_rows";
  case subject::max_requests:
    return "max_requests_per_rank";
  case subject::waste_limit:
    return "waste_limit";
  case subject::ladder:
    return "ladder";
  case subject::sum_ladder:
    return "sum_ladder";
  case subject::local:
    return "local";
  case subject::global:
    return "global";
  case subject::workspace:
    return "workspace";
  case subject::tensor:
    return "tensor";
  case subject::record:
    return "record";
  case subject::call:
    return "call";
  }
  return "unknown";
}

/// True for the errors after which the communicator must be rebuilt.
[[nodiscard]] constexpr bool is_sticky(errc e) noexcept { return e >= errc::plan_mismatch; }

} // namespace dpgather::inline v0
