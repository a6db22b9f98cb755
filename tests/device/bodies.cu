// The bodies of device/ are one text for the CPU and for kernels. Here kernels run it, and every
// byte of the arena, canaries included, must be what the CPU makes of the same arena.
#include <dpgather/device/compact.hpp>
#include <dpgather/device/pad.hpp>
#include <dpgather/device/reduce.hpp>
#include <dpgather/device/rows.hpp>
#include <dpgather/device/trim.hpp>
#include <dpgather/options.hpp>

#include <support/random_cases.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
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
__global__ void copy_kernel(row_copy job) {
  copy_rows_body<row_op::identity>(job, blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x,
                                   gridDim.x * blockDim.x);
}
__global__ void fill_kernel(row_fill job) {
  fill_rows_body(job, blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x, gridDim.x * blockDim.x);
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

TEST_CASE("copying and filling kernels write what the CPU writes") {
  test_support::for_random_cases(
      [](random_source& random) {
        twin_arena arena{1 << 17, random};
        row_copy job;
        job.row_bytes = random.pick(sizes);
        job.from_stride = job.row_bytes + random.between<std::size_t>(0, 9);
        job.to_stride = job.row_bytes + random.between<std::size_t>(0, 9);
        job.rows = random.between(0, 40);
        row_copy on_device = job;
        job.from = arena.host(3);
        job.to = arena.host(1 << 16);
        on_device.from = arena.device(3);
        on_device.to = arena.device(1 << 16);
        copy_rows_body<row_op::identity>(job, 0, 1);
        copy_kernel<<<random.between(1, 8), random.between(1, 256)>>>(on_device);
        arena.compare();

        row_fill fill;
        fill.row_bytes = random.pick(sizes);
        fill.stride = fill.row_bytes + random.between<std::size_t>(0, 9);
        fill.rows = random.between(0, 40);
        fill.fill = poison_fill(element::u8);
        fill.fill.bits = random.between(0, 255) * 0x0101010101010101u;
        row_fill fill_on_device = fill;
        fill.to = arena.host(777);
        fill_on_device.to = arena.device(777);
        fill_rows_body(fill, 0, 1);
        fill_kernel<<<random.between(1, 8), random.between(1, 256)>>>(fill_on_device);
        arena.compare();
      },
      test_support::case_count(200));
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
