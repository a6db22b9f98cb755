#pragma once

/// @file
/// Who has how many rows, and how many bytes have to move because of it.

#include <dpgather/config.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// GPUs of one benchmark: all of one NVLink domain.
inline constexpr std::int32_t most_ranks = 8;

enum class distribution : std::int32_t { equal, skewed, one, random };
inline constexpr distribution fixed_distributions[] = {distribution::equal, distribution::skewed,
                                                       distribution::one};
inline constexpr distribution all_distributions[] = {distribution::equal, distribution::skewed,
                                                     distribution::one, distribution::random};

/// As on the command line.
[[nodiscard]] constexpr const char* name_of(distribution which) {
  switch (which) {
  case distribution::equal:
    return "equal";
  case distribution::skewed:
    return "8:1";
  case distribution::one:
    return "one";
  case distribution::random:
    return "random";
  }
  return "?";
}
[[nodiscard]] constexpr const char* words_for(distribution which) {
  switch (which) {
  case distribution::equal:
    return "the same on all ranks";
  case distribution::skewed:
    return "an eighth on all ranks but the first";
  case distribution::one:
    return "none on all ranks but the first";
  case distribution::random:
    return "0 to that many, drawn for each replay";
  }
  return "?";
}

/// One case. Trivially copyable: kernels that write and check rows take it by value.
struct collective_case {
  distribution shares = distribution::equal;
  std::int32_t ranks = 0;
  std::int32_t hidden = 0;
  std::int32_t rows = 0; ///< most that a rank has; what a padded collective moves for each
  std::int32_t counts[most_ranks]{};

  /// Nothing where the distribution is another one already: a single row has no eighth. Of random
  /// counts: the case that has room for all of them.
  [[nodiscard]] static std::optional<collective_case> make(distribution shares, std::int32_t ranks,
                                                           std::int32_t hidden, std::int32_t rows) {
    collective_case out{shares, ranks, hidden, rows, {}};
    std::int32_t others = rows;
    if (shares == distribution::skewed) others = std::max(1, rows / 8);
    if (shares == distribution::one) others = 0;
    const bool differs = shares == distribution::skewed || shares == distribution::one;
    if (differs && others == rows) return {};
    out.counts[0] = rows;
    for (std::int32_t r = 1; r < ranks; ++r) out.counts[r] = others;
    return out;
  }

  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(hidden) * 2; }
  /// Rows before those of a rank when all lie packed; of rank `ranks`: all.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t offset(std::int32_t rank) const {
    std::int64_t out = 0;
    for (std::int32_t r = 0; r < rank; ++r) out += counts[r];
    return out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t total() const { return offset(ranks); }
  /// Rows of all slots, which are as long as the longest rank.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t slot_rows() const {
    return std::int64_t{ranks} * rows;
  }

  /// What the busiest rank has to receive or to send of exact rows, however they travel: each rank
  /// lacks the others' rows, and has to send its own once. The combine is the mirror image.
  [[nodiscard]] double least_bytes() const {
    return busiest([](std::int64_t n) { return n; });
  }
  /// The same where every rank sends its rows to each other rank itself.
  [[nodiscard]] double direct_bytes() const {
    return busiest([this](std::int64_t n) { return n * (ranks - 1); });
  }
  [[nodiscard]] std::string title(std::string_view operation) const {
    return std::string{operation} + ", " + std::to_string(rows) + " rows, " + words_for(shares);
  }

private:
  template <class Sent>
  [[nodiscard]] double busiest(Sent sent) const {
    std::int64_t most = 0;
    for (std::int32_t r = 0; r < ranks; ++r)
      most = std::max({most, total() - counts[r], sent(std::int64_t{counts[r]})});
    return static_cast<double>(most) * static_cast<double>(row_bytes());
  }
};

/// What the cases have in common, and how large they get.
struct collective_shape {
  std::int32_t ranks = 2;
  std::int32_t hidden = 7168;
  std::vector<std::int32_t> rows; ///< of the longest rank, each a case
  std::vector<distribution> shares;

  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(hidden) * 2; }
  [[nodiscard]] std::int32_t most_rows() const { return *std::ranges::max_element(rows); }
  [[nodiscard]] std::size_t most_local_bytes() const {
    return static_cast<std::size_t>(most_rows()) * row_bytes();
  }
  [[nodiscard]] std::size_t most_global_bytes() const {
    return static_cast<std::size_t>(ranks) * most_local_bytes();
  }
};

/// "equal,8:1" as distributions; nothing where a word is none. Random counts are a section.
[[nodiscard]] inline std::optional<std::vector<distribution>>
distributions_of(std::string_view list) {
  std::vector<distribution> out;
  for (std::size_t from = 0; from <= list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    const std::string_view word = list.substr(from, comma - from);
    const auto* const known = std::ranges::find_if(
        fixed_distributions, [word](distribution each) { return word == name_of(each); });
    if (known == std::end(fixed_distributions)) return {};
    out.push_back(*known);
    from = comma + 1;
  }
  return out;
}

} // namespace bench
