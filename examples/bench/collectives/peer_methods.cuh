#pragma once

/// @file
/// The gathers and combines of this library that are compared with NCCL's: all that has to be
/// touched to add one.

#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <vector>

namespace bench {

/// What this library has on one rank.
///
/// `here` has the place (team, rank, stream, a wait with a deadline), the NCCL communicator, inputs
/// and outputs, and counts and offsets in device memory; `what` has the counts of all ranks and the
/// size of rows. Both lists are asked for once per case, on all ranks, when inputs, counts and
/// offsets are in place and nothing runs; they are of the same length on all ranks.
///
/// A method is called once, captured as a graph of calls, of which call i takes `inputs.at(i)`,
/// verified, and timed in turn with the others. So what calls read on the device is written here,
/// before the first call; `prepare`, which comes right before the verification, poisons the output
/// (`poison_global`, `poison_local`); `wrong(n)` compares what the last of n calls left
/// (`wrong_after_gather`, `wrong_after_combine`, with `inputs.index(n - 1)`). Other inputs than the
/// rank's are filled by `write_rows` with `own_rows` or `partial_rows`.
class peer_methods {
public:
  /// Collective, before anything is timed: the place for what is allocated, registered and
  /// exchanged. Destroyed before the rank, when all ranks are done.
  peer_methods(dg::host_communicator /*ranks*/, collective_rank& here) : here_{here} {}
  peer_methods(const peer_methods&) = delete;
  peer_methods& operator=(const peer_methods&) = delete;

  /// Inputs: `here.plain().inputs`, the own rows; `here.windows()`, the same in a registered window
  /// where there is one. Output: packed rows of all ranks, `here.plain().global` or their own.
  [[nodiscard]] std::vector<method> gather(const collective_case& /*what*/) { return {}; }

  /// Inputs: `here.packed()`, packed partial sums of all ranks' rows; the same rows in slots in
  /// `plain().inputs` and `windows().inputs`. Output: the own rows, `here.plain().local` or their
  /// own.
  [[nodiscard]] std::vector<method> combine(const collective_case& /*what*/) { return {}; }

private:
  [[maybe_unused]] collective_rank& here_;
};

} // namespace bench
