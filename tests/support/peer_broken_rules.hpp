#pragma once

/// @file
/// The rules of the peer protocol, broken one at a time: what negative controls run by, on CPU
/// threads and on GPUs.

#include <dpgather/protocol/peer_block.hpp>

#include <cstdint>

namespace test_support {

struct one_slot : dpgather::peer_rules {
  static constexpr std::uint64_t slots = 1;
};
struct relaxed_flags : dpgather::peer_rules {
  static constexpr bool releases = false;
};
struct no_handshake : dpgather::peer_rules {
  static constexpr bool handshakes = false;
};
struct same_input : dpgather::peer_rules {
  static constexpr bool alternates = false;
};
struct no_tails : dpgather::peer_rules {
  static constexpr bool fills_tails = false;
};
struct unseen_slices : dpgather::peer_rules {
  static constexpr bool waits_for_slices = false;
};
struct forgets_idle_blocks : dpgather::peer_rules {
  static constexpr bool counts_idle_blocks = false;
};

} // namespace test_support
