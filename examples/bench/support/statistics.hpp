#pragma once

/// @file
/// What a list of samples comes down to.

#include <algorithm>
#include <cstddef>
#include <vector>

namespace bench {

/// Median and extremes. The median is what is compared; the extremes say how far to trust it.
struct summary {
  double median = 0;
  double low = 0;
  double high = 0;
};

/// All zeros for no samples.
[[nodiscard]] inline summary summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const std::size_t half = samples.size() / 2;
  const double median =
      samples.size() % 2 == 1 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
  return {median, samples.front(), samples.back()};
}

} // namespace bench
