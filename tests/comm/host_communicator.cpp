#include <support/fault_world.hpp>

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/communicator.hpp>
#include <dpgather/comm/host_communicator.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;
using test_support::real_world;
using test_support::schedule_noise;
using test_support::virtual_world;
using test_support::watchdog;

static_assert(communicator<host_communicator>);
static_assert(bootstrap<host_communicator>);
static_assert(bootstrap<callback_bootstrap>);
static_assert(!communicator<callback_bootstrap>);
static_assert(std::same_as<communicator_of<comm::host>::type, host_communicator>);
static_assert(host_communicator::compares_plans);
static_assert(std::copyable<host_communicator>);

constexpr host_stream stream{};
constexpr element elements[] = {element::u8,   element::i32, element::i64, element::f16,
                                element::bf16, element::f32, element::f64};

using bytes = std::vector<std::byte>;

constexpr std::size_t index(std::int32_t i) { return static_cast<std::size_t>(i); }

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  return random_source{a * 0x9e3779b97f4a7c15U ^ b}();
}

// --- scalars, one at a time ---------------------------------------------------------------------

/// An integer that f16 and bf16 hold exactly, so that no rounding of theirs is tested here.
std::uint16_t half_of(element type, std::uint32_t small) {
  const auto wide = std::bit_cast<std::uint32_t>(static_cast<float>(small));
  if (type == element::bf16) return static_cast<std::uint16_t>(wide >> 16);
  if (small == 0) return 0;
  return static_cast<std::uint16_t>((wide - (112U << 23)) >> 13);
}

template <class T>
void put(bytes& out, std::size_t at, T value) {
  std::memcpy(out.data() + at * sizeof value, &value, sizeof value);
}

/// A floating-point number whose sums depend on the order.
template <class T>
T uneven(std::uint64_t draw, T big) {
  const T values[] = {T{1}, -big, big, T{0.25}, big / 3, T{-7}};
  return values[draw % std::size(values)];
}

/// Writes to element `at` of `out` the sum, in rank order, of what `ranks` ranks from `first` have
/// at `where`; with one rank that is what the rank has.
void put_sum(bytes& out, std::size_t at, element type, std::uint64_t call, std::int32_t first,
             std::int32_t ranks, std::size_t where) {
  std::uint64_t whole = 0;
  float single = 0;
  double twice = 0;
  for (std::int32_t r = 0; r < ranks; ++r) {
    const std::uint64_t draw = mix(call * 4096 + index(first + r), where);
    const bool small = type == element::f16 || type == element::bf16;
    whole += small ? draw % 4 : draw;
    const auto s = uneven<float>(draw, 1e8F);
    const auto d = uneven<double>(draw, 1e16);
    single = r == 0 ? s : single + s;
    twice = r == 0 ? d : twice + d;
  }
  switch (type) {
  case element::u8:
    put(out, at, static_cast<std::uint8_t>(whole));
    break;
  case element::i32:
    put(out, at, static_cast<std::uint32_t>(whole));
    break;
  case element::i64:
    put(out, at, whole);
    break;
  case element::f16:
  case element::bf16:
    put(out, at, half_of(type, static_cast<std::uint32_t>(whole)));
    break;
  case element::f32:
    put(out, at, single);
    break;
  case element::f64:
    put(out, at, twice);
    break;
  }
}

constexpr std::byte canary{0xa5};

/// `count` elements of world rank `rank` for call `call`.
bytes payload(element type, std::uint64_t call, std::int32_t rank, std::size_t count) {
  bytes out(count * size_of(type), canary);
  for (std::size_t i = 0; i < count; ++i) put_sum(out, i, type, call, rank, 1, i);
  return out;
}

// --- every collective of one group, once --------------------------------------------------------

/// Runs all collectives with one element and size and compares with the scalars above.
class collective_check {
public:
  collective_check(host_communicator comm, std::int32_t first_world_rank, element type,
                   std::uint64_t call)
      : comm_{comm}, first_{first_world_rank}, ranks_{comm.size()}, me_{comm.rank()}, type_{type},
        unit_{size_of(type)}, call_{call * 16} {
    random_source random{mix(call, 99)};
    count_ = random.pick<std::size_t>({0, 1, 2, 5, 16, 33});
    // Pieces of any size, zero too, in any order, with holes between them.
    pieces_.resize(index(ranks_));
    std::int64_t at = 2;
    for (const std::uint64_t r : random.order(index(ranks_))) {
      pieces_[r] = {at, random.chance(30) ? 0 : random.between<std::int64_t>(1, 9)};
      at += pieces_[r].count + random.between<std::int64_t>(0, 2);
    }
    extent_ = static_cast<std::size_t>(at + 1);
    for (const piece& p : pieces_) all_pieces_ += static_cast<std::size_t>(p.count);
  }

  /// The first thing that was wrong, or nothing. Fills `received` with the bytes of each call.
  std::string run(std::vector<std::uint64_t>& received) {
    for (const bool in_place : {false, true}) {
      all_gather(in_place);
      received.push_back(taken());
      all_reduce(in_place);
      received.push_back(taken());
      reduce_scatter(in_place);
      received.push_back(taken());
      all_gather_v(in_place);
      received.push_back(taken());
      reduce_scatter_v(in_place);
      received.push_back(taken());
    }
    exchange();
    received.push_back(taken());
    return wrong_;
  }

  /// What a ring moves in the calls of `run`, summed over its ranks.
  [[nodiscard]] std::vector<std::uint64_t> ring() const {
    const std::uint64_t hops = index(ranks_) - 1;
    const std::uint64_t even = hops * index(ranks_) * count_ * unit_;
    const std::uint64_t uneven_bytes = hops * all_pieces_ * unit_;
    std::vector<std::uint64_t> once{even, 2 * hops * count_ * unit_, even, uneven_bytes,
                                    uneven_bytes};
    std::vector<std::uint64_t> out = once;
    out.insert(out.end(), once.begin(), once.end());
    out.push_back(0); // the bootstrap's own exchange is not traffic
    return out;
  }

private:
  void expect(bool right, const char* what) {
    if (!right && wrong_.empty()) {
      wrong_ = std::string{what} + " of " + name_of(type_) + ", rank " + std::to_string(me_) +
               " of " + std::to_string(ranks_);
    }
  }
  void expect(const status& done, const char* what) {
    if (!done && wrong_.empty()) wrong_ = std::string{what} + ": " + done.message().c_str();
  }
  std::uint64_t taken() {
    const std::uint64_t before = std::exchange(before_, comm_.bytes_received());
    return before_ - before;
  }
  [[nodiscard]] bytes mine(std::size_t count) const {
    return payload(type_, call_, first_ + me_, count);
  }
  void sum(bytes& out, std::size_t at, std::size_t where) const {
    put_sum(out, at, type_, call_, first_, ranks_, where);
  }

  void all_gather(bool in_place) {
    ++call_;
    const bytes send = mine(count_);
    bytes recv(index(ranks_) * send.size() + 1, canary);
    const std::byte* from = send.data();
    if (in_place) {
      std::byte* own = recv.data() + index(me_) * send.size();
      std::copy(send.begin(), send.end(), own);
      from = own;
    }
    expect(comm_.all_gather(from, recv.data(), send.size(), stream), "all_gather");
    bytes want(recv.size(), canary);
    for (std::int32_t r = 0; r < ranks_; ++r) {
      const bytes part = payload(type_, call_, first_ + r, count_);
      std::copy(part.begin(), part.end(),
                want.begin() + static_cast<std::ptrdiff_t>(index(r) * part.size()));
    }
    expect(recv == want, "all_gather");
    expect(send == mine(count_), "all_gather: input");
    if (in_place) return;
    // The same bytes through the bootstrap.
    bytes again(recv.size(), canary);
    expect(comm_.all_gather(send.data(), again.data(), send.size()), "bootstrap all_gather");
    expect(again == want, "bootstrap all_gather");
  }

  void all_reduce(bool in_place) {
    ++call_;
    bytes send = mine(count_);
    bytes recv(send.size() + 1, canary);
    std::byte* to = in_place ? send.data() : recv.data();
    expect(comm_.all_reduce(send.data(), to, count_, type_, stream), "all_reduce");
    bytes want(send.size() + 1, canary);
    for (std::size_t i = 0; i < count_; ++i) sum(want, i, i);
    if (in_place) send.push_back(canary);
    expect((in_place ? send : recv) == want, "all_reduce");
    if (!in_place) expect(send == mine(count_), "all_reduce: input");
  }

  void reduce_scatter(bool in_place) {
    ++call_;
    const std::size_t all = count_ * index(ranks_);
    bytes send = mine(all);
    bytes recv(count_ * unit_ + 1, canary);
    std::byte* to = in_place ? send.data() + index(me_) * count_ * unit_ : recv.data();
    expect(comm_.reduce_scatter(send.data(), to, count_, type_, stream), "reduce_scatter");
    bytes want(count_ * unit_ + 1, canary);
    for (std::size_t i = 0; i < count_; ++i) sum(want, i, index(me_) * count_ + i);
    if (in_place) std::copy(to, to + count_ * unit_, recv.begin());
    expect(recv == want, "reduce_scatter");
    if (in_place) { // nothing but the own place was written
      const bytes before = mine(all);
      std::copy(before.begin() + (to - send.data()),
                before.begin() + (to - send.data()) + static_cast<std::ptrdiff_t>(count_ * unit_),
                to);
    }
    expect(send == mine(all), "reduce_scatter: input");
  }

  void all_gather_v(bool in_place) {
    ++call_;
    const piece own = pieces_[index(me_)];
    const bytes send = mine(static_cast<std::size_t>(own.count));
    bytes recv(extent_ * unit_, canary);
    std::vector<piece> in_bytes = pieces_;
    for (piece& p : in_bytes) {
      p.offset *= static_cast<std::int64_t>(unit_);
      p.count *= static_cast<std::int64_t>(unit_);
    }
    const std::byte* from = send.data();
    if (in_place) {
      std::byte* place = recv.data() + in_bytes[index(me_)].offset;
      std::copy(send.begin(), send.end(), place);
      from = place;
    }
    expect(comm_.all_gather_v(from, recv.data(), in_bytes, stream), "all_gather_v");
    bytes want(recv.size(), canary);
    for (std::int32_t r = 0; r < ranks_; ++r) {
      const bytes part =
          payload(type_, call_, first_ + r, static_cast<std::size_t>(pieces_[index(r)].count));
      std::copy(part.begin(), part.end(), want.begin() + in_bytes[index(r)].offset);
    }
    expect(recv == want, "all_gather_v");
  }

  void reduce_scatter_v(bool in_place) {
    ++call_;
    bytes send = mine(extent_);
    const auto first = static_cast<std::size_t>(pieces_[index(me_)].offset);
    const auto count = static_cast<std::size_t>(pieces_[index(me_)].count);
    bytes recv(count * unit_ + 1, canary);
    std::byte* to = in_place ? send.data() + first * unit_ : recv.data();
    expect(comm_.reduce_scatter_v(send.data(), to, pieces_, type_, stream), "reduce_scatter_v");
    bytes want(count * unit_ + 1, canary);
    for (std::size_t i = 0; i < count; ++i) sum(want, i, first + i);
    if (in_place) std::copy(to, to + count * unit_, recv.begin());
    expect(recv == want, "reduce_scatter_v");
    if (!in_place) expect(send == mine(extent_), "reduce_scatter_v: input");
  }

  void exchange() {
    ++call_;
    struct handle {
      std::int32_t rank;
      std::uint64_t call;
    };
    const handle own{first_ + me_, call_};
    std::vector<handle> all(index(ranks_));
    expect(comm_.barrier(), "barrier");
    expect(comm_.all_gather(&own, all.data(), sizeof own), "bootstrap all_gather");
    for (std::int32_t r = 0; r < ranks_; ++r) {
      expect(all[index(r)].rank == first_ + r && all[index(r)].call == call_,
             "bootstrap all_gather");
    }
  }

  host_communicator comm_;
  std::int32_t first_, ranks_, me_;
  element type_;
  std::size_t unit_;
  std::uint64_t call_;
  std::size_t count_ = 0;
  std::vector<piece> pieces_;
  std::size_t extent_ = 0;
  std::size_t all_pieces_ = 0;
  std::uint64_t before_ = comm_.bytes_received();
  std::string wrong_;
};

call_record record_of(std::uint64_t call, std::int32_t rank = 0) {
  call_record out;
  out.call = call;
  out.dp_rank = rank;
  out.row_bytes = 64;
  return out;
}

} // namespace

TEST_CASE("collectives: all of them, all elements, the world and the attention-TP groups") {
  watchdog dog;
  for (const std::int32_t tp : {1, 2, 4}) {
    for (std::int32_t dp = 1; dp <= 16; ++dp) {
      CAPTURE(dp);
      CAPTURE(tp);
      dog.feed("collectives W=" + std::to_string(dp) + " A=" + std::to_string(tp));
      const topology shape{dp, tp};
      const std::int32_t world_size = shape.world_size();
      virtual_world ranks{shape};
      std::vector<std::string> wrong(index(world_size));
      // Bytes by [group][element][rank of the group][call].
      std::vector<std::vector<std::uint64_t>> world_bytes(index(world_size));
      std::vector<std::vector<std::uint64_t>> group_bytes(index(world_size));
      std::vector<std::uint64_t> world_ring, group_ring;
      ranks.run(index(world_size), [&](host_communicator& comm, virtual_world::membership&) {
        const auto me = index(comm.rank());
        const host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
        const std::int32_t first = comm.rank() / tp * tp;
        for (std::size_t e = 0; e < std::size(elements); ++e) {
          dog.at(comm.rank(), "element", e);
          const std::uint64_t call = mix(test_support::seed(), index(world_size) * 100 + e) >> 20;
          collective_check whole{comm, 0, elements[e], call};
          wrong[me] += whole.run(world_bytes[me]);
          collective_check part{group, first, elements[e], call + 1};
          wrong[me] += part.run(group_bytes[me]);
          if (comm.rank() == 0) {
            for (const std::uint64_t b : whole.ring()) world_ring.push_back(b);
            for (const std::uint64_t b : part.ring()) group_ring.push_back(b);
          }
        }
      });
      for (const std::string& w : wrong) CHECK(w == "");
      const auto summed = [](std::span<const std::vector<std::uint64_t>> of) {
        std::vector<std::uint64_t> out(of[0].size());
        for (const auto& rank : of) {
          for (std::size_t i = 0; i < out.size(); ++i) out[i] += rank[i];
        }
        return out;
      };
      CHECK(summed(world_bytes) == world_ring);
      for (std::int32_t d = 0; d < dp; ++d) {
        CHECK(summed(std::span{group_bytes}.subspan(index(d * tp), index(tp))) == group_ring);
      }
      CHECK(ranks.clock().now_ns() == 0); // nobody slept until a deadline
    }
  }
}

TEST_CASE("traffic: each rank receives what it does in a ring") {
  watchdog dog;
  constexpr std::int32_t size = 6;
  virtual_world ranks{{size, 1}};
  std::array<std::array<std::uint64_t, 5>, size> got{};
  ranks.run(1, [&](host_communicator& comm, virtual_world::membership&) {
    auto& mine = got[index(comm.rank())];
    std::uint64_t before = 0;
    const auto taken = [&] {
      const std::uint64_t now = comm.bytes_received();
      return now - std::exchange(before, now);
    };
    std::vector<std::int32_t> in(60, 1), out(60, 0);
    (void)comm.all_gather(in.data(), out.data(), 40, stream);
    mine[0] = taken();
    (void)comm.all_reduce(in.data(), out.data(), 60, element::i32, stream);
    mine[1] = taken();
    (void)comm.reduce_scatter(in.data(), out.data(), 10, element::i32, stream);
    mine[2] = taken();
    const std::array<piece, size> pieces{{{0, 4}, {4, 0}, {4, 8}, {12, 12}, {24, 0}, {24, 16}}};
    (void)comm.all_gather_v(in.data(), out.data(), pieces, stream);
    mine[3] = taken();
    (void)comm.barrier();
    (void)comm.all_gather(in.data(), out.data(), 8);
    (void)comm.announce(record_of(1), {}, stream);
    mine[4] = taken();
  });
  const std::uint64_t own[] = {4, 0, 8, 12, 0, 16};
  for (std::size_t r = 0; r < size; ++r) {
    CHECK(got[r][0] == 5 * 40);
    CHECK(got[r][1] == 2 * 5 * 10 * 4);
    CHECK(got[r][2] == 5 * 10 * 4);
    CHECK(got[r][3] == 40 - own[r]);
    CHECK(got[r][4] == 0);
  }
}

TEST_CASE("groups: ranks, sizes and places") {
  virtual_world ranks{{3, 4}};
  for (std::int32_t r = 0; r < 12; ++r) {
    host_communicator comm{ranks.world(), r};
    CHECK(comm.rank() == r);
    CHECK(comm.size() == 12);
    CHECK(comm.topology() == topology{3, 4, r / 4, r % 4});
    host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
    CHECK(group.rank() == r % 4);
    CHECK(group.size() == 4);
    CHECK(group.topology().world_rank() == r);
    // The subgroup of a subgroup is itself.
    CHECK(group.subgroup(subgroup_kind::attention_tp).rank() == r % 4);
    CHECK(group.subgroup(subgroup_kind::attention_tp).size() == 4);
  }
}

TEST_CASE("announce: brings all records in rank order, call after call") {
  watchdog dog;
  for (const std::int32_t size : {1, 2, 5, 12}) {
    virtual_world ranks{{size, 1}};
    std::vector<std::string> wrong(index(size));
    ranks.run(index(size), [&](host_communicator& comm, virtual_world::membership&) {
      std::vector<call_record> all(index(size));
      for (std::uint64_t call = 1; call <= 60; ++call) {
        const auto rows = [&](std::int32_t rank) {
          return static_cast<std::int32_t>(call) * 100 + rank;
        };
        call_record mine = record_of(call, comm.rank());
        mine.rows = rows(comm.rank());
        const bool wants = call % 3 != 0; // an empty span is legal
        // Meetings of other calls in between change the slot that is next.
        if (call % 5 == 0 && !comm.barrier()) wrong[index(comm.rank())] = "barrier";
        const status verdict =
            comm.announce(mine, wants ? std::span{all} : std::span<call_record>{}, stream);
        if (!verdict) wrong[index(comm.rank())] = verdict.message().c_str();
        for (std::int32_t r = 0; wants && r < size; ++r) {
          if (all[index(r)].rows != rows(r) || all[index(r)].call != call)
            wrong[index(comm.rank())] = "stale record in call " + std::to_string(call);
        }
      }
    });
    for (const std::string& w : wrong) CHECK(w == "");
    CHECK(ranks.clock().now_ns() == 0);
  }
}

TEST_CASE(
    "announce: a divergence gets one verdict on all ranks, for good; a refusal is forgotten") {
  watchdog dog;
  for (const std::int32_t odd : {0, 1, 3}) {
    CAPTURE(odd);
    virtual_world ranks{{4, 1}};
    std::array<status, 4> refused, right, diverged, later;
    ranks.run(3, [&](host_communicator& comm, virtual_world::membership&) {
      const auto me = index(comm.rank());
      call_record mine = record_of(1);
      if (comm.rank() == odd) mine.refused = errc::null_pointer;
      refused[me] = comm.announce(mine, {}, stream);
      right[me] = comm.announce(record_of(2), {}, stream);
      mine = record_of(3);
      if (comm.rank() == odd) mine.row_bytes = 32;
      diverged[me] = comm.announce(mine, {}, stream);
      later[me] = comm.announce(record_of(4), {}, stream);
      if (later[me].ok() || comm.barrier().code != errc::poisoned) later[me] = {};
    });
    for (std::size_t r = 0; r < 4; ++r) {
      CHECK(refused[r].code == errc::peer_refused);
      CHECK(refused[r].rank == odd);
      CHECK(right[r].ok());
      CHECK(diverged[r].code == errc::plan_mismatch);
      CHECK(diverged[r].about == subject::row_bytes);
      CHECK(diverged[r].rank == (odd == 0 ? 1 : odd));
      CHECK(diverged[r].peer == 0);
      CHECK(diverged[r].value == (odd == 0 ? 64 : 32));
      CHECK(diverged[r].limit == (odd == 0 ? 32 : 64));
      CHECK(later[r].code == errc::poisoned);
      CHECK(later[r].cause == errc::plan_mismatch);
      CHECK(later[r].about == subject::row_bytes);
    }
    CHECK(ranks.world().first_failure().code == errc::plan_mismatch);
  }
}

TEST_CASE("order: a rank in another call than the others is named, before anything is read") {
  watchdog dog;
  // The odd rank is in `odd_call`, the others announce; and the other way round.
  for (const bool others_announce : {true, false}) {
    for (const int odd_call : {0, 1, 2}) {
      for (const std::int32_t odd : {0, 2}) {
        CAPTURE(others_announce);
        CAPTURE(odd_call);
        CAPTURE(odd);
        virtual_world ranks{{3, 1}};
        std::array<status, 3> got, later;
        ranks.run(7, [&](host_communicator& comm, virtual_world::membership& member) {
          const auto me = index(comm.rank());
          { // a call that works, whose buffers are gone when the next one begins
            const std::vector<std::int32_t> in(4, 1);
            std::vector<std::int32_t> out(4 * 3);
            (void)comm.announce(record_of(1), {}, stream);
            (void)comm.all_gather(in.data(), out.data(), 16, stream);
          }
          std::vector<std::int32_t> in(4, 1), out(4 * 3);
          if ((comm.rank() == odd) == others_announce) {
            got[me] = odd_call == 0 ? comm.barrier()
                      : odd_call == 1
                          ? comm.all_gather(in.data(), out.data(), 16)
                          : comm.reduce_scatter(in.data(), out.data(), 1, element::i32, stream);
          } else {
            got[me] = comm.announce(record_of(2), {}, stream);
          }
          later[me] = comm.barrier();
          member.wait_for_all(); // buffers live until every rank has left the call
        });
        for (std::size_t r = 0; r < 3; ++r) {
          CHECK(got[r].code == errc::plan_mismatch);
          CHECK((got[r].rank == odd || got[r].peer == odd));
          CHECK(later[r].code == errc::poisoned);
          CHECK(later[r].cause == errc::plan_mismatch);
        }
        CHECK(ranks.clock().now_ns() == 0);
      }
    }
  }
}

TEST_CASE("threads: a second one in a rank's call is answered busy, and nothing happens") {
  watchdog dog;
  virtual_world ranks{{2, 2}, 1};
  std::array<status, 4> done;
  std::vector<std::int32_t> sums(4 * 4);
  std::vector<status> second;
  std::thread intruder;
  ranks.run(5, [&](host_communicator& comm, virtual_world::membership&) {
    const auto me = index(comm.rank());
    if (comm.rank() == 1) {
      intruder = std::thread{[&ranks, &second] {
        host_communicator same{ranks.world(), 1};
        host_communicator group = same.subgroup(subgroup_kind::attention_tp);
        ranks.clock().sleep_until(10); // the first thread waits by now
        std::vector<std::int32_t> in(16, 9), out(64, 9);
        const piece pieces[4] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}};
        for (host_communicator* each : {&same, &group}) {
          second.push_back(each->all_gather(in.data(), out.data(), 4, stream));
          second.push_back(each->all_gather(in.data(), out.data(), 4));
          second.push_back(each->all_gather_v(in.data(), out.data(), pieces, stream));
          second.push_back(each->all_reduce(in.data(), out.data(), 4, element::i32, stream));
          second.push_back(each->reduce_scatter(in.data(), out.data(), 1, element::i32, stream));
          second.push_back(
              each->reduce_scatter_v(in.data(), out.data(), pieces, element::i32, stream));
          second.push_back(each->announce(record_of(1), {}, stream));
          second.push_back(each->barrier());
        }
        if (in != std::vector<std::int32_t>(16, 9) || out != std::vector<std::int32_t>(64, 9))
          second.push_back({});
        ranks.clock().leave();
      }};
    } else {
      ranks.clock().sleep_until(20);
    }
    const std::vector<std::int32_t> in(4, 1 << comm.rank());
    done[me] = comm.all_reduce(in.data(), &sums[me * 4], 4, element::i32, stream);
  });
  intruder.join();
  CHECK(second.size() == 16);
  for (const status& s : second) {
    CHECK(s.code == errc::busy);
    CHECK(s.rank == 1);
    CHECK(!is_sticky(s.code));
  }
  for (const status& s : done) CHECK(s.ok());
  CHECK(sums == std::vector<std::int32_t>(16, 15));
  CHECK(ranks.clock().now_ns() == 20);
}

TEST_CASE("threads: a call is one call to the end, nobody slips into its middle") {
  watchdog dog;
  for (std::uint64_t round = 0; round < 80; ++round) {
    virtual_world ranks{{2, 1}, 1};
    std::array<status, 2> done;
    std::array<std::array<std::int32_t, 4>, 2> sums{};
    std::atomic<bool> ended{false};
    std::thread intruder{[&] {
      schedule_noise::seed(round);
      host_communicator same{ranks.world(), 0};
      ranks.clock().sleep_until(10); // rank 0 is inside its call, rank 1 is about to come
      while (!ended && same.barrier().code == errc::busy) std::this_thread::yield();
      ranks.clock().leave();
    }};
    ranks.run(round, [&](host_communicator& comm, virtual_world::membership& member) {
      const auto me = index(comm.rank());
      if (me == 1) ranks.clock().sleep_until(10);
      const std::vector<std::int32_t> in(4, comm.rank() + 1);
      std::vector<std::int32_t> out(4);
      done[me] = comm.all_reduce(in.data(), out.data(), 4, element::i32, stream);
      std::copy(out.begin(), out.end(), sums[me].begin());
      if (me == 0) ended = true;
      member.wait_for_all();
    });
    intruder.join();
    CAPTURE(round);
    for (std::size_t r = 0; r < 2; ++r) {
      REQUIRE(done[r].ok());
      REQUIRE(sums[r] == std::array<std::int32_t, 4>{3, 3, 3, 3});
    }
  }
}

TEST_CASE("failure: abort ends all waiting with its cause, in every group") {
  watchdog dog;
  virtual_world ranks{{2, 2}};
  std::array<status, 4> got, later;
  ranks.run(9, [&](host_communicator& comm, virtual_world::membership&) {
    const auto me = index(comm.rank());
    std::int32_t in = 1, out[4];
    host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
    switch (me) {
    case 0:
      got[me] = comm.barrier();
      break;
    case 1:
      got[me] = comm.all_gather(&in, out, sizeof in, stream);
      break;
    case 2:
      got[me] = group.all_reduce(&in, out, 1, element::i32, stream);
      break;
    default:
      ranks.clock().sleep_until(10);
      comm.abort({.code = errc::native_error, .rank = 3, .native = 5});
      got[me] = {.code = errc::native_error, .rank = 3, .native = 5};
    }
    later[me] = group.barrier();
  });
  for (std::size_t r = 0; r < 4; ++r) {
    CHECK(got[r].code == errc::native_error);
    CHECK(got[r].rank == 3);
    CHECK(got[r].native == 5);
    CHECK(later[r].code == errc::poisoned);
    CHECK(later[r].cause == errc::native_error);
  }
  CHECK(ranks.clock().now_ns() == 10);
}

TEST_CASE("failure: timeouts and lost peers of a subgroup are named by world rank") {
  watchdog dog;
  for (const bool leaves : {true, false}) {
    CAPTURE(leaves);
    virtual_world ranks{{2, 4}};
    std::array<status, 8> got;
    ranks.run(10, [&](host_communicator& comm, virtual_world::membership& member) {
      if (comm.rank() == 6) {
        ranks.clock().sleep_until(10);
        if (leaves) return;
        member.wait_for_others(); // stands still without a word
        return;
      }
      host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
      got[index(comm.rank())] = group.barrier();
    });
    for (std::size_t r = 0; r < 8; ++r) {
      if (r < 4) CHECK(got[r].ok());
      if (r < 4 || r == 6) continue;
      CHECK(got[r].code == (leaves ? errc::peer_left : errc::timeout));
      CHECK(got[r].peer == 6);
      CHECK(got[r].rank != 6);
      CHECK(got[r].rank >= 4);
    }
    CHECK(ranks.clock().now_ns() == (leaves ? 10 : virtual_world::deadline));
  }
}

TEST_CASE("failure: a timeout names the rank that is late, not one that waits for it elsewhere") {
  // Rank 3 stands still. Its peer waits for it in their group, ranks 0 and 1 for both in the world,
  // and their deadline comes first.
  watchdog dog;
  virtual_world ranks{{2, 2}};
  std::array<status, 4> got;
  ranks.run(13, [&](host_communicator& comm, virtual_world::membership& member) {
    const auto me = index(comm.rank());
    if (me == 3) return member.wait_for_others();
    if (me == 2) {
      ranks.clock().sleep_until(5);
      host_communicator group = comm.subgroup(subgroup_kind::attention_tp);
      got[me] = group.barrier();
    } else {
      got[me] = comm.barrier();
    }
  });
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(got[r].code == errc::timeout);
    CHECK(got[r].peer == 3);
  }
  CHECK(ranks.clock().now_ns() == virtual_world::deadline);
}

TEST_CASE("failure: in the middle of a call it is the call's own error, not one from before") {
  // Rank 0 waits at the end of the call, rank 1 still sums when the world fails. `poisoned` is for
  // calls that start afterwards: which of the two was how far must not change the answer.
  watchdog dog;
  constexpr std::int64_t many = 2'000'000;
  const std::vector<std::int32_t> in(static_cast<std::size_t>(many), 1);
  int hit = 0;
  for (int round = 0; round < 6; ++round) {
    virtual_world ranks{{2, 1}};
    std::atomic<bool> started{false};
    std::array<status, 2> got;
    bool summed = false; // rank 1 wrote a sum, so both were inside before the failure
    std::thread breaker{[&] {
      while (!started) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
      host_communicator{ranks.world(), 0}.abort({.code = errc::native_error, .native = 5});
    }};
    ranks.run(11, [&](host_communicator& comm, virtual_world::membership&) {
      std::vector<std::int32_t> out(in.size());
      const piece pieces[] = {{0, 0}, {0, many}};
      (void)comm.barrier();
      started = true;
      got[index(comm.rank())] =
          comm.reduce_scatter_v(in.data(), out.data(), pieces, element::i32, stream);
      if (comm.rank() == 1) summed = out[0] != 0;
    });
    breaker.join();
    for (const status& s : got) {
      INFO(std::string{name_of(s.code)});
      if (s.ok()) continue;
      if (summed) CHECK(s.code == errc::native_error);
      CHECK((s.code == errc::native_error || s.cause == errc::native_error));
      hit += summed ? 1 : 0;
    }
  }
  MESSAGE("calls that failed in their middle: ", hit);
}

TEST_CASE("failure: later calls post nothing where a slow rank may still read") {
  // For the race detector: rank 1 has left the announcement in real time, but not in any order that
  // rank 0 could know of. Both slots of records and the list of inputs are tried.
  watchdog dog;
  real_world ranks{{2, 1}};
  std::array<status, 4> later;
  ranks.run(12, [&](host_communicator& comm, real_world::membership& member) {
    std::vector<call_record> all(2);
    std::int32_t in = 1, out[2]{};
    if (!comm.announce(record_of(1), all, stream)) return; // a very slow machine
    if (comm.rank() == 1) {
      member.wait_for_others();
      return;
    }
    (void)comm.barrier();
    later[0] = comm.announce(record_of(2), {}, stream);
    later[1] = comm.announce(record_of(3), {}, stream);
    later[2] = comm.all_gather(&in, out, sizeof in, stream);
    later[3] = comm.all_gather(&in, out, sizeof in);
  });
  CHECK(ranks.world().first_failure().code == errc::timeout);
  for (const status& s : later) CHECK((s.ok() || s.code == errc::poisoned));
}

TEST_CASE("callback bootstrap: hands on bytes and native errors") {
  struct engine {
    int answer = 0;
    int barriers = 0;
  } state;
  const auto gather = [](void* context, const void* mine, void* all, std::size_t size) {
    std::memcpy(all, mine, size);
    std::memcpy(static_cast<std::byte*>(all) + size, mine, size);
    return static_cast<engine*>(context)->answer;
  };
  const auto barrier = [](void* context) {
    ++static_cast<engine*>(context)->barriers;
    return static_cast<engine*>(context)->answer;
  };
  callback_bootstrap ranks{1, 2, &state, gather, barrier};
  CHECK(ranks.rank() == 1);
  CHECK(ranks.size() == 2);
  step_record mine;
  mine.tokens = 5;
  std::array<step_record, 2> all;
  CHECK(exchange_records(ranks, mine, all).ok());
  CHECK(all[1].tokens == 5);
  CHECK(ranks.barrier().ok());
  CHECK(state.barriers == 1);
  state.answer = 42;
  CHECK(ranks.barrier().code == errc::native_error);
  CHECK(ranks.barrier().native == 42);
  CHECK(exchange_records(ranks, mine, all).code == errc::native_error);
  std::array<step_record, 3> too_many;
  CHECK(exchange_records(ranks, mine, too_many).code == errc::bad_group);
  CHECK(exchange_records(ranks, mine, too_many).limit == 2);
}
