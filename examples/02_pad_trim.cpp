/// @file
/// Tutorial 2: padding a batch to a captured size in one call, and getting it back whatever
/// happens.
///
/// A rank decodes 3 requests; the graph was captured for 4. Every tensor of the batch grows a tail
/// of one unit, in place, and each tail holds what its reader can stand: a token id 0, the cache
/// slot nobody owns, a sequence length of 1. The engine declares its tensors once; a guard pads
/// them for a forward and restores tails, row counts, host copies and their sum on every way out.

#include <dpgather/dpgather.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <vector>

namespace dg = dpgather;

namespace {

constexpr std::int32_t real = 3;
constexpr std::int32_t bucket = 4;
constexpr std::int32_t vocabulary = 2;

/// The engine's buffers have room for the largest captured size; 99 marks what is not ours.
struct engine_buffers {
  std::vector<std::int64_t> input_ids{11, 12, 13, 99};
  std::vector<std::int64_t> positions{5, 9, 2, 99,  // temporal
                                      5, 9, 2, 99,  // height
                                      5, 9, 2, 99}; // width: [3, T], padded along dim 1
  std::vector<std::int32_t> cache_locations{70, 71, 72, 99};
  std::vector<std::int32_t> sequence_lengths{6, 10, 3, 99};
  std::vector<std::int32_t> host_lengths{6, 10, 3, 99};
  std::vector<float> embeddings{0.5f, 0.25f, 1, 99};
  std::vector<float> logits = std::vector<float>(bucket * vocabulary);
  std::int64_t tokens = real, sum_of_lengths = 19, logits_rows = 0;

  bool operator==(const engine_buffers&) const = default;
};

template <class T>
void print(const char* name, const std::vector<T>& values) {
  std::printf("  %-22s", name);
  for (const T value : values) std::printf(" %4lld", static_cast<long long>(value));
  std::printf("\n");
}

void print(const engine_buffers& engine) {
  std::printf("padded from %d to %d requests in one call:\n", real, bucket);
  print("input_ids", engine.input_ids);
  print("positions [3, T]", engine.positions);
  print("cache_locations", engine.cache_locations);
  print("sequence_lengths", engine.sequence_lengths);
  std::printf("  rows %lld, sum of lengths %lld\n\n", static_cast<long long>(engine.tokens),
              static_cast<long long>(engine.sum_of_lengths));
}

enum class way_out { show, finish, early_return, exception, reads_a_pad };

/// A step of the engine: three lines of it are the guard.
dg::status step(dg::batch<dg::host_stream>& batch, engine_buffers& engine, way_out way) {
  auto padded = batch.pad(dg::batch_step::decode({.real = real, .padded = bucket}), {});
  if (!padded) return padded.status();

  if (way == way_out::show) print(engine);
  if (way == way_out::exception) throw std::runtime_error{"the forward failed"};
  if (way == way_out::early_return) return {};
  for (std::size_t row = 0; row < bucket; ++row) {
    const std::size_t from = way == way_out::reads_a_pad && row == 1 ? row + 2 : row;
    for (std::size_t v = 0; v < vocabulary; ++v)
      engine.logits[row * vocabulary + v] = engine.embeddings[from] * static_cast<float>(v + 1);
  }
  engine.logits_rows = bucket;

  return padded->finish();
}

} // namespace

int main() {
  using dg::batch_tensor;
  using dg::element;
  engine_buffers engine;
  const dg::batch_entry tensors[] = {
      {.tensor = batch_tensor::input_ids,
       .data = engine.input_ids.data(),
       .type = element::i64,
       .capacity = bucket,
       .rows = &engine.tokens},
      {.tensor = batch_tensor::positions,
       .data = engine.positions.data(),
       .type = element::i64,
       .outer = 3,
       .capacity = bucket},
      {.tensor = batch_tensor::out_cache_locations,
       .data = engine.cache_locations.data(),
       .type = element::i32,
       .capacity = bucket},
      {.tensor = batch_tensor::sequence_lengths,
       .data = engine.sequence_lengths.data(),
       .type = element::i32,
       .capacity = bucket},
      {.tensor = batch_tensor::sequence_lengths,
       .data = engine.host_lengths.data(),
       .type = element::i32,
       .capacity = bucket,
       .on_host = true},
      {.tensor = batch_tensor::input_embeddings,
       .data = engine.embeddings.data(),
       .type = element::f32,
       .capacity = bucket},
  };
  const dg::batch_result results[] = {{.tensor = dg::batch_output::logits,
                                       .data = engine.logits.data(),
                                       .type = element::f32,
                                       .width = vocabulary,
                                       .capacity = bucket,
                                       .rows = &engine.logits_rows}};
  dg::leak_record leak;
  dg::batch_declaration declaration{.tensors = tensors,
                                    .results = results,
                                    .sequence_sum = &engine.sum_of_lengths,
                                    .leak = &leak,
                                    .rank = 0};
  std::vector<std::byte> workspace(dg::batch_workspace_bytes(declaration).value());
  dg::batch<dg::host_stream> batch{declaration, workspace};

  bool right = true;
  const auto check = [&](const char* what, bool as_it_should) {
    std::printf("%-58s %s\n", what, as_it_should ? "yes" : "NO");
    right = right && as_it_should;
  };
  const auto is_itself = [&] {
    const engine_buffers before;
    engine.logits = before.logits; // results are the forward's
    const bool same = engine.logits_rows <= real;
    engine.logits_rows = 0;
    return same && engine == before;
  };

  check("after finish(), everything is as it was",
        step(batch, engine, way_out::show).ok() && engine.logits_rows == real && is_itself());
  check("after an early return", step(batch, engine, way_out::early_return).ok() && is_itself());
  bool threw = false;
  try {
    (void)step(batch, engine, way_out::exception);
  } catch (const std::runtime_error&) {
    threw = true;
  }
  check("after an exception", threw && is_itself());

  // What may go wrong is a named value, and nothing is written then.
  const auto too_long = batch.pad(dg::batch_step::decode({.real = real, .padded = 5}), {});
  std::printf("\npadding to 5 in buffers of 4: %s\n", too_long.status().message().c_str());
  check("nothing was written", !too_long.ok() && is_itself());

  // To find out whether pads reach real rows, pad with poison: floating tails hold NaN, and every
  // finish() looks for it.
  declaration.poison = true;
  dg::batch<dg::host_stream> poisoned{declaration, workspace};
  std::printf("\n");
  check("a clean forward leaks nothing",
        step(poisoned, engine, way_out::finish).ok() && poisoned.leak().ok());
  check("one that reads a pad still ends well", step(poisoned, engine, way_out::reads_a_pad).ok());
  std::printf("but: %s\n", poisoned.leak().message().c_str());
  check("the leak is named",
        poisoned.leak().code == dg::errc::tail_leak && poisoned.leak().value == 1 && is_itself());
  return right ? 0 : 1;
}
