#pragma once

/// @file
/// Memory for tests: random bytes, and pages that trap.

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <vector>

namespace test_support {

using bytes = std::vector<std::byte>;

inline bytes random_bytes(random_source& random, std::size_t size) {
  bytes out(size);
  for (std::byte& b : out) b = static_cast<std::byte>(random.between(0, 255));
  return out;
}

/// Addresses that trap when they are touched.
class sealed_pages {
public:
  explicit sealed_pages(std::size_t size) : size_{size} {
    void* const p =
        mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(p != MAP_FAILED);
    data_ = static_cast<std::byte*>(p);
  }
  ~sealed_pages() { munmap(data_, size_); }
  sealed_pages(const sealed_pages&) = delete;
  sealed_pages& operator=(const sealed_pages&) = delete;

  std::byte* data() const { return data_; }
  void open(std::size_t first, std::size_t last) const {
    first = first / page() * page();
    last = (last + page() - 1) / page() * page();
    REQUIRE(mprotect(data_ + first, last - first, PROT_READ | PROT_WRITE) == 0);
  }
  static std::size_t page() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

private:
  std::size_t size_;
  std::byte* data_ = nullptr;
};

} // namespace test_support
