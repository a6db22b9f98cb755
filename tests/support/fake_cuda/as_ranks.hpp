#pragma once

/// @file
/// What tests on the fake share: ranks as threads, and that nothing is left or went wrong.

#include "fake_cuda.hpp"

#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

namespace fake_cuda {

/// Runs `body(rank)` as one thread per rank, on a device of its own.
template <class Body>
void as_ranks(int ranks, Body body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&body, r] {
      CHECK(cudaSetDevice(r) == cudaSuccess);
      body(r);
    });
  }
  for (std::thread& t : threads) t.join();
}

/// No problem, no mismatch, no object left.
inline void check_clean() {
  for (const std::string& text : problems()) CHECK_MESSAGE(false, text);
  for (const std::string& text : mismatches()) CHECK_MESSAGE(false, text);
  CHECK(live() == live_counts{});
}

} // namespace fake_cuda
