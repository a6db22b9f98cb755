#pragma once

/// @file
/// The gathers and combines of this library that are compared with NCCL's: all that has to be
/// touched to add one.

#include "../support/check.cuh"
#include "../support/device_rows.cuh"
#include "../support/method.hpp"
#include "collective_case.hpp"
#include "collective_rank.cuh"
#include "contents.hpp"
#include "peer_channel.cuh"
#include "random_splits.hpp"
#include "verification.cuh"

#include <dpgather/dpgather.cuh>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace bench {

/// What this library has on one rank.
///
/// `here` has the place (team, rank, stream, a wait with a deadline), the NCCL communicator, inputs
/// and outputs, and counts and offsets in device memory; `what` has the counts of all ranks and the
/// size of rows. Lists are asked for once per case, on all ranks, when inputs, counts and offsets
/// are in place and nothing runs; they are of the same length on all ranks.
///
/// A method is called once, captured as a graph of calls, of which call i takes `inputs.at(i)`,
/// verified, and timed in turn with the others. So what calls read on the device is written here,
/// before the first call; `prepare`, which comes right before the verification, poisons the output
/// (`poison_global`, `poison_local`); `wrong(n)` compares what the last of n calls left
/// (`wrong_after_gather`, `wrong_after_combine`, with `inputs.index(n - 1)`). Other inputs than the
/// rank's are filled by `write_rows` with `own_rows` or `partial_rows`.
class peer_methods {
public:
  static constexpr const char* name = "dpgather peer";
  static constexpr const char* name_exchanged = "dpgather peer, counts exchanged";
  static constexpr const char* name_one_graph = "dpgather peer, one graph for all counts";
  /// Limits on blocks that there is a policy for.
  static constexpr std::int32_t known_blocks[] = {1, 2, 4, 8, 16, 32, 64};
  [[nodiscard]] static std::string name_with(std::int32_t blocks) {
    return std::string{name} + ", at most " + std::to_string(blocks) +
           (blocks == 1 ? " block" : " blocks");
  }

  /// Collective, before anything is timed: the place for what is allocated, registered and
  /// exchanged. Destroyed before the rank, when all ranks are done.
  peer_methods(dg::host_communicator ranks, collective_rank& here)
      : here_{here}, channel_{ranks, here.shape()} {}
  peer_methods(const peer_methods&) = delete;
  peer_methods& operator=(const peer_methods&) = delete;

  /// Inputs: `here.plain().inputs`, the own rows. Output: the channel's view. `blocks`: limits, of
  /// `known_blocks`.
  [[nodiscard]] std::vector<method> gather(const collective_case& what,
                                           const std::vector<std::int32_t>& blocks) {
    std::vector<method> out = gather_in(what, blocks);
    out.push_back(gather_of(name_exchanged, start<peer_exchanged>(what)));
    out.push_back(
        gather_of(std::string{name} + ", no dependent launch", start<peer_not_dependent>(what)));
    return out;
  }
  /// Inputs: the channel's two, in turn. Output: the own rows, `here.plain().local`.
  [[nodiscard]] std::vector<method> combine(const collective_case& what,
                                            const std::vector<std::int32_t>& blocks) {
    std::vector<method> out = combine_in(what, blocks);
    out.push_back(
        combine_of(std::string{name} + ", no dependent launch", start<peer_not_dependent>(what)));
    return out;
  }

  /// The default, and the same in limited numbers of blocks.
  [[nodiscard]] std::vector<method> gather_in(const collective_case& what,
                                              const std::vector<std::int32_t>& blocks) {
    std::vector<method> out{gather_of(name, start<peer_policy>(what))};
    for (const std::int32_t most : blocks)
      with_policy(most, [&]<class Policy>(Policy) {
        out.push_back(gather_of(name_with(most), start<Policy>(what)));
      });
    return out;
  }
  [[nodiscard]] std::vector<method> combine_in(const collective_case& what,
                                               const std::vector<std::int32_t>& blocks) {
    std::vector<method> out{combine_of(name, start<peer_policy>(what))};
    for (const std::int32_t most : blocks)
      with_policy(most, [&]<class Policy>(Policy) {
        out.push_back(combine_of(name_with(most), start<Policy>(what)));
      });
    return out;
  }

  /// One graph for all splits; `room` is the case that the inputs were filled with.
  [[nodiscard]] method random_gather(const collective_case& room, const random_splits& splits) {
    const auto of = start<peer_graph>(room);
    method out = gather_of(name_one_graph, of);
    by_splits(out, of, splits);
    out.prepare = [this, of, poison = std::move(out.prepare)] {
      here_.rewrite_plain_rows(of->what); // NCCL's methods clear some
      poison();
    };
    return out;
  }
  [[nodiscard]] method random_combine(const collective_case& room, const random_splits& splits) {
    const auto of = start<peer_graph>(room);
    method out = combine_of(name_one_graph, of);
    by_splits(out, of, splits);
    out.prepare = [this, of, poison = std::move(out.prepare)] {
      write_inputs(*of); // packed rows lie elsewhere in each split
      poison();
    };
    return out;
  }

private:
  template <class Policy>
  using user = std::shared_ptr<peer_user<Policy>>;

  template <class Policy>
  [[nodiscard]] user<Policy> start(const collective_case& what) {
    auto made = std::make_shared<peer_user<Policy>>(channel_, what);
    must(made->dp.refresh_counts(made->plan, here_.stream()), "counts");
    here_.place().wait("peer methods");
    return made;
  }
  /// Calls `make` with the policy of one of `known_blocks`.
  template <class Make>
  static void with_policy(std::int32_t blocks, Make make) {
    const auto offer = [&]<std::int32_t Blocks>(std::integral_constant<std::int32_t, Blocks>) {
      if (blocks == Blocks) make(peer_blocks<Blocks>{});
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (offer(std::integral_constant<std::int32_t, known_blocks[I]>{}), ...);
    }
    (std::make_index_sequence<std::size(known_blocks)>{});
  }
  void by_splits(method& one, const user<peer_graph>& of, const random_splits& splits) {
    of->plan_all(splits);
    one.before = [this, of](int n) { of->bring(n, here_.stream()); };
    one.verified = splits.verified();
  }

  template <class Policy>
  [[nodiscard]] method gather_of(std::string title, const user<Policy>& of) {
    std::byte* const view = of->dp.view(of->plan).data();
    return {.name = std::move(title),
            .call =
                [this, of](int i) {
                  const dg::const_token_rows<dg::replicated> local{here_.plain().inputs.at(i),
                                                                   of->what.rows, dg::element::bf16,
                                                                   of->what.row_bytes()};
                  must(of->dp.gather(local, of->plan, here_.stream(), {.masks = &channel_.masks()})
                           .status(),
                       "gather");
                },
            .prepare = [this, of, view] { poison_global(here_, of->what, view); },
            .wrong =
                [this, of, view](int calls) {
                  must(channel_.world().check(), "peer_world");
                  return wrong_after_gather(here_, of->now, view,
                                            here_.plain().inputs.index(calls - 1),
                                            row_layout::packed, of->plan.global_rows);
                }};
  }

  template <class Policy>
  [[nodiscard]] method combine_of(std::string title, const user<Policy>& of) {
    write_inputs(*of);
    here_.place().wait("peer methods");
    return {.name = std::move(title),
            .call =
                [this, of](int i) {
                  const dg::token_rows<dg::replicated> local{
                      here_.plain().local, of->what.rows, dg::element::bf16, of->what.row_bytes()};
                  // No combine may take the input of the one right before it. Graphs have an even
                  // number of them; what runs outside takes the second input, behind a gather.
                  const bool captured = must(dg::is_capturing(here_.stream()), "is_capturing");
                  if (!captured)
                    must(of->dp
                             .gather(dg::const_token_rows<dg::replicated>{local}, of->plan,
                                     here_.stream())
                             .status(),
                         "gather");
                  must(of->dp.combine(of->dp.combine_input(of->plan, captured ? i % 2 : 1), local,
                                      of->plan, here_.stream()),
                       "combine");
                },
            .prepare = [this, of] { poison_local(here_, of->what, here_.plain().local); },
            .wrong =
                [this, of](int calls) {
                  must(channel_.world().check(), "peer_world");
                  return wrong_after_combine(here_, of->now, here_.plain().local, (calls - 1) % 2,
                                             row_layout::packed, true);
                }};
  }
  /// The channel's two inputs, for the counts that are on the device.
  template <class Policy>
  void write_inputs(peer_user<Policy>& of) {
    for (std::int32_t i = 0; i < 2; ++i)
      write_rows(of.dp.combine_input(of.plan, i).data(), of.now.total(), of.now.hidden,
                 partial_rows{of.now, here_.rank(), i, true}, here_.stream());
  }

  collective_rank& here_;
  peer_channel channel_;
};

} // namespace bench
