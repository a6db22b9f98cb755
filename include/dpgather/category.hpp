#pragma once

/// @file
/// The categories of policy options. Every option is an empty type with a member `category`; a
/// policy holds one option per category, in any order.

#include <dpgather/config.hpp>

#include <concepts>

namespace dpgather::inline v0::category {

struct mode {};     ///< how rows travel
struct padding {};  ///< what a rank's rows are padded to
struct align {};    ///< rows are padded to a multiple of this before anything else
struct layout {};   ///< where a rank's rows lie in the global tensor
struct tail {};     ///< what the rows that are not real hold
struct ladder {};   ///< the row counts graphs are captured for
struct lookup {};   ///< the count by which a bucket is chosen
struct on_miss {};  ///< what happens when no bucket fits
struct counts {};   ///< where row counts come from
struct combine {};  ///< how sums come back under all-reduce
struct comm {};     ///< the communicator
struct checks {};   ///< how much is verified in a step
struct launch {};   ///< shape of device launches
struct row_op {};   ///< a user's functor between load and store
struct eager {};    ///< options that hold outside graphs only
struct in_graph {}; ///< options that hold inside graphs only

} // namespace dpgather::inline v0::category

namespace dpgather::inline v0 {

/// A type that is an option of some category.
template <class T>
concept policy_option = requires {
  typename T::category;
};

/// An option of one given category.
template <class T, class Category>
concept option_of = policy_option<T> && std::same_as<typename T::category, Category>;

} // namespace dpgather::inline v0
