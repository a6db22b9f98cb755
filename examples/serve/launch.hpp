#pragma once

/// @file
/// How the ranks of a run come to be: threads of this process, processes that it starts, or
/// processes that somebody else started. The library asks for none of this; it takes a bootstrap.

#include "launcher_environment.hpp"
#include "rank_group.hpp"
#include "usage_error.hpp"

#include <dpgather/comm/host_world.hpp>
#include <dpgather/comm/run_ranks.hpp>
#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/hash.hpp>
#include <dpgather/protocol/wait_clock.hpp>
#include <dpgather/throw.hpp>
#include <dpgather/topology.hpp>

#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unistd.h>

namespace serve {

/// As the user asked.
struct launch_options {
  std::string how;        ///< --launch threads|processes|env; empty: as the environment says
  std::int32_t rank = -1; ///< --rank: this process is that rank
  std::string socket;     ///< --socket: where the processes meet
  std::int32_t ranks = 0; ///< data-parallel ranks; 0: not said
  std::int32_t default_ranks = 8;
  std::int32_t attention_ranks = 1;
};

/// What this process is.
struct rank_launch {
  enum class role : std::uint8_t {
    threads, ///< all ranks
    parent,  ///< of a process for each rank
    process, ///< one rank
  };
  role is = role::threads;
  std::int32_t dp_size = 1;
  std::int32_t size = 1; ///< ranks in the world
  std::int32_t rank = 0;
  std::string by = "threads"; ///< who started the ranks
  std::string socket{};
  std::uint64_t session = 0; ///< the same on all ranks of a run: a digest of what was asked

  /// Whether this process tells people what it does.
  [[nodiscard]] bool speaks() const noexcept { return is != role::process || rank == 0; }
};

/// The ranks of one launcher on one host are children of one process, whose number tells runs
/// apart.
[[nodiscard]] inline std::string socket_of_parent(pid_t parent) {
  return "/tmp/dpgather-" + std::to_string(parent) + ".sock";
}

/// Errors: `usage_error`.
[[nodiscard]] inline rank_launch resolve_launch(const launch_options& asked) {
  if (!asked.how.empty() && asked.how != "threads" && asked.how != "processes" &&
      asked.how != "env")
    throw usage_error{"--launch takes threads, processes or env, not '" + asked.how + "'"};
  rank_launch out;
  out.dp_size = asked.ranks == 0 ? asked.default_ranks : asked.ranks;
  if (asked.rank >= 0) { // by the parent, or by hand
    out.is = rank_launch::role::process;
    out.rank = asked.rank;
    out.by = "processes";
  } else if (asked.how == "processes") {
    out.is = rank_launch::role::parent;
    out.by = "processes";
  } else if (asked.how != "threads") {
    const std::optional<launcher_place> place = place_in_environment(asked.how == "env");
    if (place) {
      out.is = rank_launch::role::process;
      out.rank = place->rank;
      out.by = place->by;
      if (asked.ranks == 0) out.dp_size = place->size / asked.attention_ranks;
      if (out.dp_size * asked.attention_ranks != place->size)
        throw usage_error{out.by + " started " + std::to_string(place->size) + " processes, but " +
                          std::to_string(out.dp_size) + " data-parallel ranks of " +
                          std::to_string(asked.attention_ranks) + " are asked for"};
    }
  }
  out.size = out.dp_size * asked.attention_ranks;
  if (out.rank >= out.size)
    throw usage_error{"rank " + std::to_string(out.rank) + " of " + std::to_string(out.size)};
  out.socket = !asked.socket.empty()
                   ? asked.socket
                   : socket_of_parent(out.is == rank_launch::role::parent ? getpid() : getppid());
  return out;
}

/// Calls `body(rank_group&)` as every rank that this process has, one group of ranks for each call.
/// Answers what the first of them threw, or nothing. `what`: the same on all ranks.
template <class Body>
[[nodiscard]] std::string run_as_launched(const rank_launch& how, const dg::topology& shape,
                                          std::string_view what, Body body) {
  constexpr std::int64_t patience_ns = 60'000'000'000; // longer than any wait for NCCL
  std::mutex mutex;                                    // guards first
  std::string first;
  const auto guarded = [&](rank_group& ranks) {
    try {
      body(ranks);
    } catch (const std::exception& error) {
      const std::lock_guard lock{mutex};
      if (first.empty()) first = error.what();
    }
  };
  if (how.is == rank_launch::role::threads) {
    dg::steady_wait_clock clock;
    dg::host_world world{shape, clock, patience_ns};
    dg::run_ranks(world, [&](dg::host_communicator comm) {
      rank_group ranks{comm};
      guarded(ranks);
    });
    return first;
  }
  dg::digest_builder session;
  session.add(how.session);
  for (const char c : what) session.add(static_cast<unsigned char>(c));
  auto connected = dg::unix_socket_bootstrap::connect(
      how.rank, how.size, how.socket,
      {.session = session.value(), .connect_timeout_ns = patience_ns, .timeout_ns = patience_ns});
  if (!connected) return connected.status().message().c_str();
  rank_group ranks{*connected};
  guarded(ranks);
  return first;
}

} // namespace serve
