#include <dpgather/batch_fill.hpp>

#include <dpgather/device/pad.hpp>
#include <dpgather/element.hpp>
#include <dpgather/fill.hpp>
#include <dpgather/phase.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

constexpr std::array phases{phase::idle,  phase::decode, phase::extend,
                            phase::mixed, phase::verify, phase::draft_extend};

/// Requests, real and padded: what a rank pads follows its counts, never its phase.
struct shape {
  std::int32_t real, padded;
};
constexpr std::array shapes{shape{0, 0}, shape{0, 4}, shape{3, 5}, shape{4, 4}};

constexpr std::array engines{batch_choices{}, batch_choices{.sacrificial_slot = -1},
                             batch_choices{.sacrificial_slot = 17, .sequence_length_fill = 2}};

template <class T>
constexpr element element_of = std::is_same_v<T, float>          ? element::f32
                               : std::is_same_v<T, std::int32_t> ? element::i32
                                                                 : element::i64;

/// Pads a tensor of `outer` slices by its default tail in every phase and shape, for every engine,
/// and looks at each entry. `expected(step, k, engine)` is the table's cell.
template <class T, class Expected>
void check_row(batch_tensor tensor, batch_unit unit, Expected expected, std::int32_t outer = 1) {
  for (const phase step : phases) {
    for (const shape s : shapes) {
      for (const std::int32_t k : {1, 3}) {
        for (const batch_choices& engine : engines) {
          CAPTURE(name_of(step));
          CAPTURE(s.real);
          CAPTURE(s.padded);
          CAPTURE(k);
          const batch_tail tail = default_tail(tensor, step, k, engine);
          CHECK(tail.unit == unit);
          const std::int32_t per_request = tail.unit == batch_unit::token ? k : 1;
          const unit_counts units{.real = s.real * per_request,
                                  .padded = s.padded * per_request,
                                  .capacity = s.padded * per_request + 2};
          std::vector<T> x(static_cast<std::size_t>(outer * units.capacity), T{99});
          const pad_tensor list[] = {
              pad_columns(x.data(), outer, units, value_fill(element_of<T>, tail.value))};
          REQUIRE(pad(list).ok());
          const auto want = static_cast<T>(expected(step, k, engine));
          for (std::int32_t i = 0; i < outer * units.capacity; ++i) {
            const std::int32_t column = i % units.capacity;
            const bool is_tail = column >= units.real && column < units.padded;
            REQUIRE(x[static_cast<std::size_t>(i)] == (is_tail ? want : T{99}));
          }
        }
      }
    }
  }
}

constexpr auto always(std::int64_t value) {
  return [value](phase, std::int32_t, const batch_choices&) { return value; };
}

// The table is readable by the compiler.
static_assert(default_tail(batch_tensor::room_ids, phase::decode, 1) ==
              batch_tail{batch_unit::request, -1});
static_assert(padded_sequence_sum(100, 3, 5).value() == 102);

} // namespace

TEST_CASE("fill table: input ids, token, 0") {
  check_row<std::int64_t>(batch_tensor::input_ids, batch_unit::token, always(0));
}
TEST_CASE("fill table: positions, token, 0, also [3, T]") {
  check_row<std::int64_t>(batch_tensor::positions, batch_unit::token, always(0));
  check_row<std::int64_t>(batch_tensor::positions, batch_unit::token, always(0), 3);
}
TEST_CASE("fill table: input embeddings, token, 0") {
  check_row<float>(batch_tensor::input_embeddings, batch_unit::token, always(0));
}
TEST_CASE("fill table: out-cache locations, token, the engine's sacrificial slot") {
  check_row<std::int64_t>(
      batch_tensor::out_cache_locations, batch_unit::token,
      [](phase, std::int32_t, const batch_choices& engine) { return engine.sacrificial_slot; });
  CHECK(default_tail(batch_tensor::out_cache_locations, phase::decode, 1).value == 0);
  CHECK(default_tail(batch_tensor::out_cache_locations, phase::decode, 1, {.sacrificial_slot = -1})
            .value == -1);
}
TEST_CASE("fill table: request-pool indices, request, 0") {
  check_row<std::int32_t>(batch_tensor::request_pool_indices, batch_unit::request, always(0));
}
TEST_CASE("fill table: encoder lengths, request, 0") {
  check_row<std::int32_t>(batch_tensor::encoder_lengths, batch_unit::request, always(0));
}
TEST_CASE("fill table: sequence lengths, request, the backend's fill") {
  const auto fill = [](phase, std::int32_t, const batch_choices& engine) {
    return engine.sequence_length_fill;
  };
  check_row<std::int32_t>(batch_tensor::sequence_lengths, batch_unit::request, fill);
  check_row<std::int64_t>(batch_tensor::sequence_lengths, batch_unit::request, fill);
  CHECK(default_tail(batch_tensor::sequence_lengths, phase::decode, 1).value == 1);
}
TEST_CASE("fill table: extend lengths, request, 0, tokens per request in draft-extend") {
  check_row<std::int32_t>(batch_tensor::extend_lengths, batch_unit::request,
                          [](phase step, std::int32_t k, const batch_choices&) {
                            return step == phase::draft_extend ? k : 0;
                          });
  CHECK(default_tail(batch_tensor::extend_lengths, phase::draft_extend, 4).value == 4);
  CHECK(default_tail(batch_tensor::extend_lengths, phase::verify, 4).value == 0);
}
TEST_CASE("fill table: prefix lengths, request, 0") {
  check_row<std::int32_t>(batch_tensor::prefix_lengths, batch_unit::request, always(0));
}
TEST_CASE("fill table: LoRA ids, request, 0") {
  check_row<std::int32_t>(batch_tensor::lora_ids, batch_unit::request, always(0));
}
TEST_CASE("fill table: request ids, request, 0") {
  check_row<std::int64_t>(batch_tensor::request_ids, batch_unit::request, always(0));
}
TEST_CASE("fill table: room ids, request, -1") {
  check_row<std::int64_t>(batch_tensor::room_ids, batch_unit::request, always(-1));
}
TEST_CASE("fill table: speculative hidden states, token, 0") {
  check_row<float>(batch_tensor::speculative_hidden, batch_unit::token, always(0));
}
TEST_CASE("fill table: top-k probabilities, request, 0") {
  check_row<float>(batch_tensor::topk_probabilities, batch_unit::request, always(0));
}
TEST_CASE("fill table: top-k indices, request, 0") {
  check_row<std::int64_t>(batch_tensor::topk_indices, batch_unit::request, always(0));
}

TEST_CASE("sum of sequence lengths: equal to the sum over the padded lengths, on both copies") {
  test_support::for_random_cases([](random_source& random) {
    const batch_choices engine{.sequence_length_fill = random.pick({0, 1, 1, 1, 5})};
    unit_counts units;
    units.real = random.chance(20) ? 0 : random.between(0, 9);
    units.padded = units.real + random.between(0, 7);
    units.capacity = units.padded;
    std::vector<std::int32_t> device(static_cast<std::size_t>(units.capacity));
    for (std::int32_t& length : device) length = random.between(1, 1'000'000);
    std::vector<std::int64_t> host(device.begin(), device.end());
    const std::int64_t real_sum =
        std::accumulate(host.begin(), host.begin() + units.real, std::int64_t{0});

    const std::int64_t fill =
        default_tail(batch_tensor::sequence_lengths, phase::decode, 1, engine).value;
    const pad_tensor list[] = {
        pad_vector(device.data(), units, value_fill(element::i32, fill)),
        pad_vector(host.data(), units, value_fill(element::i64, fill)),
    };
    REQUIRE(pad(list).ok());
    const auto sum = padded_sequence_sum(real_sum, units.real, units.padded, engine);
    REQUIRE(sum.ok());
    REQUIRE(*sum == std::accumulate(host.begin(), host.end(), std::int64_t{0}));
    REQUIRE(*sum == std::accumulate(device.begin(), device.end(), std::int64_t{0}));
  });
}

TEST_CASE("sum of sequence lengths: refused input, by name") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const auto check = [](const result<std::int64_t>& r, errc code, std::int64_t value,
                        std::int64_t limit) {
    CHECK(r.code() == code);
    CHECK(r.status().value == value);
    CHECK(r.status().limit == limit);
    CHECK(std::string_view{r.status().where} == "padded_sequence_sum");
  };
  check(padded_sequence_sum(0, -1, 4), errc::count_out_of_range, -1, 4);
  check(padded_sequence_sum(0, 5, 4), errc::count_out_of_range, 5, 4);
  check(padded_sequence_sum(-1, 3, 4), errc::count_out_of_range, -1, 0);
  check(padded_sequence_sum(0, 3, 4, {.sequence_length_fill = -1}), errc::bad_fill, -1, 0);
  check(padded_sequence_sum(most, 3, 4), errc::size_overflow, 1, 0);
  check(padded_sequence_sum(most - 5, 0, 2, {.sequence_length_fill = 3}), errc::size_overflow, 3,
        2);
  check(padded_sequence_sum(0, 0, 4, {.sequence_length_fill = most / 2}), errc::size_overflow,
        most / 2, most / 4);
  // Exactly full is legal, and so is no tail at all.
  CHECK(*padded_sequence_sum(most - 1, 3, 4) == most);
  CHECK(*padded_sequence_sum(most, 4, 4) == most);
  CHECK(*padded_sequence_sum(0, 0, 0) == 0);
}
