#include <dpgather/batch_tensors.hpp>

#include <support/memory.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace {

using namespace dpgather;

constexpr batch_tensor all_tensors[] = {batch_tensor::input_ids,
                                        batch_tensor::positions,
                                        batch_tensor::input_embeddings,
                                        batch_tensor::out_cache_locations,
                                        batch_tensor::request_pool_indices,
                                        batch_tensor::encoder_lengths,
                                        batch_tensor::sequence_lengths,
                                        batch_tensor::extend_lengths,
                                        batch_tensor::prefix_lengths,
                                        batch_tensor::lora_ids,
                                        batch_tensor::request_ids,
                                        batch_tensor::room_ids,
                                        batch_tensor::speculative_hidden,
                                        batch_tensor::topk_probabilities,
                                        batch_tensor::topk_indices};

struct memory {
  alignas(16) std::byte bytes[1024]{};
  leak_record leak;

  batch_entry entry(std::size_t at, std::int32_t capacity = 8, element type = element::i32) {
    return {.data = bytes + at, .type = type, .capacity = capacity};
  }
};

errc code_of(const batch_declaration& all, std::int32_t peer = -1) {
  const status s = validate(all);
  CHECK(batch_workspace_bytes(all).code() == s.code);
  CHECK(s.peer == peer);
  return s.code;
}

} // namespace

TEST_CASE("what engines keep aside during the forward comes back whole, the rest by its tail") {
  for (const batch_tensor tensor : all_tensors) {
    const bool whole =
        tensor == batch_tensor::out_cache_locations || tensor == batch_tensor::speculative_hidden;
    CHECK(default_saving(tensor) == (whole ? batch_saving::whole : batch_saving::tail));
  }
}

TEST_CASE("fills are the table's for every tensor, phase and engine, or the entry's own") {
  memory m;
  for (const batch_tensor tensor : all_tensors) {
    for (const phase step : {phase::decode, phase::draft_extend}) {
      batch_entry e = m.entry(0);
      e.tensor = tensor;
      const batch_declaration all{.engine = {.sacrificial_slot = 7, .sequence_length_fill = 2}};
      const batch_step now{.step = step,
                           .tokens_per_request = 3,
                           .requests = {.real = 1, .padded = 2},
                           .tokens = {.real = 3, .padded = 6},
                           .draft_tokens = {.real = 4, .padded = 5}};
      const batch_tail expected = default_tail(tensor, step, 3, all.engine);
      pad_tensor t = detail::padding_of(e, now, all);
      CHECK(t.fill.bits == fill_word{value_fill(element::i32, expected.value)}.bits);
      CHECK(t.units.padded == now.units(expected.unit).padded);
      CHECK(t.units.capacity == 8);
      e.tail = batch_tail{batch_unit::draft_token, -9};
      t = detail::padding_of(e, now, all);
      CHECK(t.fill.bits == fill_word{value_fill(element::i32, -9)}.bits);
      CHECK(t.units.padded == 5);
    }
  }
}

TEST_CASE("poison: floating elements, others where asked for, none without the policy") {
  memory m;
  batch_entry e = m.entry(0, 8, element::bf16);
  batch_declaration all{.poison = true};
  const auto is = [&](const fill_pattern& fill) {
    return detail::padding_of(e, {}, all).fill.bits == fill_word{fill}.bits;
  };
  CHECK(is(poison_fill(element::bf16)));
  e.poison = false;
  CHECK(is(zero_fill()));
  e.type = element::i32;
  e.poison = {};
  CHECK(is(zero_fill()));
  e.poison = true;
  CHECK(is(poison_fill(element::i32)));
  all.poison = false;
  CHECK(is(zero_fill()));
}

TEST_CASE("shapes: dense unless strides say otherwise") {
  memory m;
  batch_entry e = m.entry(0);
  e.width = 3;
  e.outer = 2;
  pad_tensor t = detail::padding_of(e, {}, {});
  CHECK(t.unit_bytes == 12);
  CHECK(t.unit_stride == 12);
  CHECK(t.outer_stride == 96);
  e.unit_stride = 16;
  CHECK(detail::padding_of(e, {}, {}).outer_stride == 128);
  e.outer_stride = 200;
  t = detail::padding_of(e, {}, {});
  CHECK(t.unit_stride == 16);
  CHECK(t.outer_stride == 200);
}

TEST_CASE(
    "workspace: what every guard saves, nothing for scratch, host copies and absent tensors") {
  memory m;
  std::vector<batch_entry> entries{m.entry(0)};
  batch_declaration all{.tensors = entries};
  const std::size_t one = *batch_workspace_bytes(all);
  CHECK(one == 32 * 4 + 16 + 32); // counts; 8 units of 4 bytes, and a rounding
  all.depth = 3;
  CHECK(*batch_workspace_bytes(all) == 3 * one);
  all.depth = 1;
  entries[0].saving = batch_saving::nothing;
  CHECK(*batch_workspace_bytes(all) == 32 * 4);
  entries[0].saving = {};
  entries[0].on_host = true;
  CHECK(*batch_workspace_bytes(all) == 32 * 4);
  entries[0] = {};
  CHECK(*batch_workspace_bytes(all) == 32 * 4);
}

TEST_CASE("declarations that are refused, by name and index") {
  memory m;
  std::vector<batch_entry> entries{m.entry(0), m.entry(64)};
  batch_declaration all{.tensors = entries};
  CHECK(code_of(all) == errc::ok);
  const auto with = [&](auto change) {
    entries[1] = m.entry(64);
    change(entries[1]);
    return code_of(all, 1);
  };
  CHECK(with([](batch_entry& e) { e.data = nullptr; }) == errc::null_pointer);
  CHECK(with([&](batch_entry& e) { e.data = m.bytes + 66; }) == errc::misaligned);
  CHECK(with([](batch_entry& e) { e.width = 0; }) == errc::count_out_of_range);
  CHECK(with([](batch_entry& e) { e.outer = 0; }) == errc::count_out_of_range);
  CHECK(with([](batch_entry& e) { e.unit_stride = 2; }) == errc::misaligned);
  CHECK(with([](batch_entry& e) { e.outer = 2, e.outer_stride = 8; }) == errc::aliasing);
  CHECK(with([](batch_entry& e) { e.capacity = 1 << 30, e.unit_stride = std::size_t{1} << 40; }) ==
        errc::size_overflow);
  entries[1] = m.entry(16); // inside the first one
  CHECK(code_of(all, 0) == errc::aliasing);
  entries[1] = m.entry(64);

  std::vector<batch_entry> many(33);
  all.tensors = many;
  CHECK(code_of(all) == errc::capacity_exceeded);
  all.tensors = std::span{many}.first(32);
  CHECK(code_of(all) == errc::ok);
  const std::vector<batch_result> results(33);
  all.results = results;
  CHECK(code_of(all) == errc::capacity_exceeded);
  all.results = {};
  all.tensors = entries;
  all.depth = 0;
  CHECK(code_of(all) == errc::count_out_of_range);
  all.depth = 1;
  all.poison = true;
  CHECK(code_of(all) == errc::null_pointer);
  all.leak = &m.leak;
  CHECK(code_of(all) == errc::ok);
  for (const batch_tensor lengths :
       {batch_tensor::sequence_lengths, batch_tensor::extend_lengths}) {
    entries[1].tensor = lengths;
    CHECK(code_of(all) == errc::ok);
    entries[1].poison = true;
    CHECK(code_of(all, 1) == errc::bad_fill);
    entries[1].poison = {};
  }
  const batch_result bytes[] = {{.data = m.bytes, .type = element::u8, .capacity = 4}};
  all.results = bytes;
  CHECK(code_of(all, 0) == errc::unsupported_type);
  all.poison = false;
  CHECK(code_of(all) == errc::ok);

  // One sum, two lengths: their fills must be one.
  std::int64_t sum = 0;
  all.sequence_sum = &sum;
  entries[0].tensor = entries[1].tensor = batch_tensor::sequence_lengths;
  CHECK(code_of(all) == errc::ok);
  entries[1].tail = batch_tail{batch_unit::request, 2};
  CHECK(code_of(all, 1) == errc::bad_config);
  all.sequence_sum = nullptr;
  CHECK(code_of(all) == errc::ok);
}
