#pragma once

/// @file
/// Runs one function as every rank of a host world.

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/comm/host_world.hpp>
#include <dpgather/config.hpp>

#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace dpgather::inline v0 {

/// Starts a thread for each rank of `world`, calls `body(host_communicator)` on it, and joins them.
///
/// A body that returns or throws leaves the world: ranks that wait for it answer `peer_left`
/// instead of running into their deadline. The exception of the lowest rank that threw is rethrown
/// after all threads have ended.
template <class Body>
void run_ranks(host_world& world, Body&& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(world.size()));
#if defined(__cpp_exceptions)
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(world.size()));
#endif
  for (std::int32_t rank = 0; rank < world.size(); ++rank) {
    threads.emplace_back([&, rank] {
#if defined(__cpp_exceptions)
      try {
        body(host_communicator{world, rank});
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
#else
      body(host_communicator{world, rank});
#endif
      world.leave(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
#if defined(__cpp_exceptions)
  for (const std::exception_ptr& error : thrown) {
    if (error) std::rethrow_exception(error);
  }
#endif
}

} // namespace dpgather::inline v0
