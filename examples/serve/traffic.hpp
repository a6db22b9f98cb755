#pragma once

/// @file
/// Bytes that one rank received in a step, and what all ranks received together.

#include "rank_group.hpp"

#include <dpgather/throw.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace serve {

/// Bytes from other ranks, as the communicator counts them.
struct traffic {
  std::uint64_t gather = 0;
  std::uint64_t combine = 0;
};

/// Each element becomes the sum of all ranks' elements of that index. Collective, lists of one
/// length. Throws `dpgather::error`.
inline void sum_over_ranks(rank_group& ranks, std::span<traffic> mine) {
  constexpr std::size_t piece = 1024; // of a list of any length, times any number of ranks
  std::vector<traffic> all(static_cast<std::size_t>(ranks.size()) * std::min(piece, mine.size()));
  for (std::size_t done = 0; done < mine.size(); done += piece) {
    const std::span<traffic> now = mine.subspan(done, std::min(piece, mine.size() - done));
    dg::throw_if_failed(ranks.all_gather(now.data(), all.data(), now.size_bytes()));
    std::fill(now.begin(), now.end(), traffic{});
    for (std::size_t i = 0; i < now.size() * static_cast<std::size_t>(ranks.size()); ++i) {
      now[i % now.size()].gather += all[i].gather;
      now[i % now.size()].combine += all[i].combine;
    }
  }
}

} // namespace serve
