#pragma once

/// @file
/// Rows into the global tensor and out of it, against the copy that they are.

#include "../support/check.cuh"
#include "../support/device_memory.cuh"
#include "../support/method.hpp"
#include "../support/payload.hpp"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

namespace dg = dpgather;

/// The rows of dp rank 1 of 2, alone on its GPU: what `gather` and `combine` do around the
/// collectives. Counts are in device memory, as always.
class row_moves {
public:
  static constexpr std::int32_t hidden = 7168;
  static constexpr std::size_t row_bytes = std::size_t{hidden} * 2;

  row_moves(std::int32_t rows, std::size_t cache_bytes, std::int32_t calls, cudaStream_t stream)
      : rows_{rows}, bytes_{static_cast<std::size_t>(rows) * row_bytes}, stream_{stream},
        plan_{must(make_plan(rows), "plan")}, counts_{sizeof(dg::count_set)} {
    dg::count_set counts;
    counts.rows[0] = counts.rows[1] = rows;
    counts.padded[0] = counts.padded[1] = rows;
    counts.sum_up(2);
    upload(counts_.data(), &counts, sizeof counts, stream);
    const std::int32_t pairs = buffers_in_turn(2 * bytes_, cache_bytes, calls);
    for (std::int32_t i = 0; i < pairs; ++i) {
      local_.emplace_back(bytes_ + row_bytes);
      global_.emplace_back(2 * bytes_ + row_bytes);
    }
  }

  /// This object outlives the group.
  [[nodiscard]] group place() {
    group out{"place_rows, " + size(), {}};
    const std::int32_t copy = out.add(
        copy_of([this](int i) { return slot(i); }, [this](int i) { return local(i).data(); }));
    out.add({.name = "place_rows",
             .baseline = copy,
             .call =
                 [this](int i) {
                   const dg::place_rows<dg::row_op::identity> job{
                       .local = {local(i).data(), row_bytes, row_bytes},
                       .global = {global(i).data(), row_bytes, row_bytes},
                       .places = places(),
                       .dp_rank = 1,
                       .local_rows = rows_,
                       .most_rows = rows_};
                   must(dg::executor<cudaStream_t>::run(job, 0, stream_), "place_rows");
                 },
             .prepare = [this] { reset(local_, 0, global_); },
             .wrong = [this](int calls) { return wrong(global_, rows_, calls); },
             .written = wide(bytes_),
             .moved = 2 * wide(bytes_)});
    out.add_again(copy);
    return out;
  }
  /// This object outlives the group.
  [[nodiscard]] group take() {
    group out{"take_rows, " + size(), {}};
    const std::int32_t copy = out.add(
        copy_of([this](int i) { return local(i).data(); }, [this](int i) { return slot(i); }));
    out.add({.name = "take_rows",
             .baseline = copy,
             .call =
                 [this](int i) {
                   const dg::take_rows job{.sums = {global(i).data(), row_bytes, row_bytes},
                                           .local = {local(i).data(), row_bytes, row_bytes},
                                           .places = places(),
                                           .dp_rank = 1,
                                           .from_global = true,
                                           .local_rows = rows_};
                   must(dg::executor<cudaStream_t>::run(job, 0, stream_), "take_rows");
                 },
             .prepare = [this] { reset(global_, bytes_, local_); },
             .wrong = [this](int calls) { return wrong(local_, 0, calls); },
             .written = wide(bytes_),
             .moved = 2 * wide(bytes_)});
    out.add_again(copy);
    return out;
  }

private:
  [[nodiscard]] static dg::result<dg::step_plan> make_plan(std::int32_t rows) {
    dg::gather_config config;
    config.topology = {2, 1, 1, 0};
    config.row_bytes = row_bytes;
    config.max_rows_per_rank = rows;
    const std::int32_t sizes[] = {rows};
    config.ladder = must(dg::bucket_list::make(sizes), "ladder");
    const dg::planner<dg::max_always> rules =
        must(dg::planner<dg::max_always>::make(config), "planner");
    dg::step_record records[2];
    for (std::int32_t r = 0; r < 2; ++r) {
      records[r].world_rank = r;
      records[r].phase = dg::phase::decode;
      records[r].tokens = records[r].requests = rows;
    }
    return dg::make_plan(rules, must(dg::merge(records, config.topology), "records"));
  }

  template <class To, class From>
  [[nodiscard]] method copy_of(To to, From from) {
    return {.name = "cudaMemcpyAsync, device to device",
            .call =
                [this, to, from](int i) {
                  must(cudaMemcpyAsync(to(i), from(i), bytes_, cudaMemcpyDeviceToDevice, stream_),
                       "cudaMemcpyAsync");
                },
            .written = wide(bytes_),
            .moved = 2 * wide(bytes_)};
  }

  [[nodiscard]] static double wide(std::size_t bytes) { return static_cast<double>(bytes); }
  [[nodiscard]] std::string size() const {
    return std::to_string(rows_) + " rows of " + std::to_string(row_bytes) + " bytes";
  }
  [[nodiscard]] std::size_t in_turn(int call) const {
    return static_cast<std::size_t>(call) % local_.size();
  }
  [[nodiscard]] const device_memory& local(int call) const { return local_[in_turn(call)]; }
  [[nodiscard]] const device_memory& global(int call) const { return global_[in_turn(call)]; }
  /// Of dp rank 1.
  [[nodiscard]] std::byte* slot(int call) const { return global(call).data() + bytes_; }
  /// As kernels see them: the counts are never read here.
  [[nodiscard]] dg::placement places() const {
    return {plan_, *reinterpret_cast<const dg::count_set*>(counts_.data())};
  }

  /// Payload into the inputs, at `offset`; poison into all of the outputs.
  void reset(const std::vector<device_memory>& inputs, std::size_t offset,
             const std::vector<device_memory>& outputs) const {
    for (std::size_t b = 0; b < inputs.size(); ++b) {
      const auto values = payload_rows(1, static_cast<std::int32_t>(b), rows_, hidden);
      upload(inputs[b].data() + offset, values.data(), bytes_, stream_);
      poison_bytes(outputs[b].data(), outputs[b].size(), stream_);
    }
  }
  /// Elements that are neither payload in the rows from `first` on nor poison around them.
  [[nodiscard]] std::int64_t wrong(const std::vector<device_memory>& outputs, std::int64_t first,
                                   int calls) const {
    std::int64_t out = 0;
    for (std::size_t b = 0; b < outputs.size() && b < static_cast<std::size_t>(calls); ++b) {
      std::vector<std::uint16_t> got(outputs[b].size() / 2);
      download(got.data(), outputs[b].data(), outputs[b].size(), stream_);
      const auto buffer = static_cast<std::int32_t>(b);
      out += count_wrong(got, hidden, [&](std::int64_t row, std::int32_t column) -> std::uint16_t {
        if (row < first || row >= first + rows_) return 0xcdcd;
        return bf16_bits(payload({1, buffer, row - first}, column));
      });
    }
    return out;
  }

  std::int32_t rows_;
  std::size_t bytes_; // of one rank's rows
  cudaStream_t stream_;
  dg::step_plan plan_;
  device_memory counts_;
  std::vector<device_memory> local_, global_;
};

} // namespace bench
