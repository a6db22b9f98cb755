#pragma once

/// @file
/// Stories of a peer channel: sequences of gathers and combines that every rank lives through at
/// its own pace, without any barrier between ranks. Before a call a rank writes its inputs, after
/// it it looks at every byte of the outputs: one text for CPU threads and for kernels, so that
/// nothing but the protocol keeps the ranks together.

#include "payload.hpp"
#include "random_cases.hpp"

#include <dpgather/device/peer_combine.hpp>
#include <dpgather/device/peer_gather.hpp>
#include <dpgather/planner.hpp>
#include <dpgather/step_plan.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace test_support {

namespace dg = dpgather;

/// One call of a story, equal on all ranks.
struct story_call {
  bool combines = false;
  bool partial = false; ///< the gather's input owes a sum
  dg::counts_kind source = dg::counts_kind::agreed;
  dg::placement places{};
  std::int32_t rows[dg::max_peer_ranks]{};
  std::int64_t global_rows = 0;
  std::int64_t local_rows = 0; ///< of every rank's view
  std::int32_t input = -1;
  std::int32_t blocks = 1;
  dg::fill_word fill{};
  std::uint32_t shape = 0;
  std::uint64_t key = 0; ///< of its payload
};

/// What a rank has outside the arena.
struct story_rank {
  dg::peer_lane lane{};
  dg::count_set* live = nullptr;
  std::byte* local[dg::max_peer_tensors]{}; ///< inputs
  std::uint64_t local_stride[dg::max_peer_tensors]{};
  std::byte* output = nullptr;       ///< of combines, dense
  dg::row_source* sources = nullptr; ///< of gathered rows
  std::uint32_t* pad_bits = nullptr;
  std::int32_t* experts = nullptr; ///< two for each gathered row
  std::uint64_t* wrong = nullptr;
  std::uint64_t* first_wrong = nullptr; ///< call, what, row, column, what was there
};

inline constexpr unsigned char untouched = 0x5a;

/// The bytes of a story, by call, tensor, rank, row and column.
struct story_bytes {
  DPGATHER_HOST_DEVICE static std::uint8_t of_row(std::uint64_t key, std::int32_t tensor,
                                                  std::int32_t dp_rank, std::int64_t row,
                                                  std::uint64_t column) {
    return static_cast<std::uint8_t>(
        mixed(key, static_cast<std::uint64_t>(tensor) * 64 + static_cast<std::uint64_t>(dp_rank),
              static_cast<std::uint64_t>(row), column / 8) >>
        (column % 8 * 8));
  }
  /// -4 to 3: sums over 16 ranks are exact in every element and order.
  DPGATHER_HOST_DEVICE static std::int32_t addend(std::uint64_t key, std::int32_t rank,
                                                  std::int64_t row, std::uint64_t element) {
    return static_cast<std::int32_t>(mixed(key, static_cast<std::uint64_t>(rank) + 1000,
                                           static_cast<std::uint64_t>(row), element) %
                                     8) -
           4;
  }
};

/// A rank's part in a story. `Meet` brings the blocks of one rank together.
template <class Sum, class Block, class Meet>
class story_teller {
public:
  using storage = typename Sum::storage;

  DPGATHER_HOST_DEVICE story_teller(Block& block, const story_rank& rank, Meet meet)
      : block_{block}, rank_{rank}, meet_{meet} {}

  DPGATHER_HOST_DEVICE void tell(const story_call& call) {
    prepare(call);
    make(call);
    look(call);
  }
  /// Writes the inputs of a call.
  DPGATHER_HOST_DEVICE void prepare(const story_call& call) {
    before(call);
    meet_();
  }
  /// The call itself.
  DPGATHER_HOST_DEVICE void make(const story_call& call) {
    if (block_.block() < static_cast<std::uint32_t>(call.blocks)) run(call);
    meet_();
  }
  /// Looks at every byte of the outputs.
  DPGATHER_HOST_DEVICE void look(const story_call& call) {
    after(call);
    meet_();
  }

private:
  [[nodiscard]] DPGATHER_HOST_DEVICE dg::worker_id worker() const {
    return dg::peer_rows::worker(block_);
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE const dg::peer_layout& layout() const {
    return rank_.lane.layout;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t tp() const { return layout().tp_size; }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t dp_rank() const {
    return rank_.lane.rank() / tp();
  }
  static constexpr std::int32_t plain_ranks = Block::rules_type::ranks; ///< 0: calls of any shape

  [[nodiscard]] DPGATHER_HOST_DEVICE dg::basic_peer_rows<plain_ranks>
  shared_part(const story_call& call) const {
    auto out = dg::basic_peer_rows<plain_ranks>::of(rank_.lane, call.places);
    out.live = rank_.live;
    out.source = call.source;
    out.shape = call.shape;
    out.local_rows = static_cast<std::int32_t>(call.local_rows);
    return out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t tensors(const story_call& call) const {
    return call.partial ? 1 : layout().tensors;
  }
  /// The input that the combine will read; the job decides alike.
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t input_of(const story_call& call) const {
    const dg::peer_state& state = rank_.lane.state();
    return dg::choose_input(call.input, layout().input_count, block_.word(&state.input_used[0]),
                            block_.word(&state.epoch[0]) + 1);
  }

  DPGATHER_HOST_DEVICE void before(const story_call& call) {
    const std::int32_t dp = static_cast<std::int32_t>(layout().ranks / tp());
    if (block_.block() == 0 && block_.thread() == 0) {
      std::int64_t sum = 0;
      for (std::int32_t d = 0; d < dp; ++d) {
        const bool known = call.combines || call.source != dg::counts_kind::exchanged;
        rank_.live->rows[d] = known || d == dp_rank() ? call.rows[d] : -77;
        rank_.live->offset[d] = sum;
        sum += call.rows[d];
      }
      rank_.live->offset[dp] = rank_.live->total = sum;
    }
    if (call.combines) {
      const std::int32_t which = input_of(call);
      storage* const to = reinterpret_cast<storage*>(rank_.lane.mine(layout().inputs[which]));
      const std::uint64_t elements = layout().row_bytes[0] / sizeof(storage);
      for_each(call.global_rows, elements, [&](std::int64_t row, std::uint64_t e) {
        storage value;
        memset(&value, 0xff, sizeof value); // NaN
        if (owner(call, row) >= 0)
          value = Sum::narrow(static_cast<typename Sum::accumulator>(
              story_bytes::addend(call.key, rank_.lane.rank(), row, e)));
        to[static_cast<std::uint64_t>(row) * elements + e] = value;
      });
      for_each(call.local_rows + 1, layout().row_bytes[0], [&](std::int64_t row, std::uint64_t b) {
        rank_.output[static_cast<std::uint64_t>(row) * layout().row_bytes[0] + b] =
            std::byte{untouched};
      });
      return;
    }
    for_each(call.global_rows, 2, [&](std::int64_t row, std::uint64_t k) {
      rank_.experts[static_cast<std::uint64_t>(row) * 2 + k] = static_cast<std::int32_t>(row) + 3;
    });
    for (std::int32_t t = 0; t < tensors(call); ++t) {
      std::byte* const to = rank_.local[t];
      const std::uint64_t stride = rank_.local_stride[t];
      const std::int32_t n = call.rows[dp_rank()];
      if (call.partial) {
        const std::uint64_t elements = layout().row_bytes[0] / sizeof(storage);
        for_each(call.local_rows, elements, [&](std::int64_t row, std::uint64_t e) {
          storage value;
          memset(&value, 0xff, sizeof value);
          if (row < n)
            value = Sum::narrow(static_cast<typename Sum::accumulator>(
                story_bytes::addend(call.key, rank_.lane.rank(), row, e)));
          memcpy(to + static_cast<std::uint64_t>(row) * stride + e * sizeof value, &value,
                 sizeof value);
        });
      } else {
        for_each(call.local_rows, layout().row_bytes[t], [&](std::int64_t row, std::uint64_t b) {
          to[static_cast<std::uint64_t>(row) * stride + b] =
              row < n ? std::byte{story_bytes::of_row(call.key, t, dp_rank(), row, b)}
                      : std::byte{0xff};
        });
      }
    }
  }

  DPGATHER_HOST_DEVICE void run(const story_call& call) {
    // As many blocks as the call has, whatever there are.
    if (call.combines) {
      dg::peer_combine<Sum, plain_ranks> job;
      job.rows = shared_part(call);
      job.local = {rank_.output, layout().row_bytes[0], layout().row_bytes[0]};
      job.fill = call.fill;
      job.input = call.input;
      with_blocks(call, job);
    } else if (call.partial) {
      if constexpr (plain_ranks == 0) {
        dg::peer_gather<Sum> job;
        describe(call, job);
        with_blocks(call, job);
      }
    } else {
      dg::peer_gather<dg::no_sum, plain_ranks> job;
      describe(call, job);
      with_blocks(call, job);
    }
  }
  template <class Job>
  DPGATHER_HOST_DEVICE void describe(const story_call& call, Job& job) const {
    job.rows = shared_part(call);
    job.tensors = tensors(call);
    job.masks.sources = rank_.sources;
    job.masks.pad_bits = rank_.pad_bits;
    job.masks.topk_ids = rank_.experts;
    job.masks.topk = 2;
    job.writes_masks = true;
    for (std::int32_t t = 0; t < job.tensors; ++t) {
      job.local[t] = {rank_.local[t], layout().row_bytes[t], rank_.local_stride[t]};
      job.fill[t] = t == 0 ? call.fill : dg::fill_word{}; // a pattern must divide its rows
    }
  }
  template <class Job>
  DPGATHER_HOST_DEVICE void with_blocks(const story_call& call, const Job& job) {
    Block narrowed = block_.narrowed(static_cast<std::uint32_t>(call.blocks));
    job(narrowed);
  }

  DPGATHER_HOST_DEVICE void after(const story_call& call) {
    if (call.combines) {
      const std::uint64_t elements = layout().row_bytes[0] / sizeof(storage);
      const storage* const from = reinterpret_cast<const storage*>(rank_.output);
      const std::int32_t n = call.rows[dp_rank()];
      const std::int64_t first = offset(call, dp_rank());
      for_each(call.local_rows + 1, elements, [&](std::int64_t row, std::uint64_t e) {
        storage expected;
        if (row < n) {
          std::int32_t sum = 0;
          for (std::int32_t r = 0; r < layout().ranks; ++r)
            sum += story_bytes::addend(call.key, r, first + row, e);
          expected = Sum::narrow(static_cast<typename Sum::accumulator>(sum));
        } else {
          expected = tail_element(call, row >= call.local_rows);
        }
        const storage got = from[static_cast<std::uint64_t>(row) * elements + e];
        if (!same_bits(got, expected)) note(call, 1, row, e);
      });
      return;
    }
    if (block_.block() == 0 && block_.thread() == 0) {
      const std::int32_t dp = static_cast<std::int32_t>(layout().ranks / tp());
      std::int64_t sum = 0;
      for (std::int32_t d = 0; d < dp; ++d) {
        if (rank_.live->rows[d] != call.rows[d] || rank_.live->offset[d] != sum)
          note(call, 2, d, 0);
        sum += call.rows[d];
      }
      if (rank_.live->total != sum) note(call, 3, 0, 0);
    }
    for_each(call.global_rows, 1, [&](std::int64_t row, std::uint64_t) {
      const std::int32_t d = owner(call, row);
      const dg::row_source got = rank_.sources[row];
      const std::int64_t own_row = d < 0 ? -1 : row - offset(call, d);
      const bool is_pad = (rank_.pad_bits[row / 32] >> (row % 32) & 1u) != 0;
      const std::int32_t expert = d < 0 ? -1 : static_cast<std::int32_t>(row) + 3;
      if (got.dp_rank != d || got.row != own_row || is_pad != (d < 0)) note(call, 20, row, 0);
      if (rank_.experts[row * 2] != expert || rank_.experts[row * 2 + 1] != expert)
        note(call, 21, row, 0);
    });
    for (std::int32_t t = 0; t < tensors(call); ++t) {
      const std::byte* const view = rank_.lane.mine(layout().views[t]);
      const std::uint64_t row_bytes = layout().row_bytes[t];
      if (call.partial) {
        const std::uint64_t elements = row_bytes / sizeof(storage);
        for_each(call.global_rows, elements, [&](std::int64_t row, std::uint64_t e) {
          const std::int32_t d = owner(call, row);
          storage expected;
          if (d >= 0) {
            std::int32_t sum = 0;
            for (std::int32_t a = 0; a < tp(); ++a)
              sum += story_bytes::addend(call.key, d * tp() + a, row - offset(call, d), e);
            expected = Sum::narrow(static_cast<typename Sum::accumulator>(sum));
          } else {
            expected = tail_element(call, false);
          }
          storage got;
          memcpy(&got, view + static_cast<std::uint64_t>(row) * row_bytes + e * sizeof got,
                 sizeof got);
          if (!same_bits(got, expected)) note(call, 4, row, e);
        });
        continue;
      }
      for_each(call.global_rows, row_bytes, [&](std::int64_t row, std::uint64_t b) {
        const std::int32_t d = owner(call, row);
        const auto expected =
            d >= 0
                ? std::byte{story_bytes::of_row(call.key, t, d, row - offset(call, d), b)}
                : static_cast<std::byte>(t == 0 ? call.fill.bits >> (b % call.fill.size * 8) : 0);
        if (view[static_cast<std::uint64_t>(row) * row_bytes + b] != expected)
          note(call, 5 + static_cast<std::uint64_t>(t), row, b,
               static_cast<std::uint64_t>(view[static_cast<std::uint64_t>(row) * row_bytes + b]));
      });
    }
  }

  [[nodiscard]] DPGATHER_HOST_DEVICE static bool same_bits(const storage& a, const storage& b) {
    std::uint64_t x = 0, y = 0;
    memcpy(&x, &a, sizeof a);
    memcpy(&y, &b, sizeof b);
    return x == y;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE static storage tail_element(const story_call& call,
                                                                 bool behind) {
    storage out;
    if (behind || call.fill.leave) {
      memset(&out, untouched, sizeof out);
    } else {
      memcpy(&out, &call.fill.bits, sizeof out);
    }
    return out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int64_t offset(const story_call& call,
                                                         std::int32_t d) const {
    if (call.places.slot_rows() > 0) return d * call.places.slot_rows();
    std::int64_t out = 0;
    for (std::int32_t i = 0; i < d; ++i) out += call.rows[i];
    return out;
  }
  [[nodiscard]] DPGATHER_HOST_DEVICE std::int32_t owner(const story_call& call,
                                                        std::int64_t row) const {
    for (std::int32_t d = 0; d < layout().ranks / tp(); ++d) {
      const std::int64_t first = offset(call, d);
      if (row >= first && row < first + call.rows[d]) return d;
    }
    return -1;
  }
  template <class Visit>
  DPGATHER_HOST_DEVICE void for_each(std::int64_t rows, std::uint64_t columns, Visit visit) const {
    const std::uint64_t all = static_cast<std::uint64_t>(rows) * columns;
    const dg::worker_id me = worker();
    for (std::uint64_t i = me.index; i < all; i += me.count)
      visit(static_cast<std::int64_t>(i / columns), i % columns);
  }
  DPGATHER_HOST_DEVICE void note(const story_call& call, std::uint64_t what, std::int64_t row,
                                 std::uint64_t column, std::uint64_t got = 0) {
    if (block_.count_wrong(rank_.wrong) != 0) return;
    rank_.first_wrong[0] = call.key;
    rank_.first_wrong[1] = what;
    rank_.first_wrong[2] = static_cast<std::uint64_t>(row);
    rank_.first_wrong[3] = column;
    rank_.first_wrong[4] = got;
  }

  Block& block_;
  const story_rank& rank_;
  Meet meet_;
};

/// How a story is drawn.
struct story_options {
  std::int32_t dp_size = 2;
  std::int32_t tp_size = 1;
  std::int64_t rank_rows = 9;
  std::size_t row_bytes[dg::max_peer_tensors]{};
  std::int32_t tensors = 1;
  std::size_t most_line_bytes = 1 << 16;
  std::int32_t blocks = 2;     ///< at most, of a rank
  std::int32_t same_kind = 30; ///< percent of calls that repeat the last one's operation
  std::int32_t skewed = 0;     ///< percent of calls where one rank or two have most rows
  bool exchanged = true;       ///< counts of some calls are
  bool exchanging = false;     ///< of all calls
  bool plain = false;          ///< plain calls only, see `plain_rules`
};

/// Where the rows of a rank's local tensor begin in its memory, and how far they are apart.
struct story_place {
  std::size_t first = 0, stride = 0;

  [[nodiscard]] static story_place draw(random_source& random, const story_options& with,
                                        std::int32_t tensor) {
    const std::size_t unit = with.plain ? 8 : tensor == 0 ? 4 : 1;
    const std::size_t gap =
        with.plain || random.chance(70) ? 0 : unit * random.between<std::size_t>(1, 9);
    return {random.chance(50) ? 0 : unit * random.between<std::size_t>(1, 9),
            with.row_bytes[tensor] + gap};
  }
};

/// Counts of data-parallel ranks where one has by far the most, or two have: the others few or
/// none.
inline void draw_skew(random_source& random, const story_options& with, std::int32_t* rows) {
  const auto most = static_cast<std::int32_t>(with.rank_rows);
  const std::int32_t few = random.chance(30) ? 0 : most / 8;
  for (std::int32_t d = 0; d < with.dp_size; ++d) rows[d] = random.between(0, few);
  for (int heavy = random.chance(60) ? 1 : 2; heavy > 0; --heavy)
    rows[random.between(0, with.dp_size - 1)] = random.between(most - most / 4, most);
}

/// Random calls for a world.
template <class Sum>
std::vector<story_call> draw_story(random_source& random, const story_options& with,
                                   std::size_t calls, std::uint64_t key) {
  std::vector<story_call> out;
  bool combines = random.chance(50);
  for (std::size_t c = 0; c < calls; ++c) {
    story_call call;
    if (!random.chance(with.same_kind)) combines = !combines;
    call.combines = combines;
    call.partial = !combines && with.tp_size > 1 && random.chance(40);
    const bool slots = random.chance(40);
    std::int64_t sum = 0, most = 0;
    const bool all_idle = random.chance(8);
    const bool is_skewed = random.chance(with.skewed);
    if (is_skewed) draw_skew(random, with, call.rows);
    for (std::int32_t d = 0; d < with.dp_size; ++d) {
      if (!is_skewed)
        call.rows[d] = all_idle || random.chance(20) ? 0
                       : random.chance(20)
                           ? static_cast<std::int32_t>(with.rank_rows)
                           : random.between(0, static_cast<std::int32_t>(with.rank_rows));
      sum += call.rows[d];
      most = call.rows[d] > most ? call.rows[d] : most;
    }
    dg::step_plan plan;
    plan.mode = dg::mode_kind::exact;
    plan.dp_size = with.dp_size;
    plan.tp_size = with.tp_size;
    plan.layout = slots ? dg::layout_kind::slots : dg::layout_kind::packed;
    plan.stride = slots ? std::max<std::int64_t>(1, random.between(most, with.rank_rows)) : 0;
    plan.global_rows =
        slots ? plan.stride * with.dp_size : random.between(sum, with.rank_rows * with.dp_size);
    static const dg::count_set none{};
    call.places = dg::placement{plan, none};
    call.global_rows = plan.global_rows;
    call.local_rows = random.between(most, with.rank_rows);
    call.source = with.exchanging || (random.chance(35) && with.exchanged)
                      ? dg::counts_kind::exchanged
                  : random.chance(50) ? dg::counts_kind::device
                                      : dg::counts_kind::agreed;
    call.input = -1;
    call.blocks = random.between(1, with.blocks);
    call.fill =
        dg::fill_word{random.chance(70) ? dg::zero_fill() : dg::value_fill(dg::element::bf16, -3)};
    call.key = key * 1'000'000 + c + 1;
    call.shape = static_cast<std::uint32_t>(call.key);
    out.push_back(call);
  }
  return out;
}

/// Call `number` of a story, from 1: packed, with agreed counts, as many blocks as there are.
/// `rows`: of the data-parallel ranks.
inline story_call packed_call(const story_options& with, bool combines,
                              const std::vector<std::int32_t>& rows, std::int64_t global_rows,
                              std::size_t number) {
  dg::step_plan plan;
  plan.mode = dg::mode_kind::exact;
  plan.dp_size = with.dp_size;
  plan.tp_size = with.tp_size;
  plan.layout = dg::layout_kind::packed;
  plan.global_rows = global_rows;
  static const dg::count_set none{};
  story_call out;
  out.combines = combines;
  out.places = dg::placement{plan, none};
  for (std::size_t d = 0; d < rows.size(); ++d) out.rows[d] = rows[d];
  out.global_rows = global_rows;
  out.local_rows = with.rank_rows;
  out.blocks = with.blocks;
  out.key = number;
  out.shape = static_cast<std::uint32_t>(number);
  return out;
}

/// The limits of a story's arena.
inline dg::peer_limits limits_of(const story_options& with) {
  dg::peer_limits out;
  out.ranks = with.dp_size * with.tp_size;
  out.tp_size = with.tp_size;
  out.rank_rows = with.rank_rows;
  out.view_rows = with.rank_rows * with.dp_size;
  out.tensors = with.tensors;
  for (std::int32_t t = 0; t < with.tensors; ++t) out.row_bytes[t] = with.row_bytes[t];
  out.most_line_bytes = with.most_line_bytes;
  return out;
}

/// Options for a case: worlds of 1 to `most_ranks`, A in {1, 2, 4}, row sizes of 2 bytes to some
/// kilobytes with every alignment, rows both below and above the lines' limit. Worlds of four or
/// more are often skewed, and then only a few rows, if any, travel in lines.
inline story_options draw_options(random_source& random, std::int32_t most_ranks,
                                  std::size_t element_bytes) {
  story_options out;
  do {
    out.tp_size = random.pick({1, 1, 1, 2, 4});
    out.dp_size = random.between(1, most_ranks);
  } while (out.dp_size * out.tp_size > most_ranks);
  out.tensors = random.chance(60) ? 1 : random.between(2, 4);
  for (std::int32_t t = 0; t < out.tensors; ++t) {
    const std::size_t unit = t == 0 ? element_bytes : random.pick<std::size_t>({1, 2, 4, 8, 16});
    out.row_bytes[t] = unit * random.between<std::size_t>(1, random.chance(70) ? 40 : 700);
  }
  out.rank_rows = random.between(1, 24);
  std::size_t row = 0;
  for (std::int32_t t = 0; t < out.tensors; ++t) row += out.row_bytes[t];
  // None, some or all ranks travel in lines.
  out.most_line_bytes =
      random.chance(40) ? 1 << 20
      : random.chance(50)
          ? row * random.between<std::size_t>(0, static_cast<std::size_t>(out.rank_rows))
          : 0;
  if (out.dp_size * out.tp_size < 4 || random.chance(50)) return out;
  out.skewed = 70;
  row -= out.row_bytes[0];
  if (random.chance(80)) out.row_bytes[0] = (out.row_bytes[0] + 15) / 16 * 16; // sums relayed too
  row += out.row_bytes[0];
  out.most_line_bytes = row * random.between<std::size_t>(0, random.chance(50) ? 0 : 4);
  return out;
}

/// The same for a world of `ranks` whose calls are plain, or plain but for an exchange.
inline story_options draw_plain_options(random_source& random, std::int32_t ranks,
                                        bool exchanging = false) {
  story_options out;
  out.plain = true;
  out.exchanged = out.exchanging = exchanging;
  out.dp_size = ranks;
  out.row_bytes[0] = 8 * random.between<std::size_t>(1, random.chance(70) ? 40 : 300);
  out.rank_rows = random.between(1, 24);
  out.most_line_bytes = random.chance(60)
                            ? 1 << 20
                            : out.row_bytes[0] * random.between<std::size_t>(
                                                     0, static_cast<std::size_t>(out.rank_rows));
  return out;
}

} // namespace test_support
