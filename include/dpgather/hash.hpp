#pragma once

/// @file
/// The digest that ranks compare: a chain of 64-bit words through a full-avalanche mix.

#include <dpgather/config.hpp>

#include <bit>
#include <cstdint>

namespace dpgather::inline v0 {

/// Hashes a sequence of words; equal sequences give equal digests on every machine. Not secure
/// against an adversary: it finds mistakes. Mix: Stafford's variant 13 of the splitmix64 finalizer
/// (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
class digest_builder {
public:
  constexpr digest_builder& add(std::uint64_t word) noexcept {
    state_ = mix(std::rotl(state_, 23) ^ (word + 0x9e3779b97f4a7c15ull));
    return *this;
  }
  constexpr digest_builder& add_signed(std::int64_t word) noexcept {
    return add(static_cast<std::uint64_t>(word));
  }
  [[nodiscard]] constexpr std::uint64_t value() const noexcept { return state_; }

private:
  [[nodiscard]] static constexpr std::uint64_t mix(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  std::uint64_t state_ = 0x6470676174686572ull; // "dpgather"
};

} // namespace dpgather::inline v0
