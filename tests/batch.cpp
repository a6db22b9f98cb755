// Any batch through pad, forward, nested pad and restore, left in every way there is; and the
// failures of the field, by name.
#include <dpgather/batch.hpp>

#include <dpgather/throw.hpp>

#include <support/guarded_bytes.hpp>
#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string_view>
#include <type_traits>
#include <vector>

namespace {

using namespace dpgather;
using test_support::guarded_bytes;
using test_support::random_source;

struct thrown {
  int at = 0;
};

/// The bytes of an integer as an element, by hand.
std::array<std::byte, 8> bytes_of(element type, std::int64_t value) {
  std::array<std::byte, 8> out{};
  const auto put = [&](auto v) { std::memcpy(out.data(), &v, sizeof v); };
  switch (type) {
  case element::u8:
    put(static_cast<std::uint8_t>(value));
    break;
  case element::i32:
    put(static_cast<std::int32_t>(value));
    break;
  case element::f32:
    put(static_cast<float>(value));
    break;
  case element::bf16: // 0, 1 and -1 only
    put(static_cast<std::uint16_t>(value == 0 ? 0 : value > 0 ? 0x3f80 : 0xbf80));
    break;
  default:
    put(value);
  }
  return out;
}

std::size_t bytes_in(element type) {
  return type == element::u8 ? 1 : type == element::bf16 ? 2 : type == element::i64 ? 8 : 4;
}

/// A batch with all that belongs to it, and what it must look like.
class random_batch {
public:
  random_batch(random_source& random, guarded_bytes& device, guarded_bytes& host,
               guarded_bytes& workspace)
      : device_{device}, host_{host}, workspace_{workspace} {
    const int count = random.between(1, 5);
    std::size_t device_size = 0;
    std::size_t host_size = 0;
    rows_.resize(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      batch_entry e;
      e.type = random.pick({element::u8, element::i32, element::i64, element::bf16, element::f32});
      const std::size_t size = bytes_in(e.type);
      e.width = random.pick({1, 1, 3, 8});
      e.outer = random.pick({1, 1, 3});
      e.capacity = 24;
      e.on_host = random.chance(25);
      const std::size_t unit = size * static_cast<std::size_t>(e.width);
      if (random.chance(30)) e.unit_stride = unit + size * random.between<std::size_t>(1, 3);
      const std::size_t stride = e.unit_stride == 0 ? unit : e.unit_stride;
      if (random.chance(30)) e.outer_stride = 24 * stride + size;
      const std::size_t slice = e.outer_stride == 0 ? 24 * stride : e.outer_stride;
      e.tail = batch_tail{random.pick({batch_unit::token, batch_unit::request}),
                          random.between<std::int64_t>(-1, 1)};
      e.saving = random.pick({batch_saving::tail, batch_saving::whole, batch_saving::nothing});
      std::size_t& next = e.on_host ? host_size : device_size;
      next += 8 - next % 8 + (random.chance(50) ? 8 : 0);
      places_.push_back(next);
      next += static_cast<std::size_t>(e.outer) * slice;
      entries_.push_back(e);
    }
    device_.reset(device_size + 16);
    host_.reset(host_size + 16);
    for (guarded_bytes* memory : {&device_, &host_}) {
      for (std::size_t i = 0; i < memory->size(); ++i)
        memory->data()[i] = static_cast<std::byte>(random.between(0, 255));
    }
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      entries_[i].data = memory_of(i).data() + places_[i];
      if (random.chance(60)) entries_[i].rows = &rows_[i];
    }
    has_sum_ = random.chance(50);
    sum_ = random.between(0, 1000);
    results_.push_back({.tensor = batch_output::logits, .capacity = 24, .rows = &logits_rows_});
    all_ = {.tensors = entries_, .results = results_, .depth = 2};
    if (has_sum_) all_.sequence_sum = &sum_;
    const std::size_t needed = value_or_throw(batch_workspace_bytes(all_));
    workspace_.reset(needed);

    k_ = random.pick({1, 1, 2, 3});
    outer_ = any_step(random, random.between(0, 6));
    inner_ = any_step(random, random.chance(50) ? outer_.requests.real : outer_.requests.padded);
    for (std::size_t i = 0; i < entries_.size(); ++i) rows_[i] = units(outer_, i).real;
    before_ = {device_.snapshot(), host_.snapshot()};
    rows_before_ = rows_;
    sum_before_ = sum_;
  }

  const batch_declaration& declaration() const { return all_; }
  const batch_step& outer() const { return outer_; }
  const batch_step& inner() const { return inner_; }

  /// Each tail of a step holds its fill, the rest is as `from`: one byte at a time.
  std::array<std::vector<std::byte>, 2> padded(std::array<std::vector<std::byte>, 2> from,
                                               const batch_step& step) const {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const auto fill = bytes_of(entries_[i].type, entries_[i].tail->value);
      const std::size_t size = bytes_in(entries_[i].type);
      each_byte(i, units(step, i).real, units(step, i).padded, [&](std::size_t at, std::size_t b) {
        from[entries_[i].on_host][at] = fill[b % size];
      });
    }
    return from;
  }
  std::array<std::vector<std::byte>, 2> now() const {
    return {device_.snapshot(), host_.snapshot()};
  }
  const std::array<std::vector<std::byte>, 2>& before() const { return before_; }
  bool rows_are_padded(const batch_step& step) const {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].rows != nullptr && rows_[i] != units(step, i).padded) return false;
    }
    return true;
  }
  std::int64_t sum() const { return sum_; }
  std::int64_t sum_before() const { return sum_before_; }
  bool has_sum() const { return has_sum_; }

  /// A forward that writes wherever it may, by whatever it likes.
  void scribble(const batch_step& step, random_source& random) {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const bool whole = *entries_[i].saving == batch_saving::whole;
      const std::int32_t first = whole ? 0 : units(step, i).real;
      each_byte(i, first, units(step, i).padded, [&](std::size_t at, std::size_t) {
        memory_of(i).data()[at] = static_cast<std::byte>(random.between(0, 255));
      });
    }
    logits_rows_ = step.tokens.padded;
  }
  /// And that keeps its counts where it likes.
  void scribble_on_counts() {
    for (const batch_entry& e : entries_) {
      if (e.rows != nullptr) *e.rows = -77;
    }
    if (has_sum_) sum_ = -78;
  }
  std::int64_t& logits_rows() { return logits_rows_; }

  /// Nothing changed but scratch; nobody wrote beside anything.
  void require_restored() {
    std::array<std::vector<std::byte>, 2> expected = before_;
    const auto found = now();
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (*entries_[i].saving != batch_saving::nothing) continue;
      const std::int32_t real = std::min(units(outer_, i).real, units(inner_, i).real);
      const std::int32_t padded = std::max(units(outer_, i).padded, units(inner_, i).padded);
      each_byte(i, real, padded, [&](std::size_t at, std::size_t) {
        expected[entries_[i].on_host][at] = found[entries_[i].on_host][at];
      });
    }
    REQUIRE(found == expected);
    REQUIRE(rows_ == rows_before_);
    REQUIRE(sum_ == sum_before_);
    REQUIRE(device_.intact());
    REQUIRE(host_.intact());
    REQUIRE(workspace_.intact());
  }
  /// Back to the beginning, for the next way out.
  void start_again() {
    std::memcpy(device_.data(), before_[0].data(), before_[0].size());
    std::memcpy(host_.data(), before_[1].data(), before_[1].size());
    logits_rows_ = 0;
  }

private:
  batch_step any_step(random_source& random, std::int32_t real) const {
    const unit_counts requests{.real = real, .padded = real + random.between(0, 8 - real)};
    return k_ == 1 ? batch_step::decode(requests) : batch_step::verify(requests, k_);
  }
  const unit_counts& units(const batch_step& step, std::size_t i) const {
    return entries_[i].tail->unit == batch_unit::token ? step.tokens : step.requests;
  }
  guarded_bytes& memory_of(std::size_t i) { return entries_[i].on_host ? host_ : device_; }
  template <class Visit>
  void each_byte(std::size_t i, std::int32_t first, std::int32_t last, Visit visit) const {
    const batch_entry& e = entries_[i];
    const std::size_t unit = bytes_in(e.type) * static_cast<std::size_t>(e.width);
    const std::size_t stride = e.unit_stride == 0 ? unit : e.unit_stride;
    const std::size_t slice = e.outer_stride == 0 ? 24 * stride : e.outer_stride;
    for (int s = 0; s < e.outer; ++s) {
      for (int u = first; u < last; ++u) {
        for (std::size_t b = 0; b < unit; ++b)
          visit(places_[i] + static_cast<std::size_t>(s) * slice +
                    static_cast<std::size_t>(u) * stride + b,
                b);
      }
    }
  }

  guarded_bytes &device_, &host_, &workspace_;
  std::vector<batch_entry> entries_;
  std::vector<batch_result> results_;
  std::vector<std::size_t> places_;
  std::vector<std::int64_t> rows_, rows_before_;
  std::array<std::vector<std::byte>, 2> before_;
  std::int64_t logits_rows_ = 0, sum_ = 0, sum_before_ = 0;
  bool has_sum_ = false;
  std::int32_t k_ = 1;
  batch_step outer_, inner_;
  batch_declaration all_;
};

/// One step with a speculative one inside. Throws behind its `way`-th part; 6: runs through.
void run_step(batch<host_stream>& padding, random_batch& b, random_source& random, int way) {
  const auto part = [way](int number) {
    if (number == way) throw thrown{number};
  };
  part(0);
  auto outer = value_or_throw(padding.pad(b.outer(), host_stream{}));
  REQUIRE(b.now() == b.padded(b.before(), b.outer()));
  REQUIRE(b.rows_are_padded(b.outer()));
  if (b.has_sum())
    REQUIRE(b.sum() == b.sum_before() + b.outer().requests.padded - b.outer().requests.real);
  part(1);
  b.scribble(b.outer(), random);
  part(2);
  {
    const auto between = b.now();
    auto inner = value_or_throw(padding.pad(b.inner(), host_stream{}));
    REQUIRE(b.now() == b.padded(between, b.inner()));
    REQUIRE(b.rows_are_padded(b.inner()));
    if (b.has_sum())
      REQUIRE(b.sum() == b.sum_before() + b.inner().requests.padded - b.outer().requests.real);
    part(3);
    b.scribble(b.inner(), random);
    b.scribble_on_counts();
    part(4);
    REQUIRE(inner.finish().ok());
    REQUIRE_FALSE(inner.active());
    REQUIRE(b.rows_are_padded(b.outer())); // as the inner guard found them
  }
  part(5);
  padded_batch<host_stream> elsewhere{std::move(outer)};
  REQUIRE_FALSE(outer.active());
  REQUIRE(elsewhere.finish().ok());
  REQUIRE(b.logits_rows() == b.outer().tokens.real);
}

/// Four requests' tensors by hand, of which one forward pads three to four.
struct small_batch {
  std::vector<std::int64_t> ids{11, 12, 13, 90, 91, 92, 93, 94};
  std::vector<std::int32_t> lengths{6, 10, 3, 80, 81, 82, 83, 84};
  std::vector<std::int64_t> lengths_on_host{6, 10, 3, 70, 71, 72, 73, 74};
  std::vector<std::int32_t> locations{50, 51, 52, 60, 61, 62, 63, 64};
  std::vector<float> hidden = std::vector<float>(16, 0.5f);
  std::vector<float> logits = std::vector<float>(16, 0.25f);
  std::int64_t id_rows = 3, hidden_rows = 3, logits_rows = 0, sum = 19;
  leak_record leak;
  std::vector<batch_entry> entries{
      {.tensor = batch_tensor::input_ids,
       .data = ids.data(),
       .type = element::i64,
       .capacity = 8,
       .rows = &id_rows},
      {.tensor = batch_tensor::sequence_lengths,
       .data = lengths.data(),
       .type = element::i32,
       .capacity = 8},
      {.tensor = batch_tensor::sequence_lengths,
       .data = lengths_on_host.data(),
       .type = element::i64,
       .capacity = 8,
       .on_host = true},
      {.tensor = batch_tensor::out_cache_locations,
       .data = locations.data(),
       .type = element::i32,
       .capacity = 8,
       .rows = &id_rows}, // a count for both
      {.tensor = batch_tensor::speculative_hidden,
       .data = hidden.data(),
       .type = element::f32,
       .width = 2,
       .capacity = 8,
       .rows = &hidden_rows},
      {.tensor = batch_tensor::lora_ids}, // absent
  };
  std::vector<batch_result> results{{.tensor = batch_output::logits,
                                     .data = logits.data(),
                                     .type = element::f32,
                                     .width = 2,
                                     .capacity = 8,
                                     .rows = &logits_rows}};
  std::vector<std::byte> workspace = std::vector<std::byte>(4096);

  batch_declaration declaration() {
    return {.tensors = entries,
            .results = results,
            .engine = {.sacrificial_slot = -1},
            .sequence_sum = &sum,
            .depth = 2,
            .leak = &leak,
            .rank = 5};
  }
  small_batch() = default;
  small_batch(const small_batch&) = delete;
  small_batch& operator=(const small_batch&) = delete;

  bool is_untouched() const {
    const small_batch fresh;
    return ids == fresh.ids && lengths == fresh.lengths &&
           lengths_on_host == fresh.lengths_on_host && locations == fresh.locations &&
           hidden == fresh.hidden && id_rows == 3 && hidden_rows == 3 && sum == 19;
  }
};

constexpr unit_counts three_of_four{.real = 3, .padded = 4};
std::string_view name(const status& s) {
  return s.value_name == nullptr ? std::string_view{} : s.value_name;
}

/// The host's executor with a launch that fails, and captures that begin when told to.
struct stage {
  int launches = 0;
  int failing = 0; ///< the launch that fails, from 1
  bool capturing = false;
  bool invalid = false;
};
struct staged_stream {
  stage* on = nullptr;
};

} // namespace

template <>
struct dpgather::executor<staged_stream> {
  template <dpgather::device_job Job>
  [[nodiscard]] static dpgather::status run(const Job& job, std::int32_t,
                                            staged_stream stream) noexcept {
    if (job.parts() == 0 || job.words() == 0) return {};
    if (++stream.on->launches == stream.on->failing)
      return {.code = dpgather::errc::native_error, .native = 719};
    return dpgather::executor<dpgather::host_stream>::run(job, 0, {});
  }
  [[nodiscard]] static dpgather::result<bool> is_capturing(staged_stream stream) noexcept {
    if (stream.on->invalid)
      return dpgather::status{.code = dpgather::errc::not_capturable, .native = 901};
    return stream.on->capturing;
  }
  /// No stream at hand: odd addresses are somebody else's.
  [[nodiscard]] static dpgather::status check_memory(const void* pointer) noexcept {
    if (reinterpret_cast<std::uintptr_t>(pointer) % 2 == 0) return {};
    return {.code = dpgather::errc::wrong_memory};
  }
};

TEST_CASE("any batch, left at any step of a padded forward, is itself again byte for byte") {
  guarded_bytes device, host, workspace;
  test_support::for_random_cases([&](random_source& random) {
    random_batch b{random, device, host, workspace};
    batch<host_stream> padding{b.declaration(), {workspace.data(), workspace.size()}};
    REQUIRE(padding.check().ok());
    for (int way = 0; way <= 6; ++way) {
      CAPTURE(way);
      int left = 6;
      try {
        run_step(padding, b, random, way);
      } catch (const thrown& t) {
        left = t.at;
      }
      REQUIRE(left == way);
      REQUIRE(padding.open() == 0);
      REQUIRE(padding.check().ok());
      b.require_restored();
      b.start_again(); // scratch
    }
  });
}

TEST_CASE("one launch pads, one restores, whatever there is to save") {
  small_batch b;
  stage on;
  batch<staged_stream> padding{b.declaration(), b.workspace};
  REQUIRE(padding.check().ok());
  auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
  REQUIRE(padded);
  CHECK(on.launches == 1);
  CHECK(b.ids[3] == 0);
  CHECK(b.lengths[3] == 1);
  CHECK(b.lengths_on_host[3] == 1);
  CHECK(b.locations[3] == -1);
  CHECK(b.hidden[6] == 0);
  CHECK(b.ids[4] == 91);
  CHECK(b.id_rows == 4);
  CHECK(b.sum == std::accumulate(b.lengths_on_host.begin(), b.lengths_on_host.begin() + 4, 0));
  b.logits_rows = 4;
  CHECK(padded->rows_left(batch_output::hidden, 4).value() == 3);
  CHECK(padded->finish().ok());
  CHECK(on.launches == 2);
  CHECK(b.is_untouched());
  CHECK(b.logits_rows == 3);
  // Ended twice is ended once.
  CHECK(padded->finish().ok());
  CHECK(padded->rows_left(batch_output::hidden, 4).code() == errc::bad_config);
  CHECK(on.launches == 2);
}

TEST_CASE("half-restored batches (sglang #21207, #33829): an exception, an early return, and a "
          "forward that replaces what it was given") {
  const auto forward = [](small_batch& b, batch<host_stream>& padding, int way) -> status {
    auto padded = padding.pad(batch_step::draft(three_of_four), host_stream{});
    if (!padded) return padded.status();
    // The draft writes its own hidden states and locations over those it was given.
    std::fill(b.hidden.begin(), b.hidden.begin() + 8, 9.0f);
    std::fill(b.locations.begin(), b.locations.begin() + 4, 7);
    b.hidden_rows = 1;
    b.sum = 0;
    b.logits_rows = 4;
    if (way == 0) throw thrown{};
    if (way == 1) return {};
    return padded->finish();
  };
  for (int way = 0; way < 3; ++way) {
    CAPTURE(way);
    small_batch b;
    batch<host_stream> padding{b.declaration(), b.workspace};
    bool threw = false;
    try {
      const status outcome = forward(b, padding, way);
      CHECK(outcome.ok());
    } catch (const thrown&) {
      threw = true;
    }
    CHECK(threw == (way == 0));
    CHECK(b.is_untouched());
    CHECK(b.logits_rows == 3); // cut on every way out
    CHECK(padding.check().ok());
  }
}

TEST_CASE("guards end innermost first, whoever ends first") {
  small_batch b;
  batch<host_stream> padding{b.declaration(), b.workspace};
  auto outer = padding.pad(batch_step::draft(three_of_four), host_stream{});
  auto inner = padding.pad(batch_step::draft({.real = 4, .padded = 6}), host_stream{});
  REQUIRE(outer);
  REQUIRE(inner);
  CHECK(padding.open() == 2);
  CHECK(b.id_rows == 6);
  CHECK(b.sum == 19 + 1 + 2);
  const auto third = padding.pad(batch_step::draft(three_of_four), host_stream{});
  CHECK(third.code() == errc::capacity_exceeded);
  CHECK(third.status().about == subject::call);
  CHECK(third.status().value == 3);
  CHECK(third.status().limit == 2);
  CHECK(third.status().rank == 5);
  b.logits_rows = 6;
  CHECK(outer->finish().ok());
  CHECK_FALSE(inner->active());
  CHECK(inner->finish().ok());
  CHECK(b.is_untouched());

  // Nor does a guard that was ended for it touch those that came after it, at its place.
  {
    const auto next_outer = padding.pad(batch_step::draft(three_of_four), host_stream{});
    const auto next_inner = padding.pad(batch_step::draft({.real = 4, .padded = 6}), host_stream{});
    CHECK_FALSE(inner->active());
    CHECK(inner->finish().ok());
    inner = status{.code = errc::busy}; // destroys it
    CHECK(padding.open() == 2);
    CHECK(b.id_rows == 6);
  }
  CHECK(b.is_untouched());

  // A guard that takes another one's place ends what it had.
  padded_batch<host_stream> held =
      value_or_throw(padding.pad(batch_step::draft(three_of_four), {}));
  held = padded_batch<host_stream>{};
  CHECK(b.is_untouched());
  CHECK(padding.open() == 0);

  // The old guard's number is not the new one's.
  padded_batch<host_stream> old = value_or_throw(padding.pad(batch_step::draft(three_of_four), {}));
  CHECK(old.finish().ok());
  auto fresh = padding.pad(batch_step::draft(three_of_four), host_stream{});
  CHECK_FALSE(old.active());
  CHECK(old.finish().ok());
  CHECK(fresh->active());
  CHECK(b.id_rows == 4);
}

TEST_CASE("the sum inside another guard is counted from real requests, or refused") {
  small_batch b;
  batch<host_stream> padding{b.declaration(), b.workspace};
  const auto outer = padding.pad(batch_step::draft(three_of_four), host_stream{});
  {
    const auto inner = padding.pad(batch_step::draft({.real = 3, .padded = 8}), host_stream{});
    REQUIRE(inner);
    CHECK(b.sum == 19 + 5);
  }
  CHECK(b.sum == 19 + 1);
  b.entries.clear();
  const auto other = padding.pad(batch_step::draft({.real = 2, .padded = 4}), host_stream{});
  CHECK(other.code() == errc::count_changed);
  CHECK(b.sum == 19 + 1);
}

TEST_CASE("a refused step writes nothing, says what is wrong, and the next one works") {
  small_batch b;
  stage on;
  batch<staged_stream> padding{b.declaration(), b.workspace};
  const auto refused = [&](const batch_step& step) {
    const auto padded = padding.pad(step, {&on});
    CHECK_FALSE(padded);
    CHECK(on.launches == 0);
    CHECK(b.is_untouched());
    CHECK(padding.open() == 0);
    CHECK(padded.status().rank == 5);
    return padded.status();
  };
  status s = refused(batch_step::decode({.real = 3, .padded = 9}));
  CHECK(s.code == errc::capacity_exceeded);
  CHECK(s.value == 9);
  CHECK(s.limit == 8);
  CHECK(s.peer == 0);
  s = refused(batch_step::decode({.real = -1, .padded = 4}));
  CHECK(s.code == errc::count_out_of_range);
  s = refused(batch_step::decode({.real = 5, .padded = 4}));
  CHECK(s.code == errc::count_out_of_range);
  s = refused(batch_step::decode({.real = 2, .padded = 4})); // the engine's tensors have 3 rows
  CHECK(s.code == errc::count_changed);
  CHECK(s.value == 3);
  CHECK(s.limit == 2);
  CHECK(s.peer == 0);
  s = refused(batch_step::verify({.real = 3, .padded = 4}, std::numeric_limits<int>::max()));
  CHECK(s.code == errc::capacity_exceeded);
  batch_step bad = batch_step::decode(three_of_four);
  bad.tokens_per_request = 0;
  CHECK(refused(bad).code == errc::count_out_of_range);
  bad = batch_step::decode(three_of_four);
  bad.step = phase::verify; // without speculation
  CHECK(refused(bad).code == errc::bad_config);
  b.sum = -2;
  CHECK(padding.pad(batch_step::decode(three_of_four), {&on}).code() == errc::count_out_of_range);
  b.sum = 19;

  const std::int32_t rows = 3;
  s = refused(batch_step::decode({.padded = 4, .live = &rows}));
  CHECK(s.code == errc::bad_config); // a host copy cannot be padded by a count it does not see
  CHECK(s.peer == 2);
  on.capturing = true;
  s = refused(batch_step::decode(three_of_four));
  CHECK(s.code == errc::not_capturable);
  CHECK(s.peer == 0);
  on.capturing = false;
  on.invalid = true;
  CHECK(refused(batch_step::decode(three_of_four)).native == 901);
  on.invalid = false;

  auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
  REQUIRE(padded);
  b.logits_rows = 4;
  CHECK(padded->finish().ok());
  CHECK(b.is_untouched());
}

TEST_CASE("launches that fail: padding that never was, restoring that is tried again, and one that "
          "nobody was told of") {
  small_batch b;
  stage on;
  batch<staged_stream> padding{b.declaration(), b.workspace};
  on.failing = 1;
  CHECK(padding.pad(batch_step::decode(three_of_four), {&on}).code() == errc::native_error);
  CHECK(b.is_untouched());
  CHECK(padding.open() == 0);

  on = {.failing = 2};
  {
    auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
    REQUIRE(padded);
    b.logits_rows = 4;
    const status told = padded->finish();
    CHECK(told.code == errc::native_error);
    CHECK(told.rank == 5);
    CHECK(padded->active());
    CHECK(b.id_rows == 4); // padded still, in all its parts
    CHECK(b.ids[3] == 0);
    CHECK(b.lengths_on_host[3] == 1);
  } // the destructor's launch works
  CHECK(b.is_untouched());
  CHECK(padding.check().ok());

  on = {.failing = 2};
  { const auto padded = padding.pad(batch_step::decode(three_of_four), {&on}); }
  CHECK(b.id_rows == 3);
  CHECK(b.sum == 19);
  CHECK(b.lengths_on_host[3] == 70);
  CHECK(b.ids[3] == 0); // lost
  CHECK(padding.check().code == errc::poisoned);
  CHECK(padding.check().cause == errc::native_error);
  CHECK(padding.check().native == 719);
  CHECK(padding.pad(batch_step::decode(three_of_four), {&on}).code() == errc::poisoned);
  b.ids[3] = 90;
  padding.clear();
  CHECK(padding.pad(batch_step::decode(three_of_four), {&on}).ok());
}

TEST_CASE("a guard does not restore into a capture that it was not begun in") {
  small_batch b;
  stage on;
  batch<staged_stream> padding{b.declaration(), b.workspace};
  {
    auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
    b.logits_rows = 4;
    on.capturing = true;
    const status s = padded->finish();
    CHECK(s.code == errc::not_capturable);
    CHECK(name(s) == "capturing");
    CHECK(on.launches == 1);
    CHECK(b.id_rows == 4);
    on.capturing = false;
    CHECK(padded->finish().ok());
    CHECK(b.is_untouched());
  }
  {
    const auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
    on.capturing = true;
  }
  on.capturing = false;
  CHECK(padding.check().cause == errc::not_capturable);
  CHECK(b.id_rows == 3);
}

TEST_CASE(
    "live counts: counts are read when the jobs run, the way back takes those of the way in") {
  small_batch b;
  stage on;
  b.entries.erase(b.entries.begin() + 2); // the host copy
  batch_declaration all = b.declaration();
  all.sequence_sum = nullptr;
  batch<staged_stream> padding{all, b.workspace};
  for (const std::int32_t now : {0, 1, 3, 4, 8, 100}) {
    CAPTURE(now);
    std::int32_t rows = now;
    on = {.capturing = true};
    auto padded = padding.pad(batch_step::decode({.padded = 4, .live = &rows}), {&on});
    REQUIRE(padded);
    for (int i = 0; i < 4; ++i) CHECK((b.ids[static_cast<std::size_t>(i)] == 0) == (i >= now));
    CHECK(b.id_rows == 4);
    CHECK(padded->rows_left(batch_output::logits, 4).code() == errc::bad_config);
    rows = 2; // the next step's
    b.logits_rows = 4;
    CHECK(padded->finish().ok());
    CHECK(b.logits_rows == 4); // nobody knows here
    CHECK(b.is_untouched());
  }
  // A capture that was spoilt has not run: nothing is half restored.
  const std::int32_t rows = 3;
  on = {.capturing = true};
  {
    const auto padded = padding.pad(batch_step::decode({.padded = 4, .live = &rows}), {&on});
    on.invalid = true;
  }
  CHECK(padding.check().ok());
  // One that ended too early pads and never restores.
  on = {.capturing = true};
  {
    const auto padded = padding.pad(batch_step::decode({.padded = 4, .live = &rows}), {&on});
    on.capturing = false;
  }
  CHECK(padding.check().cause == errc::not_capturable);
}

TEST_CASE("results that lack real rows are told, and everything else is restored") {
  small_batch b;
  batch<host_stream> padding{b.declaration(), b.workspace};
  auto padded = padding.pad(batch_step::decode(three_of_four), host_stream{});
  b.logits_rows = 2;
  const status s = padded->finish();
  CHECK(s.code == errc::count_out_of_range);
  CHECK(s.peer == 0);
  CHECK(s.rank == 5);
  CHECK(s.value == 3);
  CHECK(s.limit == 2);
  CHECK(name(s) == "rows kept");
  CHECK(b.is_untouched());
  CHECK(b.logits_rows == 2);
  CHECK(padding.open() == 0);
}

TEST_CASE("an idle rank pads from nothing, and has nothing left") {
  small_batch b;
  b.id_rows = b.hidden_rows = b.sum = 0;
  batch<host_stream> padding{b.declaration(), b.workspace};
  auto padded = padding.pad(batch_step::idle(4), host_stream{});
  REQUIRE(padded);
  CHECK(b.ids == std::vector<std::int64_t>{0, 0, 0, 0, 91, 92, 93, 94});
  CHECK(b.id_rows == 4);
  CHECK(b.sum == 4);
  b.logits_rows = 4;
  CHECK(padded->finish().ok());
  CHECK(b.logits_rows == 0);
  CHECK(b.id_rows == 0);
  CHECK(b.sum == 0);
  CHECK(b.ids == small_batch{}.ids);
}

TEST_CASE("extend cuts to the tokens of this step, cached prefixes apart") {
  small_batch b;
  b.entries.resize(3);
  b.entries[0].rows = nullptr;
  std::int64_t hidden = 8;
  b.results.push_back({.tensor = batch_output::hidden, .rows = &hidden});
  batch<host_stream> padding{b.declaration(), b.workspace};
  auto padded = padding.pad(batch_step::extend({.real = 3, .padded = 3}, {.real = 5, .padded = 8}),
                            host_stream{});
  REQUIRE(padded);
  CHECK(b.sum == 19); // lengths with their prefixes: more than the 8 rows there are
  b.logits_rows = 3;
  CHECK(padded->finish().ok());
  CHECK(b.logits_rows == 3);
  CHECK(hidden == 5);
}

TEST_CASE(
    "garbage in pad rows (sglang #10414, vllm #39593): NaN in tails is gone before the forward "
    "and back behind it") {
  small_batch b;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::fill(b.hidden.begin() + 6, b.hidden.end(), nan);
  batch<host_stream> padding{b.declaration(), b.workspace};
  {
    auto padded = padding.pad(batch_step::draft(three_of_four), host_stream{});
    b.logits_rows = 4;
    const float sum = std::accumulate(b.hidden.begin(), b.hidden.begin() + 8, 0.0f);
    CHECK(sum == 3.0f);
    CHECK(padded->finish().ok());
  }
  CHECK(std::isnan(b.hidden[6]));
}

TEST_CASE("a planted leak is named: step, rank, tensor and row") {
  small_batch b;
  b.results.push_back({.tensor = batch_output::hidden,
                       .data = b.hidden.data(),
                       .type = element::f32,
                       .width = 2,
                       .capacity = 8});
  batch_declaration all = b.declaration();
  all.poison = true;
  batch<host_stream> padding{all, b.workspace};
  REQUIRE(padding.check().ok());
  // The forward of this step mixes row r with row `r + reach` of the hidden states.
  const auto step = [&](int reach) {
    auto padded = padding.pad(batch_step::draft(three_of_four), host_stream{});
    REQUIRE(padded);
    CHECK(std::isnan(b.hidden[6]));
    CHECK(b.ids[3] == 0); // integers as ever, since readers index with them
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 2; ++c) {
        const int from = std::min(r + reach, 3);
        b.logits[static_cast<std::size_t>(2 * r + c)] =
            b.hidden[static_cast<std::size_t>(2 * r + c)] +
            (c == 1 ? b.hidden[static_cast<std::size_t>(2 * from + c)] : 0.0f);
      }
    }
    b.logits_rows = 4;
    CHECK(padded->finish().ok());
    CHECK(b.is_untouched());
  };
  step(0);
  CHECK(padding.leak().ok()); // pads are poison in pad rows only
  step(2);                    // row 1 takes row 3, which is a pad, and row 2 too
  const status first = padding.leak();
  CHECK(first.code == errc::tail_leak);
  CHECK(first.rank == 5);
  CHECK(first.peer == 0);
  CHECK(first.value == 1);
  CHECK(first.call == 2);
  CHECK(name(first) == "logits");
  CHECK(first.message().view() ==
        "rank 5, call 2: tail_leak: what pads were filled with has reached "
        "row 1 of tensor 0 (logits) [batch::leak]");
  step(3); // row 0 too, but later: the first step is what one looks for
  CHECK(padding.leak().call == 2);
  b.leak = {};
  CHECK(padding.leak().ok());
  step(3);
  CHECK(padding.leak().value == 0);
  CHECK(padding.leak().call == 4);
  // A destructor does not look: the forward may not have run.
  b.leak = {};
  {
    const auto padded = padding.pad(batch_step::draft(three_of_four), host_stream{});
    b.logits[0] = std::numeric_limits<float>::quiet_NaN();
    b.logits_rows = 4;
  }
  CHECK(padding.leak().ok());
}

TEST_CASE("what the constructor refuses, every pad answers") {
  small_batch b;
  const auto refused = [&](const batch_declaration& all, std::span<std::byte> workspace) {
    batch<staged_stream> padding{all, workspace};
    stage on;
    const auto padded = padding.pad(batch_step::decode(three_of_four), {&on});
    CHECK(padded.code() == padding.check().code);
    CHECK(padding.check().rank == 5);
    CHECK(on.launches == 0);
    CHECK(b.is_untouched());
    return padding.check();
  };
  const std::size_t needed = value_or_throw(batch_workspace_bytes(b.declaration()));
  const std::span<std::byte> memory{b.workspace};
  status s = refused(b.declaration(), memory.first(needed - 1));
  CHECK(s.code == errc::capacity_exceeded);
  CHECK(s.about == subject::workspace);
  CHECK(s.value == static_cast<std::int64_t>(needed));
  CHECK(s.limit == static_cast<std::int64_t>(needed) - 1);
  CHECK(refused(b.declaration(), memory.subspan(8)).code == errc::misaligned);
  batch_declaration all = b.declaration();
  all.depth = 0;
  CHECK(refused(all, memory).code == errc::count_out_of_range);
  b.entries.push_back({.tensor = batch_tensor::input_embeddings,
                       .data = b.workspace.data() + 64,
                       .type = element::f32,
                       .capacity = 2});
  s = refused(b.declaration(), memory);
  CHECK(s.code == errc::aliasing);
  CHECK(s.value == 6);
  b.entries.back() = {.data = b.workspace.data() + 4001, .type = element::u8, .capacity = 2};
  s = refused(b.declaration(), memory.first(3200));
  CHECK(s.code == errc::wrong_memory);
  CHECK(s.peer == 6);
  b.entries.pop_back();
  batch<staged_stream> works{b.declaration(), memory.first(needed)};
  CHECK(works.check().ok());
}
