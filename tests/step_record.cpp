#include <dpgather/step_record.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dg = dpgather;
using dg::phase;
using dg::step_record;

// One size for every rank and step, sent as it is.
static_assert(sizeof(step_record) == 64);
static_assert(std::is_trivially_copyable_v<step_record>);
static_assert(std::is_standard_layout_v<step_record>);
static_assert(std::has_unique_object_representations_v<step_record>);
static_assert(step_record::graph_vote != step_record::overlap_vote &&
              (step_record::graph_vote & step_record::overlap_vote) == 0 &&
              step_record::graph_vote != 0 && step_record::overlap_vote != 0);

TEST_CASE("a record that nobody filled in announces an idle rank without a vote") {
  constexpr step_record r;
  CHECK(r.magic == step_record::expected_magic);
  CHECK(r.version == step_record::expected_version);
  CHECK(r.phase == phase::idle);
  CHECK(r.votes == 0);
  CHECK(r.tokens == 0);
  CHECK(r.logits_tokens == 0);
  CHECK(r.draft_tokens == 0);
  CHECK(r.requests == 0);
  CHECK(r.prefix == 0);
  CHECK(r.cannot_run == 0);
  CHECK(r.last_plan == 0);
  CHECK(r.width == 1);
}

TEST_CASE("every field is part of a record's value") {
  const step_record zero;
  const auto differs = [&](auto change) {
    step_record changed;
    change(changed);
    return !(changed == zero);
  };
  CHECK(differs([](step_record& r) { r.magic = 1; }));
  CHECK(differs([](step_record& r) { r.version = 2; }));
  CHECK(differs([](step_record& r) { r.phase = phase::decode; }));
  CHECK(differs([](step_record& r) { r.votes = step_record::graph_vote; }));
  CHECK(differs([](step_record& r) { r.step = 1; }));
  CHECK(differs([](step_record& r) { r.config_hash = 1; }));
  CHECK(differs([](step_record& r) { r.last_plan = 1; }));
  CHECK(differs([](step_record& r) { r.world_rank = 1; }));
  CHECK(differs([](step_record& r) { r.tokens = 1; }));
  CHECK(differs([](step_record& r) { r.logits_tokens = 1; }));
  CHECK(differs([](step_record& r) { r.draft_tokens = 1; }));
  CHECK(differs([](step_record& r) { r.requests = 1; }));
  CHECK(differs([](step_record& r) { r.width = 4; }));
  CHECK(differs([](step_record& r) { r.prefix = 1; }));
  CHECK(differs([](step_record& r) { r.cannot_run = 1; }));
  CHECK_FALSE(differs([](step_record&) {}));
}

TEST_CASE("a record survives the wire, and no byte of it is idle") {
  step_record sent;
  sent.phase = phase::verify;
  sent.votes = step_record::graph_vote | step_record::overlap_vote;
  sent.step = 0x1122334455667788;
  sent.config_hash = 0x99aabbccddeeff01;
  sent.last_plan = 0x2345678923456789;
  sent.world_rank = 255;
  sent.tokens = 131'072;
  sent.logits_tokens = 32'768;
  sent.draft_tokens = 65'536;
  sent.requests = 512;
  sent.width = 8;
  sent.prefix = 1'000'000;
  sent.cannot_run = 3;

  std::array<std::byte, 64> wire{};
  std::memcpy(wire.data(), &sent, sizeof sent);
  step_record received;
  std::memcpy(&received, wire.data(), sizeof received);
  CHECK(received == sent);
  for (std::size_t i = 0; i < wire.size(); ++i) {
    CAPTURE(i);
    std::array<std::byte, 64> corrupted = wire;
    corrupted[i] ^= std::byte{0x10};
    std::memcpy(&received, corrupted.data(), sizeof received);
    CHECK_FALSE(received == sent);
  }
}
