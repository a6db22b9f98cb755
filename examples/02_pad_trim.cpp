/// @file
/// Tutorial 2: padding a batch to a captured size in one call, and taking the pads off again.
///
/// A rank decodes 3 requests; the graph was captured for 4. Every tensor of the batch grows a tail
/// of one unit, in place, and each tail holds what its reader can stand: a token id 0, the cache
/// slot nobody owns, a sequence length of 1. After the forward, the logits of 4 requests become 3
/// again.

#include <dpgather/dpgather.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

namespace dg = dpgather;

namespace {

template <class T>
void print(const char* name, const std::vector<T>& values) {
  std::printf("  %-22s", name);
  for (const T value : values) std::printf(" %4lld", static_cast<long long>(value));
  std::printf("\n");
}

} // namespace

int main() {
  constexpr std::int32_t real = 3;
  constexpr std::int32_t bucket = 4;
  // The engine's buffers have room for the largest captured size; 99 marks what nobody has written.
  std::vector<std::int64_t> input_ids{11, 12, 13, 99};
  std::vector<std::int64_t> positions{5, 9, 2, 99,  // temporal
                                      5, 9, 2, 99,  // height
                                      5, 9, 2, 99}; // width: [3, T], padded along dim 1
  std::vector<std::int32_t> cache_locations{70, 71, 72, 99};
  std::vector<std::int32_t> sequence_lengths{6, 10, 3, 99};

  const dg::unit_counts units{.real = real, .padded = bucket, .capacity = bucket};
  const dg::pad_tensor batch[] = {
      dg::pad_vector(input_ids.data(), units), dg::pad_columns(positions.data(), 3, units),
      dg::pad_vector(cache_locations.data(), units, 0),  // slot 0 is the engine's sacrificial one
      dg::pad_vector(sequence_lengths.data(), units, 1), // the attention backend wants lengths >= 1
  };
  if (const dg::status outcome = dg::pad(batch); !outcome) {
    std::fprintf(stderr, "02_pad_trim: %s\n", outcome.message().c_str());
    return 1;
  }
  std::printf("padded from %d to %d requests in one call:\n", real, bucket);
  print("input_ids", input_ids);
  print("positions [3, T]", positions);
  print("cache_locations", cache_locations);
  print("sequence_lengths", sequence_lengths);

  // What may go wrong is a named value, and nothing is written then.
  dg::pad_tensor too_long = dg::pad_vector(input_ids.data(), units);
  too_long.units.padded = 5;
  std::printf("\npadding to 5 in a buffer of 4: %s\n", dg::pad({&too_long, 1}).message().c_str());

  // Trimming positions back gives a dense [3, 3].
  std::vector<std::int64_t> trimmed(9);
  const dg::trim_tensor back[] = {dg::trim_columns(positions.data(), 3, trimmed, units)};
  if (const dg::status outcome = dg::trim(back); !outcome) {
    std::fprintf(stderr, "02_pad_trim: %s\n", outcome.message().c_str());
    return 1;
  }
  std::printf("\ntrimmed to the real requests again:\n");
  print("positions [3, 3]", trimmed);

  const bool right = input_ids[3] == 0 && positions[3] == 0 && positions[11] == 0 &&
                     cache_locations[3] == 0 && sequence_lengths[3] == 1 && trimmed[8] == 2 &&
                     trimmed[3] == 5;
  std::printf("\n%s\n", right ? "all tails and all real values are right" : "WRONG VALUES");
  return right ? 0 : 1;
}
