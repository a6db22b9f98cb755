#pragma once

/// @file
/// Peer stories on GPUs: virtual ranks as block groups of one cooperative launch on each GPU, dealt
/// over as many GPUs as asked for.

#include "must.cuh"
#include "peer_outcome.hpp"
#include "peer_story.hpp"
#include "peer_story_kernel.cuh"
#include "random_cases.hpp"

#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace test_support {

/// Device memory, freed with the owner. All bytes are a pattern, for every stream and GPU: a memset
/// is not over when it returns, and streams that wait for no other would not wait for it either.
class device_bytes {
public:
  device_bytes() = default;
  explicit device_bytes(std::size_t bytes, int value = untouched) {
    void* data = nullptr;
    cuda_must(cudaMalloc(&data, bytes), "malloc");
    data_.reset(static_cast<std::byte*>(data));
    cuda_must(cudaMemsetAsync(data, value, bytes, cudaStreamPerThread), "memset");
    cuda_must(cudaStreamSynchronize(cudaStreamPerThread), "memset");
  }
  [[nodiscard]] std::byte* get() const { return data_.get(); }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

private:
  struct release {
    void operator()(std::byte* p) const { (void)cudaFree(p); }
  };
  std::unique_ptr<std::byte, release> data_;
};

/// All ranks of a world, rank r on GPU r % gpus.
class gpu_stage {
public:
  gpu_stage(const story_options& with, random_source& random, std::uint64_t start, int gpus)
      : gpus_{gpus} {
    const auto layout = dg::peer_layout::of(limits_of(with));
    REQUIRE(layout.ok());
    layout_ = *layout;
    const auto ranks = static_cast<std::size_t>(layout->ranks);
    void* mapped = nullptr;
    cuda_must(cudaHostAlloc(&mapped, ranks * sizeof(dg::peer_control),
                            cudaHostAllocMapped | cudaHostAllocPortable),
              "control");
    controls_ = static_cast<dg::peer_control*>(mapped);
    dg::peer_pointers pointers;
    pointers.size = layout->ranks;
    pointers.bytes = layout->bytes;
    std::vector<std::byte> image(layout->words_end());
    for (std::size_t at = 0; at < image.size(); at += 8) std::memcpy(image.data() + at, &start, 8);
    const dg::peer_state state = dg::first_state(start);
    std::memcpy(image.data() + layout->state, &state, sizeof state);
    for (std::size_t r = 0; r < ranks; ++r) {
      on(r);
      arenas_.emplace_back(layout->bytes + 64);
      pointers.base[r] = arenas_.back().get();
      cuda_must(cudaMemcpy(pointers.base[r], image.data(), image.size(), cudaMemcpyHostToDevice),
                "image");
      controls_[r] = dg::peer_control{};
      controls_[r].budget_ns = 30'000'000'000; // tools are slow
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      on(r);
      story_rank rank;
      pointers.rank = static_cast<std::int32_t>(r);
      rank.lane = dg::peer_lane::of(pointers, *layout, controls_ + r);
      live_.emplace_back(sizeof(dg::count_set));
      rank.live = live_.back().as<dg::count_set>();
      for (std::int32_t t = 0; t < layout->tensors; ++t) {
        const story_place place = story_place::draw(random, with, t);
        rank.local_stride[t] = place.stride;
        live_.emplace_back(place.stride * static_cast<std::size_t>(with.rank_rows) + 80);
        rank.local[t] = live_.back().get() + place.first;
      }
      live_.emplace_back(layout->row_bytes[0] * static_cast<std::size_t>(with.rank_rows + 2));
      rank.output = live_.back().get();
      const auto rows = static_cast<std::size_t>(layout->view_rows) + 1;
      live_.emplace_back(rows * sizeof(dg::row_source));
      rank.sources = live_.back().as<dg::row_source>();
      live_.emplace_back(rows / 8 + 8);
      rank.pad_bits = live_.back().as<std::uint32_t>();
      live_.emplace_back(rows * 2 * sizeof(std::int32_t));
      rank.experts = live_.back().as<std::int32_t>();
      live_.emplace_back(6 * sizeof(std::uint64_t), 0);
      rank.wrong = live_.back().as<std::uint64_t>();
      rank.first_wrong = rank.wrong + 1;
      ranks_.push_back(rank);
    }
  }
  gpu_stage(const gpu_stage&) = delete;
  gpu_stage& operator=(const gpu_stage&) = delete;
  ~gpu_stage() { (void)cudaFreeHost(controls_); }

  /// How long every rank's kernels wait.
  void set_budget(std::uint64_t ns) {
    for (std::int32_t r = 0; r < layout_.ranks; ++r) controls_[r].budget_ns = ns;
  }

  /// Tells a story on all GPUs; the number of wrong things, the first of which are logged.
  template <class Sum, class Rules>
  std::uint64_t tell(const story_options& with, const std::vector<story_call>& calls,
                     const Rules& rules = {}) {
    run<Sum>(with, calls, rules);
    const story_outcome found = outcome();
    for (std::size_t r = 0; r < found.ranks.size(); ++r) {
      const story_outcome::of_rank& each = found.ranks[r];
      if (each.wrong != 0)
        MESSAGE("rank ", r, ": ", each.wrong, " wrong, first in call ", each.first[0] % 1'000'000,
                " what ", each.first[1], " row ", each.first[2], " column ", each.first[3], " got ",
                each.first[4]);
      const dg::peer_record& error = each.error;
      if (error.written != 0)
        MESSAGE("rank ", r, ": ", name_of(static_cast<dg::errc>(error.code)), " about ",
                name_of(static_cast<dg::subject>(error.about)), " by ", error.rank, " peer ",
                error.peer, " value ", error.value, " limit ", error.limit, " call ", error.epoch,
                " phase ", static_cast<int>(error.phase));
    }
    return found.wrong() + found.errors();
  }
  /// The same without a word; ask `outcome`.
  template <class Sum, class Rules>
  void run(const story_options& with, const std::vector<story_call>& calls, const Rules& rules) {
    struct part {
      const story_rank* ranks = nullptr;
      std::uint32_t rank_count = 0;
      const story_call* calls = nullptr;
      std::uint32_t* counters = nullptr;
    };
    std::vector<device_bytes> lists;
    std::vector<part> parts(static_cast<std::size_t>(gpus_));
    for (int g = 0; g < gpus_; ++g) {
      cuda_must(cudaSetDevice(g), "device");
      std::vector<story_rank> here;
      for (std::size_t r = static_cast<std::size_t>(g); r < ranks_.size();
           r += static_cast<std::size_t>(gpus_))
        here.push_back(ranks_[r]);
      if (here.empty()) continue;
      part& mine = parts[static_cast<std::size_t>(g)];
      mine.ranks = upload(lists, here);
      mine.rank_count = static_cast<std::uint32_t>(here.size());
      mine.calls = upload(lists, calls);
      lists.emplace_back(here.size() * sizeof(std::uint32_t), 0);
      mine.counters = lists.back().as<std::uint32_t>();
      // A copy from pageable memory may still be under way when it returns, and the first GPU's
      // kernel stores to the others' arenas at once.
      cuda_must(cudaDeviceSynchronize(), "before");
    }
    auto blocks = static_cast<std::uint32_t>(with.blocks);
    auto count = static_cast<std::uint32_t>(calls.size());
    Rules copy = rules;
    for (int g = 0; g < gpus_; ++g) {
      part& mine = parts[static_cast<std::size_t>(g)];
      if (mine.rank_count == 0) continue;
      cuda_must(cudaSetDevice(g), "device");
      void* arguments[] = {&mine.ranks, &blocks, &mine.calls, &count, &mine.counters, &copy};
      const cudaError_t launched =
          cudaLaunchCooperativeKernel(tell_story<Sum, Rules>, dim3{mine.rank_count * blocks},
                                      dim3{story_threads}, arguments, 0, nullptr);
      if (launched != cudaSuccess)
        throw std::runtime_error{"launch of " + std::to_string(mine.rank_count) + " ranks of " +
                                 std::to_string(blocks) + " blocks: " + cudaGetErrorName(launched) +
                                 ". " + story_room<Sum, Rules>::of(g).text()};
    }
    for (int g = 0; g < gpus_; ++g) {
      cuda_must(cudaSetDevice(g), "device");
      cuda_must(cudaDeviceSynchronize(), "story");
    }
  }
  /// What came of the story.
  [[nodiscard]] story_outcome outcome() const {
    story_outcome out;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      std::uint64_t found[6];
      cuda_must(cudaMemcpy(found, ranks_[r].wrong, sizeof found, cudaMemcpyDeviceToHost), "found");
      story_outcome::of_rank& each = out.ranks.emplace_back();
      each.wrong = found[0];
      std::memcpy(each.first, found + 1, sizeof each.first);
      each.error = controls_[r].first;
    }
    return out;
  }
  [[nodiscard]] dg::peer_control& control(std::size_t r) { return controls_[r]; }
  [[nodiscard]] const dg::peer_layout& layout() const { return layout_; }

private:
  void on(std::size_t r) { cuda_must(cudaSetDevice(static_cast<int>(r) % gpus_), "device"); }
  template <class T>
  const T* upload(std::vector<device_bytes>& lists, const std::vector<T>& items) {
    lists.emplace_back(items.size() * sizeof(T));
    cuda_must(cudaMemcpy(lists.back().get(), items.data(), items.size() * sizeof(T),
                         cudaMemcpyHostToDevice),
              "list");
    return lists.back().template as<T>();
  }

  int gpus_;
  dg::peer_layout layout_{};
  dg::peer_control* controls_ = nullptr;
  std::vector<device_bytes> arenas_, live_;
  std::vector<story_rank> ranks_;
};

/// Peer access among the first `gpus` GPUs, both ways.
inline void connect_gpus(int gpus) {
  for (int from = 0; from < gpus; ++from) {
    cuda_must(cudaSetDevice(from), "device");
    for (int to = 0; to < gpus; ++to) {
      if (to == from) continue;
      const cudaError_t done = cudaDeviceEnablePeerAccess(to, 0);
      if (done == cudaErrorPeerAccessAlreadyEnabled)
        (void)cudaGetLastError();
      else
        cuda_must(done, "peer access");
    }
  }
}

/// One random story of a world drawn as `with`.
template <class Sum, class Rules = dg::peer_rules>
void gpu_story(random_source& random, std::uint64_t key, int gpus, story_options with) {
  with.blocks = random.between(1, 8);
  const std::uint64_t starts[] = {0, 5, (std::uint64_t{1} << 31) - 3, (std::uint64_t{1} << 32) - 3,
                                  ~std::uint64_t{0} - 2};
  limit_blocks<Sum, Rules>(with, gpus);
  gpu_stage stage{with, random, random.pick(starts), gpus};
  const std::vector<story_call> calls = draw_story<Sum>(random, with, 12, key);
  CAPTURE(with.plain);
  CAPTURE(with.dp_size);
  CAPTURE(with.tp_size);
  CAPTURE(with.most_line_bytes);
  const std::uint64_t wrong = stage.tell<Sum, Rules>(with, calls);
  REQUIRE(wrong == 0);
}

/// `cases` random stories on `gpus` GPUs, in worlds of up to `most_ranks`.
inline void gpu_stories(std::uint64_t cases, int gpus, std::int32_t most_ranks) {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        ++key;
        using bf16 = dg::detail::bf16_sum;
        using f32 = dg::detail::f32_sum;
        if (random.chance(30)) {
          gpu_story<bf16>(random, key, gpus, draw_options(random, most_ranks, 2));
        } else if (random.chance(40)) {
          gpu_story<f32>(random, key, gpus, draw_options(random, most_ranks, 4));
        } else if (random.chance(40)) {
          gpu_story<bf16, dg::plain_rules<2>>(random, key, gpus, draw_plain_options(random, 2));
        } else if (most_ranks < 8 || random.chance(50)) {
          gpu_story<bf16, dg::exchanging_rules<2>>(random, key, gpus,
                                                   draw_plain_options(random, 2, true));
        } else {
          gpu_story<bf16, dg::plain_rules<8>>(random, key, gpus, draw_plain_options(random, 8));
        }
      },
      cases);
}

} // namespace test_support
