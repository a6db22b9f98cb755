// What rows hold: a gather moves every bit pattern, a combine sums in rank order.
#include <dpgather/dp_gather.hpp>
#include <dpgather/policies.hpp>

#include "support/gather_world.hpp"
#include "support/payload.hpp"
#include "support/random_cases.hpp"
#include "support/reference_floats.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace dg = dpgather;
namespace ts = test_support;
using dg::element;
using bytes = std::vector<std::byte>;

namespace {

struct reduce_max
    : dg::policy<dg::mode::all_reduce, dg::padding::max_len, dg::ladder::from_config> {};
struct reduce_sum_scattered : dg::policy<dg::mode::all_reduce, dg::padding::sum_len,
                                         dg::ladder::from_config, dg::lookup::own_and_sum> {};

/// Calls `visit.template operator()<Policy>(name)` for every mode, combine and layout there is.
template <class Visitor>
void for_each_mode(Visitor&& visit) {
  visit.template operator()<dg::max_always>("all_gather");
  visit.template operator()<dg::sum_always>("all_reduce to the sum, all_reduce_then_scatter");
  visit.template operator()<reduce_sum_scattered>("all_reduce to the sum, reduce_scatter");
  visit.template operator()<reduce_max>("all_reduce to the maximum");
  visit.template operator()<dg::exact_graph>("exact");
}

/// Deals `rows` rows to the ranks: none for the second, the last one gets the rest.
std::vector<std::int32_t> dealt(std::int32_t rows, std::int32_t ranks) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(ranks), 0);
  out[0] = rows / 3;
  out.back() += rows - rows / 3;
  return out;
}

/// Gathers `payload` (all rows of all ranks, in order) and compares it on every rank.
void gathers_all_of(ts::gather_world& world, const bytes& payload, std::size_t row, element type,
                    bool graph, std::uint64_t step) {
  const auto rows = static_cast<std::int32_t>(payload.size() / row);
  const std::vector<std::int32_t> n = dealt(rows, world.topology(0).dp_size);
  std::vector<dg::step_plan> plans;
  for (std::int32_t rank = 0; rank < world.size(); ++rank)
    plans.push_back(world.plan(rank, n, step, graph));
  REQUIRE(plans[0].in_graph() == graph);
  std::vector<std::string> wrong(static_cast<std::size_t>(world.size()));
  world.run([&](std::int32_t rank) {
    const dg::step_plan& plan = plans[static_cast<std::size_t>(rank)];
    std::string& said = wrong[static_cast<std::size_t>(rank)];
    const std::int32_t d = world.topology(rank).dp_rank;
    std::size_t first = 0;
    for (std::int32_t r = 0; r < d; ++r)
      first += static_cast<std::size_t>(n[static_cast<std::size_t>(r)]);
    const bytes local(
        payload.begin() + static_cast<std::ptrdiff_t>(first * row),
        payload.begin() +
            static_cast<std::ptrdiff_t>(
                (first + static_cast<std::size_t>(n[static_cast<std::size_t>(d)])) * row));
    bytes global(static_cast<std::size_t>(plan.global_rows) * row, std::byte{0xee});
    const auto done = world[rank].gather(
        ts::gather_engine::replicated_rows{local.data(), n[static_cast<std::size_t>(d)], type, row},
        dg::token_rows<dg::replicated>{global.data(), plan.global_rows, type, row}, plan);
    if (!done) {
      said = done.status().message().c_str();
      return;
    }
    std::size_t at = 0;
    for (std::int32_t r = 0; r < plan.dp_size; ++r) {
      const std::size_t here = static_cast<std::size_t>(n[static_cast<std::size_t>(r)]) * row;
      const std::size_t place = static_cast<std::size_t>(plan.offset(r)) * row;
      if (here != 0 && std::memcmp(payload.data() + at, global.data() + place, here) != 0)
        said = "rows of rank " + std::to_string(r);
      at += here;
    }
  });
  for (const std::string& said : wrong) CHECK(said == "");
}

/// -0.0, both infinities, the smallest and largest denormal, quiet and signalling NaN with every
/// kind of payload; then anything.
template <class Word>
bytes special_floats(std::size_t words, int mantissa_bits, std::uint64_t key) {
  const Word one{1};
  const Word sign = static_cast<Word>(one << (sizeof(Word) * 8 - 1));
  const Word mantissa = static_cast<Word>((one << mantissa_bits) - 1);
  const Word infinity = static_cast<Word>(~(sign | mantissa));
  const Word quiet = static_cast<Word>(one << (mantissa_bits - 1));
  std::vector<Word> out;
  for (const Word s : {Word{0}, sign}) {
    for (const Word w :
         {Word{0}, one, mantissa, static_cast<Word>(mantissa + one), infinity,
          static_cast<Word>(infinity | one), static_cast<Word>(infinity | mantissa),
          static_cast<Word>(infinity | quiet), static_cast<Word>(infinity | (quiet - one)),
          static_cast<Word>(infinity | quiet | one), static_cast<Word>(infinity - one)})
      out.push_back(static_cast<Word>(s | w));
    // Signalling NaN with one payload bit each.
    for (int bit = 0; bit + 1 < mantissa_bits; ++bit)
      out.push_back(static_cast<Word>(s | infinity | static_cast<Word>(one << bit)));
  }
  while (out.size() < words) out.push_back(static_cast<Word>(ts::mixed(key, out.size())));
  bytes raw(out.size() * sizeof(Word));
  std::memcpy(raw.data(), out.data(), raw.size());
  return raw;
}

bytes all_halves() {
  bytes out(0x10000 * 2);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    std::memcpy(out.data() + bits * 2, &half, 2);
  }
  return out;
}

} // namespace

TEST_CASE(
    "every bit pattern of every element survives a gather in every mode, eager and in graphs") {
  const bytes halves = all_halves();
  const bytes floats = special_floats<std::uint32_t>(64 * 12, 23, 1);
  const bytes doubles = special_floats<std::uint64_t>(64 * 12, 52, 2);
  for_each_mode([&]<class Policy>(const std::string& name) {
    CAPTURE(name);
    for (const std::int32_t peers : {1, 2}) {
      CAPTURE(peers);
      auto world = ts::gather_world::of<Policy>({.dp_size = 3, .tp_size = peers},
                                                ts::small_config(element::f16, 128, 1024));
      std::uint64_t step = 0;
      for (const bool graph : {false, true}) {
        CAPTURE(graph);
        gathers_all_of(world, halves, 128, element::f16, graph, ++step);
        gathers_all_of(world, halves, 128, element::bf16, graph, ++step);
        // Rows that no wide integer divides: sums byte by byte, in pairs, in fours.
        const auto part = [](const bytes& all, std::size_t row) {
          const std::size_t rows = std::min<std::size_t>(all.size() / row, 960);
          return bytes(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(rows * row));
        };
        gathers_all_of(world, part(halves, 6), 6, element::f16, graph, ++step);
        gathers_all_of(world, part(halves, 2), 2, element::bf16, graph, ++step);
        gathers_all_of(world, part(floats, 12), 12, element::f32, graph, ++step);
        gathers_all_of(world, part(floats, 16), 16, element::f32, graph, ++step);
        gathers_all_of(world, part(doubles, 24), 24, element::f64, graph, ++step);
        for (const std::size_t odd : {1U, 3U, 7U, 9U, 61U})
          gathers_all_of(world, part(floats, odd), odd, element::u8, graph, ++step);
      }
    }
  });
}

TEST_CASE("token ids and positions move like any other rows") {
  bytes ids(64 * 8);
  for (std::uint64_t i = 0; i < 64; ++i) {
    const std::uint64_t id = i == 0   ? ~std::uint64_t{0}
                             : i == 1 ? std::uint64_t{1} << 63
                                      : ts::mixed(i);
    std::memcpy(ids.data() + i * 8, &id, 8);
  }
  for_each_mode([&]<class Policy>(const std::string& name) {
    CAPTURE(name);
    auto world = ts::gather_world::of<Policy>({.dp_size = 4, .tp_size = 1},
                                              ts::small_config(element::i64, 8, 128));
    gathers_all_of(world, ids, 8, element::i64, false, 1);
    gathers_all_of(world, ids, 8, element::i64, true, 2);
    gathers_all_of(world, ids, 8, element::i32, true, 3);
    gathers_all_of(world, ids, 4, element::i32, false, 4);
  });
}

// --- sums ---------------------------------------------------------------------------------------

namespace {

/// Loads an element as what it is accumulated in.
double widened(element type, const std::byte* from) {
  std::uint16_t half = 0;
  switch (type) {
  case element::f16:
    std::memcpy(&half, from, 2);
    return ts::meaning_of_half(ts::binary16, half);
  case element::bf16:
    std::memcpy(&half, from, 2);
    return ts::meaning_of_half(ts::bfloat16, half);
  case element::f32: {
    float out = 0;
    std::memcpy(&out, from, 4);
    return static_cast<double>(out);
  }
  default: {
    double out = 0;
    std::memcpy(&out, from, 8);
    return out;
  }
  }
}

/// The sum of one element over `addends`, in their order: fp32 for up to 32 bits, rounded once.
void reference_sum(element type, const std::vector<const std::byte*>& addends, std::byte* out) {
  if (!dg::is_floating(type)) {
    std::uint64_t sum = 0;
    for (const std::byte* a : addends) {
      std::uint64_t word = 0;
      std::memcpy(&word, a, dg::size_of(type));
      sum += word;
    }
    std::memcpy(out, &sum, dg::size_of(type));
    return;
  }
  if (type == element::f64) {
    double sum = widened(type, addends[0]);
    for (std::size_t i = 1; i < addends.size(); ++i) sum += widened(type, addends[i]);
    std::memcpy(out, &sum, 8);
    return;
  }
  auto sum = static_cast<float>(widened(type, addends[0]));
  for (std::size_t i = 1; i < addends.size(); ++i)
    sum += static_cast<float>(widened(type, addends[i]));
  if (type == element::f32) {
    std::memcpy(out, &sum, 4);
    return;
  }
  const std::uint16_t half = ts::nearest_half(type == element::f16 ? ts::binary16 : ts::bfloat16,
                                              static_cast<double>(sum));
  std::memcpy(out, &half, 2);
}

/// Addend number `who` of `addends` to the element that `key` names. One addend in every other
/// element is large and its neighbour takes it away again: whatever was added before them loses its
/// low bits, what comes after keeps them, so that order shows even after rounding to 16 bits.
void store_hard(element type, std::byte* out, std::uint64_t key, std::int32_t who,
                std::int32_t addends) {
  const std::uint64_t word = ts::mixed(key, static_cast<std::uint64_t>(who) + 1);
  if (!dg::is_floating(type)) {
    std::memcpy(out, &word, dg::size_of(type));
    return;
  }
  const auto place = static_cast<std::int32_t>(key / 2 % static_cast<std::uint64_t>(addends));
  const bool cancels = key % 2 == 0;
  const bool plus = cancels && who == place;
  const bool minus = cancels && who == (place + 1) % addends;
  // Sign, exponent and mantissa of the format: 2^15, 2^20 or 2^50 against 2^-13 to 2^-1.
  const auto put = [&](auto bits_of_type, int mantissa_bits, std::uint64_t bias,
                       std::uint64_t large) {
    using bits = decltype(bits_of_type);
    const std::uint64_t mantissa = word & ((std::uint64_t{1} << mantissa_bits) - 1);
    const std::uint64_t small = bias - 13 + (word >> 53) % 13;
    const std::uint64_t sign = plus ? 0 : minus ? 1 : word >> 63;
    const std::uint64_t exponent = plus || minus ? bias + large : small;
    const auto value =
        static_cast<bits>(sign << (sizeof(bits) * 8 - 1) | exponent << mantissa_bits |
                          (plus || minus ? 0 : mantissa));
    std::memcpy(out, &value, sizeof value);
  };
  switch (type) {
  case element::f16:
    put(std::uint16_t{}, 10, 15, 15);
    return;
  case element::bf16:
    put(std::uint16_t{}, 7, 127, 20);
    return;
  case element::f32:
    put(std::uint32_t{}, 23, 127, 20);
    return;
  default:
    put(std::uint64_t{}, 52, 1023, 50);
  }
}

constexpr std::size_t sum_row_bytes = 64;

/// What one rank adds: its rows of the whole global tensor.
bytes addends_of(std::int32_t who, std::int32_t addends, const dg::step_plan& plan, element type) {
  bytes out(static_cast<std::size_t>(plan.global_rows) * sum_row_bytes, std::byte{0xff});
  const std::size_t unit = dg::size_of(type);
  for (std::int32_t d = 0; d < plan.dp_size; ++d) {
    for (std::int64_t i = 0; i < plan.real[d]; ++i) {
      std::byte* const row =
          out.data() + static_cast<std::size_t>(plan.offset(d) + i) * sum_row_bytes;
      for (std::size_t at = 0; at < sum_row_bytes; at += unit)
        store_hard(type, row + at,
                   ts::mixed(77, static_cast<std::uint64_t>(d), static_cast<std::uint64_t>(i), at),
                   who, addends);
    }
  }
  return out;
}

/// Counts of elements of one combine that a sum from the other end would get otherwise.
struct sum_report {
  int wrong = 0;
  int order_shows = 0;
};

sum_report combine_once(ts::gather_world& world, const std::vector<std::int32_t>& n, element type,
                        bool graph, std::uint64_t step, std::vector<bytes>* keep = nullptr) {
  std::vector<dg::step_plan> plans;
  std::vector<bytes> globals;
  std::vector<bytes> locals(static_cast<std::size_t>(world.size()));
  std::vector<dg::status> done(static_cast<std::size_t>(world.size()));
  for (std::int32_t rank = 0; rank < world.size(); ++rank) {
    plans.push_back(world.plan(rank, n, step, graph));
    globals.push_back(addends_of(rank, world.size(), plans.back(), type));
  }
  world.run([&](std::int32_t rank) {
    const auto at = static_cast<std::size_t>(rank);
    const dg::step_plan& plan = plans[at];
    const std::int64_t rows = plan.real[world.topology(rank).dp_rank];
    locals[at].assign(static_cast<std::size_t>(rows) * sum_row_bytes, std::byte{0xee});
    done[at] = world[rank].combine(
        ts::gather_engine::partial_rows{globals[at].data(), plan.global_rows, type, sum_row_bytes},
        dg::token_rows<dg::replicated>{locals[at].data(), rows, type, sum_row_bytes}, plan);
  });
  sum_report report;
  const std::size_t unit = dg::size_of(type);
  for (std::int32_t rank = 0; rank < world.size(); ++rank) {
    const auto at = static_cast<std::size_t>(rank);
    REQUIRE_MESSAGE(done[at].ok(), std::string{done[at].message().view()});
    const std::int32_t d = world.topology(rank).dp_rank;
    for (std::size_t b = 0; b < locals[at].size(); b += unit) {
      const std::size_t from = static_cast<std::size_t>(plans[at].offset(d)) * sum_row_bytes + b;
      std::vector<const std::byte*> addends;
      for (const bytes& g : globals) addends.push_back(g.data() + from);
      std::byte expected[8];
      std::byte backwards[8];
      reference_sum(type, addends, expected);
      std::vector<const std::byte*> reversed(addends.rbegin(), addends.rend());
      reference_sum(type, reversed, backwards);
      report.wrong += std::memcmp(expected, locals[at].data() + b, unit) != 0;
      report.order_shows += std::memcmp(expected, backwards, unit) != 0;
    }
  }
  if (keep != nullptr) *keep = locals;
  return report;
}

} // namespace

TEST_CASE("sums run in world-rank order, in fp32 for f16, bf16 and f32, rounded once") {
  for_each_mode([&]<class Policy>(const std::string& name) {
    CAPTURE(name);
    for (const dg::topology shape :
         {dg::topology{.dp_size = 3, .tp_size = 1}, dg::topology{.dp_size = 5, .tp_size = 1},
          dg::topology{.dp_size = 3, .tp_size = 2}, dg::topology{.dp_size = 2, .tp_size = 4}}) {
      CAPTURE(shape.dp_size);
      CAPTURE(shape.tp_size);
      auto world =
          ts::gather_world::of<Policy>(shape, ts::small_config(element::bf16, sum_row_bytes, 16));
      const std::vector<std::int32_t> n = dealt(13, shape.dp_size);
      std::uint64_t step = 0;
      for (const bool graph : {false, true}) {
        for (const element type : {element::f16, element::bf16, element::f32, element::f64,
                                   element::i32, element::i64}) {
          CAPTURE(std::string{dg::name_of(type)});
          const sum_report report = combine_once(world, n, type, graph, ++step);
          CHECK(report.wrong == 0);
          // The values are hard enough: another order would have been seen.
          if (dg::is_floating(type)) CHECK(report.order_shows > 10);
        }
      }
    }
  });
}

TEST_CASE("the same sums twice are the same bits, whichever thread came first") {
  for_each_mode([&]<class Policy>(const std::string& name) {
    CAPTURE(name);
    auto world = ts::gather_world::of<Policy>({.dp_size = 4, .tp_size = 2},
                                              ts::small_config(element::bf16, sum_row_bytes, 16));
    std::vector<bytes> first;
    for (std::uint64_t step = 1; step <= 20; ++step) {
      std::vector<bytes> again;
      (void)combine_once(world, {5, 0, 9, 2}, element::bf16, step % 2 == 0, step, &again);
      if (step == 1) first = again;
      REQUIRE(again == first);
    }
  });
}

TEST_CASE("partial rows are summed over the attention-TP peers in their order") {
  for_each_mode([&]<class Policy>(const std::string& name) {
    CAPTURE(name);
    for (const element type : {element::f16, element::bf16, element::f32, element::f64}) {
      CAPTURE(std::string{dg::name_of(type)});
      const dg::topology shape{.dp_size = 2, .tp_size = 4};
      auto world =
          ts::gather_world::of<Policy>(shape, ts::small_config(element::bf16, sum_row_bytes, 16));
      const std::vector<std::int32_t> n{7, 6};
      std::vector<dg::step_plan> plans;
      std::vector<bytes> locals;
      std::vector<bytes> globals(8);
      const std::size_t unit = dg::size_of(type);
      for (std::int32_t rank = 0; rank < world.size(); ++rank) {
        plans.push_back(world.plan(rank, n));
        const std::int32_t d = shape.at(rank).dp_rank;
        bytes& local = locals.emplace_back(
            static_cast<std::size_t>(n[static_cast<std::size_t>(d)]) * sum_row_bytes);
        for (std::size_t at = 0; at < local.size(); at += unit)
          store_hard(type, local.data() + at, ts::mixed(5, static_cast<std::uint64_t>(d), at),
                     shape.at(rank).tp_rank, shape.tp_size);
      }
      std::vector<dg::status> done(8);
      world.run([&](std::int32_t rank) {
        const auto at = static_cast<std::size_t>(rank);
        globals[at].resize(static_cast<std::size_t>(plans[at].global_rows) * sum_row_bytes);
        done[at] =
            world[rank]
                .gather(ts::gather_engine::partial_rows{locals[at].data(),
                                                        plans[at].real[shape.at(rank).dp_rank],
                                                        type, sum_row_bytes},
                        dg::token_rows<dg::replicated>{globals[at].data(), plans[at].global_rows,
                                                       type, sum_row_bytes},
                        plans[at])
                .status();
      });
      int wrong = 0;
      for (std::size_t rank = 0; rank < 8; ++rank) {
        REQUIRE_MESSAGE(done[rank].ok(), std::string{done[rank].message().view()});
        for (std::int32_t d = 0; d < 2; ++d) {
          const auto first = static_cast<std::size_t>(d) * 4;
          for (std::size_t b = 0; b < locals[first].size(); b += unit) {
            std::vector<const std::byte*> addends;
            for (std::size_t t = 0; t < 4; ++t) addends.push_back(locals[first + t].data() + b);
            std::byte expected[8];
            reference_sum(type, addends, expected);
            const std::size_t place =
                static_cast<std::size_t>(plans[rank].offset(d)) * sum_row_bytes;
            wrong += std::memcmp(expected, globals[rank].data() + place + b, unit) != 0;
          }
        }
      }
      CHECK(wrong == 0);
    }
  });
}
