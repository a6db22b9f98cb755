#pragma once

/// @file
/// What `DpGather` asks of a communicator, in the vocabulary of NCCL and cudax.

#include <dpgather/config.hpp>
#include <dpgather/element.hpp>
#include <dpgather/options.hpp>
#include <dpgather/protocol/call_record.hpp>
#include <dpgather/status.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dpgather::inline v0 {

/// The part of a buffer that belongs to one rank, for the v-variants. Units: elements of the call.
struct piece {
  std::int64_t offset = 0;
  std::int64_t count = 0;
};

/// Groups that a world communicator can be narrowed to.
enum class subgroup_kind : std::uint8_t {
  attention_tp, ///< the A ranks of this data-parallel rank
};

/// A group of ranks whose collectives move bytes together on a stream.
///
/// All calls are collective over the group, in the same order on every rank. Buffers belong to the
/// caller and must live until the stream reaches the end of the call. `send` may lie inside `recv`
/// only at this rank's own place. Sums run in rank order unless the communicator documents its own.
/// - `all_gather(send, recv, bytes, stream)`: `recv` has `size * bytes`.
/// - `all_reduce(send, recv, count, element, stream)`: `send == recv` is legal.
/// - `reduce_scatter(send, recv, count, element, stream)`: `send` has `size * count` elements.
/// - `all_gather_v(send, recv, pieces, stream)`: rank r's bytes go to `pieces[r]` of `recv`.
/// - `reduce_scatter_v(send, recv, pieces, element, stream)`: the sum of `pieces[rank]` of every
///   rank's `send` goes to the start of `recv`.
/// - `announce(mine, all, stream)`: exchanges what the ranks are about to do and answers `judge`;
///   `all` is empty or has one record for each rank.
template <class C>
concept collective_communicator = requires(C& c, const void* send, void* recv, std::size_t bytes,
                                           std::span<const piece> pieces, const call_record& mine,
                                           std::span<call_record> all,
                                           typename C::stream_type stream) {
  { c.announce(mine, all, stream) }
  noexcept->std::same_as<status>;
  { c.all_gather(send, recv, bytes, stream) }
  noexcept->std::same_as<status>;
  { c.all_reduce(send, recv, bytes, element::f32, stream) }
  noexcept->std::same_as<status>;
  { c.reduce_scatter(send, recv, bytes, element::f32, stream) }
  noexcept->std::same_as<status>;
  { c.all_gather_v(send, recv, pieces, stream) }
  noexcept->std::same_as<status>;
  { c.reduce_scatter_v(send, recv, pieces, element::f32, stream) }
  noexcept->std::same_as<status>;
};

/// A communicator that moves the rows of a call itself, by counts that its kernels read; it owns
/// the views that rows are gathered into and the inputs that are combined. See
/// `basic_peer_communicator`.
template <class C>
concept row_mover = requires(C& c, std::int32_t which, const std::byte* data) {
  requires C::moves_rows;
  { c.view(which) }
  noexcept->std::same_as<std::byte*>;
  { c.input(which) }
  noexcept->std::same_as<std::byte*>;
  { c.input_at(data) }
  noexcept->std::same_as<std::int32_t>;
  { c.prepare(element::f32) }
  noexcept->std::same_as<status>;
};

/// A group of ranks: one that has collectives, or one that moves rows itself.
///
/// - `subgroup(kind)`: a communicator over fewer ranks, borrowed or split.
/// `compares_plans`: announcing is part of every call here, not a debugging aid.
/// `freezes_counts`: the v-variants take their pieces from the host, so that a capture would freeze
/// them.
/// Optional: `standing()`, whether calls can be made, asked before a call starts anything; and
/// `fail(why)`, by which a rank that left a call midway ends its communicator for good.
template <class C>
concept communicator = (collective_communicator<C> || row_mover<C>)&&requires(C& c) {
  requires option_of<typename C::tag, category::comm>;
  { C::compares_plans } -> std::convertible_to<bool>;
  { C::freezes_counts } -> std::convertible_to<bool>;
  { c.rank() }
  noexcept->std::convertible_to<std::int32_t>;
  { c.size() }
  noexcept->std::convertible_to<std::int32_t>;
  { c.subgroup(subgroup_kind::attention_tp) }
  noexcept->std::same_as<C>;
};

/// The communicator class behind a policy's tag; specialised beside each class.
template <option_of<category::comm> Tag>
struct communicator_of;

} // namespace dpgather::inline v0
