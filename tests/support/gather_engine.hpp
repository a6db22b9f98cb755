#pragma once

/// @file
/// `DpGather<Policy>` behind one virtual interface, so that a test instantiates many policies and
/// its own logic once; and the table of variants that the end-to-end tests run.

#include "plan_oracle.hpp"
#include "policy_cells.hpp"

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/dp_gather.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DPGATHER_TEST_IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DPGATHER_TEST_IS_SANITIZED 1
#endif
#endif

namespace test_support {

/// Sanitizers and nvcc triple what a policy costs to compile: with them every cell has two tails,
/// not four.
#if defined(DPGATHER_TEST_IS_SANITIZED) || defined(__CUDACC__)
inline constexpr bool every_tail = false;
#else
inline constexpr bool every_tail = true;
#endif

/// One rank's `DpGather` on the host, policy erased.
class gather_engine {
public:
  using replicated_rows = dg::const_token_rows<dg::replicated>;
  using partial_rows = dg::const_token_rows<dg::partial>;
  using output_rows = dg::token_rows<dg::replicated>;

  gather_engine() = default;
  gather_engine(const gather_engine&) = delete;
  gather_engine& operator=(const gather_engine&) = delete;
  virtual ~gather_engine() = default;

  virtual dg::status check() = 0;
  virtual dg::step_record record(std::uint64_t step) = 0;
  virtual dg::result<dg::agreement> agree(dg::host_communicator& ranks,
                                          const dg::step_record& mine) = 0;
  /// From the agreement, or from this rank's record where the policy's counts are not agreed.
  virtual dg::result<dg::step_plan> plan(const dg::agreement& agreed, const dg::step_record& own,
                                         dg::row_kind kind) = 0;
  virtual dg::result<output_rows> gather(const replicated_rows& local, const output_rows& global,
                                         const dg::step_plan& plan) = 0;
  virtual dg::result<output_rows> gather(const partial_rows& local, const output_rows& global,
                                         const dg::step_plan& plan) = 0;
  virtual dg::status combine(const partial_rows& global, const output_rows& local,
                             const dg::step_plan& plan) = 0;
  virtual dg::status scatter(const replicated_rows& global, const output_rows& local,
                             const dg::step_plan& plan) = 0;
  virtual const dg::count_set& counts() = 0;
  /// `counts::device`: what the engine writes before a call; nothing under other counts.
  virtual void write_counts(std::span<const std::int32_t> rows) = 0;
  virtual const dg::bucket_list& sum_ladder() = 0;
  /// By this rank, from others, so far.
  virtual std::uint64_t bytes_received() = 0;
};

template <class Policy>
class gather_engine_of final : public gather_engine {
public:
  gather_engine_of(dg::host_communicator comm, const dg::gather_config& config,
                   std::span<std::byte> workspace)
      : comm_{comm}, dp_{comm, config, workspace} {}

  dg::status check() override { return dp_.check(); }
  dg::step_record record(std::uint64_t step) override { return dp_.record(step); }
  dg::result<dg::agreement> agree(dg::host_communicator& ranks,
                                  const dg::step_record& mine) override {
    return dp_.agree(ranks, mine);
  }
  dg::result<dg::step_plan> plan([[maybe_unused]] const dg::agreement& agreed,
                                 [[maybe_unused]] const dg::step_record& own,
                                 dg::row_kind kind) override {
    if constexpr (Policy::counts_type::kind == dg::counts_kind::agreed) {
      return dp_.plan(agreed, kind);
    } else {
      return dp_.plan(own, kind);
    }
  }
  dg::result<output_rows> gather(const replicated_rows& local, const output_rows& global,
                                 const dg::step_plan& plan) override {
    return dp_.gather(local, global, plan, dg::host_stream{});
  }
  dg::result<output_rows> gather(const partial_rows& local, const output_rows& global,
                                 const dg::step_plan& plan) override {
    return dp_.gather(local, global, plan, dg::host_stream{});
  }
  dg::status combine(const partial_rows& global, const output_rows& local,
                     const dg::step_plan& plan) override {
    return dp_.combine(global, local, plan, dg::host_stream{});
  }
  dg::status scatter(const replicated_rows& global, const output_rows& local,
                     const dg::step_plan& plan) override {
    return dp_.scatter(global, local, plan, dg::host_stream{});
  }
  const dg::count_set& counts() override { return std::as_const(dp_).counts(); }
  void write_counts([[maybe_unused]] std::span<const std::int32_t> rows) override {
    if constexpr (Policy::counts_type::kind == dg::counts_kind::device) {
      for (std::size_t r = 0; r < rows.size(); ++r)
        dp_.counts().set(static_cast<std::int32_t>(r), rows[r]);
    }
  }
  const dg::bucket_list& sum_ladder() override { return dp_.rules().shared_ladder(); }
  std::uint64_t bytes_received() override { return comm_.bytes_received(); }

private:
  dg::host_communicator comm_;
  dg::DpGather<Policy> dp_;
};

// --- variants -----------------------------------------------------------------------------------

enum class tail_option : std::uint8_t { zero, sentinel, leave, poison };
/// Exact in every element type; a byte holds it modulo 256.
inline constexpr std::int64_t sentinel_number = -3;
/// What the row functor of the variants does to every byte.
inline constexpr unsigned char row_op_mask = 0x3c;

/// Turns over four bits of every byte.
struct flip_bits {
  DPGATHER_HOST_DEVICE static void apply(const std::byte* from, std::byte* to,
                                         std::size_t bytes) noexcept {
    for (std::size_t i = 0; i < bytes; ++i)
      to[i] = static_cast<std::byte>(static_cast<unsigned char>(from[i]) ^ row_op_mask);
  }
};

/// One instantiated policy and what it means.
struct gather_variant {
  std::string name;
  policy_options means;
  tail_option tail = tail_option::zero;
  bool flips_bits = false;
  std::unique_ptr<gather_engine> (*make)(dg::host_communicator, const dg::gather_config&,
                                         std::span<std::byte>) = nullptr;
  dg::result<std::size_t> (*workspace_bytes)(const dg::gather_config&) = nullptr;
};

template <class Policy, template <class> class Engine = gather_engine_of,
          class Communicator = dg::host_communicator>
gather_variant variant_of(std::string name, const policy_options& means, tail_option tail,
                          bool flips_bits) {
  return {std::move(name),
          means,
          tail,
          flips_bits,
          [](dg::host_communicator comm, const dg::gather_config& config,
             std::span<std::byte> workspace) -> std::unique_ptr<gather_engine> {
            return std::make_unique<Engine<Policy>>(comm, config, workspace);
          },
          [](const dg::gather_config& config) {
            return dg::DpGather<Policy, Communicator>::workspace_bytes(config);
          }};
}

/// What a cell of the table means. A graph cell's eager half moves exactly the real rows.
inline policy_options meaning_of(const cell& c, dg::combine_kind combine) {
  shape_options here;
  here.mode = c.mode;
  here.padding = c.padding;
  here.slots = c.layout == cell_layout::slots;
  here.lookup = c.lookup;
  here.combine = combine;
  policy_options out;
  out.counts = c.counts;
  out.has_graphs = c.situation == dg::situation::in_graph;
  out.eager = here;
  out.graph = here;
  if (out.has_graphs) {
    out.eager = {};
    out.eager.combine = combine;
  }
  return out;
}

/// A cell's policy with a tail, a way of combining and a row functor.
template <class Cell, class Tail, class Combine, class RowOp>
struct completed_cell : Cell {
  using tail_type = Tail;
  using combine_type = Combine;
  using row_op_type = RowOp;
};

namespace detail {

/// Adds variants of one kind of engine to a list.
template <template <class> class Engine, class Communicator>
struct variant_maker {
  std::vector<gather_variant>& out;

  template <class Cell, class Combine, tail_option Tail, class TailType, bool Flips>
  void add(const cell& c) {
    using flip = dg::row_op::apply_to_rows<flip_bits>;
    using row_op = std::conditional_t<Flips, flip, dg::row_op::identity>;
    using policy = completed_cell<Cell, TailType, Combine, row_op>;
    constexpr const char* tails[] = {"zero", "sentinel", "leave", "poison"};
    const std::string name = describe(c) + ' ' + name_of(Combine::kind) +
                             " tail=" + tails[static_cast<std::size_t>(Tail)] +
                             (Flips ? " row_op" : "");
    out.push_back(
        variant_of<policy, Engine, Communicator>(name, meaning_of(c, Combine::kind), Tail, Flips));
  }

  /// All four tails, or every other one; the row functor in one of them. Cells that do not go
  /// together with the way of combining are left out.
  template <class Cell, class Combine, std::size_t Flipped, bool Zero = true, bool Sentinel = true>
  void add_tails(const cell& c) {
    using enum tail_option;
    using plain = completed_cell<Cell, dg::tail::zero, Combine, dg::row_op::identity>;
    if constexpr (Zero && dg::valid_policy<plain>) {
      add<Cell, Combine, zero, dg::tail::zero, Flipped == 0>(c);
      add<Cell, Combine, poison, dg::tail::poison, Flipped == 1>(c);
    }
    if constexpr (Sentinel && dg::valid_policy<plain>) {
      add<Cell, Combine, sentinel, dg::tail::sentinel<sentinel_number>, Flipped == 2>(c);
      add<Cell, Combine, leave, dg::tail::leave, Flipped == 3>(c);
    }
  }
};

} // namespace detail

/// The variants of every legal cell of one communicator that `Wanted` (a constexpr predicate on
/// cells) takes, with all tails, and with the second way of combining, where it is legal, with two
/// of them.
template <auto Wanted, dg::comm_kind Comm = dg::comm_kind::host,
          template <class> class Engine = gather_engine_of,
          class Communicator = dg::host_communicator>
std::vector<gather_variant> variants_of_cells() {
  std::vector<gather_variant> out;
  for_each_legal_cell<Comm>([&]<class Cell>(const cell& c) {
    if constexpr (Wanted(Cell::is)) {
      // Neighbours in the table get the row functor with different tails.
      constexpr std::size_t mix =
          static_cast<std::size_t>(Cell::is.mode) + static_cast<std::size_t>(Cell::is.padding) +
          static_cast<std::size_t>(Cell::is.layout) + static_cast<std::size_t>(Cell::is.lookup) +
          static_cast<std::size_t>(Cell::is.counts) + static_cast<std::size_t>(Cell::is.situation);
      constexpr bool even = mix % 2 == 0;
      detail::variant_maker<Engine, Communicator> maker{out};
      maker.template add_tails<Cell, dg::combine::reduce_scatter, mix % 4, every_tail || !even,
                               every_tail || even>(c);
      maker.template add_tails<Cell, dg::combine::all_reduce_then_scatter, (mix + 1) % 4, even,
                               !even>(c);
    }
  });
  return out;
}

} // namespace test_support
