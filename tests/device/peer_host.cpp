// The peer protocol as CPU threads: under ThreadSanitizer every byte that two ranks share must be
// ordered by the protocol alone.
#include <dpgather/device/host_block.hpp>

#include <support/peer_story.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <barrier>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;

/// A host block that counts wrong bytes.
template <class Rules>
struct telling_block : host_block<Rules> {
  using host_block<Rules>::host_block;
  telling_block(const host_block<Rules>& other) : host_block<Rules>{other} {}
  [[nodiscard]] telling_block narrowed(std::uint32_t count) const {
    return host_block<Rules>::narrowed(count);
  }
  static std::uint64_t count_wrong(std::uint64_t* wrong) {
    return std::atomic_ref{*wrong}.fetch_add(1);
  }
};

/// Aligned memory of one rank, all of it a pattern.
class aligned_memory {
public:
  aligned_memory() = default;
  explicit aligned_memory(std::size_t bytes)
      : data_{static_cast<std::byte*>(::operator new(bytes + 1, std::align_val_t{256}))} {
    std::memset(data_.get(), untouched, bytes);
  }
  [[nodiscard]] std::byte* get() const { return data_.get(); }

private:
  struct free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{256}); }
  };
  std::unique_ptr<std::byte, free> data_;
};

/// All ranks of a world in the memory of this process.
struct host_stage {
  host_stage(const story_options& with, random_source& random, std::uint64_t start) {
    const auto layout = peer_layout::of(limits_of(with));
    REQUIRE(layout.ok());
    const auto ranks = static_cast<std::size_t>(layout->ranks);
    arenas.resize(ranks);
    controls.resize(ranks);
    live.resize(ranks);
    wrong.resize(ranks);
    first_wrong.resize(ranks * 4);
    peer_pointers pointers;
    pointers.size = layout->ranks;
    pointers.bytes = layout->bytes;
    for (std::size_t r = 0; r < ranks; ++r) {
      arenas[r] = aligned_memory{layout->bytes + 64};
      pointers.base[r] = arenas[r].get();
      for (std::uint64_t at = 0; at < layout->words_end(); at += 8)
        std::memcpy(arenas[r].get() + at, &start, 8);
      const peer_state state = first_state(start);
      std::memcpy(arenas[r].get() + layout->state, &state, sizeof state);
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      story_rank rank;
      pointers.rank = static_cast<std::int32_t>(r);
      rank.lane = peer_lane::of(pointers, *layout, &controls[r]);
      rank.live = &live[r];
      for (std::int32_t t = 0; t < layout->tensors; ++t) {
        const std::size_t unit = t == 0 ? 4 : 1;
        const std::size_t gap = random.chance(70) ? 0 : unit * random.between<std::size_t>(1, 9);
        rank.local_stride[t] = layout->row_bytes[t] + gap;
        locals.emplace_back(rank.local_stride[t] * static_cast<std::size_t>(with.rank_rows) + 64);
        rank.local[t] =
            locals.back().get() + (random.chance(50) ? 0 : unit * random.between<std::size_t>(1, 9));
      }
      locals.emplace_back(layout->row_bytes[0] * static_cast<std::size_t>(with.rank_rows + 2));
      rank.output = locals.back().get();
      rank.wrong = &wrong[r];
      rank.first_wrong = &first_wrong[r * 4];
      story_ranks.push_back(rank);
    }
  }

  std::vector<aligned_memory> arenas, locals;
  std::vector<peer_control> controls;
  std::vector<count_set> live;
  std::vector<std::uint64_t> wrong, first_wrong;
  std::vector<story_rank> story_ranks;
};

template <class Sum, class Rules = peer_rules>
std::uint64_t tell_on_host(host_stage& stage, const story_options& with,
                           const std::vector<story_call>& calls) {
  steady_wait_clock clock;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<std::barrier<>>> meetings;
  for (std::size_t r = 0; r < stage.story_ranks.size(); ++r) {
    meetings.push_back(std::make_unique<std::barrier<>>(with.blocks));
    for (std::int32_t b = 0; b < with.blocks; ++b) {
      threads.emplace_back([&, r, b, meeting = meetings.back().get()] {
        peer_table table{};
        telling_block<Rules> block{static_cast<std::uint32_t>(b),
                                   static_cast<std::uint32_t>(with.blocks), clock, table};
        const auto meet = [meeting] { meeting->arrive_and_wait(); };
        story_teller<Sum, telling_block<Rules>, decltype(meet)> teller{
            block, stage.story_ranks[r], meet};
        for (const story_call& call : calls) teller.tell(call);
      });
    }
  }
  for (std::thread& t : threads) t.join();
  std::uint64_t wrong = 0;
  for (std::size_t r = 0; r < stage.wrong.size(); ++r) {
    wrong += stage.wrong[r];
    if (stage.wrong[r] != 0)
      MESSAGE("rank ", r, ": ", stage.wrong[r], " wrong, first in call ",
              stage.first_wrong[r * 4] % 1'000'000, " what ", stage.first_wrong[r * 4 + 1], " row ",
              stage.first_wrong[r * 4 + 2], " column ", stage.first_wrong[r * 4 + 3]);
    const peer_record& first = stage.controls[r].first;
    if (first.written != 0) {
      ++wrong;
      MESSAGE("rank ", r, ": ", name_of(static_cast<errc>(first.code)), " about ",
              name_of(static_cast<subject>(first.about)), " peer ", first.peer, " value ",
              first.value, " limit ", first.limit, " call ", first.epoch, " phase ", first.phase);
    }
  }
  return wrong;
}

template <class Sum>
void random_story(random_source& random, std::uint64_t key) {
  const story_options with = draw_options(random, 6, sizeof(typename Sum::storage));
  const std::uint64_t starts[] = {0, 5, (std::uint64_t{1} << 31) - 3, (std::uint64_t{1} << 32) - 3,
                                  ~std::uint64_t{0} - 2};
  host_stage stage{with, random, random.pick(starts)};
  const std::vector<story_call> calls = draw_story<Sum>(random, with, 12, key);
  CAPTURE(with.dp_size);
  CAPTURE(with.tp_size);
  CAPTURE(with.most_line_bytes);
  REQUIRE(tell_on_host<Sum>(stage, with, calls) == 0);
}

} // namespace

TEST_CASE("every sequence of calls gives every byte, without a barrier between ranks") {
  std::uint64_t key = 0;
  for_random_cases(
      [&](random_source& random) {
        ++key;
        if (random.chance(50)) {
          random_story<dg::detail::bf16_sum>(random, key);
        } else {
          random_story<dg::detail::f32_sum>(random, key);
        }
      },
      case_count(20'000) / 100);
}
