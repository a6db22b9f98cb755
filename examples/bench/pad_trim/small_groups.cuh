#pragma once

/// @file
/// What padding and trimming a decode batch costs beyond a launch that does nothing.

#include "../support/check.cuh"
#include "../support/method.hpp"
#include "../support/target.hpp"
#include "batches.cuh"

#include <dpgather/dpgather.cuh>

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// A job that does nothing: the floor of a launch, by the same way.
struct nothing {
  [[nodiscard]] std::uint32_t parts() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t words() const noexcept { return 1; }
  DPGATHER_HOST_DEVICE void operator()(std::uint32_t, dg::worker_id) const noexcept {}
};

/// One launch that also reads some counts and writes some tails.
inline constexpr target beyond_empty = target::extra_us(0.8);

[[nodiscard]] inline method empty_kernel(cudaStream_t stream) {
  return {.name = "empty kernel", .call = [stream](int) {
            must(dg::executor<cudaStream_t>::run(nothing{}, 0, stream), "empty");
          }};
}

/// `batch` outlives the group.
[[nodiscard]] inline group pad_group(const pad_batch& batch, std::size_t tensors,
                                     cudaStream_t stream) {
  group out{"pad " + std::to_string(tensors) + " tensors of a decode batch, 50 to 64 units", {}};
  const std::int32_t empty = out.add(empty_kernel(stream));
  for (const bool live : {false, true}) {
    out.add(
        {.name = live ? "pad, count in device memory" : "pad, count from the host",
         .baseline = empty,
         .goal = beyond_empty,
         .call = [list = batch.list(live), stream](
                     int) { must(dg::pad(std::span<const dg::pad_tensor>{list}, stream), "pad"); },
         .prepare = [&batch] { batch.reset(); },
         .wrong = [&batch](int) { return batch.wrong(); }});
  }
  for (const bool live : {false, true}) {
    const std::string count = live ? "count in device memory" : "count from the host";
    const std::vector<dg::saved_tensor> list = batch.saved_list(live);
    const auto save = [list, stream] {
      must(dg::save_and_pad(std::span<const dg::saved_tensor>{list}, stream), "save and pad");
    };
    out.add({.name = "save and pad, " + count,
             .baseline = empty,
             .call = [save](int) { save(); },
             .prepare = [&batch] { batch.reset(); },
             .wrong = [&batch](int) { return batch.wrong(); }});
    out.add({.name = "restore, " + count,
             .baseline = empty,
             .call =
                 [list, stream](int) {
                   must(dg::restore(std::span<const dg::saved_tensor>{list}, stream), "restore");
                 },
             .prepare =
                 [&batch, save] {
                   batch.reset();
                   save();
                 },
             .wrong = [&batch](int) { return batch.changed(); }});
  }
  out.add({.name = std::to_string(tensors) + " x cudaMemsetAsync",
           .baseline = empty,
           .call = [&batch](int) { batch.set_each(); }});
  out.add_again(empty);
  return out;
}

/// `batch` outlives the group.
[[nodiscard]] inline group trim_group(const trim_batch& batch, std::string what, target goal,
                                      cudaStream_t stream) {
  group out{"trim " + std::move(what) + ", 64 to 50 units", {}};
  const std::int32_t empty = out.add(empty_kernel(stream));
  for (const bool live : {false, true}) {
    out.add({.name = live ? "trim, count in device memory" : "trim, count from the host",
             .baseline = empty,
             .goal = goal,
             .call =
                 [list = batch.list(live), stream](int) {
                   must(dg::trim(std::span<const dg::trim_tensor>{list}, stream), "trim");
                 },
             .prepare = [&batch] { batch.reset(); },
             .wrong = [&batch](int) { return batch.wrong(); }});
  }
  out.add_again(empty);
  return out;
}

} // namespace bench
