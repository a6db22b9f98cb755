#pragma once

/// @file
/// What came of a peer story: wrong bytes and errors of every rank, wherever it was told.

#include <dpgather/errc.hpp>
#include <dpgather/protocol/peer_arena.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace test_support {

namespace dg = dpgather;

struct story_outcome {
  struct of_rank {
    std::uint64_t wrong = 0;  ///< things that a rank found wrong
    std::uint64_t first[5]{}; ///< see `story_rank::first_wrong`
    dg::peer_record error{};  ///< nothing if it was not written
    [[nodiscard]] dg::errc code() const {
      return error.written != 0 ? static_cast<dg::errc>(error.code) : dg::errc::ok;
    }
  };
  std::vector<of_rank> ranks{};

  [[nodiscard]] std::uint64_t wrong() const {
    std::uint64_t out = 0;
    for (const of_rank& each : ranks) out += each.wrong;
    return out;
  }
  [[nodiscard]] std::size_t errors() const {
    std::size_t out = 0;
    for (const of_rank& each : ranks) out += each.code() != dg::errc::ok ? 1 : 0;
    return out;
  }
  [[nodiscard]] bool ok() const { return wrong() == 0 && errors() == 0; }
  /// Whether every rank has this error, or with `ok` none has one.
  [[nodiscard]] bool all(dg::errc code) const {
    for (const of_rank& each : ranks)
      if (each.code() != code) return false;
    return true;
  }
  /// "12 wrong (rank 1, call 3, what 1, row 0), errors: timeout, timeout"
  [[nodiscard]] std::string text() const {
    std::string out = std::to_string(wrong()) + " wrong";
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (ranks[r].wrong == 0) continue;
      out += " (first on rank " + std::to_string(r) + " in call " +
             std::to_string(ranks[r].first[0] % 1'000'000) + ", what " +
             std::to_string(ranks[r].first[1]) + ", row " + std::to_string(ranks[r].first[2]) +
             ", column " + std::to_string(ranks[r].first[3]) + ")";
      break;
    }
    out += ", errors:";
    for (const of_rank& each : ranks) {
      out += " ";
      out += dg::name_of(each.code());
      if (each.code() != dg::errc::ok)
        out += " (about " + std::string{dg::name_of(static_cast<dg::subject>(each.error.about))} +
               ", by " + std::to_string(each.error.rank) + ", peer " +
               std::to_string(each.error.peer) + ", epoch " + std::to_string(each.error.epoch) +
               ", phase " + std::to_string(each.error.phase) + ")";
    }
    return out;
  }
};

} // namespace test_support
