// What collectives of the fake do to memory.
#include "comm.hpp"

#include <dpgather/device/reduce.hpp>

#include <cstring>

namespace fake_cuda::detail {
namespace {

template <class Sum>
void sum_into(std::byte* out, const std::vector<const std::byte*>& sources, std::size_t count) {
  dpgather::sum_elements<Sum>(out, sources.data(), static_cast<std::int32_t>(sources.size()), 0,
                              count, 0, 1);
}

/// The sum over ranks of all they send, in rank order.
std::vector<std::byte> sum_of(const std::vector<operation>& by_rank, std::size_t count) {
  namespace sums = dpgather::detail;
  std::vector<const std::byte*> sources;
  for (const operation& op : by_rank) sources.push_back(op.send);
  std::vector<std::byte> out(count * size_of(by_rank[0].type));
  switch (by_rank[0].type) {
  case ncclInt8:
  case ncclUint8:
    sum_into<sums::u8_sum>(out.data(), sources, count);
    break;
  case ncclInt32:
  case ncclUint32:
    sum_into<sums::u32_sum>(out.data(), sources, count);
    break;
  case ncclInt64:
  case ncclUint64:
    sum_into<sums::u64_sum>(out.data(), sources, count);
    break;
  case ncclFloat16:
    sum_into<sums::f16_sum>(out.data(), sources, count);
    break;
  case ncclBfloat16:
    sum_into<sums::bf16_sum>(out.data(), sources, count);
    break;
  case ncclFloat32:
    sum_into<sums::f32_sum>(out.data(), sources, count);
    break;
  case ncclFloat64:
    sum_into<sums::f64_sum>(out.data(), sources, count);
    break;
  default: // refused when it was issued
    break;
  }
  return out;
}

byte_span span_at(const void* at, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(at);
  return {begin, begin + bytes};
}

void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (to != from) std::memmove(to, from, bytes);
}

} // namespace

const char* name_of(verb v) {
  switch (v) {
  case verb::all_gather:
    return "ncclAllGather";
  case verb::all_reduce:
    return "ncclAllReduce";
  case verb::reduce_scatter:
    return "ncclReduceScatter";
  case verb::broadcast:
    return "ncclBroadcast";
  case verb::reduce:
    return "ncclReduce";
  }
  return "";
}

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
  case ncclFloat16:
  case ncclBfloat16:
    return 2;
  case ncclInt32:
  case ncclUint32:
  case ncclFloat32:
    return 4;
  case ncclInt64:
  case ncclUint64:
  case ncclFloat64:
    return 8;
  default:
    return 1;
  }
}

byte_span read_by(const operation& op, int rank, int ranks) {
  const std::size_t bytes = op.count * size_of(op.type);
  if (op.what == verb::broadcast && rank != op.root) return {};
  return span_at(op.send,
                 op.what == verb::reduce_scatter ? bytes * static_cast<std::size_t>(ranks) : bytes);
}

byte_span written_by(const operation& op, int rank, int ranks) {
  const std::size_t bytes = op.count * size_of(op.type);
  if (op.what == verb::reduce && rank != op.root) return {};
  return span_at(op.recv,
                 op.what == verb::all_gather ? bytes * static_cast<std::size_t>(ranks) : bytes);
}

std::string disagreement(const meeting& m) {
  const operation& first = *m.present[0];
  for (std::size_t r = 1; r < m.present.size(); ++r) {
    const operation& other = *m.present[r];
    if (other.what == first.what && other.count == first.count && other.type == first.type &&
        (!first.sums() || other.reduction == first.reduction) &&
        (!first.has_root() || other.root == first.root))
      continue;
    const auto text = [](const operation& op) {
      return std::string{name_of(op.what)} + " of " + std::to_string(op.count) + " of type " +
             std::to_string(op.type) + ", operation " + std::to_string(op.reduction) + ", root " +
             std::to_string(op.root);
    };
    return "mismatched collective: rank 0 " + text(first) + "; rank " + std::to_string(r) + " " +
           text(other);
  }
  return {};
}

void perform(const std::vector<operation>& by_rank) {
  const operation& first = by_rank[0];
  const std::size_t ranks = by_rank.size();
  const std::size_t bytes = first.count * size_of(first.type);
  if (first.what == verb::all_gather) {
    for (const operation& to : by_rank) {
      for (std::size_t r = 0; r < ranks; ++r) copy(to.recv + r * bytes, by_rank[r].send, bytes);
    }
    return;
  }
  if (first.what == verb::broadcast) {
    const std::byte* const from = by_rank[static_cast<std::size_t>(first.root)].send;
    for (const operation& to : by_rank) copy(to.recv, from, bytes);
    return;
  }
  const bool scatters = first.what == verb::reduce_scatter;
  const std::vector<std::byte> sum = sum_of(by_rank, first.count * (scatters ? ranks : 1));
  for (std::size_t r = 0; r < ranks; ++r) {
    if (first.what == verb::reduce && r != static_cast<std::size_t>(first.root)) continue;
    copy(by_rank[r].recv, sum.data() + (scatters ? r * bytes : 0), bytes);
  }
}

} // namespace fake_cuda::detail
