#include <dpgather/comm/unix_socket_bootstrap.hpp>

#include <dpgather/agreement.hpp>
#include <dpgather/bootstrap.hpp>
#include <dpgather/step_record.hpp>

#include <support/random_cases.hpp>
#include <support/socket_ranks.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace dpgather;
using namespace test_support;

static_assert(bootstrap<unix_socket_bootstrap>);
static_assert(std::movable<unix_socket_bootstrap>);
static_assert(!std::is_copy_constructible_v<unix_socket_bootstrap>);
static_assert(std::is_nothrow_move_constructible_v<unix_socket_bootstrap>);

using bytes = std::vector<std::byte>;

/// What rank `rank` sends in exchange `call`: different in every call, rank and word.
void fill(bytes& out, std::int32_t rank, std::uint64_t call) {
  random_source random{call * 1000 + static_cast<std::uint64_t>(rank)};
  for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(out.data() + at, &word, std::min(sizeof word, out.size() - at));
  }
}

/// One exchange of `count` bytes of each rank, checked. `in_place`: sent from its place in `all`.
status exchange(unix_socket_bootstrap& ranks, std::uint64_t call, std::size_t count,
                bool in_place = false) {
  bytes mine(count), all(count * static_cast<std::size_t>(ranks.size()), std::byte{0xee});
  fill(mine, ranks.rank(), call);
  const void* from = mine.data();
  if (in_place) {
    std::byte* const place = all.data() + count * static_cast<std::size_t>(ranks.rank());
    std::copy(mine.begin(), mine.end(), place);
    from = place;
  }
  if (status bad = ranks.all_gather(from, all.data(), count); !bad) return bad;
  bytes expected(count);
  for (std::int32_t r = 0; r < ranks.size(); ++r) {
    fill(expected, r, call);
    const auto place = all.begin() + r * static_cast<std::ptrdiff_t>(count);
    if (!std::equal(expected.begin(), expected.end(), place))
      return {.code = errc::bad_record, .peer = r, .value = static_cast<std::int64_t>(call)};
  }
  return {};
}

void check_ok(const std::vector<status>& said) {
  for (std::size_t r = 0; r < said.size(); ++r) {
    CAPTURE(r);
    CHECK_MESSAGE(said[r].ok(), said[r].message().c_str());
  }
}

} // namespace

TEST_CASE("thousands of exchanges of all sizes bring every rank's bytes to every rank") {
  const hang_guard guard;
  for (std::int32_t size = 1; size <= 8; ++size) {
    CAPTURE(size);
    check_ok(run_socket_ranks(size, {}, [size](unix_socket_bootstrap& ranks) -> status {
      if (ranks.size() != size) return {.code = errc::bad_group};
      random_source random{seed() + static_cast<std::uint64_t>(size)}; // the same on all ranks
      for (std::uint64_t call = 1; call <= 600; ++call) {
        const std::size_t count = random.pick({0, 1, 64, 64, 64, 1000, 4096});
        const bool in_place = random.chance(30);
        if (status bad = exchange(ranks, call, count, in_place); !bad) return bad;
        if (!random.chance(30)) continue;
        if (status bad = ranks.barrier(); !bad) return bad;
      }
      return ranks.first_failure();
    }));
  }
}

TEST_CASE("ranks that are processes exchange through a socket file") {
  const hang_guard guard;
  const fresh_path path{true};
  constexpr std::int32_t size = 4;
  std::vector<child_process> ranks;
  for (std::int32_t rank = size - 1; rank >= 0; --rank) {
    ranks.emplace_back([&path, rank] {
      const status said = run_socket_rank(
          rank, size, path, {.session = 77}, [](unix_socket_bootstrap& all) -> status {
            for (std::uint64_t call = 1; call <= 500; ++call) {
              if (status bad = exchange(all, call, 64 + call % 7); !bad) return bad;
            }
            return all.barrier();
          });
      return static_cast<int>(said.code);
    });
  }
  for (child_process& rank : ranks) CHECK(rank.exit_code() == 0);
  CHECK(!path.exists());
}

TEST_CASE("payloads far above what a socket buffers do not block each other") {
  const hang_guard guard;
  constexpr std::size_t large = 8U << 20;
  check_ok(run_socket_ranks(3, {}, [](unix_socket_bootstrap& ranks) -> status {
    for (std::uint64_t call = 1; call <= 2; ++call) {
      if (status bad = exchange(ranks, call, large + call, call == 2); !bad) return bad;
    }
    return exchange(ranks, 3, 8);
  }));
}

TEST_CASE("what a rank sends may lie anywhere in what it receives") {
  const hang_guard guard;
  check_ok(run_socket_ranks(3, {}, [](unix_socket_bootstrap& ranks) -> status {
    // Each rank's word lies where the next rank's belongs.
    std::int32_t all[3] = {};
    std::int32_t* const mine = all + (ranks.rank() + 1) % 3;
    *mine = 10 + ranks.rank();
    if (status bad = ranks.all_gather(mine, all, sizeof *mine); !bad) return bad;
    return {.code = all[0] == 10 && all[1] == 11 && all[2] == 12 ? errc::ok : errc::bad_record};
  }));
}

TEST_CASE("step records are exchanged and merge alike on all ranks") {
  const hang_guard guard;
  std::vector<agreement> merged(4);
  check_ok(run_socket_ranks(4, {}, [&](unix_socket_bootstrap& ranks) -> status {
    step_record mine;
    mine.step = 7;
    mine.world_rank = ranks.rank();
    mine.tokens = mine.requests = 3 * ranks.rank();
    mine.phase = ranks.rank() == 0 ? phase::idle : phase::decode;
    std::vector<step_record> all(4);
    if (status bad = exchange_records(ranks, mine, all); !bad) return bad;
    const result<agreement> agreed = merge(all, {.dp_size = 4});
    if (!agreed) return agreed.status();
    merged[static_cast<std::size_t>(ranks.rank())] = *agreed;
    return {};
  }));
  for (const agreement& each : merged) CHECK(each == merged[0]);
  CHECK(merged[0].tokens[3] == 9);
}

TEST_CASE("a group of one needs no socket") {
  auto alone = unix_socket_bootstrap::connect(0, 1, "/nowhere/at/all");
  REQUIRE(alone.ok());
  CHECK(exchange(*alone, 1, 100).ok());
  CHECK(alone->barrier().ok());
}

TEST_CASE("a group goes on after it was moved") {
  const hang_guard guard;
  check_ok(run_socket_ranks(2, {}, [](unix_socket_bootstrap& ranks) -> status {
    if (status bad = ranks.barrier(); !bad) return bad;
    unix_socket_bootstrap moved{std::move(ranks)};
    if (status bad = exchange(moved, 1, 32); !bad) return bad;
    auto other = unix_socket_bootstrap::connect(0, 1, "");
    if (!other) return other.status();
    *other = std::move(moved);
    return exchange(*other, 2, 32);
  }));
}

TEST_CASE("input that is refused is no call for the others") {
  const hang_guard guard;
  check_ok(run_socket_ranks(2, {}, [](unix_socket_bootstrap& ranks) -> status {
    std::byte byte{};
    const status null = ranks.all_gather(nullptr, &byte, 1);
    const status wide = ranks.all_gather(&byte, &byte, SIZE_MAX / 2);
    if (null.code != errc::null_pointer || null.about != subject::local) return null;
    if (wide.code != errc::size_overflow || wide.rank != ranks.rank()) return wide;
    return exchange(ranks, 1, 16);
  }));
}

TEST_CASE("arguments that mean nothing are refused with value and limit") {
  const auto refused = [](std::int32_t rank, std::int32_t size, const std::string& path,
                          const unix_socket_options& options = {}) {
    return unix_socket_bootstrap::connect(rank, size, path, options).status();
  };
  CHECK(refused(0, 0, "@x").code == errc::bad_group);
  CHECK(refused(0, 257, "@x").code == errc::too_many_ranks);
  const status outside = refused(4, 4, "@x");
  CHECK(outside.code == errc::bad_group);
  CHECK(outside.about == subject::rank);
  CHECK(outside.value == 4);
  CHECK(outside.limit == 4);
  CHECK(refused(-1, 4, "@x").code == errc::bad_group);
  CHECK(refused(0, 2, "@x", {.connect_timeout_ns = 0}).code == errc::bad_config);
  CHECK(refused(0, 2, "@x", {.timeout_ns = -1}).code == errc::bad_config);
  CHECK(refused(0, 2, "").code == errc::bad_config);
  CHECK(refused(0, 2, "@").code == errc::bad_config);
  CHECK(refused(0, 2, std::string("/tmp/a\0b", 8)).code == errc::bad_config);
  const status length = refused(0, 2, std::string(200, 'x'));
  CHECK(length.code == errc::bad_config);
  CHECK(length.value == 200);
  CHECK(length.limit == 83);
  const status nowhere = refused(0, 2, "/nowhere/at/all");
  CHECK(nowhere.code == errc::native_error);
  CHECK(nowhere.native == ENOENT);
}
