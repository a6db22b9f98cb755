// The smallest consumer.
#include <dpgather/counts.hpp>
#include <dpgather/status.hpp>

#include <array>
#include <cstdint>
#include <cstdio>

int main() {
  constexpr std::array<std::int32_t, 3> rows{3, 0, 9};
  const auto fits = dpgather::real_rows::make(rows, 16);
  if (!fits.ok() || fits->sum() != 12) return 1;

  const auto refused = dpgather::real_rows::make(rows, 8);
  if (refused.code() != dpgather::errc::count_out_of_range) return 2;
  std::puts(refused.status().message().c_str());
  return 0;
}
