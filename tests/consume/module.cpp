// Built into two shared objects of one process: what the library answers from each.
#include <dpgather/counts.hpp>
#include <dpgather/status.hpp>

#include <array>
#include <cstdint>

extern "C" std::int64_t probe(std::int32_t limit) {
  constexpr std::array<std::int32_t, 3> rows{3, 0, 9};
  const auto counts = dpgather::real_rows::make(rows, limit);
  return counts.ok() ? counts->sum() : -static_cast<std::int64_t>(counts.code());
}
