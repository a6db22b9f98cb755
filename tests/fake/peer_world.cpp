// How the ranks of a peer world come together: whatever one of them lacks, all refuse, the memory
// stays as it was or is made ready again, and the next attempt works.
#include "support/fake_cuda/as_ranks.hpp"

#include <dpgather/comm/peer_world.cuh>
#include <dpgather/comm/run_ranks.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace dg = dpgather;
using dg::errc;
using dg::subject;

namespace {

constexpr std::int32_t ranks = 3;

dg::peer_limits few_rows() {
  dg::peer_limits out;
  out.ranks = ranks;
  out.rank_rows = 4;
  out.view_rows = 4 * ranks;
  out.row_bytes[0] = 64;
  return out;
}

/// Arenas of `few_rows` on the devices of all ranks, full of ones.
class arenas {
public:
  arenas() : bytes_{dg::peer_layout::of(few_rows())->bytes} {
    fake_cuda::as_ranks(ranks, [&](std::int32_t rank) {
      REQUIRE(cudaMalloc(&base_[rank], bytes_) == cudaSuccess);
      std::memset(base_[rank], 0xff, bytes_);
    });
  }
  arenas(const arenas&) = delete;
  arenas& operator=(const arenas&) = delete;
  ~arenas() {
    fake_cuda::as_ranks(ranks, [&](std::int32_t rank) { (void)cudaFree(base_[rank]); });
  }
  [[nodiscard]] dg::peer_pointers of(std::int32_t rank) const {
    dg::peer_pointers out;
    for (std::int32_t r = 0; r < ranks; ++r) out.base[r] = static_cast<std::byte*>(base_[r]);
    out.rank = rank;
    out.size = ranks;
    out.bytes = bytes_;
    return out;
  }

private:
  std::size_t bytes_;
  void* base_[ranks]{};
};

/// What a rank asks for.
struct request {
  dg::topology place;
  dg::peer_pointers arenas;
  dg::peer_limits limits = few_rows();
};

/// What every rank's world answers; `change` spoils the request of one, `body` runs where it works.
std::vector<dg::status> make_worlds(
    const arenas& memory, const std::function<void(std::int32_t, request&)>& change,
    const std::function<void(std::int32_t, dg::peer_world&)>& body = [](auto, auto&) {}) {
  dg::steady_wait_clock clock;
  const dg::topology shape{.dp_size = ranks};
  dg::host_world world{shape, clock, 20'000'000'000};
  std::vector<dg::status> said(ranks);
  fake_cuda::as_ranks(ranks, [&](std::int32_t rank) {
    dg::host_communicator here{world, rank};
    request mine{shape.at(rank), memory.of(rank)};
    change(rank, mine);
    dg::peer_world made{here, mine.place, mine.arenas, mine.limits};
    said[static_cast<std::size_t>(rank)] = made.check();
    if (made.check().ok()) body(rank, made);
  });
  return said;
}

/// All ranks get a world whose calls begin at one number, whatever was in the memory.
void check_all_work(const arenas& memory) {
  std::uint64_t starts[ranks]{};
  const auto said = make_worlds(
      memory, [](std::int32_t, request&) {},
      [&](std::int32_t rank, dg::peer_world& world) {
        const dg::peer_state& state = world.lane().state();
        starts[rank] = state.epoch[0];
        const dg::peer_state first = dg::first_state(starts[rank]);
        CHECK(std::memcmp(&state, &first, sizeof first) == 0);
        for (std::uint64_t b = sizeof first; b < world.lane().layout.words_end(); ++b)
          if (world.lane().own[b] != std::byte{0}) CHECK_MESSAGE(false, "byte ", b);
        CHECK(world.poll().ok());
        CHECK(world.close().ok());
        CHECK(world.check().code == errc::peer_left);
        CHECK(world.poll().code == errc::poisoned);
      });
  for (const dg::status& each : said) CHECK_MESSAGE(each.ok(), std::string{each.message().view()});
  for (const std::uint64_t start : starts) CHECK(start == starts[0]);
}

void check_one_refuses(const std::vector<dg::status>& said, std::int32_t victim, errc code) {
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    const dg::status& one = said[static_cast<std::size_t>(rank)];
    INFO("rank ", rank, ": ", std::string{one.message().view()});
    CHECK(one.code == (rank == victim ? code : errc::peer_refused));
    CHECK(one.rank == victim);
    if (rank != victim) CHECK(one.cause == code);
  }
}

} // namespace

TEST_CASE("worlds over the same memory begin afresh") {
  fake_cuda::reset(ranks);
  {
    const arenas memory;
    check_all_work(memory);
    check_all_work(memory);
  }
  fake_cuda::check_clean();
}

TEST_CASE("a request that does not fit is refused by all ranks, and nothing is written") {
  struct wrong {
    errc code;
    subject about;
    void (*change)(request&);
  };
  const wrong all[] = {
      {errc::bad_config, subject::tensor, [](request& r) { r.limits.tensors = 0; }},
      {errc::too_many_ranks, subject::world, [](request& r) { r.limits.ranks = 17; }},
      {errc::bad_group, subject::world, [](request& r) { r.limits.ranks = 2; }},
      {errc::bad_group, subject::world, [](request& r) { r.place.dp_size = 4; }},
      {errc::bad_group, subject::rank,
       [](request& r) { r.place.dp_rank = (r.place.dp_rank + 1) % ranks; }},
      {errc::bad_group, subject::world, [](request& r) { r.arenas.size = 2; }},
      {errc::bad_group, subject::rank, [](request& r) { r.arenas.rank = (r.arenas.rank + 1) % 3; }},
      {errc::capacity_exceeded, subject::workspace, [](request& r) { --r.arenas.bytes; }},
      {errc::null_pointer, subject::workspace, [](request& r) { r.arenas.base[1] = nullptr; }},
      {errc::misaligned, subject::workspace, [](request& r) { r.arenas.base[2] += 16; }},
      {errc::wrong_memory, subject::workspace,
       [](request& r) {
         alignas(256) static std::byte on_the_host[1 << 20];
         r.arenas.base[r.arenas.rank] = on_the_host;
       }},
  };
  fake_cuda::reset(ranks);
  {
    const arenas memory;
    for (const wrong& one : all) {
      for (std::int32_t victim = 0; victim < ranks; ++victim) {
        CAPTURE(dg::name_of(one.code));
        CAPTURE(victim);
        const auto said = make_worlds(memory, [&](std::int32_t rank, request& mine) {
          if (rank == victim) one.change(mine);
        });
        check_one_refuses(said, victim, one.code);
        CHECK(said[static_cast<std::size_t>(victim)].about == one.about);
      }
    }
    const dg::peer_pointers its = memory.of(0);
    for (std::int32_t r = 0; r < ranks; ++r)
      for (std::size_t b = 0; b < its.bytes; ++b)
        if (its.base[r][b] != std::byte{0xff}) CHECK_MESSAGE(false, "rank ", r, " byte ", b);
    check_all_work(memory);
  }
  fake_cuda::check_clean();
}

TEST_CASE("CUDA's failure on one rank is every rank's") {
  for (const char* function : {"cudaPointerGetAttributes", "cudaHostAlloc",
                               "cudaHostGetDevicePointer", "cudaStreamCreateWithFlags",
                               "cudaMemsetAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"}) {
    for (std::int32_t victim = 0; victim < ranks; ++victim) {
      CAPTURE(function);
      CAPTURE(victim);
      fake_cuda::reset(ranks);
      {
        const arenas memory;
        fake_cuda::fail_nth(function, 1, cudaErrorUnknown, victim);
        const auto said = make_worlds(memory, [](std::int32_t, request&) {});
        check_one_refuses(said, victim, errc::native_error);
        CHECK(said[static_cast<std::size_t>(victim)].native == cudaErrorUnknown);
        check_all_work(memory);
      }
      fake_cuda::check_clean();
    }
  }
}
