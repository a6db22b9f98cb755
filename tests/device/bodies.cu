// The bodies of device/ are one text for the CPU and for kernels. Here kernels run it, and every
// byte of the arena, canaries included, must be what the CPU makes of the same arena.
#include <dpgather/device/compact.hpp>
#include <dpgather/device/executor.cuh>
#include <dpgather/device/live_counts.hpp>
#include <dpgather/device/masks.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/device/trim.hpp>
#include <dpgather/options.hpp>

#include <support/random_cases.hpp>

#include <cub/device/device_scan.cuh>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

using namespace dpgather;
using test_support::random_source;

// Kernels of a test are not a library's: they need no hidden visibility.
__global__ void pad_kernel(const pad_tensor* tensors, int count) {
  const std::uint64_t worker = blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x;
  for (int i = 0; i < count; ++i) pad_share(tensors[i], worker, gridDim.x * blockDim.x);
}
__global__ void trim_kernel(const trim_tensor* tensors, int count) {
  const std::uint64_t worker = blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x;
  for (int i = 0; i < count; ++i) trim_share(tensors[i], worker, gridDim.x * blockDim.x);
}
__global__ void compact_kernel(compact_rows rows) {
  compact_share(rows, blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x, gridDim.x * blockDim.x);
}
template <class Sum>
__global__ void sum_kernel(std::byte* out, const std::byte* const* sources, int count,
                           std::size_t elements) {
  sum_elements<Sum>(out, sources, count, 0, elements,
                    blockIdx.x * std::size_t{blockDim.x} + threadIdx.x, gridDim.x * blockDim.x);
}

void check(cudaError_t result) { REQUIRE(result == cudaSuccess); }

/// The same bytes on both sides, and lists that kernels read.
class twin_arena {
public:
  explicit twin_arena(std::size_t bytes, random_source& random) : host_(bytes) {
    for (std::byte& b : host_) b = static_cast<std::byte>(random.between(0, 255));
    check(cudaMalloc(&device_, bytes));
    check(cudaMalloc(&list_, list_bytes));
    check(cudaMemcpy(device_, host_.data(), bytes, cudaMemcpyHostToDevice));
  }
  twin_arena(const twin_arena&) = delete;
  twin_arena& operator=(const twin_arena&) = delete;
  ~twin_arena() {
    cudaFree(device_);
    cudaFree(list_);
  }
  [[nodiscard]] std::byte* host(std::size_t at) { return host_.data() + at; }
  [[nodiscard]] std::byte* device(std::size_t at) { return device_ + at; }
  template <class T>
  [[nodiscard]] const T* list(const std::vector<T>& items) {
    REQUIRE(items.size() * sizeof(T) <= list_bytes);
    check(cudaMemcpy(list_, items.data(), items.size() * sizeof(T), cudaMemcpyHostToDevice));
    return static_cast<const T*>(list_);
  }
  /// After the kernel: the arenas are equal to the byte.
  void compare() {
    check(cudaGetLastError());
    check(cudaDeviceSynchronize());
    std::vector<std::byte> back(host_.size());
    check(cudaMemcpy(back.data(), device_, back.size(), cudaMemcpyDeviceToHost));
    REQUIRE(std::memcmp(back.data(), host_.data(), back.size()) == 0);
  }

private:
  static constexpr std::size_t list_bytes = 1 << 16;
  std::vector<std::byte> host_;
  std::byte* device_ = nullptr;
  void* list_ = nullptr;
};

constexpr std::size_t sizes[] = {1, 2, 3, 4, 6, 8, 12, 16, 40, 96, 1000};

} // namespace

TEST_CASE("padding kernels write what the CPU writes") {
  test_support::for_random_cases(
      [](random_source& random) {
        twin_arena arena{1 << 20, random}; // 15 tensors of at most 61 kB
        std::vector<pad_tensor> on_host, on_device;
        std::size_t at = random.between(0, 15);
        for (int i = 0; i < 15; ++i) {
          pad_tensor t;
          t.unit_bytes = random.pick(sizes);
          t.fill = value_fill(t.unit_bytes % 8 == 0   ? element::i64
                              : t.unit_bytes % 4 == 0 ? element::i32
                                                      : element::u8,
                              random.between(-5, 5));
          const std::size_t align = t.fill.size;
          t.unit_stride = t.unit_bytes + align * random.between<std::size_t>(0, 2);
          t.units.capacity = random.between(0, 20);
          t.units.padded = random.between(0, t.units.capacity);
          t.units.real = random.between(0, t.units.padded);
          t.outer = random.between(0, 3);
          t.outer_stride = t.unit_stride * 20 + align * random.between<std::size_t>(0, 3);
          at = (at + align - 1) / align * align;
          t.data = arena.host(at);
          on_host.push_back(t);
          t.data = arena.device(at);
          on_device.push_back(t);
          at += 3 * t.outer_stride + random.between<std::size_t>(1, 9);
        }
        // Alignment on the two sides is the same only when the arenas start alike.
        REQUIRE(reinterpret_cast<std::uintptr_t>(arena.host(0)) % 16 == 0);
        REQUIRE(pad(on_host).ok());
        pad_kernel<<<random.between(1, 8), random.between(1, 256)>>>(arena.list(on_device), 15);
        arena.compare();
      },
      test_support::case_count(100));
}

TEST_CASE("trimming kernels write what the CPU writes") {
  test_support::for_random_cases(
      [](random_source& random) {
        twin_arena arena{1 << 17, random};
        trim_tensor t;
        t.unit_bytes = random.pick(sizes);
        t.unit_stride = t.unit_bytes + random.between<std::size_t>(0, 9);
        t.units.capacity = random.between(1, 16);
        t.units.padded = t.units.capacity;
        t.units.real = random.between(0, t.units.padded);
        t.outer = random.between(1, 3);
        t.outer_stride = t.unit_stride * 16;
        t.destination_bytes = 3 * 16 * t.unit_bytes;
        const std::size_t from = random.between<std::size_t>(0, 9);
        const std::size_t to = (1 << 16) + random.between<std::size_t>(0, 9);
        trim_tensor on_device = t;
        t.source = arena.host(from);
        t.destination = arena.host(to);
        on_device.source = arena.device(from);
        on_device.destination = arena.device(to);
        REQUIRE(trim({&t, 1}).ok());
        trim_kernel<<<random.between(1, 8), random.between(1, 256)>>>(
            arena.list(std::vector{on_device}), 1);
        arena.compare();
      },
      test_support::case_count(200));
}

TEST_CASE("compacting kernels write what the CPU writes, counts read from device memory") {
  test_support::for_random_cases(
      [](random_source& random) {
        twin_arena arena{1 << 17, random};
        compact_rows rows;
        rows.ranks = random.between(1, 8);
        rows.slot_rows = random.between(1, 12);
        rows.row_bytes = random.pick(sizes) % 97 + 1;
        rows.destination_rows = rows.ranks * rows.slot_rows;
        // Counts and offsets lie in the arena too.
        using offset = std::remove_cv_t<std::remove_pointer_t<decltype(rows.offsets)>>;
        std::vector<std::int32_t> counts;
        std::vector<offset> offsets;
        offset next = 0;
        for (int r = 0; r < rows.ranks; ++r) {
          counts.push_back(random.between(0, rows.slot_rows));
          offsets.push_back(next);
          next += counts.back();
        }
        const std::size_t counts_at = 120'000;
        const std::size_t offsets_at = 121'600;
        std::memcpy(arena.host(counts_at), counts.data(), counts.size() * sizeof counts[0]);
        std::memcpy(arena.host(offsets_at), offsets.data(), offsets.size() * sizeof offsets[0]);
        check(cudaMemcpy(arena.device(counts_at), counts.data(), counts.size() * sizeof counts[0],
                         cudaMemcpyHostToDevice));
        check(cudaMemcpy(arena.device(offsets_at), offsets.data(),
                         offsets.size() * sizeof offsets[0], cudaMemcpyHostToDevice));
        compact_rows on_device = rows;
        rows.source = arena.host(8);
        rows.destination = arena.host(50'000);
        rows.counts = reinterpret_cast<const std::int32_t*>(arena.host(counts_at));
        rows.offsets = reinterpret_cast<const offset*>(arena.host(offsets_at));
        on_device.source = arena.device(8);
        on_device.destination = arena.device(50'000);
        on_device.counts = reinterpret_cast<const std::int32_t*>(arena.device(counts_at));
        on_device.offsets = reinterpret_cast<const offset*>(arena.device(offsets_at));
        REQUIRE(compact(rows).ok());
        compact_kernel<<<random.between(1, 8), random.between(1, 256)>>>(on_device);
        arena.compare();
      },
      test_support::case_count(200));
}

TEST_CASE("row jobs write what the CPU writes, counts read from device memory") {
  test_support::for_random_cases(
      [](random_source& random) {
        twin_arena arena{1 << 17, random};
        step_plan plan;
        plan.dp_size = random.between(1, 8);
        plan.tp_size = random.pick({1, 2, 4});
        plan.mode = random.pick({mode_kind::all_gather, mode_kind::all_reduce, mode_kind::exact});
        const bool slots = plan.mode == mode_kind::all_gather || random.chance(40);
        plan.layout = slots ? layout_kind::slots : layout_kind::packed;
        count_set counts;
        for (int d = 0; d < plan.dp_size; ++d)
          counts.set(d, random.chance(30) ? 0 : random.between(0, 7));
        counts.sum_up(plan.dp_size);
        plan.stride = slots ? 8 : 0;
        plan.global_rows = slots ? 8 * plan.dp_size : counts.total + random.between(0, 5);
        // The counts lie in both arenas; the device's arrive by the job that brings them.
        auto* const on_host = new (arena.host(120'000)) count_set{counts};
        auto* const on_device = reinterpret_cast<count_set*>(arena.device(120'000));
        check(cudaMemcpy(on_device, on_host, sizeof(count_set), cudaMemcpyHostToDevice));
        check(cudaMemset(on_device, 0, 8 * sizeof(std::int32_t)));
        const int dp = random.between(0, plan.dp_size - 1);
        on_host->padded[dp] = counts.padded[dp] = random.between(0, 9);
        REQUIRE(executor<cudaStream_t>::run(write_counts::of(counts, plan.dp_size, on_device),
                                            random.between(0, 3), cudaStream_t{})
                    .ok());

        const std::size_t row = random.pick(sizes) % 500 + 1;
        const std::size_t gap = random.chance(50) ? random.between<std::size_t>(1, 9) : 0;
        const std::size_t skew = random.between<std::size_t>(0, 9);
        fill_word fill = value_fill(element::u8, random.between(0, 255));
        fill.leave = random.chance(20);
        const auto run = [&](auto make) {
          const auto host_job = make(arena.host(0), *on_host);
          const auto device_job = make(arena.device(0), *on_device);
          REQUIRE(executor<host_stream>::run(host_job, 0, {}).ok());
          REQUIRE(
              executor<cudaStream_t>::run(device_job, random.between(0, 5), cudaStream_t{}).ok());
          arena.compare();
        };
        const auto window = random.pick({row_window::share, row_window::slot, row_window::all});
        const int tp = random.between(0, plan.tp_size - 1);
        run([&](std::byte* at, const count_set& live) {
          return place_rows<row_op::identity>{.local = {at + skew, row, row + gap},
                                              .global = {at + 40'000, row, row},
                                              .places = {plan, live},
                                              .fill = fill,
                                              .dp_rank = dp,
                                              .tp_rank = tp,
                                              .local_rows = 9,
                                              .most_rows = plan.global_rows,
                                              .window = window};
        });
        run([&](std::byte* at, const count_set& live) {
          return fill_tails{.global = {at + 40'000, row, row},
                            .places = {plan, live},
                            .fill = fill,
                            .most_rows = plan.global_rows};
        });
        run([&](std::byte* at, const count_set& live) {
          return take_rows{.sums = {at + 40'000, row, row},
                           .local = {at + 90'000 + skew, row, row + gap},
                           .places = {plan, live},
                           .fill = fill,
                           .dp_rank = dp,
                           .from_global = true,
                           .local_rows = 9};
        });
        run([&](std::byte* at, const count_set& live) {
          return row_masks{.places = {plan, live},
                           .pad_bits = reinterpret_cast<std::uint32_t*>(at + 100'000),
                           .sources = reinterpret_cast<row_source*>(at + 101'000),
                           .topk_ids = reinterpret_cast<std::int32_t*>(at + 102'000),
                           .topk_weights = reinterpret_cast<float*>(at + 104'000),
                           .topk = 4};
        });
      },
      test_support::case_count(300));
}

TEST_CASE("offsets of the job that brings counts are those of CUB's scan") {
  std::int32_t* rows = nullptr;
  std::int64_t* scanned = nullptr;
  count_set* live = nullptr;
  void* scratch = nullptr;
  std::size_t scratch_bytes = 0;
  check(cudaMalloc(&rows, max_ranks * sizeof *rows));
  check(cudaMalloc(&scanned, max_ranks * sizeof *scanned));
  check(cudaMalloc(&live, sizeof *live));
  check(cudaMemset(live, 0, sizeof *live)); // it is read whole below
  const auto scan = [&](int ranks) {
    return cub::DeviceScan::ExclusiveScan(scratch, scratch_bytes, rows, scanned,
                                          cuda::std::plus<>{}, std::int64_t{0}, ranks);
  };
  check(scan(max_ranks));
  check(cudaMalloc(&scratch, scratch_bytes));
  test_support::for_random_cases(
      [&](random_source& random) {
        count_set counts;
        const int ranks = random.between(1, max_ranks);
        for (int r = 0; r < ranks; ++r) counts.set(r, random.between(0, 1 << 30));
        check(cudaMemcpy(rows, counts.rows, sizeof counts.rows, cudaMemcpyHostToDevice));
        check(scan(ranks));
        REQUIRE(
            executor<cudaStream_t>::run(write_counts::of(counts, ranks, live), 0, cudaStream_t{})
                .ok());
        count_set got;
        std::vector<std::int64_t> expected(static_cast<std::size_t>(ranks));
        check(cudaMemcpy(&got, live, sizeof got, cudaMemcpyDeviceToHost));
        check(cudaMemcpy(expected.data(), scanned, expected.size() * sizeof expected[0],
                         cudaMemcpyDeviceToHost));
        for (int r = 0; r < ranks; ++r)
          REQUIRE(got.offset[r] == expected[static_cast<std::size_t>(r)]);
        REQUIRE(got.total == expected.back() + counts.rows[ranks - 1]);
      },
      test_support::case_count(100));
  for (void* p :
       {static_cast<void*>(rows), static_cast<void*>(scanned), static_cast<void*>(live), scratch})
    cudaFree(p);
}

TEST_CASE("sums on the GPU have the bits of sums on the CPU, any payload") {
  for (const element type : {element::u8, element::i32, element::i64, element::f16, element::bf16,
                             element::f32, element::f64}) {
    CAPTURE(name_of(type));
    test_support::for_random_cases(
        [type](random_source& random) {
          twin_arena arena{1 << 16, random}; // all bit patterns: infinities and denormals too
          const int ranks = random.between(1, 8);
          const std::size_t elements = random.between<std::size_t>(0, 200);
          std::vector<const std::byte*> on_host, on_device;
          for (int r = 0; r < ranks; ++r) {
            on_host.push_back(arena.host(static_cast<std::size_t>(r) * 2048));
            on_device.push_back(arena.device(static_cast<std::size_t>(r) * 2048));
          }
          // NaNs are left out: which NaN comes of two is the processor's own.
          const std::size_t size = size_of(type);
          if (is_floating(type)) {
            for (std::size_t i = 0; i + size <= 8 * 2048; i += size) {
              std::byte& top = *arena.host(i + size - 1);
              top &= std::byte{0xbf}; // clears the exponent's upper bit: finite
            }
            check(cudaMemcpy(arena.device(0), arena.host(0), 8 * 2048, cudaMemcpyHostToDevice));
          }
          with_sum_of(type, [&]<class Sum>(Sum) {
            sum_elements<Sum>(arena.host(40'000), on_host.data(), ranks, 0, elements, 0, 1);
            sum_kernel<Sum><<<random.between(1, 8), random.between(1, 256)>>>(
                arena.device(40'000), arena.list(on_device), ranks, elements);
          });
          arena.compare();
        },
        test_support::case_count(100));
  }
}
