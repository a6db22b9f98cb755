#pragma once

/// @file
/// What the tests of waiting share: atomics that lose time between any two operations, a watchdog
/// for tests that can hang, and ranks on a manual clock.
///
/// Include it before any dpgather header: the library's atomics become noisy ones, so that a
/// schedule that needs an interruption between two neighbouring instructions comes up within some
/// hundred calls, also in a Release build on an idle machine.

#include <support/random_cases.hpp>

// All that the library includes itself must be in before `atomic` is renamed.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace test_support {

/// Loses time now and then. Each thread has a sequence of its own, given by its seed; what comes of
/// it is up to the machine, so a run is provoked by the seed, not reproduced.
class schedule_noise {
public:
  static void seed(std::uint64_t value) noexcept { state() = value; }

  static void here() noexcept {
    state() = state() * 6364136223846793005U + 1442695040888963407U;
    const std::uint64_t draw = state() >> 56;
    if (draw < 8) {
      std::this_thread::yield();
    } else if (draw == 255) {
      std::this_thread::sleep_for(std::chrono::microseconds{1});
    }
  }

private:
  static std::uint64_t& state() noexcept {
    thread_local std::uint64_t value = 0;
    return value;
  }
};

} // namespace test_support

// The library says std::atomic, so its stand-in has to live in std.
namespace std {

template <class T>
class dpgather_noisy_atomic {
public:
  constexpr dpgather_noisy_atomic() noexcept = default;
  constexpr dpgather_noisy_atomic(T value) noexcept : value_{value} {}
  dpgather_noisy_atomic(const dpgather_noisy_atomic&) = delete;
  dpgather_noisy_atomic& operator=(const dpgather_noisy_atomic&) = delete;

  T load(memory_order order = memory_order_seq_cst) const noexcept {
    test_support::schedule_noise::here();
    const T value = value_.load(order);
    test_support::schedule_noise::here();
    return value;
  }
  void store(T value, memory_order order = memory_order_seq_cst) noexcept {
    test_support::schedule_noise::here();
    value_.store(value, order);
    test_support::schedule_noise::here();
  }
  T exchange(T value, memory_order order = memory_order_seq_cst) noexcept {
    test_support::schedule_noise::here();
    return value_.exchange(value, order);
  }
  T fetch_add(T value, memory_order order = memory_order_seq_cst) noexcept {
    test_support::schedule_noise::here();
    const T before = value_.fetch_add(value, order);
    test_support::schedule_noise::here();
    return before;
  }
  T fetch_or(T value, memory_order order = memory_order_seq_cst) noexcept {
    test_support::schedule_noise::here();
    return value_.fetch_or(value, order);
  }
  template <class... Orders>
  bool compare_exchange_strong(T& expected, T value, Orders... orders) noexcept {
    test_support::schedule_noise::here();
    return value_.compare_exchange_strong(expected, value, orders...);
  }
  template <class... Orders>
  bool compare_exchange_weak(T& expected, T value, Orders... orders) noexcept {
    test_support::schedule_noise::here();
    return value_.compare_exchange_weak(expected, value, orders...);
  }
  operator T() const noexcept { return load(); }

private:
  std::atomic<T> value_{};
};

} // namespace std

#define atomic dpgather_noisy_atomic
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/dpgather.hpp>
#undef atomic

namespace test_support {

/// Ends the process when a test makes no progress for a long time, and says where every rank
/// stands.
///
/// `at` costs two stores; call it before everything that can wait. `feed` after each case.
class watchdog {
public:
  static constexpr std::size_t most_ranks = 72;

  explicit watchdog(std::chrono::seconds patience = std::chrono::seconds{100})
      : thread_{[this, patience] { guard(patience); }} {}
  watchdog(const watchdog&) = delete;
  watchdog& operator=(const watchdog&) = delete;
  ~watchdog() {
    {
      const std::lock_guard lock{mutex_};
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Rank `rank` is about to do `what`, for the `number`-th time or in step `number`.
  void at(std::int32_t rank, const char* what, std::uint64_t number = 0) noexcept {
    standing& mine = places_[static_cast<std::size_t>(rank) % most_ranks];
    mine.what.store(what, std::memory_order_relaxed);
    mine.number.store(number, std::memory_order_relaxed);
  }
  /// The next case begins; `name` says which.
  void feed(std::string name) {
    const std::lock_guard lock{mutex_};
    name_ = std::move(name);
    ++fed_;
    for (standing& each : places_) each.what.store(nullptr, std::memory_order_relaxed);
  }

private:
  struct standing {
    std::atomic<const char*> what{nullptr};
    std::atomic<std::uint64_t> number{0};
  };

  void guard(std::chrono::seconds patience) {
    std::unique_lock lock{mutex_};
    for (std::uint64_t seen = fed_; !ended_; seen = fed_) {
      if (changed_.wait_for(lock, patience, [&] { return ended_; })) return;
      if (fed_ == seen) bark();
    }
  }
  void bark() const {
    std::fprintf(stderr, "watchdog: no progress in case '%s'\n", name_.c_str());
    for (std::size_t r = 0; r < most_ranks; ++r) {
      const char* what = places_[r].what.load(std::memory_order_relaxed);
      if (what == nullptr) continue;
      std::fprintf(stderr, "  rank %zu: %s %llu\n", r, what,
                   static_cast<unsigned long long>(places_[r].number.load()));
    }
    std::fflush(stderr);
    std::abort();
  }

  std::array<standing, most_ranks> places_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string name_;
  std::uint64_t fed_ = 0;
  bool ended_ = false;
  std::thread thread_; // last: it uses the others
};

/// Real time, with what a test asks of virtual time besides.
class real_clock {
public:
  static constexpr bool is_exact = false; ///< sleepers wake some time later

  explicit real_clock(std::int32_t) {}
  [[nodiscard]] dpgather::wait_clock& waiting() noexcept { return clock_; }
  [[nodiscard]] std::int64_t now_ns() noexcept { return clock_.now_ns() - start_; }
  void sleep_until(std::int64_t time_ns) {
    std::this_thread::sleep_for(std::chrono::nanoseconds{time_ns - now_ns()});
  }
  void leave() noexcept {}

private:
  dpgather::steady_wait_clock clock_;
  std::int64_t start_ = clock_.now_ns();
};

/// Virtual time: it passes only while all participants wait, so timeouts cost nothing and come when
/// they should.
class virtual_clock {
public:
  static constexpr bool is_exact = true;

  explicit virtual_clock(std::int32_t participants) : clock_{participants} {}
  [[nodiscard]] dpgather::wait_clock& waiting() noexcept { return clock_; }
  [[nodiscard]] std::int64_t now_ns() noexcept { return clock_.now_ns(); }
  void sleep_until(std::int64_t time_ns) noexcept { clock_.sleep_until(time_ns); }
  void leave() noexcept { clock_.leave(); }

private:
  dpgather::manual_wait_clock clock_;
};

/// A host world whose ranks are threads, on either clock. `others`: threads besides the ranks that
/// sleep on the clock.
template <class Clock, std::int64_t Deadline>
class rank_world {
public:
  static constexpr std::int64_t deadline = Deadline; // ns, of every meeting
  static constexpr bool is_exact = Clock::is_exact;

  explicit rank_world(const dpgather::topology& shape, std::int32_t others = 0)
      : clock_{shape.world_size() + others}, world_{shape, clock_.waiting(), deadline} {}

  [[nodiscard]] Clock& clock() noexcept { return clock_; }
  [[nodiscard]] dpgather::host_world& world() noexcept { return world_; }

  /// One rank's membership: however its body ends, the others hear of it before time may pass.
  class membership {
  public:
    membership(rank_world& of, std::int32_t rank) noexcept : of_{of}, rank_{rank} {}
    membership(const membership&) = delete;
    membership& operator=(const membership&) = delete;
    ~membership() {
      of_.world_.leave(rank_);
      leave_clock();
      {
        const std::lock_guard lock{of_.mutex_};
        ++of_.ended_;
      }
      of_.changed_.notify_all();
    }
    /// Time passes without this rank, though it is still in the world.
    void leave_clock() noexcept {
      if (!std::exchange(left_clock_, true)) of_.clock_.leave();
    }
    /// Stands still, outside time, until all other ranks have ended.
    void wait_for_others() {
      leave_clock();
      std::unique_lock lock{of_.mutex_};
      of_.changed_.wait(lock, [&] { return of_.ended_ >= of_.world_.size() - 1; });
    }
    /// For the end of a body whose buffers others may still read: waits until all ranks are here.
    void wait_for_all() {
      leave_clock();
      std::unique_lock lock{of_.mutex_};
      if (++of_.at_end_ == of_.world_.size()) of_.changed_.notify_all();
      of_.changed_.wait(lock, [&] { return of_.at_end_ >= of_.world_.size(); });
    }

  private:
    rank_world& of_;
    std::int32_t rank_;
    bool left_clock_ = false;
  };

  /// Runs `body(host_communicator&, membership&)` as every rank.
  template <class Body>
  void run(std::uint64_t noise, Body&& body) {
    dpgather::run_ranks(world_, [&](dpgather::host_communicator comm) {
      schedule_noise::seed(noise * 0x9e3779b97f4a7c15U + static_cast<std::uint64_t>(comm.rank()));
      membership member{*this, comm.rank()};
      body(comm, member);
    });
  }

private:
  Clock clock_;
  dpgather::host_world world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int32_t ended_ = 0;
  std::int32_t at_end_ = 0;
};

/// One second of virtual time.
using virtual_world = rank_world<virtual_clock, 1'000'000'000>;
/// A short deadline of real time.
using real_world = rank_world<real_clock, 200'000'000>;

} // namespace test_support
